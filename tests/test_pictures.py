"""Reading and saving pictures: LoadImage, LoadImageMask, SaveImage and PreviewImage."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes import decoding
from imagen_nodes.errors import (
    Cancelled,
    DataError,
    RunError,
    StorageError,
    UsageError,
    WorkflowError,
)
from imagen_nodes.files import write_numbered
from imagen_nodes.graph.builtin import BUILTIN
from imagen_nodes.graph.builtin.files import saved
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.graph.node import registry

PICTURES = Path(__file__).parent / "data" / "golden" / "input"
TYPES = registry(BUILTIN)


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


# ---- reading ------------------------------------------------------------------------------------


def png(width, height, content, *chunks):
    """A grey PNG of 8 bits that says what you like."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(content)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def many_frames(path):
    """A GIF of 100 frames that claim 6000 x 6000 px."""
    frames = [Image.new("L", (8, 8), i) for i in range(100)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = path.read_bytes()
    path.write_bytes(content[:6] + struct.pack("<HH", 6000, 6000) + content[10:])


BOMB = bytes(2**26 + 1)
BAD_PICTURES = {
    "empty.png": (b"", "not a picture"),
    "text.png": (b"no picture at all\n" * 10, "Supported are PNG, JPEG"),
    "text.txt": (b"no picture at all\n" * 10, "not a picture"),
    "playlist.png": (b"ffconcat version 1.0\nfile odd.png\n", "not a picture"),
    "huge.png": (png(60000, 60000, bytes(1000)), "3600000000 pixels"),
    "text_bomb.png": (
        png(1, 1, bytes(2), (b"zTXt", b"prompt\0\0" + zlib.compress(BOMB))),
        "zTXt chunk unpacks from",
    ),
    "profile_bomb.png": (
        png(1, 1, bytes(2), (b"iCCP", b"p\0\0" + zlib.compress(BOMB))),
        "iCCP chunk unpacks from",
    ),
}


@pytest.mark.parametrize("name", [*BAD_PICTURES, "frames.gif", "folder.png"])
def test_bad_pictures(name, tmp_path):
    path = tmp_path / name
    shutil.copy(PICTURES / "odd.png", tmp_path)
    message = {"frames.gif": "6000x6000 px in 100 frames", "folder.png": "cannot be read"}.get(name)
    if name == "frames.gif":
        many_frames(path)
    elif name == "folder.png":
        path.mkdir()
    else:
        content, message = BAD_PICTURES[name]
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        decoding.decode(path)
    assert str(path) in str(raised.value)


def test_bombs_that_hide_their_size_are_stopped_while_decoding(monkeypatch):
    monkeypatch.setattr(decoding, "_refuse_large_header", lambda path, file: None)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 1500)
    for name in ("anim.gif", "anim.webp"):
        with pytest.raises(DataError, match="30x20 px is too large"):
            decoding.decode(PICTURES / name)


def test_texts_of_ordinary_size_are_no_bombs(tmp_path):
    path = tmp_path / "a.png"
    text, broken = zlib.compress(bytes(2**20)), b"no zlib stream"
    path.write_bytes(png(1, 1, bytes(2), (b"zTXt", b"a\0\0" + text), (b"zTXt", b"b\0\0" + broken)))
    assert decoding.decode(path).image.shape == (1, 1, 1, 3)


