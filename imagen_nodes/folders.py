"""Where things are: what ships with the package, and paths that must not leave their folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .errors import CheckpointError

# Files with a card; files that hold tensors by the word of their format; and what Load Checkpoint
# takes: of the latter, those whose tensors torch's weights-only loader reads.
CHECKPOINTS = frozenset({".safetensors"})
PICKLES = frozenset({".pt", ".pth", ".pkl", ".ckpt", ".bin"})
WEIGHTS = CHECKPOINTS | PICKLES - {".pkl"}
ABOUT_PICKLES = (
    "a pickle, which can run code when it is opened, so it is not opened. Use a .safetensors file; "
    "imagen-nodes import FILE -o OUT.safetensors makes one of it, and runs nothing of it"
)
# The folder, within one of weights, of networks that measure: nodes neither list nor load them.
METRICS = "metrics"
_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: str) -> Path:
    """The folder of ``weights`` or ``examples/workflows`` that came with this package: inside it in
    a wheel, beside it in a checkout."""
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def inside(folder: Path, name: str) -> Path | None:
    """``folder / name``, or None where that leaves the folder: by ``..``, an absolute path or a
    symlink."""
    if "\0" in name:
        return None
    root = folder.resolve()
    path = (root / name).resolve()
    return path if path.is_relative_to(root) else None


def files(folders: Iterable[Path], suffixes: Iterable[str]) -> dict[str, Path]:
    """Every file with one of ``suffixes`` by its name within its folder, sorted; where folders hold
    the same name, the earlier one counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.rglob("*") if folder.is_dir() else ():
            if path.suffix.lower() in suffixes and path.is_file():
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return dict(sorted(found.items()))


def offered_weights(folders: Iterable[Path]) -> dict[str, Path]:
    """The weights files that nodes can load, by name: all but those in :data:`METRICS`."""
    found = files(folders, WEIGHTS)
    return {name: path for name, path in found.items() if not name.startswith(f"{METRICS}/")}


def identity(path: Path) -> tuple[str, int, int]:
    """What changes when another file is put in the place of this one: path, size, time."""
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def find_weights(folders: Iterable[Path], name: str) -> Path:
    """The weights file of that name.

    Raises:
        CheckpointError: there is none; the message lists what there is."""
    found = offered_weights(folders)
    if name not in found:
        raise CheckpointError(f"no weights {name!r}. There is: {', '.join(found) or 'nothing'}")
    return found[name]
