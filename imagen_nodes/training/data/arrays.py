"""Data sets that are arrays: MNIST's IDX files, and numpy's ``.npz``."""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .containers import FILE_LIMIT, Container, Zip
from .dataset import Labels, Pixels
from .source import Block, Source

# Pixels that are handed on at a time, bytes.
BLOCK = 1 << 22
# What is unpacked and held as a whole may not be more, bytes: an IDX file's values, and labels,
# which become int64. It is 1.4 million pictures of MNIST's size.
WHOLE_LIMIT = 1 << 30
# Bytes of an array's header, which numpy too takes no longer: shape and type.
LONGEST_HEADER = 10_000

# ---- MNIST --------------------------------------------------------------------------------------

IDX = re.compile(r"((?:.*/)?)train-(images-idx3|labels-idx1)-ubyte(?:\.gz)?")
# LeCun's format: two zeros, 8 for uint8, the number of axes; then their lengths, big-endian.
IDX_MAGIC = 0x0800
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DIGITS = tuple("0123456789")


def mnist(container: Container) -> Source | None:
    """MNIST, FashionMNIST and others in their format: ``train-images-idx3-ubyte`` and
    ``train-labels-idx1-ubyte``, gzipped or not."""
    found = {(m[1], m[2]): m[0] for m in map(IDX.fullmatch, container.members) if m}
    folders = sorted({folder for folder, _ in found})
    if not folders:
        return None
    if len(folders) > 1:
        raise DataError(f"{container.path}: holds several: {', '.join(folders)}. Name one of them")
    try:
        images_file = found[folders[0], "images-idx3"]
        labels_file = found[folders[0], "labels-idx1"]
    except KeyError as error:
        raise DataError(
            f"{container.path}: of MNIST's two files for training, {folders[0]}train-images-"
            f"idx3-ubyte and {folders[0]}train-labels-idx1-ubyte, one is missing"
        ) from error
    images, labels = _idx(container, images_file, 3)[..., None], _idx(container, labels_file, 1)
    fashion = "fashion" in f"{container.path.resolve()}/{folders[0]}".lower()
    class_names = FASHION_CLASSES if fashion else DIGITS
    if len(images) != len(labels) or labels.max(initial=0) >= len(class_names):
        raise DataError(
            f"{container.path}: {labels_file}: needs {len(images)} labels from 0 to 9, one for "
            f"each image; has {len(labels)}, up to {labels.max(initial=0)}"
        )
    return Source(
        "FashionMNIST" if fashion else "MNIST",
        {name: container.members[name] for name in (images_file, labels_file)},
        len(images),
        lambda: _blocks(images, labels.astype(np.int64)),
        class_names,
    )


def _idx(container: Container, name: str, axes: int) -> NDArray[np.uint8]:
    try:
        file: IO[bytes] = io.BytesIO(container.read(name))
        if name.endswith(".gz"):
            file = cast(IO[bytes], gzip.GzipFile(fileobj=file))
        magic, *shape = struct.unpack(f">{1 + axes}I", file.read(4 * (1 + axes)))
        if magic != IDX_MAGIC + axes:
            raise ValueError(f"begins with {magic:#x}, not {IDX_MAGIC + axes:#x}")
        if what := _odd_size(shape):
            raise ValueError(what)
        size = math.prod(shape)
        most = WHOLE_LIMIT if axes > 1 else WHOLE_LIMIT // 8
        if name.endswith(".gz") and size > most:
            raise ValueError(f"unpacks to {size} bytes; at most {most} are read of a gzip file")
        content = file.read(size)  # no more, whatever a gzip file would unpack to
        if len(content) < size:
            raise ValueError(f"is cut off: has {len(content)} of {size} values")
    except Exception as error:
        text = f"{container.path}: {name}: not an IDX file of MNIST: {error}. Fetch it again"
        raise DataError(text) from error
    return np.frombuffer(content, np.uint8).reshape(shape)


def _odd_size(shape: Sequence[int]) -> str:
    """What is wrong with the size of pictures, uint8 ``[n ...]``; empty: nothing."""
    size = math.prod(shape[1:])
    if 0 < size <= FILE_LIMIT:
        return ""
    return f"has the shape {list(shape)}: pictures of {size} bytes; they may have 1 to {FILE_LIMIT}"


def _blocks(images: Pixels, labels: Labels) -> Iterator[Block]:
    rows = _rows_of_a_block(images.shape)
    for start in range(0, len(images), rows):
        part = slice(start, start + rows)
        yield Block(images[part], labels[part])


