"""Files of weights by their container: torch's zip archives and older streams, plain pickles,
safetensors. All of them are mapped, not read: values stay in the file until somebody asks.
"""

from __future__ import annotations

import json
import mmap
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .calls import CALLS, storage_type
from .machine import Budget, Machine
from .pickles import load
from .values import DIMENSIONS, SIZES, Global, Storage, StoredTensor

# torch.save's first value, and the version of its stream (before its zip archives of 2020).
MAGIC = 0x1950A86A20F9469CFC6C
STREAM = 1001
# Streams within streams: a tensor of an NVIDIA pickle lies in one.
NESTED = 2
# What starts files that are no pickles.
OTHERS = {
    b"\x89HDF\r\n": "an HDF5 file (Keras)",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"<!DO": "a web page, not the file that it links to",
    b"<htm": "a web page, not the file that it links to",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"\x08\x03\x12": "an ONNX model",
}
# What a pickle of weights begins with: its protocol, or (protocols 0 and 1) a container or a name.
FIRST = (b"\x80", b"(", b"c", b"}", b"]")
SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Foreign:
    """A file of another program: what container it is, and what it holds as inert values."""

    path: Path
    container: str
    content: Any


def open_foreign(path: Path) -> Foreign:
    """Read a file's structure; nothing in it is run, and no tensor's values are read.

    Raises:
        CheckpointError: not there, none of the containers, damaged, or it wants something run."""
    if not path.is_file():
        found = "a folder, not a file" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}")
    try:
        with path.open("rb") as file:
            # A private copy of each page that is written to, so that torch may share the memory.
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        return Foreign(path, *_read(path, memory))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except ValueError:  # of mmap
        raise CheckpointError(f"{path}: empty") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(path: Path, memory: memoryview) -> tuple[str, Any]:
    start = bytes(memory[:32])
    for magic, text in OTHERS.items():
        if start.startswith(magic):
            raise CheckpointError(f"{text}. Supported are pickles, torch's files and safetensors")
    if bytes(memory[257:262]) == b"ustar":
        raise CheckpointError(
            "a tar archive. If torch of 2016 wrote it, load and save it with that torch once"
        )
    if start.startswith(b"PK"):
        return "torch zip archive", _archive(path, memory)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < len(memory):
        return "safetensors", _safetensors(memory)
    if start[:1] not in FIRST:
        raise CheckpointError("neither a pickle nor a file of torch's nor safetensors")
    content = read_stream(memory, Budget(len(memory)), 0)
    return "torch stream" if _is_stream(memory) else "pickle", content


# ---------------------------------------------------------------- streams


def read_stream(memory: memoryview, budget: Budget, depth: int) -> Any:
    """A plain pickle; or torch's older stream of five: the magic number, the version, a word on the
    machine, the value, the keys of its storages; then the storages in that order, each its number
    of values (8 bytes, little-endian) and the values."""
    storages: dict[str, Storage] = {}

    def persistent(identity: object) -> object:
        match identity:
            case ("module", cls, *_):  # with its source text, which is not looked at
                return cls
            case ("storage", kind, str() as name, _, int() as count, *view):
                storage = storages.setdefault(name, Storage(storage_type(kind), count))
                return _view(storage, view[0] if view else None)
            case _:
                raise CheckpointError("damaged: it refers to values of an unknown kind")

    machine = Machine(memory, _CALLS, persistent, budget, depth)
    first = load(machine)
    if first != MAGIC:
        return first
    if load(machine) != STREAM:
        raise CheckpointError("a torch stream of an unknown version")
    load(machine)
    content = load(machine)
    names = load(machine)
    if type(names) is not list:
        raise CheckpointError("damaged: a torch stream without a list of storages")
    for name in names:
        if type(name) is not str or name not in storages:
            raise CheckpointError("damaged: a torch stream with storages that nobody has")
        _bring(storages[name], machine)
    return content


