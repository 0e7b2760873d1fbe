"""Decoded pictures on disk: decoded once, then mapped into memory.

    KEY.npy     images [n h w c] uint8
    KEY.json    what else is known of them; written last, so where it is, the images are whole

KEY is a hash of what the pictures are made of (names, sizes, modification times or checksums, but
not where they lie) and what is made of them. Deleting the folder costs the time to decode again.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from ...errors import StorageError
from ...files import PARTIAL, write_atomically
from ...spec import Spec
from .dataset import Dataset, Pixels
from .source import Source

# Goes up whenever the same files would give other pixels or labels.
FORMAT = 1
FOLDER = "IMAGEN_CACHE"
# Seconds without a write after which a half-written file is taken for that of a killed process.
ABANDONED = 3600.0


# Height, width and channels of one image.
Shape = tuple[int, int, int]


class Facts(Spec):
    """What ``KEY.json`` holds."""

    shape: tuple[int, int, int, int]
    """Of the images."""
    fingerprint: str
    """Of pixels and labels."""
    labels: tuple[int, ...] | None
    """One for each image; null: none."""
    class_names: tuple[str, ...]
    """By label."""
    names: tuple[str, ...]
    """Of the pictures' files; empty: they have none."""
    skipped: tuple[str, ...]
    """Unreadable pictures and why."""

    def dataset(self, name: str, images: Pixels) -> Dataset:
        """The data set ``name`` of these facts and ``images``."""
        labels = None if self.labels is None else np.array(self.labels, np.int64)
        return Dataset(
            name, images, labels, self.class_names, self.skipped, self.names, self.fingerprint
        )


# Hands images on to its argument, one lot after the other, and returns what is known of them all.
Decode = Callable[[Callable[[Pixels], object]], Facts]


def cache_folder() -> Path:
    """``IMAGEN_CACHE``, or else the user's cache folder on this platform."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "imagen-nodes"


def cache_key(source: Source, shape: Shape, tiles: bool = False, panels: int = 1) -> str:
    """Names the cache of ``source`` decoded to images of ``shape``, or cut into ``tiles`` of it, or
    of so many ``panels`` each."""
    made = (FORMAT, source.layout, shape, *["tiles"] * tiles, *[panels] * (panels > 1))
    code = hashlib.sha256(repr(made).encode())
    for name, member in source.members.items():
        code.update(repr((name, *member)).encode(errors="surrogatepass"))
    return code.hexdigest()[:32]


def load(folder: Path, key: str, name: str) -> Dataset | None:
    """The data set ``name`` from the cache; None where it is not there, or damaged."""
    try:
        facts = Facts.model_validate_json((folder / f"{key}.json").read_bytes())
        images = _map(folder / f"{key}.npy")
    except (OSError, ValueError, EOFError):  # ValidationError is a ValueError
        return None
    if images.shape != facts.shape or images.dtype != np.uint8:
        return None
    return facts.dataset(name, images)


def _map(path: Path) -> Pixels:
    """The array in a file, its pages read when they are used."""
    try:
        # Changes stay in memory: torch takes no array that it may not write to.
        return np.asarray(np.load(path, mmap_mode="c"))
    except OSError:
        # Where more is mapped than the system would lend.
        return np.asarray(np.load(path, mmap_mode="r"))


def store(folder: Path, key: str, count: int, shape: Shape, decode: Decode) -> None:
    """Put what ``decode`` gives into the cache, whole or not at all.

    Args:
        count: of the images, at most; ``shape``: of one.
        decode: hands images ``[n *shape]`` on, and returns what is known of all of them.

    Raises:
        StorageError: there is no room for it.
    """
    size = count * math.prod(shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error
    if size > free:
        raise StorageError(f"{folder}: needs {gigabytes(size)}, has {gigabytes(free)} free")
    images, facts = folder / f"{key}.npy", folder / f"{key}.json"
    found: list[Facts] = []
    write_atomically(images, lambda file: found.append(_write(file, count, shape, decode)))
    try:
        write_atomically(facts, found[0].model_dump_json().encode())
    except StorageError:
        images.unlink(missing_ok=True)
        raise


def _write(file: IO[bytes], count: int, shape: Shape, decode: Decode) -> Facts:
    """A ``.npy`` file, by writing alone: a map of a file would kill the process where the disk is
    full. How many images there are is known at the end; numpy leaves room for the number."""
    start = _header(file, (count, *shape))
    facts = decode(lambda images: file.write(np.ascontiguousarray(images).data))
    file.seek(0)
    assert _header(file, facts.shape) == start
    return facts


def _header(file: IO[bytes], shape: tuple[int, ...]) -> int:
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)  # pyright: ignore[reportArgumentType]
    return file.tell()


def _sweep(folder: Path) -> None:
    """Delete what processes that were killed left half-written."""
    for path in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def gigabytes(size: int) -> str:
    """``size`` bytes for people."""
    return f"{size / 1e9:.2g} GB" if size >= 1e7 else f"{size / 1e6:.2g} MB"
