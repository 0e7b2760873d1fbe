"""A data set as training sees it: pixels of one size, and what is known of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

# Called with pictures done and in all.
Progress = Callable[[int, int], object]
# Hears what the user should know.
Say = Callable[[str], object]


@dataclass(frozen=True)
class Dataset:
    """``images [n h w c]`` uint8, ``labels [n]`` int64 or None, and what was skipped and why.

    ``images`` of a large set lie in a file and are read as they are indexed."""

    name: str
    images: Pixels
    labels: Labels | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """``NAME: reason``."""
    names: tuple[str, ...] = ()
    """Of the pictures' files, in the order of ``images``; empty where they have none."""
    fingerprint: str = ""
    """Of pixels and labels, in their order: 8 hexadecimal digits. Empty: computed."""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            code = checksum(self.images)
            object.__setattr__(self, "fingerprint", fingerprint(code, self.labels))


def checksum(array: NDArray[Any], code: int = 0) -> int:
    """CRC-32 of an array's values, continued from ``code``."""
    return zlib.crc32(np.ascontiguousarray(array).data, code)


def fingerprint(code: int, labels: Labels | None) -> str:
    """Of the pixels' checksum ``code`` and labels."""
    return f"{code if labels is None else checksum(labels, code):08x}"
