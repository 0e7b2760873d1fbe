"""Writing: whole or not at all, with the user's rights, and through links."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from imagen_nodes.errors import StorageError
from imagen_nodes.files import folder_atomically, write_atomically, write_numbered


@pytest.fixture
def private():
    """A umask of nothing for others."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_rights_are_those_of_the_users_other_files(tmp_path: Path, private: None) -> None:
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    with folder_atomically(tmp_path / "b"):
        pass
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["link", "target"]


@pytest.mark.parametrize("letter", ["a", "\U0001f408"])
def test_the_longest_names(tmp_path: Path, letter: str) -> None:
    """255 bytes on most systems."""
    name = letter * (255 // len(letter.encode()))
    write_atomically(tmp_path / name, b"x")
    with folder_atomically(tmp_path / f"{name[:-1]}"):
        pass
    write_numbered(lambda number: tmp_path / f"{number}{name[:-1]}", 1, lambda file: file)
    assert len(list(tmp_path.iterdir())) == 3


def write_folder(path: Path) -> None:
    with folder_atomically(path):
        pass


@pytest.mark.parametrize("write", [lambda path: write_atomically(path, b"x"), write_folder])
def test_where_nothing_can_be_written(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be made, nothing can be looked for and taken away either."""

    def refused(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / "in").mkdir()
    for name in ("touch", "unlink"):
        monkeypatch.setattr(Path, name, refused)
    make = Path.mkdir
    monkeypatch.setattr(
        Path, "mkdir", lambda path, **kw: make(path, **kw) if path.name == "in" else refused()
    )
    with pytest.raises(StorageError, match=r"a: cannot be written: Read-only"):
        write(tmp_path / "in" / "a")
    assert list((tmp_path / "in").iterdir()) == []


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: File name too long"):
        write_atomically(tmp_path / ("a" * 300), b"x")
    assert list(tmp_path.iterdir()) == []
