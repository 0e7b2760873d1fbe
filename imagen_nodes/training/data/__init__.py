"""Pictures to train on, whatever they lie in.

    containers.py   folder, zip, tar, shards: files by name
    layouts.py      what the files are: a table of data sets' layouts
    opening.py      decode them once, into memory or the cache (cache.py)
    stream.py       the images of a run by number
    survey.py       what is there: for people, before they train

The names below are imported when they are asked for: the command line declares its arguments
without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dataset import Dataset
    from .opening import open_data
    from .stream import Stream

__all__ = ["Dataset", "Stream", "open_data"]

_HOMES = {"Dataset": "dataset", "Stream": "stream", "open_data": "opening"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
