"""The cache of decoded pictures: when it is used, and that it is whole or not there."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagen_nodes.errors import DataError, StorageError
from imagen_nodes.training.data import Dataset, Stream, cache, open_data, opening


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``set``, 12 pictures in two classes and one that is none. Everything is large
    enough for the cache, which is ``place / "cache"``."""
    monkeypatch.setenv("IMAGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(opening, "SMALL", 0)
    write_pictures(tmp_path / "set", 12)
    return tmp_path


def write_pictures(path: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    for i in range(count):
        (path / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path / "ab"[i % 2] / f"{i:02d}.png")
    (path / "a" / "00a.png").write_bytes(b"no picture")


def opened(path: Path, size: Any = 16, channels: int = 3) -> tuple[Dataset, str]:
    heard: list[str] = []
    dataset = open_data(path, size, channels, heard.append)
    return dataset, "\n".join(heard)


def in_memory(path: Path) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "SMALL", 1 << 30)
        dataset, heard = opened(path)
    assert not heard
    return dataset


def assert_equal(one: Dataset, other: Dataset) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    for field in ("name", "class_names", "skipped", "names", "fingerprint"):
        assert getattr(one, field) == getattr(other, field), field


def files_of(place: Path) -> set[str]:
    return {path.name for path in (place / "cache").iterdir()}


def test_decoded_once_and_mapped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, heard = opened(place / "set")
    assert "cache: decoding 13 pictures once" in heard
    assert {name.partition(".")[2] for name in files_of(place)} == {"npy", "json"}

    def decode(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(opening.Decoder, "decode", decode)
    again, heard = opened(place / "set")
    assert heard.endswith("decoded before")
    assert isinstance(again.images.base, np.memmap)
    monkeypatch.undo()
    expected = in_memory(place / "set")
    assert_equal(first, expected)
    assert_equal(again, expected)
    assert again.skipped == ("a/00a.png: not a picture, or damaged",)
    assert again.labels is not None
    assert again.labels.tolist() == [0] * 6 + [1] * 6


def test_the_fingerprint_is_that_of_pixels_and_labels(place: Path) -> None:
    dataset, _ = opened(place / "set")
    by_hand = Dataset("x", np.array(dataset.images), dataset.labels)
    assert dataset.fingerprint == by_hand.fingerprint


def test_the_cache_is_never_written_through(place: Path) -> None:
    dataset, _ = opened(place / "set")
    before = np.array(dataset.images)
    stream = Stream(dataset, seed=0, flip=True, crop=0.5)
    stream.batch(0, 12).images.zero_()
    dataset.images[:] = 0
    np.testing.assert_array_equal(opened(place / "set")[0].images, before)


def test_a_moved_source_keeps_its_cache_and_its_new_name(place: Path) -> None:
    opened(place / "set")
    (place / "set").rename(place / "moved")
    dataset, heard = opened(place / "moved")
    assert heard.endswith("decoded before")
    assert dataset.name == "moved"


def change_content(path: Path) -> None:
    Image.new("RGB", (16, 16)).save(path / "a" / "00.png")
    later = time.time_ns() + 10**9
    os.utime(path / "a" / "00.png", ns=(later, later))


CHANGES = {
    "content": change_content,
    "added": lambda path: shutil.copy(path / "a/00.png", path / "b/99.png"),
    "removed": lambda path: (path / "a/00.png").unlink(),
    "renamed": lambda path: (path / "a/00.png").rename(path / "b/00.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rebuilt_when_the_source_changes(place: Path, change: str) -> None:
    opened(place / "set")
    CHANGES[change](place / "set")
    dataset, heard = opened(place / "set")
    assert "decoding" in heard
    assert_equal(dataset, in_memory(place / "set"))


@pytest.mark.parametrize(("size", "channels"), [((16, 24), 3), (8, 3), (16, 1)])
def test_every_size_has_its_own(place: Path, size: Any, channels: int) -> None:
    opened(place / "set")
    dataset, heard = opened(place / "set", size, channels)
    assert "decoding" in heard
    h, w = size if isinstance(size, tuple) else (size, size)
    assert dataset.images.shape == (12, h, w, channels)


def test_a_zip_is_known_by_its_checksums(place: Path) -> None:
    def pack(name: str) -> Path:
        with zipfile.ZipFile(place / name, "w") as archive:
            for path in sorted((place / "set").rglob("*.png")):
                archive.write(path, path.relative_to(place / "set").as_posix())
        return place / name

    opened(pack("one.zip"))
    later = time.time() + 100
    for path in (place / "set").rglob("*.png"):
        os.utime(path, (later, later))
    assert opened(pack("two.zip"))[1].endswith("decoded before")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_is_written_again_is_another(place: Path, mode: str) -> None:
    """Though its members are of the same names, sizes and times, 0 as of tars that must come out
    alike: here the pictures of two classes change places."""
    path = place / "set.tar"

    def write(colours: dict[str, str], seconds: int, mtime: int = 0) -> None:
        with tarfile.open(path, mode) as archive:  # pyright: ignore
            for name, colour in colours.items():
                buffer = io.BytesIO()
                Image.new("RGB", (16, 16), colour).save(buffer, "BMP")
                info = tarfile.TarInfo(f"{name}/1.bmp")
                info.size, info.mtime = len(buffer.getvalue()), mtime
                archive.addfile(info, io.BytesIO(buffer.getvalue()))
        os.utime(path, (seconds, seconds))

    write({"cat": "red", "dog": "blue"}, 1_000_000_000)
    assert opened(path)[0].images[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    path = path.rename(place / "moved.tar")
    assert opened(path)[1].endswith("decoded before")
    write({"cat": "blue", "dog": "red"}, 1_000_000_001)
    dataset, heard = opened(path)
    assert "decoding" in heard
    assert dataset.images[:, 0, 0].tolist() == [[0, 0, 255], [255, 0, 0]]
    write({"cat": "red", "dog": "blue"}, 1_000_000_001, mtime=5)
    assert "decoding" in opened(path)[1]


@pytest.mark.parametrize("part", [".npy", ".json"])
@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_cache_is_made_anew(place: Path, part: str, damage: bytes) -> None:
    opened(place / "set")
    (file,) = (place / "cache").glob(f"*{part}")
    file.write_bytes(damage)
    dataset, heard = opened(place / "set")
    assert "decoding" in heard
    assert_equal(dataset, in_memory(place / "set"))
    assert opened(place / "set")[1].endswith("decoded before")


def test_nothing_is_left_of_a_decoding_that_fails(place: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_data(place / "set", 16, 3, progress=stop)
    assert files_of(place) == set()


def test_a_source_that_changes_is_not_cached(place: Path) -> None:
    def change(done: int, total: int) -> None:
        (place / "set" / "a" / "99.png").write_bytes(b"new")

    with pytest.raises(DataError, match="files were changed while they were decoded"):
        open_data(place / "set", 16, 3, progress=change)
    assert files_of(place) == set()


KILLED = """
import os, signal, sys
from pathlib import Path
from imagen_nodes.training.data import open_data, opening
opening.SMALL = 0
def kill(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
open_data(Path("set"), 16, 3, progress=kill)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_decoding_is_swept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=place)
    assert done.returncode == -signal.SIGKILL
    (partial,) = files_of(place)
    assert partial.endswith(".partial")
    opened(place / "set")
    assert partial in files_of(place)  # it might still be written
    old = time.time() - 2 * cache.ABANDONED
    os.utime(place / "cache" / partial, (old, old))
    opened(place / "set", 8)
    assert partial not in files_of(place)


def test_several_processes_at_once(place: Path) -> None:
    code = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass")
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=place) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(files_of(place)) == 2
    dataset, heard = opened(place / "set")
    assert heard.endswith("decoded before")
    assert_equal(dataset, in_memory(place / "set"))


# ---------------------------------------------------------------- where it cannot be written


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("imagen_nodes.files.os.fsync", fsync)
    dataset, heard = opened(place / "set")
    assert "warning: no cache: " in heard
    assert "No space left on device. Decoding into memory" in heard
    monkeypatch.undo()
    assert files_of(place) == set()
    assert_equal(dataset, in_memory(place / "set"))


def test_a_disk_that_is_too_small_is_known_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 100))
    _, heard = opened(place / "set")
    assert "has 0.0001 MB free. Decoding into memory" in heard
    monkeypatch.setattr(opening, "_memory", lambda: 1000)
    with pytest.raises(StorageError, match=r"too much to keep in memory: free some .*IMAGEN_CACHE"):
        opened(place / "set")


def test_a_folder_that_cannot_be_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("")
    monkeypatch.setenv("IMAGEN_CACHE", str(place / "file" / "cache"))
    dataset, heard = opened(place / "set")
    assert "warning: no cache: " in heard
    assert len(dataset.images) == 12


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IMAGEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache.cache_folder() == tmp_path / "imagen-nodes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "imagen-nodes"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.cache_folder() == Path.home() / "Library" / "Caches" / "imagen-nodes"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "imagen-nodes"


def test_small_sets_have_no_cache(place: Path) -> None:
    in_memory(place / "set")
    assert not (place / "cache").exists()
