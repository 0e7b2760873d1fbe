"""WebDataset: tar files of samples, each of which is ``KEY.jpg``, ``KEY.cls`` and the like, side by
side. https://github.com/webdataset/webdataset

The library unites the files to samples. It is handed open files: by itself it would run what a name
that begins with ``pipe:`` says. Nothing in a sample but pictures and labels is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import DataError
from .containers import DAMAGE, FILE_LIMIT, Container, Folder, Tar
from .pictures import is_picture
from .source import Picture, Source

LABEL = "cls"
TARS = (".tar", ".tar.gz", ".tgz")
# More than any labelled set has; a larger number is no class.
MOST_CLASSES = 1_000_000


def webdataset(container: Container) -> Source | None:
    """One shard, or a folder of them without other pictures. ``KEY.cls`` is a number; either all
    samples have one or none."""
    files = _shards(container)
    if not files:
        return None
    wds = _library(container.path)
    tars = {path: _listed(path) for path in files}
    count = sum(sum(map(is_picture, members)) for members in tars.values())
    if not count:
        raise DataError(f"{container.path}: no pictures in its tar files. Unpack them first")

    def parts() -> Iterator[Picture]:
        labelled: bool | None = None
        for path, members in tars.items():
            for sample in _samples(wds, path, members):
                if (picture := _picture(path, sample)) is None:
                    continue
                if labelled not in (None, picture.label is not None):
                    raise DataError(f"{path}: labels are missing: only some samples have a .cls")
                labelled = picture.label is not None
                yield picture

    members = container.members
    if isinstance(container, Folder):
        members = {name: m for name, m in members.items() if container.path / name in tars}
    return Source("WebDataset", members, count, parts)


def _shards(container: Container) -> list[Path]:
    names = container.members
    if isinstance(container, Tar):
        labelled = any(PurePosixPath(name).suffix == f".{LABEL}" for name in names)
        return [container.path] if labelled else []
    tars = [name for name in names if name.lower().endswith(TARS) and name[0] != "."]
    if not isinstance(container, Folder) or any(map(is_picture, names)):
        return []
    return [container.path / name for name in tars]


def _listed(path: Path) -> frozenset[str]:
    """The members that are read: pictures and labels of a sensible size."""
    tar = Tar(path)
    tar.close()
    return frozenset(
        name
        for name, member in tar.members.items()
        if member.size <= FILE_LIMIT and (is_picture(name) or name.endswith(f".{LABEL}"))
    )


def _samples(wds: Any, path: Path, members: frozenset[str]) -> Iterator[dict[str, Any]]:
    def selected(name: str) -> bool:
        return name.removeprefix("./") in members

    try:
        with path.open("rb") as stream:
            source = [{"url": str(path), "stream": stream}]
            files = wds.tar_file_expander(source, select_files=selected)
            yield from wds.group_by_keys(files)
    except DAMAGE as error:
        raise DataError(f"{path}: a damaged tar file: {error.args[0]}. Fetch it again") from error
    except ValueError as error:  # two files of a sample have one name
        raise DataError(f"{path}: not a shard of WebDataset: {error.args[0]}") from error


def _picture(path: Path, sample: dict[str, Any]) -> Picture | None:
    suffix = next((key for key in sample if is_picture(f"x.{key}")), None)
    if suffix is None:
        return None
    key, content = sample["__key__"], sample[suffix]
    label = _label(path, key, sample[LABEL]) if LABEL in sample else None
    return Picture(f"{path.name}/{key}.{suffix}", lambda: content, label)


def _label(path: Path, key: str, content: bytes) -> int:
    try:
        label = int(content)
    except ValueError:
        label = -1
    if not 0 <= label < MOST_CLASSES:
        raise DataError(f"{path}: {key}.{LABEL}: holds {content[:20]!r}, not the number of a class")
    return label


def _library(path: Path) -> Any:
    try:
        from webdataset import tariterators
    except ImportError as error:
        text = "WebDataset's shards need webdataset: pip install 'imagen-nodes[train]'"
        raise DataError(f"{path}: {text}") from error
    return tariterators


def expand(pattern: Path) -> list[Path]:
    """The files that ``shard-{000..012}.tar`` stands for.

    Raises:
        DataError: one is missing, or none is meant.
    """
    braceexpand = _library(pattern).braceexpand
    try:
        files = [Path(name) for name in braceexpand.braceexpand(str(pattern))]
    except ValueError as error:
        raise DataError(f"{pattern}: {error}") from error
    for file in files:
        if not file.is_file():
            raise DataError(f"{pattern}: {file}: no such file")
    return files
