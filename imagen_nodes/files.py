"""Writing files and folders whole or not at all; and what a PNG says beside its pixels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import IO

from .errors import DataError, StorageError, UsageError

# Ends the names of files that are being written.
PARTIAL = ".partial"
# Characters of a name that its temporary one begins with; in UTF-8 they have up to four bytes each.
LONGEST_PREFIX = 50
# What a PNG begins with.
PNG = b"\x89PNG\r\n\x1a\n"


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write ``content`` (bytes, or a function that writes to the open file): see
    :func:`file_atomically`.

    Raises:
        StorageError: it cannot be written; nothing is left behind.
    """
    with file_atomically(path) as temporary, temporary.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)


@contextmanager
def file_atomically(path: Path) -> Generator[Path]:
    """A file to write, which becomes ``path`` when the block ends, so that ``path`` holds the old
    file or the whole new one at every moment, a power cut included. If it does not end well,
    nothing is left behind.

    Raises:
        StorageError: it cannot be written."""
    # A link goes on to be one, and leads to what is written. Path's own question raises, where a
    # name is too long to be one.
    if os.path.islink(path):  # noqa: PTH114
        path = Path(os.path.realpath(path))
    with _put(path, lambda temporary: temporary.replace(path)) as temporary:
        yield temporary


def write_numbered(
    path: Callable[[int], Path], number: int, content: Callable[[IO[bytes]], object]
) -> int:
    """Write ``content`` at ``path(number)``, as :func:`write_atomically` does, or under the first
    higher number at whose path there is nothing; the number. Two processes that write into one
    folder take different ones.

    Raises:
        StorageError: it cannot be written; nothing is left behind."""
    while os.path.lexists(path(number)):  # before there is the work of writing it
        number += 1

    def put(temporary: Path) -> None:
        nonlocal number
        while not _linked(temporary, path(number)):
            number += 1

    with _put(path(number), put) as temporary, temporary.open("wb") as file:
        content(file)
    return number


def _linked(temporary: Path, path: Path) -> bool:
    """Give the file ``temporary`` another name, unless there is something of that name."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:  # there are file systems without a second name
        if os.path.lexists(path):
            return False
        temporary.replace(path)
    return True


@contextmanager
def _put(path: Path, put: Callable[[Path], object]) -> Generator[Path]:
    """A file to write in the folder of ``path``, of which ``put`` makes what it is for once it is
    whole; at last it is deleted."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path, partial(Path.touch, exist_ok=False))
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        put(temporary)
    except OSError as error:
        raise StorageError.at(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _temporary(path: Path, make: Callable[[Path], object]) -> Path:
    """What ``make`` makes under another name in the folder of ``path``, which is not longer than
    names may be where its own is not. It has the rights that the user's other files do."""
    temporary = path.parent / f".{path.name[:LONGEST_PREFIX]}.{token_hex(8)}{PARTIAL}"
    make(temporary)
    return temporary


@contextmanager
def folder_atomically(path: Path) -> Generator[Path]:
    """A new folder to write in, which becomes ``path`` when the block ends. If it does not end
    well, nothing is left behind.

    Raises:
        UsageError: see :func:`refuse_taken`.
        StorageError: it cannot be made."""
    refuse_taken(path)
    temporary: Path | None = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary(path, Path.mkdir)
        except OSError as error:
            raise StorageError.at(path, error) from error
        yield temporary
        try:
            if path.is_dir():  # an empty one
                path.rmdir()
            temporary.rename(path)
        except OSError as error:
            raise StorageError.at(path, error) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_taken(path: Path) -> None:
    """
    Raises:
        UsageError: there is something at ``path`` other than an empty folder."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        what = "a folder that is not empty" if path.is_dir() else "a file"
        raise UsageError(f"{path}: is {what}, which nothing is written over. Choose a new folder")


def sweep(folder: Path) -> None:
    """Delete what processes that were killed while they wrote in ``folder`` left behind."""
    for path in list(folder.rglob(f".*{PARTIAL}")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def png_texts(path: Path) -> dict[str, str]:
    """The text chunks of a PNG, by keyword.

    Raises:
        DataError: it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return dict(getattr(picture, "text", {}))
    except Exception as error:  # whatever Pillow raises on a damaged file
        raise DataError(f"{path}: a damaged PNG: {error}") from error
