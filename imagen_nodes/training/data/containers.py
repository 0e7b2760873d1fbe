"""What files lie in: a folder, a zip, a tar. Files are read by name, into memory.

Nothing is unpacked onto the disk. Members of archives that are no plain files (links, devices), or
that would leave the archive (absolute names, ``..``), are not there.
"""

from __future__ import annotations

import io
import lzma
import math
import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from threading import Lock
from typing import IO, NamedTuple

from ...errors import DataError

# A picture in an archive may not unpack to more than this, bytes: 16 Mpx, uncompressed, twice over.
FILE_LIMIT = 1 << 27

# What reading a damaged archive raises.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)

Reader = Callable[[], bytes]


class Member(NamedTuple):
    """A file: its size in bytes, and what changes with its content: a zip's CRC-32, in a tar its
    modification time and that of the tar together, elsewhere the modification time."""

    size: int
    stamp: int


class Container(ABC):
    """Files by their names within it, ``/`` between the parts, in order."""

    path: Path
    members: dict[str, Member]

    @abstractmethod
    def read(self, name: str, limit: int | None = None) -> bytes:
        """A file; from any thread.

        Args:
            limit: the most bytes that it may have in an archive; None: ``FILE_LIMIT``.

        Raises:
            DataError: it has more.
            Exception: whatever a damaged archive or disk makes Python raise.
        """

    @abstractmethod
    def fresh(self) -> Container:
        """Itself if nothing can have changed since it was listed; else listed again."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def readers(self, names: Iterable[str]) -> Iterator[tuple[str, Reader]]:
        """Files and what reads them: each once, from any thread. The order is the members'."""
        for name in names:
            yield name, lambda name=name: self.read(name)


class Folder(Container):
    """A folder and its subfolders, in the order of :class:`Path`; links to folders are not
    followed. ``only``: nothing but these files."""

    def __init__(self, path: Path, only: Iterable[str] = ()) -> None:
        self.path = path
        self.only = tuple(only)
        try:
            listed = ((name, (path / name).stat()) for name in self.only)
            stats = dict(listed if self.only else _walk(path, ""))
        except OSError as error:
            where = error.filename or path
            raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
        self.members = {
            name: Member(stats[name].st_size, stats[name].st_mtime_ns)
            for name in sorted(stats, key=lambda name: name.split("/"))
        }

    def read(self, name: str, limit: int | None = None) -> bytes:
        return (self.path / name).read_bytes()

    def fresh(self) -> Folder:
        return Folder(self.path, self.only)

    def close(self) -> None:
        pass