def _rows_of_a_block(shape: tuple[int, ...]) -> int:
    return max(1, BLOCK // max(1, math.prod(shape[1:])))


# ---- npz ----------------------------------------------------------------------------------------

# Names of images and labels: ours, Keras', MedMNIST's, numpy's own for arrays without one.
NPZ_NAMES = (
    ("images", "labels"),
    ("x_train", "y_train"),
    ("train_images", "train_labels"),
    ("arr_0", "arr_1"),
)
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class _Array:
    """An array in a zip file, read row by row. Objects, which would be pickles, are refused."""

    container: Zip
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, size: int) -> Iterator[NDArray[Any]]:
        """Blocks of ``size`` along the first axis."""
        with self.container.open(self.name) as file:
            _npy_header(file)
            for start in range(0, self.shape[0], size):
                shape = (min(size, self.shape[0] - start), *self.shape[1:])
                count = math.prod(shape) * self.dtype.itemsize
                content = file.read(count)
                if len(content) < count:
                    raise ValueError("is cut off")
                yield np.frombuffer(content, self.dtype).reshape(shape)


def npz(container: Container) -> Source | None:
    """An array of images, uint8 ``[n h w]``, ``[n h w c]`` or ``[n c h w]``, and perhaps one of
    labels, integers ``[n]`` or ``[n 1]``, in a file that ``numpy.savez`` wrote."""
    names = [name.removesuffix(".npy") for name in container.members if name.endswith(".npy")]
    if not isinstance(container, Zip) or len(names) < len(container.members) or not names:
        return None
    pair = next((pair for pair in NPZ_NAMES if pair[0] in names), None)
    if pair is None:
        known = " or ".join(images for images, _ in NPZ_NAMES)
        raise DataError(f"{container.path}: has {', '.join(names)}; needs an array named {known}")
    images = _array(container, pair[0])
    channels_last = _channels_last(images)
    if what := _odd_size(images.shape):
        raise _unusable(images, what)
    labels = _npz_labels(container, pair[1], images.shape[0]) if pair[1] in names else None

    def parts() -> Iterator[Block]:
        start = 0
        try:
            for rows in images.rows(_rows_of_a_block(images.shape)):
                pixels = rows[..., None] if rows.ndim == 3 else rows
                pixels = pixels if channels_last else pixels.transpose(0, 2, 3, 1)
                part = None if labels is None else labels[start : start + len(rows)]
                yield Block(pixels, part)
                start += len(rows)
        except Exception as error:
            raise _unusable(images, f"cannot be read: {error}. Write it again") from error

    members = {f"{name}.npy": container.members[f"{name}.npy"] for name in pair if name in names}
    return Source("npz", members, images.shape[0], parts)


def _array(container: Zip, name: str) -> _Array:
    try:
        with container.open(f"{name}.npy") as file:
            shape, fortran, dtype = _npy_header(file)
        if dtype.hasobject:
            raise ValueError("holds Python objects, which are not read; save plain numbers")
        if fortran and len(shape) > 1:
            raise ValueError("is in Fortran's order; save numpy.ascontiguousarray of it")
        if any(length < 0 for length in shape):
            raise ValueError(f"has the shape {list(shape)}, with a negative length. Write it again")
        if math.prod(shape) * dtype.itemsize > container.members[f"{name}.npy"].size:
            raise ValueError(f"is cut off: it has the shape {list(shape)}. Write it again")
    except Exception as error:
        raise DataError(f"{container.path}: {name} {error}") from error
    return _Array(container, f"{name}.npy", shape, dtype)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    versions = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    width, read = versions[np.lib.format.read_magic(file)]
    length = file.read(width)
    if (size := int.from_bytes(length, "little")) > LONGEST_HEADER:
        raise ValueError(f"has a header of {size} bytes, which no shape and type need")
    return read(io.BytesIO(length + file.read(size)))


def _channels_last(images: _Array) -> bool:
    shape = images.shape
    if images.dtype != np.uint8:
        raise _unusable(images, f"is {images.dtype}; images are uint8, 0..255")
    if len(shape) == 3 or (len(shape) == 4 and shape[3] in CHANNELS):
        return True
    if len(shape) == 4 and shape[1] in CHANNELS:
        return False
    raise _unusable(
        images,
        f"has the shape {list(shape)}; images are [n h w], or with 1, 3 or 4 "
        "channels [n h w c] or [n c h w]",
    )


def _npz_labels(container: Zip, name: str, count: int) -> Labels:
    array = _array(container, name)
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        raise _unusable(
            array,
            f"is {array.dtype} {list(array.shape)}; labels are integers "
            f"[{count}], one for each image",
        )
    if 8 * count > WHOLE_LIMIT:
        raise _unusable(array, f"has {count} labels; at most {WHOLE_LIMIT // 8} are read")
    labels = np.concatenate([np.empty(0, np.int64), *(r.ravel() for r in array.rows(1 << 20))])
    labels = labels.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise _unusable(array, f"has a label {labels.min()}; labels count from 0")
    return labels


def _unusable(array: _Array, what: str) -> DataError:
    return DataError(f"{array.container.path}: {array.name.removesuffix('.npy')} {what}")
