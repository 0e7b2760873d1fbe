"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .errors import StorageError

# Ends the names of files that are being written.
PARTIAL = ".partial"


def write_atomically(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write ``content`` (bytes, or a function that writes to the open file) so that ``path`` holds
    the old file or the whole new one at every moment, a power cut included.

    Raises:
        StorageError: it cannot be written; nothing is left behind.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL
        )
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise StorageError.at(path, error) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what processes that were killed while they wrote in ``folder`` left behind."""
    for path in folder.rglob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)
