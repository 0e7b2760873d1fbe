"""Pictures to train on: every layout, everything that may be wrong with them, and their order."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from imagen_nodes.errors import DataError
from imagen_nodes.training.data import Dataset, Stream, containers, open_data
from imagen_nodes.training.data.cifar import CIFAR10_CLASSES
from imagen_nodes.training.data.pictures import fit
from imagen_nodes.training.task import Batch

Pixels = NDArray[np.uint8]


def pixels(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(image: Pixels, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path


Writer = Callable[[Path, dict[str, bytes]], Path]
both = pytest.mark.parametrize("write", [write_folder, write_zip])

# ---------------------------------------------------------------- CIFAR-10


def write_batches(folder: Path, images: Pixels, labels: list[int], count: int = 2) -> None:
    folder.mkdir(parents=True)
    size = len(images) // count
    for i in range(count):
        part = slice(i * size, (i + 1) * size)
        flat = images[part].transpose(0, 3, 1, 2).reshape(size, -1)
        names = [b"%d.png" % j for j in range(size)]
        content = {b"batch_label": b"x", b"data": flat, b"labels": labels[part]}
        content[b"filenames"] = names
        (folder / f"data_batch_{i + 1}").write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar10_in_torchvisions_layout(tmp_path: Path, inside: str) -> None:
    images, labels = pixels(8, 32, 32, 3), [0, 9, 3, 3, 1, 2, 8, 7]
    write_batches(tmp_path / "set" / inside, images, labels)
    found = open_data(tmp_path / "set", 32, 3)
    np.testing.assert_array_equal(found.images, images)
    assert found.labels is not None
    assert found.labels.tolist() == labels
    assert found.class_names == CIFAR10_CLASSES


def python_2_batch(images: Pixels, labels: list[int]) -> bytes:
    """A batch as Python 2's cPickle wrote the real files: str keys, numpy's old module names, and
    dtypes that spell flags as numbers."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    rows, columns = (struct.pack("<i", n) for n in flat.shape)
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n"
    array += b"K\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01" + b"J" + rows + b"J" + columns + b"\x86" + dtype + b"\x89"
    array += b"T" + struct.pack("<i", flat.size) + flat.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_cifar10_as_python_2_wrote_it(tmp_path: Path) -> None:
    images = pixels(3, 32, 32, 3)
    write_folder(tmp_path, {"data_batch_1": python_2_batch(images, [4, 0, 9])})
    found = open_data(tmp_path, 32, 3)
    np.testing.assert_array_equal(found.images, images)
    assert found.labels is not None
    assert found.labels.tolist() == [4, 0, 9]


@pytest.mark.parametrize("protocol", range(6))
def test_cifar10_as_other_programs_write_it_anew(tmp_path: Path, protocol: int) -> None:
    images, labels = pixels(3, 32, 32, 3), np.array([4, 0, 9])
    flat = images.transpose(0, 3, 1, 2).reshape(3, -1)
    content = pickle.dumps({"data": np.asfortranarray(flat), "labels": labels}, protocol)
    found = open_data(write_folder(tmp_path, {"data_batch_1": content}), 32, 3)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)


def test_a_batch_that_is_a_bomb_is_refused(tmp_path: Path, traced: Any) -> None:
    """Python's own reader hashes keys that nest as deep as they like, which ends the process, and
    clears a memo of the length that the file names: 268 MB here, 64 GiB at most."""
    path = write_folder(tmp_path, {"data_batch_1": b"\x80\x02})" + b"\x85" * 1000 + b"Ns."})
    with pytest.raises(DataError, match=r"data_batch_1: not a batch.*key of another kind"):
        open_data(path, 32, 3)
    write_folder(tmp_path, {"data_batch_1": b"\x80\x02}r\xff\xff\xff\x00."})
    with traced() as peak, pytest.raises(DataError, match=r"data_batch_1: not a batch"):
        open_data(path, 32, 3)
    assert peak[0] < 1 << 24


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_batch_is_refused_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    content = {b"data": pixels(1, 3072), b"labels": Malicious(tmp_path / "ran")}
    write_folder(tmp_path, {"data_batch_1": pickle.dumps(content, protocol)})
    with pytest.raises(DataError, match=r"data_batch_1: not a batch.*mkdir"):
        open_data(tmp_path, 32, 3)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({b"data": pixels(2, 3072)}, 2),
        pickle.dumps({b"data": pixels(2, 3072), b"labels": [1]}, 2),
        pickle.dumps({b"data": pixels(2, 3072), b"labels": [1, 10]}, 2),
        pickle.dumps({b"data": pixels(2, 3000), b"labels": [1, 2]}, 2),
        pickle.dumps([1, 2], 2),
        pickle.dumps({b"data": [[1] * 3072], b"labels": [1]}, 2),
        pickle.dumps({b"data": pixels(1, 3072), b"labels": "1"}, 2),
    ],
)
def test_a_damaged_batch_is_named(tmp_path: Path, content: bytes) -> None:
    write_folder(tmp_path, {"data_batch_1": content})
    with pytest.raises(DataError, match="data_batch_1: not a batch of CIFAR-10"):
        open_data(tmp_path, 32, 3)