def workflow(image="a.png", prefix="ComfyUI", kind="LoadImage"):
    return {
        "1": {"class_type": kind, "inputs": {"image": image, "channel": "red"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}}
        if kind == "LoadImageMask"
        else {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


@pytest.mark.parametrize("kind", ["LoadImage", "LoadImageMask"])
@pytest.mark.parametrize(
    ("name", "details"),
    [
        ("none.png", "Invalid image file: none.png"),
        ("../secret.png", "../secret.png: leaves the input folder"),
        ("link.png", "link.png: leaves the input folder"),
        ("/absolute.png", "/absolute.png: leaves the input folder"),
        ("x" * 300 + ".png", "Invalid image file: x"),
        ("\ud800", "Invalid image file: \ud800"),
    ],
)
def test_pictures_that_are_not_there(name, details, kind, runner, tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "secret.png")
    (tmp_path / "input" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(WorkflowError, match=re.escape(name[:100])) as raised:
        runner.run(workflow(name, kind=kind))
    (error,) = raised.value.report["node_errors"]["1"]["errors"]
    assert error["type"] == "custom_validation_failed"
    assert error["details"].startswith(f"image - {details}")


@pytest.mark.parametrize("kind", ["LoadImage", "LoadImageMask"])
def test_a_picture_that_changed_is_read_again(kind, runner, tmp_path):
    for level in (0, 255):
        Image.new("L", (2, 2), level).save(tmp_path / "input" / "a.png")
        results = runner.run(workflow(kind=kind))
        expected = 255 - level if kind == "LoadImage" else level
        assert read(results["9"].files[0]).max() == expected
    path = tmp_path / "input" / "a.png"
    fingerprint = TYPES[kind].fingerprint(runner.host, {"image": "a.png"})
    assert fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert math.isnan(TYPES[kind].fingerprint(runner.host, {}))


def test_saved_pictures_can_be_read_again(runner, tmp_path):
    Image.new("L", (2, 2), 255).save(tmp_path / "input" / "a.png")
    runner.run(workflow(prefix="sub/x"))
    results = runner.run(workflow("sub/x_00001_.png [output]", prefix="y"))
    assert read(results["9"].files[0]).min() == 255


# ---- saving -------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path):
    return LocalHost(input=tmp_path / "input", output=tmp_path / "output")


def save(host, prefix="ComfyUI", images=None):
    images = torch.zeros(1, 2, 3, 3) if images is None else images
    return [item["filename"] for item in saved(images, prefix, host, "output", 4)["images"]]


def test_numbers_go_on_from_the_highest(host, tmp_path):
    output = tmp_path / "output"
    assert save(host, images=torch.zeros(2, 2, 3, 3)) == [
        "ComfyUI_00001_.png",
        "ComfyUI_00002_.png",
    ]
    for name in (
        "ComfyUI_00041.jpg",
        "ComfyUI_7_x_.png",
        "ComfyUI_x_00099_.png",
        "Comfy_00100_.png",
    ):
        (output / name).touch()
    (output / "ComfyUI_00123456_.png").mkdir()
    assert save(host) == ["ComfyUI_123457_.png"]
    assert save(host, "Comfy") == ["Comfy_00101_.png"]
    assert save(host, "new/deep/Comfy") == ["Comfy_00001_.png"]
    assert save(host, "new/deep/Comfy") == ["Comfy_00002_.png"]


def test_tokens(host, monkeypatch):
    monkeypatch.setattr(
        time, "localtime", lambda: time.struct_time((2026, 3, 4, 5, 6, 7, 2, 63, 0))
    )
    prefix = "%year%-%month%-%day%/%hour%.%minute%.%second% %width%x%height% %batch_num% %other%"
    ui = saved(torch.zeros(2, 2, 3, 3), prefix, host, "output", 4)
    assert ui["images"] == [
        {
            "filename": f"05.06.07 3x2 {i} %other%_{i + 1:05}_.png",
            "subfolder": "2026-03-04",
            "type": "output",
        }
        for i in range(2)
    ]


def test_no_picture_is_replaced(host, tmp_path):
    """Not those of a start that the number of the picture is part of, nor one saved meanwhile."""
    for level in (0.2, 0.6):
        saved(torch.full((2, 2, 3, 3), level), "x %batch_num%", host, "output", 4)
    found = {}
    for file in sorted((tmp_path / "output").iterdir()):
        with Image.open(file) as picture:
            found[file.name] = picture.getpixel((0, 0))[0]
    assert found == {
        "x 0_00001_.png": 51, "x 0_00002_.png": 153, "x 1_00002_.png": 51, "x 1_00003_.png": 153
    }  # fmt: skip


@pytest.mark.parametrize("hard_links", [True, False])
def test_two_who_save_at_once_take_different_numbers(hard_links, tmp_path, monkeypatch):
    """Also where a file cannot have two names; the other one is whole before ours is."""
    if not hard_links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError(1, "no")))

    def theirs(file):
        (tmp_path / "x_1").write_bytes(b"theirs")
        file.write(b"ours")

    assert write_numbered(lambda number: tmp_path / f"x_{number}", 1, theirs) == 2
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == {"x_1": b"theirs", "x_2": b"ours"}


def test_a_batch_is_saved_one_by_one(host, tmp_path):
    heard = []

    def listen(event):
        heard.append((event["done"], event["total"]))
        if event["done"] == 2:
            raise Cancelled("stop")

    host.listen = listen
    with pytest.raises(Cancelled):
        saved(torch.zeros(3, 4, 4, 3), "x", host, "output", 1)
    assert heard == [(1, 3), (2, 3)]
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        "x_00001_.png",
        "x_00002_.png",
    ]


