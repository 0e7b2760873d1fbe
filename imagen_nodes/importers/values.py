"""What a pickle holds, as inert values: nothing here can be called, imported or run.

A pickle names classes and functions of the program that wrote it. :class:`Global` is such a name
and no more; :class:`Instance` is what the program would have made of one, as data. Tensors stay
where they are in the file until somebody asks for them.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError

if TYPE_CHECKING:
    import torch

# Bytes of one value, by torch's name of its type.
SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
# numpy's codes of the same types.
NUMPY = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16",
    "i1": "int8", "u1": "uint8", "b1": "bool", "?": "bool",
}  # fmt: skip
DIMENSIONS = 16


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function, as the file spells it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Instance:
    """What some class or function would have made: its name, arguments and state, as data."""

    __slots__ = ("arguments", "elements", "entries", "made_by", "state")

    def __init__(self, made_by: Global, arguments: tuple[Any, ...] = ()) -> None:
        self.made_by = made_by
        self.arguments = arguments
        self.state: Any = None
        self.entries: dict[Any, Any] = {}
        self.elements: list[Any] = []

    @property
    def fields(self) -> dict[Any, Any]:
        """The attributes that it would have, by name; its items where it has none."""
        return self.state if isinstance(self.state, dict) else self.entries


class Storage:
    """Values of one type, side by side. ``memory`` is None while the file has yet to bring them."""

    __slots__ = ("count", "dtype", "memory")

    def __init__(self, dtype: str, count: int, memory: memoryview | None = None) -> None:
        if not isinstance(count, int) or count < 0:
            raise CheckpointError("damaged: a storage of tensors without a valid size")
        self.dtype = dtype
        self.count = count
        self.memory = memory


class StoredTensor:
    """A tensor in a file: ``dtype`` (torch's name), ``shape``, and where its values lie."""

    __slots__ = ("_offset", "_storage", "_strides", "dtype", "shape")

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: str = "",
    ) -> None:
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or len(shape) > DIMENSIONS:
            raise CheckpointError("damaged: a tensor whose shape and strides do not match")
        if any(type(number) is not int or not 0 <= number < 1 << 63 for number in numbers):
            raise CheckpointError("damaged: a tensor whose shape is not made of whole numbers")
        self.dtype = dtype or storage.dtype
        self.shape = shape
        self._storage = storage
        self._offset = offset
        self._strides = strides
        # A newer storage is of bytes, and the tensor types them.
        count = storage.count * SIZES[storage.dtype] // SIZES[self.dtype]
        # A tensor may be smaller than its storage; it is never larger, which only a bomb needs.
        if self.count and (offset + self._span > count or self.count > count):
            raise CheckpointError(
                f"damaged: a tensor of shape {list(shape)} in a storage of {count} values"
            )

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def _span(self) -> int:
        """Number of values from the first to the last."""
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self._strides, strict=True))

    def tensor(self) -> torch.Tensor:
        """The tensor; it shares the file's memory where that is aligned.

        Raises:
            CheckpointError: the file ends before its values do."""
        import torch

        dtype = getattr(torch, self.dtype)
        if not self.count:
            return torch.empty(self.shape, dtype=dtype)
        size = SIZES[self.dtype]
        start = self._offset * size
        end = start + self._span * size
        memory = self._storage.memory
        if memory is None or len(memory) < end:
            raise CheckpointError("truncated: a tensor's values are missing. Get it again")
        flat = torch.frombuffer(memory[start:end], dtype=dtype)
        if flat.data_ptr() % size:
            flat = torch.frombuffer(bytearray(memory[start:end]), dtype=dtype)
            forget(memory[start:end])
        return flat.as_strided(self.shape, self._strides)


class NumpyType:
    """A numpy dtype. ``dtype`` is torch's name of it, or "" where torch has none of the kind."""

    __slots__ = ("big_endian", "dtype")

    def __init__(self, code: object) -> None:
        text = code if isinstance(code, str) else ""
        self.big_endian = text.startswith(">")
        self.dtype = NUMPY.get(text.lstrip("<>|="), "")

    def build(self, state: object) -> None:
        """Take numpy's own state of a dtype: ``(version, byte order, ...)``."""
        if isinstance(state, tuple) and len(state) > 1:
            self.big_endian = state[1] == ">"


class NumpyArray:
    """A numpy array in a file, as :class:`StoredTensor`."""

    __slots__ = ("_columns_first", "_type", "_values", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self._type = NumpyType("")
        self._values: memoryview | bytes | str | None = None
        self._columns_first = False

    @property
    def dtype(self) -> str:
        return self._type.dtype

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def build(self, state: object) -> None:
        """Take numpy's own state of an array: ``(version, shape, dtype, Fortran order, bytes)``."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise CheckpointError("damaged: an array whose state is not numpy's")
        shape, kind, columns_first, values = state[-4:]
        self.fill(shape, kind, bool(columns_first), values)

    def fill(self, shape: Any, kind: Any, columns_first: bool, values: Any) -> None:
        """Be an array of ``shape`` and ``kind`` whose bytes are ``values``."""
        wrong = not isinstance(shape, tuple) or len(shape) > DIMENSIONS
        if wrong or any(type(n) is not int or n < 0 for n in shape):
            raise CheckpointError("damaged: an array whose shape is not made of whole numbers")
        if not isinstance(kind, NumpyType):
            raise CheckpointError("damaged: an array without a type")
        self.shape, self._type, self._columns_first = shape, kind, columns_first
        if kind.dtype:
            if not isinstance(values, memoryview | bytes | str):  # str: written by Python 2
                raise CheckpointError("damaged: an array without values")
            if len(values) != self.count * SIZES[kind.dtype]:
                raise CheckpointError(f"damaged: an array of shape {list(shape)} of another size")
            self._values = values

    def tensor(self) -> torch.Tensor:
        """A copy as a tensor.

        Raises:
            CheckpointError: it holds no numbers that torch knows."""
        import numpy as np
        import torch

        values = self._values
        if values is None:
            raise CheckpointError("an array of something else than numbers")
        if isinstance(values, str):
            values = values.encode("latin1")
        kind = np.dtype(self._type.dtype).newbyteorder(">" if self._type.big_endian else "<")
        order = "F" if self._columns_first else "C"
        array = np.frombuffer(values, kind).reshape(self.shape, order=order)
        found = torch.from_numpy(np.array(array, dtype=self._type.dtype, order="C"))
        forget(values)
        return found


def forget(values: memoryview | bytes) -> None:
    """Give back the memory of a part of a mapped file that has been copied: a large file would be
    held twice. It is read again if somebody asks."""
    import numpy as np

    mapped = values.obj if isinstance(values, memoryview) else None
    if not isinstance(mapped, mmap.mmap) or not hasattr(mapped, "madvise"):
        return
    first, start = (np.frombuffer(part, np.uint8).ctypes.data for part in (mapped, values))
    # Of whole pages only: others may be of a tensor that shares them.
    page = mmap.PAGESIZE
    begin, end = -(-(start - first) // page), (start - first + len(values)) // page
    if begin < end:
        mapped.madvise(mmap.MADV_DONTNEED, begin * page, (end - begin) * page)


Tensor = StoredTensor | NumpyArray