def sheet(tiles: Pixels, rows: int, columns: int) -> bytes:
    grid = tiles.reshape(rows, columns, 32, 32, 3).swapaxes(1, 2)
    return encoded(grid.reshape(rows * 32, columns * 32, 3), "WEBP")


def test_packed_sheets(tmp_path: Path) -> None:
    first, second = pixels(6, 32, 32, 3), pixels(6, 32, 32, 3, seed=1)
    files = {"9-truck-0.webp": sheet(second, 3, 2), "0-airplane-0.webp": sheet(first, 2, 3)}
    found = open_data(write_zip(tmp_path / "packed.zip", files), 32, 3)
    np.testing.assert_array_equal(found.images, np.concatenate([first, second]))
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 6 + [9] * 6
    assert found.class_names == CIFAR10_CLASSES
    assert open_data(tmp_path / "packed.zip", 16, 1).images.shape == (12, 16, 16, 1)


def test_a_damaged_sheet_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "packed.zip", {"3-cat-0.webp": b"RIFF"})
    with pytest.raises(DataError, match=r"3-cat-0\.webp: not a sheet of 32 px tiles"):
        open_data(path, 32, 3)


def test_what_is_only_named_like_a_sheet_is_a_picture(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "p.zip", {"1-cat-0.webp": encoded(pixels(50, 40, 3), "WEBP")})
    assert open_data(path, 32, 3).images.shape == (1, 32, 32, 3)


# ---------------------------------------------------------------- folders and zips


@both
def test_pictures(tmp_path: Path, write: Writer) -> None:
    images = [pixels(16, 16, 3, seed=i) for i in range(3)]
    files = {f"{'cab'[i]}.png": encoded(image) for i, image in enumerate(images)}
    found = open_data(write(tmp_path / "set.zip", files | {"notes.txt": b"hello"}), 16, 3)
    np.testing.assert_array_equal(found.images, np.stack([images[1], images[2], images[0]]))
    assert found.labels is None
    assert found.class_names == ()
    assert found.name == "set.zip"
    assert found.skipped == ()


@both
@pytest.mark.parametrize("root", ["", "all/"])
def test_subfolders_are_classes(tmp_path: Path, write: Writer, root: str) -> None:
    names = ["dog/1.png", "cat/x/2.png", "dog/3.png"]
    files = {root + name: encoded(pixels(16, 16, 3, seed=i)) for i, name in enumerate(names)}
    found = open_data(write(tmp_path / "set", files), 16, 3)
    assert found.class_names == ("cat", "dog")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 1]


@both
def test_pictures_beside_subfolders_have_no_classes(tmp_path: Path, write: Writer) -> None:
    files = {name: encoded(pixels(16, 16, 3)) for name in ("dog/1.png", "cat/2.png", "3.png")}
    assert open_data(write(tmp_path / "set", files), 16, 3).labels is None


@both
def test_one_unreadable_among_many_is_skipped_and_named(tmp_path: Path, write: Writer) -> None:
    files = {f"cat/{i:02d}.png": encoded(pixels(16, 16, 3, seed=i)) for i in range(30)}
    files |= {f"dog/{i:02d}.png": encoded(pixels(16, 16, 3, seed=i)) for i in range(3)}
    good = open_data(write(tmp_path / "good", files), 16, 3)
    files["cat/05a.png"] = b"not a picture"
    files["cat/05b.png"] = files["cat/05.png"][:-200]
    files["cat/05c.jpg"] = b""
    found = open_data(write(tmp_path / "set", files), 16, 3)
    np.testing.assert_array_equal(found.images, good.images)
    np.testing.assert_array_equal(found.labels, good.labels)
    assert [line.split(":")[0] for line in found.skipped] == [
        "cat/05a.png",
        "cat/05b.png",
        "cat/05c.jpg",
    ]
    assert found.skipped[0] == "cat/05a.png: not a picture, or damaged"


