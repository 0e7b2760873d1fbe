"""CIFAR-10 and CIFAR-100 as torchvision keeps them, and CIFAR-10 packed into sheets.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Its batches are pickles;
they are read by the importers' reader, which runs nothing, and here knows arrays and nothing else.
"""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ...errors import CheckpointError, DataError
from ...importers.calls import CALLS
from ...importers.machine import Budget, Machine
from ...importers.pickles import load
from ...importers.values import NumpyArray
from .containers import Container
from .dataset import Pixels
from .pictures import is_picture, reason
from .source import Block, Source

# In the order of the labels, as batches.meta has them.
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_FOLDERS = ("", "cifar-10-batches-py/")
CIFAR100_FOLDERS = ("", "cifar-100-python/")
# Sheets of rows and columns of 32 px tiles: label, class name, number.
PACKED_SHEET = re.compile(
    rf"(?:.*/)?({'|'.join(f'{i}-{name}' for i, name in enumerate(CIFAR10_CLASSES))})-\d+\.webp"
)
SIDE = 32
IMAGE_BYTES = 3 * SIDE * SIDE
# CIFAR-100's training set is one file of 155 MB.
BATCH_LIMIT = 1 << 28


def cifar10(container: Container) -> Source | None:
    """``data_batch_1`` to ``_5``, with or without their folder."""
    for folder in CIFAR10_FOLDERS:
        if f"{folder}data_batch_1" in container.members:
            batch = re.compile(re.escape(folder) + r"data_batch_\d+")
            files = sorted(filter(batch.fullmatch, container.members))
            return _batches(container, "CIFAR-10", files, "labels", CIFAR10_CLASSES)
    return None


def cifar100(container: Container) -> Source | None:
    """``train`` and ``meta``, with or without their folder; the 100 fine labels."""
    for folder in CIFAR100_FOLDERS:
        train, meta = f"{folder}train", f"{folder}meta"
        if {train, meta} <= container.members.keys():
            with _named(container, meta, "CIFAR-100's class names"):
                names = _content(container, meta)["fine_label_names"]
                class_names = tuple(map(_text, _list(names)))
            return _batches(container, "CIFAR-100", [train], "fine_labels", class_names)
    return None


def _batches(
    container: Container, layout: str, files: list[str], key: str, class_names: tuple[str, ...]
) -> Source:
    members = {name: container.members[name] for name in files}
    count = sum(member.size // IMAGE_BYTES for member in members.values())

    def parts() -> Iterator[Block]:
        for name in files:
            with _named(container, name, f"a batch of {layout} for Python"):
                block = _batch(_content(container, name), key, len(class_names))
            yield block

    return Source(layout, members, count, parts, class_names)


def _batch(content: dict[str, Any], key: str, classes: int) -> Block:
    data = content["data"]
    if not isinstance(data, NumpyArray):
        raise ValueError("its data is no array")
    pixels = np.asarray(data.tensor().numpy(), np.uint8).reshape(-1, 3, SIDE, SIDE)
    labels = [int(label) for label in _list(content[key])]
    if len(labels) != len(pixels) or not set(labels) <= set(range(classes)):
        raise ValueError(f"needs {len(pixels)} labels below {classes}, one for each image")
    return Block(pixels.transpose(0, 2, 3, 1), np.array(labels, np.int64))


@contextmanager
def _named(container: Container, name: str, what: str) -> Generator[None]:
    """Whatever goes wrong with a file is told by its name: a thousand images at once are too many
    to skip."""
    try:
        yield
    except Exception as error:
        text = f"{container.path}: {name}: not {what}: {reason(error)}. Fetch it again"
        raise DataError(text) from error


# What batches may have called, to rebuild their arrays.
_ARRAYS = {
    name: CALLS[name]
    for name in (
        "numpy.core.multiarray._reconstruct",
        "numpy.core.numeric._frombuffer",
        "numpy.dtype",
        "_codecs.encode",
    )
}


def _content(container: Container, name: str) -> dict[str, Any]:
    """What a batch holds, by name: text of Python 2's, or bytes."""
    memory = memoryview(container.read(name, BATCH_LIMIT))
    try:
        content = load(Machine(memory, _ARRAYS, _elsewhere, Budget(len(memory))))
    except CheckpointError as error:  # the rest is advice on files of weights
        raise ValueError(str(error).partition(". ")[0]) from error
    if type(content) is not dict:
        raise ValueError("holds no dictionary")
    return {_text(key): value for key, value in content.items() if isinstance(key, str | bytes)}


def _elsewhere(identity: object) -> object:
    raise ValueError("its values lie elsewhere")


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()


def _list(value: Any) -> Sequence[Any]:
    found = value.tensor().tolist() if isinstance(value, NumpyArray) else value
    if not isinstance(found, list | tuple):
        raise ValueError("its labels, or their names, are no list")
    return found


def cifar10_sheets(container: Container) -> Source | None:
    """Files ``LABEL-class-NUMBER.webp`` and no other pictures."""
    files = sorted(filter(is_picture, container.members))
    if not files or not all(map(PACKED_SHEET.fullmatch, files)):
        return None
    what = f"a sheet of {SIDE} px tiles"
    count = 0
    for name in files:
        with _named(container, name, what):
            width, height = Image.open(io.BytesIO(container.read(name))).size
            count += (width // SIDE) * (height // SIDE)

    def parts() -> Iterator[Block]:
        for name in files:
            with _named(container, name, what):
                sheet = Image.open(io.BytesIO(container.read(name))).convert("RGB")
                tiles = _tiles(np.asarray(sheet))
            label = int(PurePosixPath(name).name[0])
            yield Block(tiles, np.full(len(tiles), label, np.int64))

    members = {name: container.members[name] for name in files}
    return Source("CIFAR-10 sheets", members, count, parts, CIFAR10_CLASSES)


def _tiles(sheet: Pixels) -> Pixels:
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    tiles = sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE, 3)
