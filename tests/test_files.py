"""Writing: whole or not at all, with the user's rights, and through links."""

import os
from pathlib import Path

import pytest

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