def test_a_damaged_zip_entry_is_skipped(tmp_path: Path) -> None:
    files = {f"{i}.png": encoded(pixels(16, 16, 3, seed=i)) for i in range(3)}
    path = write_zip(tmp_path / "set.zip", files)
    content = bytearray(path.read_bytes())
    content[content.index(files["1.png"]) + 100] ^= 255
    path.write_bytes(content)
    found = open_data(path, 16, 3)
    assert len(found.images) == 2
    assert found.skipped[0].startswith("1.png: Bad CRC-32")


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", {"1.png": encoded(pixels(16, 16, 3))})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"PK\x09\x09"))
    with pytest.raises(DataError, match=r"set\.zip: a damaged zip file"):
        open_data(path, 16, 3)


@both
def test_hidden_files_are_not_pictures(tmp_path: Path, write: Writer) -> None:
    files = {"cat/1.png": encoded(pixels(16, 16, 3)), "dog/1.png": encoded(pixels(16, 16, 3))}
    files |= {"__MACOSX/cat/._1.png": b"\0", ".thumbs/1.png": b"\0", "cat/.1.png": b"\0"}
    found = open_data(write(tmp_path / "set", files), 16, 3)
    assert found.class_names == ("cat", "dog")
    assert found.skipped == ()


@both
def test_an_empty_one(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path / "set", {"readme.txt": b"no pictures"})
    with pytest.raises(DataError, match=r"set: no pictures in it\. Looked for .*\.png"):
        open_data(path, 16, 3)


def test_nothing_readable(tmp_path: Path) -> None:
    write_folder(tmp_path, {"1.png": b"x", "2.png": b"y"})
    with pytest.raises(DataError, match=r"none of its 2 pictures can be read; 1\.png: not a pic"):
        open_data(tmp_path, 16, 3)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder or file"):
        open_data(tmp_path / "nowhere", 16, 3)


def test_neither_folder_nor_zip(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        open_data(tmp_path / "file", 16, 3)


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 px in about a hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        code = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + code

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@both
def test_an_image_bomb_is_skipped(tmp_path: Path, write: Writer) -> None:
    files = {"1.png": encoded(pixels(16, 16, 3)), "bomb.png": bomb()}
    found = open_data(write(tmp_path / "set", files), 16, 3)
    assert len(found.images) == 1
    assert found.skipped[0].startswith("bomb.png: Image size (2500000000 pixels)")


def test_a_zip_bomb_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "FILE_LIMIT", 2000)
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", encoded(pixels(16, 16, 3)))
        archive.writestr("2.png", b"\0" * 100_000)
    found = open_data(path, 16, 3)
    assert len(found.images) == 1
    assert found.skipped == ("2.png: would unpack to 100000 bytes; at most 2000 are read",)


# ---------------------------------------------------------------- pixels


def test_exif_turns_the_picture() -> None:
    picture = Image.fromarray(pixels(16, 16, 3))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    picture.save(buffer, "PNG", exif=exif)
    turned = fit(Image.open(buffer), 16, 3)
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(picture), -1))


def test_grey_colour_and_alpha() -> None:
    grey, rgba = pixels(16, 16), pixels(16, 16, 4)
    rgb = fit(Image.fromarray(grey), 16, 3)
    np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(fit(Image.fromarray(grey), 16, 1)[..., 0], grey)
    np.testing.assert_array_equal(fit(Image.fromarray(rgba), 16, 4), rgba)
    alpha = rgba[..., 3:] / 255.0
    flat = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(fit(Image.fromarray(rgba), 16, 3) - flat).max() < 1
    assert (fit(Image.fromarray(rgba[..., :3]), 16, 4)[..., 3] == 255).all()


def test_sixteen_bits() -> None:
    deep = np.array([[0, 257], [65535, 32896]], np.uint16).repeat(8, 0).repeat(8, 1)
    shallow = fit(Image.fromarray(deep), 16, 1)[::8, ::8, 0]
    assert shallow.tolist() == [[0, 1], [255, 128]]


def test_the_middle_is_kept() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    assert (fit(Image.fromarray(wide), 32, 3) == 255).all()
    assert fit(Image.fromarray(wide), 16, 3).shape == (16, 16, 3)


# ---------------------------------------------------------------- order


def numbered(count: int) -> Dataset:
    """Image i is filled with i, and its label is i; its left half is darker by 100."""
    images = np.full((count, 4, 4, 3), np.arange(count).reshape(-1, 1, 1, 1) + 100, np.uint8)
    images[:, :, :2] -= 100
    return Dataset("numbered", images, np.arange(count))