@pytest.mark.parametrize("what", ["saved(x, 'x', host, 'temp', 1)", "resized(x, 8, 8, 'lanczos')"])
def test_a_batch_is_not_copied(what, tmp_path, peak):
    """Of 360 MiB, whose pictures take 6 each."""
    code = f"""
import torch
from pathlib import Path
from imagen_nodes.graph.builtin.files import saved
from imagen_nodes.graph.builtin.pixels import resized
from imagen_nodes.graph.local import LocalHost
host = LocalHost(output=Path({str(tmp_path)!r}))
def line(): return next(x for x in open("/proc/self/status") if x.startswith("VmHWM"))
x = torch.zeros(60, 540, 960, 3)
before = int(line().split()[1])
{what}
print((int(line().split()[1]) - before) // 1024)"""
    printed, _ = peak(code)
    assert int(printed) < 100


def test_previews_of_the_day_before_are_deleted(runner, tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "input" / "a.png")
    temp = tmp_path / "output" / "temp"
    temp.mkdir(parents=True)
    for name in ("ComfyUI_temp_abcde_00001_.png", "ComfyUI_temp_mine.png", "other.png"):
        (temp / name).write_bytes(b"old")
        os.utime(temp / name, (0, 0))
    (temp / "ComfyUI_temp_fghij_00001_.png").write_bytes(b"new")
    runner.run(workflow())
    assert sorted(path.name for path in temp.iterdir()) == [
        "ComfyUI_temp_fghij_00001_.png",
        "ComfyUI_temp_mine.png",
        "other.png",
    ]


def test_what_was_taken_away_is_written_again(runner, tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "input" / "a.png")
    (first,) = runner.run(workflow())["9"].files
    first.unlink()
    (again,) = runner.run(workflow())["9"].files
    assert again.exists()
    assert [event["cached"] for event in runner.events if event["event"] == "node"][-3:] == [
        *(True, True, False),
    ]


def test_saved_pictures_carry_the_workflow(host, tmp_path):
    host.metadata = {"prompt": {"1": {"inputs": {"é": [1]}}}, "workflow": {"nodes": []}}
    save(host)
    with Image.open(tmp_path / "output" / "ComfyUI_00001_.png") as picture:
        assert {key: json.loads(text) for key, text in picture.text.items()} == host.metadata


def test_values_are_cut_not_rounded(host, tmp_path):
    levels = torch.tensor([-1.0, 0.0, 0.5, 254.99 / 255, 1.0, 2.0])
    save(host, images=levels[None, None, :, None].expand(1, 1, 6, 3))
    assert read(tmp_path / "output" / "ComfyUI_00001_.png")[0, :, 0].tolist() == [
        *(0, 0, 127, 254, 255, 255),
    ]


