"""The built-in nodes against ComfyUI's own results, and against input that they cannot take."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagen_nodes import decoding
from imagen_nodes.errors import DataError
from imagen_nodes.graph.builtin import BUILTIN, pixels
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
    models = GOLDEN / "models"
    return Runner(
        input=GOLDEN / "input", weights=[models], output=tmp_path_factory.mktemp("output")
    )


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
    assert used == set(TYPES) - {"SaveAnimatedWEBP"}  # which test_pictures.py looks at


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
    types = {port.type for port in node_type.inputs}
    return types & {"IMAGE", "MASK"} and "UPSCALE_MODEL" not in types  # see test_upscale.py


def example(port, i):
    """A value for an input; every tensor has another size."""
    if port.type in ("IMAGE", "MASK"):
        return noise(*(2, 9 + i, 8, 3)[: 4 if port.type == "IMAGE" else 3])
    if port.type == "COMBO":
        return port.options[0]
    return min(port.widget["default"], 3) if port.type == "INT" else port.widget["default"]


@pytest.mark.parametrize(
    "id", [t.id for t in TYPES.values() if takes_tensors(t) and not t.is_output]
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


def test_repeating():
    batch = noise(2, 1, 1, 1)
    assert (
        pixels.repeated(batch, 5)[:, 0, 0, 0].tolist() == batch[[0, 1, 0, 1, 0], 0, 0, 0].tolist()
    )
    assert pixels.repeated(batch, 1).shape[0] == 1


@pytest.mark.parametrize("texts", [2, 1])
def test_texts_of_a_picture_unpack_to_no_more_together_than_one_may(texts, tmp_path, monkeypatch):
    """FFmpeg keeps them all."""
    monkeypatch.setattr(decoding, "LARGEST_TEXT", 1000)
    path, info = tmp_path / "a.png", PngInfo()
    for i in range(texts):
        info.add_text(f"text{i}", "x" * 600, zip=True)
    picture = Image.new("RGB", (8, 8))
    profile = None if texts > 1 else b"x" * 600
    picture.save(path, pnginfo=info, icc_profile=profile)
    kind = "iCCP" if profile else "zTXt"
    with pytest.raises(DataError, match=rf"a\.png: its (zTXt|{kind}) chunk unpacks from"):
        decoding.decode(path)
    info = PngInfo()
    for i in range(2):
        info.add_text(f"text{i}", "x" * 450, zip=True)
    picture.save(path, pnginfo=info)
    assert decoding.decode(path).image.shape == (1, 8, 8, 3)
