"""Where things are: what ships with the package, and paths that must not leave their folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import CheckpointError, DataError, UsageError

# Files with a card; files that hold tensors by the word of their format; and what Load Checkpoint
# takes: of the latter, those whose tensors torch's weights-only loader reads. Files with latents.
CHECKPOINTS = frozenset({".safetensors"})
PICKLES = frozenset({".pt", ".pth", ".pkl", ".ckpt", ".bin"})
WEIGHTS = CHECKPOINTS | PICKLES - {".pkl"}
LATENTS = CHECKPOINTS | {".png"}
ABOUT_PICKLES = (
    "a pickle, which can run code when it is opened, so it is not opened. Use a .safetensors file; "
    "imagen-nodes import FILE -o OUT.safetensors makes one of it, and runs nothing of it"
)
# The folder, within one of weights, of networks that measure: nodes neither list nor load them.
METRICS = "metrics"
# Characters of a name that is not there, at most: what is meant for another input may be long.
LONGEST = 200
_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: str) -> Path:
    """The folder of ``weights`` or ``examples/workflows`` that came with this package: inside it in
    a wheel, beside it in a checkout."""
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def inside(folder: Path, name: str) -> Path | None:
    """``folder / name``, or None where that leaves the folder: by ``..``, an absolute path or a
    symlink, or leads nowhere, in a circle of them."""
    if "\0" in name:
        return None
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except RuntimeError:  # of a circle, up to Python 3.12
        return None
    return path if path.is_relative_to(root) else None


def annotated(folders: Mapping[str, Path], name: str, what: str, or_folder: bool = False) -> Path:
    """The file ``name`` in the input folder, or ``name [output]`` in the output folder, or in
    whichever of ``folders`` it names so.

    Args:
        what: such files are, for people.
        or_folder: it may be a folder too.

    Raises:
        UsageError: it leaves the folder, or a link in it does.
        DataError: it is not there."""
    kind = "input"
    for other in folders:
        if name.endswith(f"[{other}]"):
            name, kind = name[: -len(other) - 2].rstrip(), other
    folder = folders[kind]
    try:
        path = inside(folder, name)
        there = path is not None and (path.exists() if or_folder else path.is_file())
    except (OSError, UnicodeError):  # no file can have this name
        path, there = folder, False
    if path is None:
        raise UsageError(f"{name}: leaves the {kind} folder {folder}; {what} are read there only")
    if not there:
        either = "folder or file" if or_folder else "file"
        name = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        raise DataError(f"{name}: no such {either} of {what} in the {kind} folder {folder}")
    for link in filter(Path.is_symlink, path.rglob("*")):
        if not link.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{name}: its {link.name} leads out of the {kind} folder {folder}")
    return path


def latents_in(folders: Mapping[str, Path]) -> list[str]:
    """Names of files that may hold latents, as :func:`annotated` takes them."""
    inputs, outputs = (files([folders[kind]], LATENTS) for kind in ("input", "output"))
    return [*inputs, *(f"{name} [output]" for name in outputs)]


def files(
    folders: Iterable[Path], suffixes: Iterable[str], linked: bool = False
) -> dict[str, Path]:
    """Every file with one of ``suffixes`` by its name within its folder, sorted; where folders hold
    the same name, the earlier one counts. ``linked``: also those in folders that are links."""
    found: dict[str, Path] = {}
    for folder in folders:
        seen: set[Path] = set()
        for place, names, here in os.walk(folder, followlinks=linked):
            if linked:
                real = Path(place).resolve()
                if real in seen:  # links may lead in a circle
                    names.clear()
                    continue
                seen.add(real)
            for path in (Path(place, name) for name in here):
                if path.suffix.lower() in suffixes and path.is_file():
                    found.setdefault(path.relative_to(folder).as_posix(), path)
    return dict(sorted(found.items()))


def offered_weights(folders: Iterable[Path]) -> dict[str, Path]:
    """The weights files that nodes can load, by name: all but those in :data:`METRICS`. Folders of
    other programs may be linked to, as in ComfyUI."""
    found = files(folders, WEIGHTS, linked=True)
    return {name: path for name, path in found.items() if not name.startswith(f"{METRICS}/")}


def contents(path: Path) -> str:
    """What changes when a file, or one in a folder, is changed, or another takes its place: a
    digest of its path, size and time, since ComfyUI saves it with pictures."""
    found = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
    code = hashlib.sha256()
    for file in found:
        stat = file.stat()
        identity = str(file), stat.st_size, stat.st_mtime_ns
        code.update(repr(identity).encode(errors="surrogatepass"))
    return code.hexdigest()


def find_weights(folders: Iterable[Path], name: str) -> Path:
    """The weights file of that name; ``.safetensors`` may be left out.

    Raises:
        CheckpointError: there is none; the message lists what there is."""
    found = offered_weights(folders)
    if name not in found and f"{name}.safetensors" in found:
        name = f"{name}.safetensors"
    if name not in found:
        raise CheckpointError(f"no weights {name!r}. There is: {', '.join(found) or 'nothing'}")
    return found[name]


def weights_at(path: Path) -> Path:
    """The file, or, where there is none, the weights of that name, in ``weights`` or shipped.

    Raises:
        CheckpointError: there are none of a mere name; the message lists what there is."""
    if path.exists() or path.parent != Path():
        return path
    return find_weights((Path("weights"), shipped("weights")), path.name)
