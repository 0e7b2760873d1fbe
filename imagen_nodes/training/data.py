"""Pictures to train on: CIFAR-10 in two layouts, a folder or a zip of images.

All are decoded once, resized (shorter side) and centre-cropped to the recipe's resolution, and
kept in memory as uint8.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError
from ..images import MODES, to_network
from .randomness import numpy_random
from .task import Batch

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
# In the order of the labels, as batches.meta has them.
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_FOLDER = "cifar-10-batches-py"
# Sheets of rows and columns of 32 px tiles: label, class name, number.
PACKED_SHEET = re.compile(
    rf"(?:.*/)?({'|'.join(f'{i}-{name}' for i, name in enumerate(CIFAR10_CLASSES))})-\d+\.webp"
)
# A picture in a zip may not unpack to more than this, bytes: 16 Mpx, uncompressed, twice over.
FILE_LIMIT = 1 << 27

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Dataset:
    """``images [n h w c]`` uint8, ``labels [n]`` int64 or None, and what was skipped and why."""

    name: str
    images: Pixels
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


class Stream:
    """The images of a run by number: epochs without repetition, each in an order of its own."""

    def __init__(self, dataset: Dataset, *, seed: int, flip: bool) -> None:
        self.dataset = dataset
        self.seed = seed
        self.flip = flip
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def batch(self, nimg: int, size: int) -> Batch:
        """The ``size`` images that follow the first ``nimg`` of the run."""
        index = self._indices(nimg, size)
        images = self.dataset.images[index]
        if self.flip:
            mirrored = numpy_random(self.seed, 0, nimg, "flip").random(size) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        pixels = to_network(torch.from_numpy(images))
        labels = self.dataset.labels
        return Batch(pixels, None if labels is None else torch.from_numpy(labels[index]))

    def _indices(self, nimg: int, size: int) -> NDArray[np.int64]:
        parts: list[NDArray[np.int64]] = []
        while size > 0:
            epoch, start = divmod(nimg, len(self.dataset.images))
            part = self._permutation(epoch)[start : start + size]
            parts.append(part)
            nimg, size = nimg + len(part), size - len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            random = numpy_random(self.seed, 0, epoch, "order")
            self._order = (epoch, random.permutation(len(self.dataset.images)))
        return self._order[1]


def open_data(path: Path, resolution: int, channels: int) -> Dataset:
    """Decode the pictures at ``path`` to ``resolution`` px and ``channels`` channels.

    ``path`` is a folder that holds (or is) torchvision's ``cifar-10-batches-py``, a zip of packed
    CIFAR-10 sheets, or any folder or zip of images; two or more subfolders that hold all the
    images are classes, in alphabetical order. Unreadable pictures are skipped and named in the
    result.

    Raises:
        DataError: there is nothing at ``path``, or no readable picture in it.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder or zip file. Give the pictures with --data PATH")
    if path.is_dir():
        return _open_folder(path, resolution, channels)
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: neither a folder nor a zip file of pictures")
    try:
        with zipfile.ZipFile(path) as archive:
            return _open_zip(path, archive, resolution, channels)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: a damaged zip file: {error}") from error


def _open_folder(path: Path, resolution: int, channels: int) -> Dataset:
    for folder in (path, path / CIFAR10_FOLDER):
        if (folder / "data_batch_1").is_file():
            images, labels = _cifar10_batches(folder)
            return _dataset(path, _fit_all(images, resolution, channels), labels)
    files = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
    names = [p.as_posix() for p in files if _is_picture(p)]
    return _pictures(path, names, lambda n: (path / n).read_bytes(), resolution, channels)


def _open_zip(path: Path, archive: zipfile.ZipFile, resolution: int, channels: int) -> Dataset:
    def read(name: str) -> bytes:
        size = archive.getinfo(name).file_size
        if size > FILE_LIMIT:
            raise DataError(f"would unpack to {size} bytes; at most {FILE_LIMIT} are read")
        return archive.read(name)

    names = sorted(name for name in archive.namelist() if _is_picture(PurePosixPath(name)))
    if names and all(PACKED_SHEET.fullmatch(name) for name in names):
        images, labels = _cifar10_sheets(path, names, read)
        return _dataset(path, _fit_all(images, resolution, channels), labels)
    return _pictures(path, names, read, resolution, channels)