def test_previews_are_temporary(host, tmp_path):
    result = TYPES["PreviewImage"].run(host, {"images": torch.zeros(1, 2, 2, 3)})
    (shown,) = result.ui["images"]
    assert re.fullmatch(r"ComfyUI_temp_[a-z]{5}_00001_\.png", shown["filename"])
    assert (shown["subfolder"], shown["type"]) == ("", "temp")
    assert (host.save_folder("temp") / shown["filename"]).exists()


@pytest.mark.parametrize(
    "prefix", ["../x", "a/../../x", "..", "{absolute}/x", "link/x", "a\0b", "a\0/b"]
)
def test_prefixes_that_leave_the_folder(prefix, host, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "link").symlink_to(tmp_path / "elsewhere")
    prefix = prefix.format(absolute=tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="filename_prefix") as raised:
        save(host, prefix)
    assert repr(prefix) in str(raised.value)
    assert str(tmp_path / "output") in str(raised.value)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not list(tmp_path.glob("*.png"))


def test_a_full_disk_leaves_nothing_behind(host, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(host)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"ComfyUI_00002_\.png: .*No space left"):
        save(host)
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["ComfyUI_00001_.png"]


def test_a_file_in_the_way(host, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "a").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        save(host, "a/b")
    with pytest.raises(StorageError, match="cannot be written"):
        save(host, "x" * 300)


def test_a_bad_picture_fails_its_node(runner, tmp_path):
    (tmp_path / "input" / "a.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"node 1 \(LoadImage\): .*a\.png: not a picture") as raised:
        runner.run(workflow())
    assert raised.value.node_id == "1"
    assert not (tmp_path / "output").exists()


def test_an_empty_batch_is_not_saved(host):
    with pytest.raises(ValueError, match="the batch is empty"):
        save(host, images=torch.zeros(0, 2, 2, 3))


def animated(**inputs):
    usual = {"filename_prefix": "film/x", "fps": 8.0, "lossless": True, "quality": 80}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "9": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {"images": ["3", 0], "method": "fastest", **usual, **inputs},
        },
    }


def test_an_animation_has_the_frames_and_the_workflow(runner, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "a.png")
    for number, fps in ((1, 9.0), (2, 8.0)):
        (file,) = runner.run(animated(fps=fps))["9"].files
        assert file == tmp_path / "output" / "film" / f"x_{number:05}_.webp"
    with Image.open(file) as film:
        assert film.n_frames == 2
        frames = []
        for i in range(2):
            film.seek(i)
            frames.append(np.asarray(film.convert("RGB")).astype(int))
            assert film.info["duration"] == 125
        assert film.info["loop"] == 0
        exif = film.getexif()
    assert np.abs(frames[0] - pixels).max() <= 1  # truncation
    assert np.abs(frames[1] - (255 - pixels.astype(int))).max() <= 1
    assert json.loads(exif[0x0110].removeprefix("prompt:"))["9"]["class_type"] == "SaveAnimatedWEBP"


def test_an_animation_carries_the_pages_workflow_too(tmp_path):
    metadata = {"prompt": {}, "workflow": {"nodes": []}, "more": 1}
    host = LocalHost(output=tmp_path, metadata=metadata)
    TYPES["SaveAnimatedWEBP"].run(host, {"images": torch.zeros(1, 4, 4, 3)})
    with Image.open(tmp_path / "ComfyUI_00001_.webp") as film:
        exif = film.getexif()
    assert exif[0x010F] == 'workflow:{"nodes": []}'
    assert exif[0x010E] == "more:1"


def test_an_animation_that_loses_a_little_is_smaller(runner, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "a.png")
    sizes = [
        runner.run(animated(lossless=lossless, quality=30))["9"].files[0].stat().st_size
        for lossless in (True, False)
    ]
    assert sizes[1] < sizes[0] / 2
