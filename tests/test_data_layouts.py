"""Every layout of a data set in every container that it may lie in, and what may be wrong there."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imagen_nodes.errors import DataError
from imagen_nodes.training.data import arrays, containers, open_data, opening
from imagen_nodes.training.data.arrays import DIGITS, FASHION_CLASSES
from imagen_nodes.training.data.containers import open_container
from imagen_nodes.training.data.layouts import LAYOUTS, recognise

Pixels = NDArray[np.uint8]
Files = dict[str, bytes]


def pixels(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Files, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # pyright: ignore
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_gz(path: Path, files: Files) -> Path:
    return tarred(path, files, "w:gz")


def npz(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore
    return buffer.getvalue()


CONTAINERS = {"folder": folder, "zip": zipped, "tar": tarred, "tar.gz": tar_gz}
IMAGES = pixels(3, 16, 16, 3)
PNGS = [png(image) for image in IMAGES]


def idx(array: Pixels) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


CIFAR = pixels(3, 32, 32, 3)
FLAT = CIFAR.transpose(0, 3, 1, 2).reshape(3, -1)
DIGIT = pixels(3, 28, 28)
COCO = {
    "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(5)],
    "categories": [{"id": 7, "name": "train"}, {"id": 2, "name": "bicycle"}],
    "annotations": [
        {"image_id": 0, "category_id": 2, "area": 5.0, "segmentation": [[1, 2, 3]]},
        {"image_id": 0, "category_id": 7, "area": 9.5},
        {"image_id": 1, "category_id": 2, "area": 4},
        {"image_id": 1, "category_id": 7, "area": 99, "iscrowd": 1},
        {"image_id": 2, "category_id": 7, "area": 1},
        {"image_id": 4, "category_id": 7, "area": 1},
    ],
}
# Layout: files, images as they must come out, labels, class names.
CASES: dict[str, tuple[Files, Pixels, list[int] | None, tuple[str, ...]]] = {
    "pictures": (
        {"a/1.png": PNGS[0], "b/1.png": PNGS[1], "b/2.png": PNGS[2]},
        IMAGES,
        [0, 1, 1],
        ("a", "b"),
    ),
    "CIFAR-10": (
        {
            f"cifar-10-batches-py/data_batch_{i + 1}": pickle.dumps(
                {b"data": FLAT[i : i + 1], b"labels": [i + 4]}, 2
            )
            for i in range(3)
        },
        CIFAR,
        [4, 5, 6],
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "CIFAR-100": (
        {
            "cifar-100-python/meta": pickle.dumps({b"fine_label_names": [b"apple", b"bee"]}, 2),
            "cifar-100-python/train": pickle.dumps(
                {b"data": FLAT, b"fine_labels": [1, 0, 1], b"coarse_labels": [9, 9, 9]}, 2
            ),
            "cifar-100-python/test": b"",
        },
        CIFAR,
        [1, 0, 1],
        ("apple", "bee"),
    ),
    "MNIST": (
        {
            "MNIST/raw/train-images-idx3-ubyte": idx(DIGIT),
            "MNIST/raw/train-labels-idx1-ubyte.gz": gzip.compress(idx(np.array([3, 9, 0], "B"))),
            "MNIST/raw/t10k-images-idx3-ubyte": b"",
        },
        np.repeat(DIGIT[..., None], 3, 3),
        [3, 9, 0],
        DIGITS,
    ),
    "FashionMNIST": (
        {
            "FashionMNIST/raw/train-images-idx3-ubyte.gz": gzip.compress(idx(DIGIT)),
            "FashionMNIST/raw/train-labels-idx1-ubyte": idx(np.array([1, 1, 0], "B")),
        },
        np.repeat(DIGIT[..., None], 3, 3),
        [1, 1, 0],
        FASHION_CLASSES,
    ),
    "COCO": (
        {f"train2017/{i:012d}.jpg": PNGS[i] for i in range(3)}
        | {
            "train2017/000000000003.jpg": PNGS[0],
            "val2017/000000000009.jpg": PNGS[0],
            "annotations/instances_train2017.json": json.dumps(COCO).encode(),
        },
        IMAGES,
        [1, 0, 1],
        ("bicycle", "train"),
    ),
    "ImageNet": (
        {
            "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_18.JPEG": PNGS[0],
            "ILSVRC/Data/CLS-LOC/train/n01443537/n01443537_2.JPEG": PNGS[1],
            "ILSVRC/Data/CLS-LOC/train/n02012849/n02012849_2.JPEG": PNGS[2],
            "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG": PNGS[0],
            "LOC_synset_mapping.txt": b"n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        },
        IMAGES,
        [0, 1, 2],
        ("tench, Tinca tinca", "goldfish", "n02012849"),
    ),
    "WebDataset": (
        {f"{i:05d}.{kind}": content for i in range(3) for kind, content in (
            ("png", PNGS[i]), ("cls", b"%d" % (2 - i)), ("json", b"{}"))},
        IMAGES,
        [2, 1, 0],
        ("0", "1", "2"),
    ),
}  # fmt: skip


def archive_of_webdataset(kind: str, layout: str) -> None:
    if layout == "WebDataset":
        pytest.importorskip("webdataset")
        if not kind.startswith("tar"):
            pytest.skip("samples lie in tar files")


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("layout", CASES)
def test_every_layout_in_every_container(tmp_path: Path, kind: str, layout: str) -> None:
    archive_of_webdataset(kind, layout)
    files, images, labels, class_names = CASES[layout]
    path = CONTAINERS[kind](tmp_path / "set", files)
    found = open_data(path, images.shape[1], 3)
    np.testing.assert_array_equal(found.images, images)
    assert (None if found.labels is None else found.labels.tolist()) == labels
    assert found.class_names == class_names
    with closing(open_container(path)) as container:
        assert recognise(container).layout == layout


def test_what_is_listed_is_tested() -> None:
    elsewhere = {"npz", "CIFAR-10 sheets"}
    assert LAYOUTS.keys() - elsewhere <= CASES.keys()


@pytest.mark.parametrize(
    ("folders", "names", "labels"),
    [
        (["train/x", "train/y", "test/x"], ("x", "y"), [0, 1]),
        (["train", "test", "val"], (), None),
        (["trainA", "trainB", "testA", "testB"], ("trainA", "trainB"), [0, 1]),
        (["train", "bus"], ("bus", "train"), [0, 1]),
        (["test", "val"], ("test", "val"), [0, 1]),
    ],
)
def test_of_the_parts_of_a_data_set_those_to_train_on(
    tmp_path: Path, folders: list[str], names: tuple[str, ...], labels: list[int] | None
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(PNGS[0])
    said: list[str] = []
    dataset = open_data(tmp_path, 8, 3, said.append)
    assert dataset.class_names == names
    assert (None if dataset.labels is None else dataset.labels.tolist()) == labels
    left_out = [name for name in folders if name.startswith(("test", "val"))]
    assert bool(said) == (bool(left_out) and "train" in folders[0])
    if said:
        assert "not for training" in said[0]


def test_the_folder_itself_may_be_named(tmp_path: Path) -> None:
    for layout in ("CIFAR-100", "ImageNet", "FashionMNIST"):
        files, images, _, class_names = CASES[layout]
        path = folder(tmp_path / layout, files)
        inner = {"ImageNet": "ILSVRC/Data/CLS-LOC/train", "FashionMNIST": "FashionMNIST/raw"}
        found = open_data(path / inner.get(layout, "cifar-100-python"), images.shape[1], 3)
        np.testing.assert_array_equal(found.images, images)
        if layout == "ImageNet":  # the names lie outside
            class_names = ("n01440764", "n01443537", "n02012849")
        assert found.class_names == class_names


# ---------------------------------------------------------------- npz

NPZ: dict[str, dict[str, NDArray[np.generic]]] = {
    "hwc": {"images": IMAGES, "labels": np.array([1, 0, 2])},
    "chw": {"x_train": IMAGES.transpose(0, 3, 1, 2).copy(), "y_train": np.array([[1], [0], [2]])},
    "unnamed": {"arr_0": IMAGES, "arr_1": np.array([1, 0, 2], np.uint8)},
}


@pytest.mark.parametrize("case", NPZ)
def test_npz(tmp_path: Path, case: str) -> None:
    (tmp_path / "set.npz").write_bytes(npz(**NPZ[case]))
    found = open_data(tmp_path / "set.npz", 16, 3)
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 2]
    assert found.class_names == ("0", "1", "2")


def test_npz_grey_and_without_labels(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(npz(images=DIGIT))
    found = open_data(tmp_path / "set.npz", 28, 1)
    np.testing.assert_array_equal(found.images, DIGIT[..., None])
    assert found.labels is None


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.marker,)


WRONG_NPZ: dict[str, tuple[dict[str, NDArray[np.generic]], str]] = {
    "float": ({"images": IMAGES / 255.0}, "images is float64; images are uint8"),
    "flat": ({"images": FLAT}, r"images has the shape \[3, 3072\]; images are \[n h w\]"),
    "two channels": ({"images": pixels(3, 8, 8, 2)}, r"has the shape \[3, 8, 8, 2\]"),
    "names": ({"pictures": IMAGES}, "has pictures; needs an array named images or x_train"),
    "too few labels": ({"images": IMAGES, "labels": np.array([1])}, r"labels are integers \[3\]"),
    "real labels": ({"images": IMAGES, "labels": np.ones(3)}, "labels is float64"),
    "negative": ({"images": IMAGES, "labels": np.array([0, -2, 1])}, "has a label -2"),
    "no pixels": ({"images": pixels(3, 0, 8)}, r"has the shape \[3, 0, 8\]: pictures of 0 bytes"),
    "Fortran": ({"images": np.asfortranarray(IMAGES)}, "Fortran's order"),
}


@pytest.mark.parametrize("case", WRONG_NPZ)
def test_wrong_npz(tmp_path: Path, case: str) -> None:
    arrays, message = WRONG_NPZ[case]
    (tmp_path / "set.npz").write_bytes(npz(**arrays))
    with pytest.raises(DataError, match=rf"set\.npz: .*{message}"):
        open_data(tmp_path / "set.npz", 16, 3)


def npz_of_header(
    path: Path, shape: tuple[int, ...], content: bytes = b"", length: int = 0
) -> Path:
    """An npz whose images say that they have ``shape``, and that their header has ``length``."""
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(header, described)
    start = bytearray(header.getvalue())
    start[8:12] = struct.pack("<I", length) if length else start[8:12]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(start) + content)
    return path


def test_an_npz_of_another_shape_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.testing.assert_array_equal(
        open_data(npz_of_header(path, IMAGES.shape, IMAGES.tobytes()), 16, 3).images, IMAGES
    )
    for shape in ((-5, 8, 8), (5, -8, 8)):
        with pytest.raises(DataError, match=r"set\.npz: images .* negative length"):
            open_data(npz_of_header(path, shape, bytes(320)), 16, 3)
    with pytest.raises(DataError, match=r"set\.npz: images is cut off"):
        open_data(npz_of_header(path, (10**12, 8, 8), bytes(64)), 16, 3)


def test_arrays_that_unpack_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: Any
) -> None:
    path = npz_of_header(tmp_path / "set.npz", (1,), bytes(1 << 23), 1 << 23)
    with traced() as peak, pytest.raises(DataError, match=r"set\.npz: images .*(?i:header)"):
        open_data(path, 16, 3)
    assert peak[0] < 1 << 22
    monkeypatch.setattr(arrays, "WHOLE_LIMIT", 1000)
    path.write_bytes(npz(images=IMAGES, labels=np.array([1, 0, 2])))
    assert len(open_data(path, 16, 3).images) == 3  # read a few at a time
    assert len(open_data(folder(tmp_path / "m", CASES["MNIST"][0]), 28, 1).images) == 3
    with pytest.raises(DataError, match="unpacks to 2352 bytes; at most 1000 are read of a gzip"):
        open_data(folder(tmp_path / "f", CASES["FashionMNIST"][0]), 28, 1)
    monkeypatch.setattr(arrays, "WHOLE_LIMIT", 16)
    with pytest.raises(DataError, match="labels has 3 labels; at most 2 are read"):
        open_data(path, 16, 3)
    with pytest.raises(DataError, match="unpacks to 3 bytes; at most 2"):
        open_data(tmp_path / "m", 28, 1)
    monkeypatch.setattr(arrays, "FILE_LIMIT", 767)
    for large in (path, tmp_path / "m"):
        with pytest.raises(DataError, match=r"pictures of 7(68|84) bytes; they may have 1 to 767"):
            open_data(large, 16, 3)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_no_pickle_in_an_npz_runs(tmp_path: Path, name: str) -> None:
    bad = np.array([Malicious(tmp_path / "ran")] * 3, object)
    (tmp_path / "set.npz").write_bytes(npz(**{"images": IMAGES, name: bad}))
    with pytest.raises(DataError, match=f"{name} holds Python objects"):
        open_data(tmp_path / "set.npz", 16, 3)
    assert not (tmp_path / "ran").exists()


def test_no_pickle_in_cifar100_runs(tmp_path: Path) -> None:
    for name in ("meta", "train"):
        files = CASES["CIFAR-100"][0] | {
            f"cifar-100-python/{name}": pickle.dumps([Malicious(tmp_path / "ran")], 2)
        }
        with pytest.raises(DataError, match=f"cifar-100-python/{name}: not .*CIFAR-100"):
            open_data(folder(tmp_path / "set", files), 32, 3)
        assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- WebDataset


@pytest.mark.parametrize("named", ["set", "set/s-{0..1}.tar"])
def test_shards_as_the_library_writes_them(tmp_path: Path, named: str) -> None:
    wds = pytest.importorskip("webdataset")
    (tmp_path / "set").mkdir()
    for shard, keys in enumerate(([0, 1], [2])):
        with wds.TarWriter(str(tmp_path / f"set/s-{shard}.tar")) as writer:
            for i in keys:
                writer.write({"__key__": f"k{i}", "png": PNGS[i], "cls": i, "txt": "hello"})
    found = open_data(tmp_path / named, 16, 3)
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2]
    assert found.names == ("s-0.tar/k0.png", "s-0.tar/k1.png", "s-1.tar/k2.png")


def test_dots_in_the_names_of_a_shards_pictures(tmp_path: Path) -> None:
    """All that follows the first is what webdataset takes for the kind of file."""
    pytest.importorskip("webdataset")
    files = {"0.v1.png": PNGS[0], "0.cls": b"1", "1.png": PNGS[1], "1.cls": b"0"}
    found = open_data(tarred(tmp_path / "s.tar", files), 16, 3)
    np.testing.assert_array_equal(found.images, IMAGES[:2])
    assert found.names == ("s.tar/0.v1.png", "s.tar/1.png")


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    tarred(tmp_path / "s-0.tar", CASES["WebDataset"][0])
    with pytest.raises(DataError, match=r"s-1\.tar: no such file"):
        open_data(tmp_path / "s-{0..1}.tar", 16, 3)


WRONG_SHARDS: dict[str, tuple[Files, str]] = {
    "some labels": ({"1.png": PNGS[0], "2.png": PNGS[0], "2.cls": b"1"}, "labels are missing"),
    "a word": ({"1.png": PNGS[0], "1.cls": b"cat"}, r"1\.cls: holds b'cat', not the number"),
    "negative": ({"1.png": PNGS[0], "1.cls": b"-1"}, r"holds b'-1'"),
}


@pytest.mark.parametrize("case", WRONG_SHARDS)
def test_wrong_shards(tmp_path: Path, case: str) -> None:
    pytest.importorskip("webdataset")
    files, message = WRONG_SHARDS[case]
    with pytest.raises(DataError, match=rf"set\.tar: .*{message}"):
        open_data(tarred(tmp_path / "set.tar", files), 16, 3)


# ---------------------------------------------------------------- what else may be wrong

WRONG: dict[str, tuple[Files, str]] = {
    "COCO without labels": (
        {"train2017/000000000001.jpg": PNGS[0], "val2017/000000000002.jpg": PNGS[1]},
        r"labels are missing: put annotations/instances_train2017\.json beside train2017",
    ),
    "COCO's JSON": (
        {"train2017/000000000001.jpg": PNGS[0], "annotations/instances_train2017.json": b"{"},
        r"instances_train2017\.json: cannot be read",
    ),
    "other JSON": (
        {"train2017/000000000001.jpg": PNGS[0], "annotations/instances_train2017.json": b"{}"},
        "not the annotations of COCO",
    ),
    "COCO without pictures": (
        {"annotations/instances_train2017.json": json.dumps(COCO).encode()},
        "none of the pictures that .* names is in train2017/",
    ),
    "COCO's numbers": (
        {
            "annotations/instances_train2017.json": json.dumps(
                COCO | {"categories": [{"id": float("inf"), "name": "train"}]}
            ).encode()
        },
        "not the annotations of COCO's instances: .*infinity",
    ),
    "COCO's areas": (
        {
            "annotations/instances_train2017.json": json.dumps(
                COCO | {"annotations": [{"image_id": 0, "category_id": 2, "area": 10**400}]}
            ).encode()
        },
        "not the annotations of COCO's instances: .*too large",
    ),
    "half of MNIST": ({"train-images-idx3-ubyte": idx(DIGIT)}, "one is missing"),
    "MNIST cut off": (
        {"train-images-idx3-ubyte": idx(DIGIT)[:-1], "train-labels-idx1-ubyte": idx(DIGIT[0, 0])},
        "train-images-idx3-ubyte: not an IDX file of MNIST: is cut off",
    ),
    "MNIST's labels": (
        {"train-images-idx3-ubyte": idx(DIGIT), "train-labels-idx1-ubyte": idx(pixels(2) // 99)},
        "train-labels-idx1-ubyte: needs 3 labels from 0 to 9",
    ),
    "two of MNIST's": (
        CASES["MNIST"][0] | CASES["FashionMNIST"][0],
        "holds several: FashionMNIST/raw/, MNIST/raw/. Name one",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_contents(tmp_path: Path, case: str) -> None:
    files, message = WRONG[case]
    with pytest.raises(DataError, match=f"set: .*{message}"):
        open_data(folder(tmp_path / "set", files), 16, 3)


def test_what_coco_leaves_out_is_said(tmp_path: Path) -> None:
    heard: list[str] = []
    path = folder(tmp_path / "set", CASES["COCO"][0])
    open_data(path, 16, 3, heard.append)
    assert heard == [
        f"{path}: 1 pictures without an object in them are left out",
        f"{path}: 1 of the annotated pictures are not there",
    ]


def test_a_tars_links_and_escapes_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNGS[2])
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("1.png", "../2.png", "/3.png", "a/../../4.png", "C:\\5.png", "./6.png"):
            info = tarfile.TarInfo(name)
            info.size = len(PNGS[0])
            archive.addfile(info, io.BytesIO(PNGS[0]))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, "../secret.png"
            archive.addfile(info)
    assert open_data(path, 16, 3).names == ("1.png", "6.png")


def test_a_tar_that_ends_with_a_zip(tmp_path: Path) -> None:
    zipped(tmp_path / "z.zip", {"other.png": PNGS[2]})
    files = {"a.png": PNGS[0], "b.png": PNGS[1], "z.zip": (tmp_path / "z.zip").read_bytes()}
    assert open_data(tarred(tmp_path / "set.tar", files), 16, 3).names == ("a.png", "b.png")


def test_a_zip_with_names_as_windows_has_them(tmp_path: Path) -> None:
    files = {"cat\\0.png": PNGS[0], "dog\\1.png": PNGS[1], "..\\2.png": PNGS[2]}
    found = open_data(zipped(tmp_path / "set.zip", files), 16, 3)
    assert found.class_names == ("cat", "dog")
    np.testing.assert_array_equal(found.images, IMAGES[:2])


@pytest.mark.parametrize("case", ["xz", "time"])
def test_odd_and_damaged_tars(tmp_path: Path, case: str) -> None:
    path = tmp_path / "set.tar"
    if case == "time":
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("a.png")
            info.size, info.pax_headers = len(PNGS[0]), {"mtime": "nan"}
            archive.addfile(info, io.BytesIO(PNGS[0]))
        assert open_data(path, 16, 3).names == ("a.png",)
        return
    tarred(path, {f"{i}.png": png(pixels(64, 64, 3, seed=i)) for i in range(20)}, "w:xz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.tar: a damaged tar file"):
        open_data(path, 16, 3)


@pytest.mark.parametrize("cached", [False, True])
def test_names_that_are_no_text(
    tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if cached:
        monkeypatch.setattr(opening, "SMALL", 0)
    name = os.fsdecode(b"caf\xe9")
    files = {f"{name}/{name}.png": PNGS[0], "b/1.png": PNGS[1], f"b/{name}.jpg": b"none"}
    found = open_data(folder(tmp_path / "set", files), 16, 3)
    assert found.names == ("b/1.png", "caf\\xe9/caf\\xe9.png")
    assert found.class_names == ("b", "caf\\xe9")
    assert found.skipped[0].startswith("b/caf\\xe9.jpg: ")


def test_values_of_which_nothing_says_what_white_is(tmp_path: Path) -> None:
    path = tmp_path / "set"
    folder(path, {"a.png": PNGS[0]})
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(path / "b.tif")
    assert open_data(path, 16, 3).skipped == (
        "b.tif: of floating-point values; save it with 8 or 16 bits",
    )


@pytest.mark.parametrize("write", [tarred, tar_gz])
def test_a_large_member_is_skipped(
    tmp_path: Path, write: Callable[[Path, Files], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "FILE_LIMIT", 5000)
    path = write(tmp_path / "set.tar", {"1.png": PNGS[0], "2.png": bytes(9000)})
    found = open_data(path, 16, 3)
    assert len(found.images) == 1
    assert found.skipped == ("2.png: would unpack to 9000 bytes; at most 5000 are read",)


@pytest.mark.parametrize("write", [tarred, tar_gz])
def test_a_cut_off_tar_is_named(tmp_path: Path, write: Callable[[Path, Files], Path]) -> None:
    files = {f"{i}.png": png(pixels(64, 64, 3, seed=i)) for i in range(20)}
    path = write(tmp_path / "set.tar", files)
    path.write_bytes(path.read_bytes()[:90_000])
    with pytest.raises(DataError, match=r"set\.tar: a damaged tar file: .*Fetch it again"):
        open_data(path, 16, 3)


def test_a_source_that_changes_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", {"1.png": PNGS[0], "2.png": PNGS[1]})

    def change(done: int, total: int) -> None:
        (path / "3.png").write_bytes(PNGS[2])

    with pytest.raises(DataError, match="files were changed while they were decoded"):
        open_data(path, 16, 3, progress=change)
    open_data(path, 16, 3)
    (path / "runs").mkdir()

    def log(done: int, total: int) -> None:  # what is no part of the data may change
        (path / "runs" / "log.txt").write_text(str(done))

    assert len(open_data(path, 16, 3, progress=log).images) == 3


# ---------------------------------------------------------------- pixels


def test_sizes_that_are_not_square(tmp_path: Path) -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 24:72] = 255
    found = open_data(folder(tmp_path / "set", {"1.png": png(wide)}), (16, 24), 3)
    assert found.images.shape == (1, 16, 24, 3)
    assert (found.images > 240).all()


@pytest.mark.parametrize("size", [(24, 16), (16, 24), (16, 16), (7, 9)])
def test_pictures_side_by_side_are_each_fitted(tmp_path: Path, size: tuple[int, int]) -> None:
    """As if each had a file of its own: both lose the same sides, and neither shines through."""
    w, h = size
    left, right = np.random.RandomState(0).randint(0, 256, (2, h, w, 3)).astype(np.uint8)
    both = np.concatenate([left, right], 1)
    files = {"a.png": png(both), "b.png": png(np.zeros((h, 2 * w, 3), np.uint8))}
    found = open_data(folder(tmp_path / "pairs", files), (16, 32), 3, panels=2)
    alone = open_data(folder(tmp_path / "sides", {"1.png": png(left), "2.png": png(right)}), 16, 3)
    assert np.array_equal(found.images[0], np.concatenate(list(alone.images), 1))
    np.savez(tmp_path / "set.npz", images=both[None].repeat(3, 0))
    block = open_data(tmp_path / "set.npz", (16, 32), 3, panels=2)
    assert np.array_equal(block.images[2], found.images[0])


def test_pictures_that_are_no_two_side_by_side(tmp_path: Path) -> None:
    files = {
        "1.png": png(np.zeros((8, 21, 3), np.uint8)),
        "2.png": png(np.zeros((8, 20, 3), np.uint8)),
    }
    found = open_data(folder(tmp_path / "set", files), (8, 16), 3, panels=2)
    assert found.skipped == ("1.png: 21x8 px, which are not 2 pictures side by side",)
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 8, 21, 3), np.uint8))
    with pytest.raises(DataError, match="21x8 px, which are not 2 pictures side by side"):
        open_data(tmp_path / "set.npz", (8, 16), 3, panels=2)


def test_transparent_colours_of_every_kind_show_white(tmp_path: Path) -> None:
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([255, 0, 0])
    pictures = {
        "RGBA": Image.new("RGBA", (16, 16), (255, 0, 0, 0)),
        "LA": Image.new("LA", (16, 16), (0, 0)),
        "palette": palette,
        "colour key": Image.new("RGB", (16, 16), (255, 0, 0)),
    }
    keys = {"palette": {"transparency": 0}, "colour key": {"transparency": (255, 0, 0)}}
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", **keys.get(name, {}))
        path = folder(tmp_path / name, {"1.png": buffer.getvalue()})
        assert (open_data(path, 16, 3).images == 255).all(), name
        assert (open_data(path, 16, 4).images[..., 3] == 0).all(), name


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_in_files(tmp_path: Path, kind: str) -> None:
    deep = np.array([[0, 257], [65535, 32896]], np.uint16).repeat(8, 0).repeat(8, 1)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, kind)
    path = folder(tmp_path / "set", {f"1.{kind.lower()}": buffer.getvalue()})
    assert open_data(path, 16, 1).images[0, ::8, ::8, 0].tolist() == [[0, 1], [255, 128]]
