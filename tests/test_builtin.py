"""The built-in nodes against ComfyUI's own results, and against bad input."""

import errno
import hashlib
import json
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

from imagen_nodes.errors import DataError, RunError, StorageError, UsageError, WorkflowError
from imagen_nodes.graph.builtin import BUILTIN, pixels
from imagen_nodes.graph.builtin.files import saved
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.graph.node import registry
from imagen_nodes.runner import Runner

GOLDEN = Path(__file__).parent / "data" / "golden"
VECTORS = sorted(path.name.removesuffix(".api.json") for path in GOLDEN.glob("*.api.json"))
TYPES = registry(BUILTIN)
# torch rounds these by the processor and the number of threads, in ComfyUI as here.
ROUNDED = {"bilinear", "bicubic"}
ROUNDING_NODES = {"ImageBatch", "ImageBlend", "ImageCompositeMasked"}


@pytest.fixture(scope="module")
def golden_runner(tmp_path_factory):
    return Runner(input=GOLDEN / "input", output=tmp_path_factory.mktemp("output"))


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("name", VECTORS)
def test_golden(name, golden_runner):
    """The pixels that ComfyUI saves for a workflow, and the texts that it shows."""
    prompt = json.loads((GOLDEN / f"{name}.api.json").read_text())
    results = golden_runner.run(prompt)
    ends = [node for node in sorted(prompt, key=int) if prompt[node]["class_type"] == "SaveImage"]
    files = [file for node in ends for file in results[node].files]
    count = len(list(GOLDEN.glob(f"{name}.[0-9]*.png")))
    assert len(files) == count
    rounded = any(
        node["class_type"] in ROUNDING_NODES or node["inputs"].get("upscale_method") in ROUNDED
        for node in prompt.values()
    )
    for i, file in enumerate(files):
        found, expected = read(file).astype(int), read(GOLDEN / f"{name}.{i}.png").astype(int)
        assert found.shape == expected.shape
        difference = np.abs(found - expected)
        assert difference.max() <= rounded
        assert np.count_nonzero(difference) <= 0.01 * difference.size
    texts = GOLDEN / f"{name}.text.json"
    for node, text in json.loads(texts.read_text()).items() if texts.exists() else ():
        found = results[node]["STRING"]
        assert (found if isinstance(found, list) else [found]) == text


def test_every_node_has_a_vector():
    used = {
        node["class_type"]
        for name in VECTORS
        for node in json.loads((GOLDEN / f"{name}.api.json").read_text()).values()
    }
    assert used == set(TYPES)


# ---- what the vectors cannot show: alpha, limits, inputs kept -----------------------------------


def run(id, **values):
    host = values.pop("host", None)
    with torch.inference_mode():
        return TYPES[id].run(host, values).outputs


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_alpha_is_kept():
    rgb, rgba = noise(1, 6, 5, 3), noise(1, 6, 5, 4)
    opaque = torch.cat((rgb, torch.ones(1, 6, 5, 1)), 3)
    (both,) = run("ImageBatch", image1=rgb, image2=rgba)
    assert torch.equal(both, torch.cat((opaque, rgba)))
    (pasted,) = run("ImageCompositeMasked", destination=rgba, source=rgb)
    assert torch.equal(pasted, opaque)
    (pasted,) = run("ImageCompositeMasked", destination=rgb, source=rgba)
    assert torch.equal(pasted, rgba[..., :3])
    (inverted,) = run("ImageInvert", image=rgba)
    assert torch.equal(inverted, 1 - rgba)
    (small,) = run(
        "ImageScale", image=rgba, upscale_method="lanczos", width=3, height=0, crop="disabled"
    )
    assert small.shape == (1, 4, 3, 4)
    (mask,) = run("ImageToMask", image=rgba, channel="alpha")
    assert torch.equal(mask, rgba[..., 3])


def takes_tensors(node_type):
    return any(port.type in ("IMAGE", "MASK") for port in node_type.inputs)


def example(port, i):
    """A value for an input; every tensor has another size."""
    if port.type in ("IMAGE", "MASK"):
        return noise(*(2, 9 + i, 8, 3)[: 4 if port.type == "IMAGE" else 3])
    if port.type == "COMBO":
        return port.options[0]
    return min(port.widget["default"], 3) if port.type == "INT" else port.widget["default"]


@pytest.mark.parametrize(
    "id", [id for id, t in TYPES.items() if takes_tensors(t) and not t.is_output]
)
def test_inputs_are_not_modified(id):
    values = {port.name: example(port, i) for i, port in enumerate(TYPES[id].inputs)}
    tensors = [(value, value.clone()) for value in values.values() if torch.is_tensor(value)]
    if TYPES[id].takes_lists:
        values = {name: [value] for name, value in values.items()}
    run(id, **values)
    for value, before in tensors:
        assert torch.equal(value, before)


