"""The exceptions that a user can meet.

    ImagenError                 what every one of them is
    ├── UsageError              the call is wrong                          exit code 2
    │   └── WorkflowError       the workflow is wrong: all its problems    exit code 2
    ├── CheckpointError         a weights file cannot be used              exit code 1
    ├── DataError               a picture or data set cannot be used       exit code 1
    ├── StorageError            a file cannot be written: a full disk, ...  exit code 1
    ├── RunError                a node failed while it ran                 exit code 1
    ├── TrainingError           a training cannot start or go on           exit code 1
    └── Cancelled               somebody asked to stop                     exit code 130

Each message says what was wrong, where, what was expected and what to do next; the command line
prints it and nothing else.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any


class ImagenError(Exception):
    """Anything wrong that the reader can mend."""

    exit_code = 1


class UsageError(ImagenError):
    """The call itself is wrong: an option, a path, a value."""

    exit_code = 2


class WorkflowError(UsageError):
    """The workflow is wrong. ``report`` is the body of ComfyUI's 400 answer:
    ``{"error": {...}, "node_errors": {...}}`` (see ``graph/validate.py``)."""

    def __init__(self, message: str, report: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report: dict[str, Any] = report or {
            "error": {
                "type": "invalid_workflow",
                "message": message,
                "details": "",
                "extra_info": {},
            },
            "node_errors": {},
        }


class CheckpointError(ImagenError):
    """A weights file is missing, damaged, foreign or does not fit its card."""


class DataError(ImagenError):
    """A picture or a data set cannot be used."""


class StorageError(ImagenError):
    """A file cannot be written: a full disk, no permission."""

    def __init__(self, message: str, error: OSError | None = None) -> None:
        super().__init__(message)
        self._number = error.errno if error else None

    @classmethod
    def at(cls, path: Path, error: OSError) -> StorageError:
        """For ``error``, which came up while ``path`` was written."""
        return cls(f"{path}: cannot be written: {error.strerror or error}", error)

    @property
    def full(self) -> bool:
        """Whether it is for want of space, which may come."""
        return self._number in (errno.ENOSPC, errno.EDQUOT)


class RunError(ImagenError):
    """A node failed. ``node_id`` and ``node_type`` say which."""

    def __init__(self, message: str, node_id: str, node_type: str) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type


class TrainingError(ImagenError):
    """A training cannot start, or cannot go on."""


class Cancelled(ImagenError):
    """Somebody asked to stop."""

    exit_code = 130