def labels_of(stream: Stream, nimg: int, size: int) -> list[int]:
    labels = stream.batch(nimg, size).labels
    assert labels is not None
    return labels.tolist()


def test_an_epoch_repeats_nothing() -> None:
    stream = Stream(numbered(50), seed=3, flip=False)
    seen = [label for nimg in range(0, 150, 10) for label in labels_of(stream, nimg, 10)]
    epochs = [seen[:50], seen[50:100], seen[100:]]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_depends_on_the_position_alone() -> None:
    straight = Stream(numbered(50), seed=3, flip=True)
    resumed = Stream(numbered(50), seed=3, flip=True)
    for nimg in range(0, 90, 30):
        straight.batch(nimg, 30)
    first, second = straight.batch(90, 30), resumed.batch(90, 30)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)
    other = Stream(numbered(50), seed=4, flip=True)
    assert labels_of(other, 90, 30) != labels_of(resumed, 90, 30)


def test_a_batch_spans_epochs_and_may_exceed_the_data() -> None:
    stream = Stream(numbered(7), seed=0, flip=False)
    together = labels_of(stream, 0, 21)
    assert labels_of(stream, 5, 10) == together[5:15]
    assert all(sorted(together[i : i + 7]) == list(range(7)) for i in (0, 7, 14))


def test_flip_mirrors_about_half_and_leaves_the_data_alone() -> None:
    dataset = numbered(100)
    before = dataset.images.copy()
    images = Stream(dataset, seed=0, flip=True).batch(0, 100).images
    mirrored = images[:, 0, 0, 0] > images[:, 0, 0, 3]
    assert 30 < int(mirrored.sum()) < 70
    np.testing.assert_array_equal(dataset.images, before)
    plain = Stream(dataset, seed=0, flip=False).batch(0, 100).images
    assert bool((plain[:, 0, 0, 0] < plain[:, 0, 0, 3]).all())


def test_range_and_axes() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[..., 1] = 255
    batch = Stream(Dataset("two", images), seed=0, flip=False).batch(0, 2)
    assert batch.images.shape == (2, 3, 4, 4)
    assert batch.labels is None
    assert batch.images[:, 0].unique().tolist() == [-1.0]
    assert batch.images[:, 1].unique().tolist() == [1.0]


def domains(first: int, second: int) -> Dataset:
    """``first`` images of the label 0, then ``second`` of the label 1; image i is filled with i."""
    total = first + second
    images = np.full((total, 4, 4, 3), np.arange(total).reshape(-1, 1, 1, 1), np.uint8)
    return Dataset("domains", images, (np.arange(total) >= first).astype(np.int64))


def numbers_of(batch: Batch) -> list[int]:
    return batch.images[:, 0, 0, 0].add(1).mul(127.5).round().int().tolist()


def test_domains_take_turns_each_in_epochs_of_its_own() -> None:
    stream = Stream(domains(3, 5), seed=0, flip=False, domains=2)
    batches = [stream.batch(nimg, 6) for nimg in range(0, 30, 6)]
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    assert labels.tolist() == [0, 1] * 15
    numbers = [number for batch in batches for number in numbers_of(batch)]
    for one, count in ((numbers[::2], 3), (numbers[1::2], 5)):
        first = 0 if count == 3 else 3
        for start in range(0, 15, count):
            assert sorted(one[start : start + count]) == list(range(first, first + count))
    parts = [
        Stream(domains(3, 5), seed=0, flip=False, domains=2, rank=rank, world=3).batch(6, 6)
        for rank in range(3)
    ]
    assert numbers_of(together(parts)) == numbers[6:12]


def test_pictures_that_are_hardly_pairs_are_said(tmp_path: Path) -> None:
    for folder, size in (("square", (20, 20)), ("pairs", (40, 20))):
        (tmp_path / folder).mkdir()
        for i in range(3):
            Image.new("RGB", size).save(tmp_path / folder / f"{i}.png")
    said: list[str] = []
    for folder in ("square", "pairs"):
        open_data(tmp_path / folder, (16, 32), 3, said.append, panels=2)
    assert len(said) == 1
    assert "square: 3 of the first 3 pictures are hardly wider than high" in said[0]


def test_each_domain_holds_out_its_share() -> None:
    stream = Stream(domains(200, 50), seed=0, flip=False, held_out=0.1, domains=2)
    assert stream.held_out(0, 8) is None, "of a set of fewer than 200 none is held out"
    dataset = Dataset("d", np.zeros((500, 4, 4, 3), np.uint8), np.arange(500) % 2)
    held_out = Stream(dataset, seed=0, flip=False, held_out=0.1, domains=2).held_out(0, 100)
    assert held_out is not None
    assert held_out.labels is not None
    assert held_out.labels.tolist() == [0, 1] * 25