def test_growing_stops_when_nothing_changes():
    mask = torch.zeros(1, 5, 7)
    mask[0, 2, 3] = 0.5
    for expand, edge in ((16384, 0.5), (-16384, 0.0)):
        (grown,) = run("GrowMask", mask=mask, expand=expand)
        assert torch.equal(grown, torch.full_like(mask, edge))


@pytest.mark.parametrize(
    ("id", "values", "message"),
    [
        ("ImageToMask", {"image": noise(1, 4, 4, 3), "channel": "alpha"}, "no alpha channel"),
        ("ImageBlur", {"image": noise(1, 4, 9, 3), "blur_radius": 4}, "blur_radius: 4 px"),
        (
            "ImageScaleBy",
            {"image": noise(1, 4, 4, 3), "upscale_method": "area", "scale_by": 0.01},
            "4x4 to 0x0",
        ),
        (
            "MaskComposite",
            {"destination": noise(1, 4, 4), "source": noise(2, 4, 4), "operation": "add"},
            "1 masks with 2",
        ),
        (
            "ImageBlend",
            {"image1": noise(2, 4, 4, 3), "image2": noise(3, 4, 4, 3), "blend_mode": "screen"},
            "2 images with 3",
        ),
        (
            "RebatchImages",
            {"images": [noise(1, 4, 4, 3), noise(1, 5, 4, 3)], "batch_size": [2]},
            "4x4, 4x5",
        ),
        ("ImageInvert", {"image": noise(4, 4, 3)}, "expected a tensor of 4 axes"),
    ],
)
def test_what_cannot_be_done_is_said(id, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(id, **values)


def test_any_value_is_shown_as_text():
    edges = torch.arange(4000.0)
    for value, text in [
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        ("as it is", "as it is"),
        ([1, "é"], '[\n    1,\n    "\\u00e9"\n]'),
        (edges, "tensor([0.0000e+00, 1.0000e+00, 2.0000e+00, 3.0000e+00, 4.0000e+00, 5.0000e+00"),
    ]:
        assert run("PreviewAny", source=value)[0].startswith(text)
    assert "3.0000e+00" not in str(edges)


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
    from imagen_nodes.decoding import decode

    path = tmp_path / name
    shutil.copy(GOLDEN / "input" / "odd.png", tmp_path)
    message = {"frames.gif": "6000x6000 px in 100 frames", "folder.png": "cannot be read"}.get(name)
    if name == "frames.gif":
        many_frames(path)
    elif name == "folder.png":
        path.mkdir()
    else:
        content, message = BAD_PICTURES[name]
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        decode(path)
    assert str(path) in str(raised.value)


def test_bombs_that_hide_their_size_are_stopped_while_decoding(monkeypatch):
    from imagen_nodes import decoding

    monkeypatch.setattr(decoding, "_refuse_large_header", lambda path, file: None)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 1500)
    for name in ("anim.gif", "anim.webp"):
        with pytest.raises(DataError, match="30x20 px is too large"):
            decoding.decode(GOLDEN / "input" / name)


def test_texts_of_ordinary_size_are_no_bombs(tmp_path):
    from imagen_nodes.decoding import decode

    path = tmp_path / "a.png"
    text, broken = zlib.compress(bytes(2**20)), b"no zlib stream"
    path.write_bytes(png(1, 1, bytes(2), (b"zTXt", b"a\0\0" + text), (b"zTXt", b"b\0\0" + broken)))
    assert decode(path).image.shape == (1, 1, 1, 3)


def workflow(image="a.png", prefix="ComfyUI", kind="LoadImage"):
    return {
        "1": {"class_type": kind, "inputs": {"image": image, "channel": "red"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}}
        if kind == "LoadImageMask"
        else {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


@pytest.mark.parametrize("kind", ["LoadImage", "LoadImageMask"])
@pytest.mark.parametrize("name", ["none.png", "../secret.png", "link.png", "/absolute.png"])
def test_pictures_that_are_not_there(name, kind, runner, tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "secret.png")
    (tmp_path / "input" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(WorkflowError, match=re.escape(name)) as raised:
        runner.run(workflow(name, kind=kind))
    (error,) = raised.value.report["node_errors"]["1"]["errors"]
    assert error["type"] == "custom_validation_failed"
    assert error["details"].startswith(f"image - Invalid image file: {name}")


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
    assert TYPES[kind].fingerprint(runner.host, {}) is None


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


def test_repeating():
    batch = noise(2, 1, 1, 1)
    assert (
        pixels.repeated(batch, 5)[:, 0, 0, 0].tolist() == batch[[0, 1, 0, 1, 0], 0, 0, 0].tolist()
    )
    assert pixels.repeated(batch, 1).shape[0] == 1