def _nested(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``_load_from_bytes``: one of torch's streams, within the file. Read by the same machine."""
    (content,) = arguments
    if not isinstance(content, memoryview | bytes):
        raise CheckpointError("damaged: a nested file that is no bytes")
    if m.depth + 1 >= NESTED:
        raise CheckpointError("files nested in files nested in files, which no weights need")
    # Writable, as the file's own memory is: torch wants that of what it shares.
    memory = content if isinstance(content, memoryview) else memoryview(bytearray(content))
    return read_stream(memory, m.budget, m.depth + 1)


_CALLS = CALLS | {"torch.storage._load_from_bytes": _nested}


def _bring(storage: Storage, machine: Machine) -> None:
    try:
        count = int.from_bytes(machine.take(8), "little")
        if count != storage.count:
            raise CheckpointError("damaged: a storage of another size than its tensors say")
        storage.memory = machine.take(count * SIZES[storage.dtype])
    except IndexError:
        raise CheckpointError(
            f"truncated: it ends at byte {len(machine.memory)}, within a tensor. Get it again"
        ) from None


def _view(storage: Storage, view: object) -> Storage:
    """A part of a storage, which torch before 0.4 had: only all of it is met."""
    match view:
        case None:
            return storage
        case (_, 0, int() as count) if count == storage.count:
            return storage
        case _:
            raise CheckpointError("storages within storages, of torch before 0.4: save it anew")


def _is_stream(memory: memoryview) -> bool:
    number = MAGIC.to_bytes(10, "little")
    return number in bytes(memory[:32])


# ---------------------------------------------------------------- torch's zip archives


def _archive(path: Path, memory: memoryview) -> Any:
    """``NAME/data.pkl``, and the storages as ``NAME/data/KEY``, none of them compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        raise CheckpointError("truncated or damaged: a zip archive without an end") from None
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError("a zip archive, but none that torch.save wrote")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in entries:
        order = _entry(memory, entries[f"{root}byteorder"])
        if bytes(order) != b"little":
            raise CheckpointError("written on a big-endian machine, which is not supported")
    storages: dict[str, Storage] = {}

    def persistent(identity: object) -> object:
        match identity:
            case ("storage", kind, str() as name, _, int() as count, *_):
                if name not in storages:
                    storages[name] = storage = Storage(storage_type(kind), count)
                    if f"{root}data/{name}" not in entries:
                        raise CheckpointError(f"damaged: its storage {name} is missing")
                    storage.memory = _entry(memory, entries[f"{root}data/{name}"])
                    if len(storage.memory) != count * SIZES[storage.dtype]:
                        raise CheckpointError(f"damaged: its storage {name} has another size")
                return storages[name]
            case _:
                raise CheckpointError("damaged: it refers to values of an unknown kind")

    pickle = _entry(memory, entries[pickles[0]])
    return load(Machine(pickle, _CALLS, persistent, Budget(len(memory))))


def _entry(memory: memoryview, entry: zipfile.ZipInfo) -> memoryview:
    """An entry's bytes. Source of the layout: PKWARE's APPNOTE.TXT, 4.3.7."""
    start = entry.header_offset
    header = bytes(memory[start : start + 30])
    if entry.compress_type != zipfile.ZIP_STORED or header[:4] != b"PK\x03\x04":
        raise CheckpointError("a zip archive with compressed or damaged entries, not torch's")
    start += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if start + entry.file_size > len(memory):
        raise CheckpointError("truncated: it ends within a tensor. Get it again")
    return memory[start : start + entry.file_size]


# ---------------------------------------------------------------- safetensors


def _safetensors(memory: memoryview) -> dict[str, StoredTensor]:
    """A safetensors file of another program: its tensors by name."""
    end = 8 + int.from_bytes(memory[:8], "little")
    try:
        header: Any = json.loads(bytes(memory[8:end]))
        header.pop("__metadata__", None)
        return {name: _slice(memory[end:], **info) for name, info in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError("damaged: a safetensors file without a valid header") from None


def _slice(memory: memoryview, dtype: str, shape: Any, data_offsets: Any) -> StoredTensor:
    kind = SAFETENSORS[dtype]
    start, end = data_offsets
    if len(shape) > DIMENSIONS:
        raise ValueError
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    if not 0 <= start <= end <= len(memory):
        raise CheckpointError("truncated: it ends within a tensor. Get it again")
    storage = Storage(kind, (end - start) // SIZES[kind], memory[start:end])
    return StoredTensor(storage, 0, tuple(shape), tuple(strides[: len(shape)]))