def _is_picture(path: PurePath) -> bool:
    """By its suffix; hidden files and what macOS adds to archives are not."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _dataset(path: Path, images: Pixels, labels: NDArray[np.int64]) -> Dataset:
    return Dataset(path.name, images, labels, CIFAR10_CLASSES)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads what CIFAR-10's batches hold, dicts of bytes and arrays, and refuses the rest."""

    ALLOWED = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)


def _cifar10_batches(folder: Path) -> tuple[Pixels, NDArray[np.int64]]:
    images: list[Pixels] = []
    labels: list[int] = []
    for path in sorted(folder.glob("data_batch_*")):
        try:
            with warnings.catch_warnings():
                # numpy 2.4 dislikes how Python 2's numpy, which wrote the files, spelled dtypes.
                warnings.simplefilter("ignore")
                content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
            pixels = np.asarray(content[b"data"], np.uint8).reshape(-1, 3, 32, 32)
            images.append(pixels.transpose(0, 2, 3, 1))
            labels += _cifar10_labels(content[b"labels"], len(pixels))
        except Exception as error:
            raise DataError(f"{path}: not a batch of CIFAR-10 for Python: {error}") from error
    return np.concatenate(images), np.array(labels, np.int64)


def _cifar10_labels(labels: Iterable[int], count: int) -> list[int]:
    found = [int(label) for label in labels]
    if len(found) != count or not set(found) <= set(range(len(CIFAR10_CLASSES))):
        raise ValueError(f"needs {count} labels from 0 to 9, one for each image")
    return found


def _cifar10_sheets(
    path: Path, names: Iterable[str], read: Callable[[str], bytes]
) -> tuple[Pixels, NDArray[np.int64]]:
    images: list[Pixels] = []
    labels: list[int] = []
    for name in names:
        try:
            sheet = np.asarray(Image.open(io.BytesIO(read(name))).convert("RGB"))
            rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
            tiles = sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        except Exception as error:  # a thousand images at once are too many to skip
            raise DataError(f"{path}: {name}: not a sheet of 32 px tiles: {error}") from error
        images.append(tiles)
        labels += [int(PurePosixPath(name).name[0])] * len(tiles)
    return np.concatenate(images), np.array(labels, np.int64)


def _fit_all(images: Pixels, resolution: int, channels: int) -> Pixels:
    if images.shape[1:] == (resolution, resolution, channels):
        return np.ascontiguousarray(images)
    return np.stack([fit(Image.fromarray(image), resolution, channels) for image in images])


def _pictures(
    path: Path, names: list[str], read: Callable[[str], bytes], resolution: int, channels: int
) -> Dataset:
    if not names:
        kinds = " ".join(sorted(SUFFIXES))
        raise DataError(f"{path}: no pictures in it. Looked for {kinds}, in subfolders too")

    def decode(name: str) -> Pixels | Exception:
        try:
            return fit(Image.open(io.BytesIO(read(name))), resolution, channels)
        except Exception as error:  # whatever a decoder raises, the picture is unreadable
            return error

    kept: list[str] = []
    skipped: list[str] = []
    images = np.empty((len(names), resolution, resolution, channels), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, result in zip(names, pool.map(decode, names), strict=True):
            if isinstance(result, Exception):
                skipped.append(f"{name}: {_reason(result)}")
            else:
                images[len(kept)] = result
                kept.append(name)
    if not kept:
        raise DataError(f"{path}: none of its {len(names)} pictures can be read; {skipped[0]}")
    labels, class_names = _classes(kept)
    return Dataset(path.name, images[: len(kept)], labels, class_names, tuple(skipped))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its message is the address of a buffer
        return "not a picture, or damaged"
    return str(error) or type(error).__name__


def _classes(names: list[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels and class names from the folders below the one that holds all."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while len({folder[: depth + 1] for folder in folders}) == 1 and depth < len(folders[0]):
        depth += 1
    classes = ["".join(folder[depth : depth + 1]) for folder in folders]
    class_names = tuple(sorted(set(classes)))
    if "" in class_names or len(class_names) < 2:
        return None, ()
    number = {name: i for i, name in enumerate(class_names)}
    return np.array([number[name] for name in classes], np.int64), class_names


def fit(picture: Image.Image, resolution: int, channels: int) -> Pixels:
    """``[resolution resolution channels]`` uint8: turned as its EXIF says, shorter side resized
    (Lanczos, antialiased), the middle cropped."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits: 257 = 65535 / 255
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    picture = picture.convert(MODES[channels])
    size = (resolution, resolution)
    if picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(resolution, resolution, channels)