def test_panels_are_mirrored_each_by_itself_and_cropped_alike() -> None:
    images = np.zeros((40, 8, 16, 3), np.uint8)
    images[:, :, :8] = np.arange(8)[:, None] * 10
    images[:, :, 8:] = np.arange(8)[:, None] * 10 + 100
    dataset = Dataset("pairs", images)
    found = Stream(dataset, seed=0, flip=True, panels=2).batch(0, 40).images
    left, right = found.add(1).mul(127.5).round().chunk(2, 3)
    torch.testing.assert_close(right, left + 100)
    mirrored = left[:, 0, 0, 0] == 70
    assert 5 < int(mirrored.sum()) < 35
    assert left[:, 0, 0].sort(1).values.tolist() == [[0, 10, 20, 30, 40, 50, 60, 70]] * 40
    cropped = Stream(dataset, seed=0, flip=False, crop=0.5, panels=2).batch(0, 40).images
    left, right = cropped.add(1).mul(127.5).chunk(2, 3)
    torch.testing.assert_close(right, left + 100, rtol=0, atol=1e-3)
    assert cropped.is_contiguous(memory_format=torch.channels_last)


def together(parts: list[Batch]) -> Batch:
    labels = [part.labels for part in parts if part.labels is not None]
    return Batch(torch.cat([part.images for part in parts]), torch.cat(labels))


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("crop", [0.0, 0.4])
def test_processes_see_together_what_one_would(world: int, crop: float) -> None:
    def stream(**place: int) -> Stream:
        return Stream(numbered(20), seed=1, flip=True, crop=crop, **place)

    parts = [stream(rank=rank, world=world).batch(64, 32) for rank in range(world)]
    one, all_ = stream().batch(64, 32), together(parts)
    torch.testing.assert_close(all_.images, one.images, rtol=0, atol=0)
    assert one.labels is not None
    assert all_.labels is not None
    assert all_.labels.tolist() == one.labels.tolist()


def test_the_random_numbers_are_those_of_old_runs() -> None:
    """Written down when a run could first be resumed."""
    stream = Stream(numbered(10), seed=7, flip=True)
    order = np.random.Generator(np.random.PCG64(entropy(7, 0, 1, "order"))).permutation(10)
    flips = np.random.Generator(np.random.PCG64(entropy(7, 0, 12, "flip"))).random(6) < 0.5
    batch = stream.batch(12, 6)
    assert batch.labels is not None
    assert batch.labels.tolist() == order[2:8].tolist()
    mirrored = batch.images[:, 0, 0, 0] > batch.images[:, 0, 0, 3]
    assert mirrored.tolist() == flips.tolist()


def entropy(seed: int, rank: int, nimg: int, purpose: str) -> int:
    words = [seed, rank, nimg, zlib.crc32(purpose.encode())]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def test_crop_enlarges_a_window() -> None:
    """On a picture of its own coordinates, each value says where it was taken from."""
    side = 32
    ramp = np.linspace(0, 255, side).round().astype(np.uint8)
    images = np.zeros((1, side, side, 3), np.uint8)
    images[..., 0], images[..., 1] = ramp, ramp[:, None]
    dataset = Dataset("ramp", images.repeat(50, 0))
    plain = Stream(dataset, seed=0, flip=False).batch(0, 50).images
    cropped = Stream(dataset, seed=0, flip=False, crop=0.5).batch(0, 50).images
    assert cropped.shape == plain.shape
    assert cropped.is_contiguous(memory_format=torch.channels_last)
    for channel, axis in ((0, 2), (1, 1)):
        values = cropped[:, channel].movedim(axis, 1).double()
        spread = (values[:, -1] - values[:, 0]).mean(1) / 2
        assert (spread > 0.45).all()
        assert (spread <= 1).all()
        assert float(spread.std()) > 0.05
        middle = values.mean((1, 2))
        assert (middle.abs() <= 1 - spread + 0.1).all()
        steps = values.diff(dim=1)[:, 2:-2]
        assert (steps.amax((1, 2)) - steps.amin((1, 2)) < 0.03).all()
    again = Stream(dataset, seed=0, flip=False, crop=0.5).batch(0, 50).images
    assert torch.equal(cropped, again)


@pytest.mark.parametrize("wrong", [{"crop": 1.0}, {"crop": -0.1}, {"rank": 2, "world": 2}])
def test_a_wrong_stream(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crop is|rank is"):
        Stream(numbered(2), seed=0, flip=False, **wrong)