def _walk(path: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(path) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(path / entry.name, f"{name}/")
            elif entry.is_file():
                yield name, entry.stat()


class _Archive(Container):
    """A file that holds files."""

    kind = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._state = _state(path)
            self.members = self._list()
        except DAMAGE as error:
            raise self.damaged(error) from error

    @abstractmethod
    def _list(self) -> dict[str, Member]:
        """Open the file, and list its members."""

    def damaged(self, error: Exception) -> DataError:
        """What to tell of an archive that cannot be read."""
        return DataError(f"{self.path}: a damaged {self.kind} file: {error}. Fetch it again")

    def fresh(self) -> Container:
        try:
            same = _state(self.path) == self._state
        except OSError as error:
            raise DataError(f"{self.path}: has vanished while it was read") from error
        return self if same else type(self)(self.path)

    def _admit(self, name: str, limit: int | None) -> None:
        size, most = self.members[name].size, FILE_LIMIT if limit is None else limit
        if size > most:
            raise DataError(f"would unpack to {size} bytes; at most {most} are read")


class Zip(_Archive):
    """A zip file, in the order of the names."""

    kind = "zip"

    def _list(self) -> dict[str, Member]:
        self._file = zipfile.ZipFile(self.path)
        # Some programs write names as Windows does.
        named = ((info.filename.replace("\\", "/"), info) for info in self._file.infolist())
        self._infos = {name: info for name, info in named if name[-1:] != "/" and _inside(name)}
        return {
            name: Member(info.file_size, info.CRC) for name, info in sorted(self._infos.items())
        }

    def read(self, name: str, limit: int | None = None) -> bytes:
        self._admit(name, limit)
        return self._file.read(self._infos[name])

    def open(self, name: str) -> IO[bytes]:
        """A file of any size, to be read in parts."""
        return self._file.open(self._infos[name])

    def close(self) -> None:
        self._file.close()


class Tar(_Archive):
    """A tar file, compressed or not. One that is compressed can only be read from its beginning to
    its end, so that is its order; the others' is a folder's."""

    kind = "tar"

    def _list(self) -> dict[str, Member]:
        self._lock = Lock()
        self._tar = tarfile.open(self.path)  # noqa: SIM115
        self._streamed = not isinstance(self._tar.fileobj, io.BufferedReader)
        self._offsets: dict[str, int] = {}
        try:
            members = self._scan()
        except BaseException:
            self.close()
            raise
        if self._streamed:
            return members
        return {name: members[name] for name in sorted(members, key=lambda name: name.split("/"))}

    def _scan(self) -> dict[str, Member]:
        found: dict[str, Member] = {}
        _, changed = self._state
        while (info := self._tar.next()) is not None:
            self._tar.members.clear()  # pyright: ignore  # which would grow by a kilobyte a file
            name = info.name.removeprefix("./")
            if info.isreg() and not info.issparse() and _inside(name):
                self._offsets[name] = info.offset_data
                # That of the tar too: those of members are often all the same, as for tars that
                # must come out alike whenever they are written.
                stamp = round(info.mtime) if math.isfinite(info.mtime) else 0
                found[name] = Member(info.size, stamp + changed)
        return found

    def read(self, name: str, limit: int | None = None) -> bytes:
        self._admit(name, limit)
        file, size = self._tar.fileobj, self.members[name].size
        assert file is not None
        with self._lock:
            file.seek(self._offsets[name])
            content = file.read(size)
        if len(content) < size:
            raise EOFError("it is cut off")
        return content

    def readers(self, names: Iterable[str]) -> Iterator[tuple[str, Reader]]:
        if not self._streamed:
            yield from super().readers(names)
            return
        for name in sorted(names, key=self._offsets.__getitem__):
            yield name, self._read_now(name)

    def _read_now(self, name: str) -> Reader:
        try:
            content = self.read(name)
        except DataError as error:
            return _raiser(error)
        except DAMAGE as error:  # nothing that follows can be read either
            raise self.damaged(error) from error
        return lambda: content

    def close(self) -> None:
        self._tar.close()


def _raiser(error: Exception) -> Reader:
    def read() -> bytes:
        raise error

    return read


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _inside(name: str) -> bool:
    """Whether a member stays in its archive, on every system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or windows.anchor or ".." in posix.parts + windows.parts
    return bool(name) and not outside


def open_container(path: Path) -> Container:
    """What the files at ``path`` lie in: a folder, an archive, or several by a pattern such as
    ``shard-{000..012}.tar``.

    Raises:
        DataError: there is nothing at ``path``, or no archive that can be read.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        if "{" in str(path):
            return _by_pattern(path)
        raise DataError(f"{path}: no such folder or file. Give the pictures with --data PATH")
    # In this order: any file that ends with a small zip passes for one, such as a tar with it.
    if tarfile.is_tarfile(path):
        return Tar(path)
    if zipfile.is_zipfile(path):
        return Zip(path)
    raise DataError(f"{path}: neither a folder nor a zip, tar or npz file of pictures, or damaged")


def _by_pattern(path: Path) -> Folder:
    from .shards import expand

    files = expand(path)
    base = Path(os.path.commonpath([file.parent for file in files]))
    return Folder(base, [file.relative_to(base).as_posix() for file in files])
