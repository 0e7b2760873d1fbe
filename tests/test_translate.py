"""Translate: pictures of any size through a network of its own size, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes import checkpoint, devices, images, translation
from imagen_nodes.checkpoint import Card, Model, Training
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.networks.compact import Compact
from imagen_nodes.networks.dcgan import DCGANGenerator
from imagen_nodes.networks.residual_unet import ResidualUNet
from imagen_nodes.networks.resnet_generator import ResNetGenerator
from imagen_nodes.networks.unet_generator import UNetGenerator
from imagen_nodes.runner import Runner

UNET = ResidualUNet(widths=(8, 8, 8), blocks=1, middle=1)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """In float32, whatever this computer is faster in."""
    monkeypatch.setattr(devices, "is_fast_in_bfloat16", lambda device: False)


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def model(architecture=None, **fields):
    architecture = architecture or ResNetGenerator(width=4, blocks=1, **fields)
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    for parameter in network.parameters():
        parameter.data *= 10  # beyond a flat grey
    network.requires_grad_(False).eval()
    card = Card(title="Small", architecture=architecture.model_dump(), task="translation")
    return Model("small.safetensors", card, architecture, network)


def with_card(model, **fields):
    return replace(model, card=model.card.model_copy(update=fields))


def translate(model, image, side=0):
    with torch.inference_mode():
        return translation.translate(LocalHost(), model, image, side)


def directly(model, image):
    """IMAGE of a size that the network takes."""
    with torch.inference_mode():
        return images.from_network(model.network(image.movedim(3, 1) * 2 - 1))


def test_the_networks_result():
    small, image = model(), noise(3, 16, 20, 3)
    found = translate(small, image)
    torch.testing.assert_close(found, directly(small, image), rtol=0, atol=1e-4)
    assert found.std() > 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (13, 7), (33, 50)])
@pytest.mark.parametrize(
    "architecture", [ResNetGenerator(width=4, blocks=1), UNetGenerator(width=4, depth=4)]
)
def test_any_size(size, architecture):
    found = translate(model(architecture), noise(1, *size, 3))
    assert found.shape == (1, *size, 3)
    assert torch.isfinite(found).all()


def test_padding_mirrors_the_picture():
    small, image = model(), noise(1, 13, 16, 3)
    wide = torch.cat([image, image[:, [11, 10, 9]]], 1)
    wanted = directly(small, wide)[:, :13]
    torch.testing.assert_close(translate(small, image), wanted, rtol=0, atol=1e-4)


def test_alpha_is_kept_and_grey_becomes_colour():
    small, image = model(), noise(1, 16, 12, 4)
    found = translate(small, image)
    assert torch.equal(found[..., 3], image[..., 3])
    torch.testing.assert_close(found[..., :3], translate(small, image[..., :3]))
    grey = noise(1, 16, 12, 1)
    found = translate(small, grey)
    assert found.shape == (1, 16, 12, 3)
    torch.testing.assert_close(found, translate(small, grey.expand(-1, -1, -1, 3)))
    assert (found[..., 0] - found[..., 2]).abs().max() > 0.01


def test_grey_networks():
    """Label maps of one channel to colours, and to grey."""
    image = noise(1, 16, 16, 3)
    luma = (image * torch.tensor([0.299, 0.587, 0.114])).sum(3, keepdim=True)
    small = model(channels=1)
    wanted = directly(small, luma)
    torch.testing.assert_close(translate(small, image), wanted, rtol=0, atol=1e-4)
    found = translate(model(channels=1, outputs=1), image)
    assert torch.equal(found[..., 0], found[..., 2])


def test_at_the_size_of_the_training():
    small, image = model(resolution=16), noise(1, 48, 64, 3)
    reduced = images.resized(image, (16, 21), "lanczos")
    wanted = images.resized(translate(small, reduced), (48, 64), "lanczos")
    for side in (-1, 16):
        torch.testing.assert_close(translate(small, image, side), wanted)
    assert (translate(small, image) - wanted).abs().max() > 0.01


def test_a_network_without_a_size_of_its_own_is_given_the_size_of_its_pictures():
    """Which its card knows; of a file without a training nothing is known."""
    unknown, image = model(UNET), noise(1, 48, 64, 3)
    recipe = {"task": {"read": 16, "window": 8}}
    known = with_card(unknown, training=Training(recipe=recipe, data="", images=1, nimg=1))
    assert torch.equal(translate(unknown, image, -1), translate(unknown, image))
    assert torch.equal(translate(known, image, -1), translate(known, image, 16))
    assert not torch.equal(translate(known, image, -1), translate(known, image))


def test_a_long_picture_is_not_enlarged_beyond_reason():
    image = torch.zeros(1, 1, 20_000, 3)
    assert translate(model(), image).shape == image.shape
    with pytest.raises(DataError, match=r"20000x1 px .* seen as 5120000x256 px\. Choose the size"):
        translate(model(), image, 256)


def test_tiles_of_a_large_picture_fade_into_each_other(monkeypatch):
    """Without a norm the tiles are those of the whole, within what they see."""
    small = model(norm="none")
    tiling = small.architecture.pictures.tiling
    assert (tiling.overlap, tiling.blend) == (128, 64)
    assert tiling.tile > 1024
    image = noise(1, 48, 400, 3)
    whole = translate(small, image)
    pictures = small.architecture.pictures.model_copy(update={"tile": 300})
    monkeypatch.setattr(ResNetGenerator, "pictures", pictures)
    torch.testing.assert_close(translate(small, image), whole, rtol=0, atol=1e-4)


def test_memory_decides_what_is_run_whole():
    def tile(width):
        return ResNetGenerator(width=width).pictures.tile

    assert [tile(w) for w in (16, 24, 64, 512)] == [2048, 1664, 1024, 320]


@pytest.mark.parametrize(
    ("architecture", "text"),
    [
        (DCGANGenerator(resolution=16, width=8), r"holds a dcgan-generator .* no pictures of pict"),
        (Compact(scale=2, width=8, depth=1), r"enlarges pictures 2 times\. Use Super-Resolve"),
        (ResNetGenerator(width=4, outputs=2), r"gives 2 channels, .* shows results of 1 or 3"),
        (ResNetGenerator(width=4, channels=35), r"takes 35 channels, one for each label"),
    ],
)
def test_other_networks_are_refused(architecture, text):
    with pytest.raises(CheckpointError, match=text):
        translate(model(architecture), noise(1, 16, 16, 3))


@pytest.mark.parametrize("task", ["restoration", "super-resolution", "face restoration"])
def test_a_network_that_restores_is_refused(task):
    other = with_card(model(UNET), task=task)
    with pytest.raises(CheckpointError, match=f"for {task}, which gives the same pictures back"):
        translate(other, noise(1, 16, 16, 3))


def test_what_cannot_be_translated():
    with pytest.raises(DataError, match="holds no picture"):
        translate(model(), noise(0, 16, 16, 3))
    image = noise(2, 8, 8, 3)
    image[1, 3, 3] = float("inf")
    with pytest.raises(DataError, match=r"image 1 of the batch .* holds NaN"):
        translate(model(), image)


@pytest.mark.parametrize("size", ["as it is", "as trained", "as given"])
def test_the_workflow(tmp_path, size):
    """Load Image, Load Checkpoint, Translate, Save Image."""
    for folder in ("input", "weights"):
        (tmp_path / folder).mkdir()
    small = model(resolution=24)
    checkpoint.save(tmp_path / "weights" / "paint.safetensors", small.card, small.network)
    pixels = np.random.RandomState(0).randint(0, 256, (22, 28, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "a.png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": "paint.safetensors"}},
        "3": {
            "class_type": "ImagenTranslate",
            "inputs": {"model": ["2", 0], "image": ["1", 0], "size": size, "side": 16},
        },
        "4": {
            "class_type": "SaveImage",
            "inputs": {"images": ["3", 0], "filename_prefix": "painted"},
        },
    }
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    runner = Runner(
        input=tmp_path / "input", output=tmp_path / "output", weights=[tmp_path / "weights"]
    )
    results = runner.run(tmp_path / "workflow.json")
    (file,) = results["4"].files
    side = {"as it is": 0, "as trained": 24, "as given": 16}[size]
    wanted = translate(small, torch.from_numpy(pixels / 255.0).float()[None], side)[0]
    difference = np.asarray(Image.open(file)).astype(int) - (wanted * 255).byte().numpy()
    assert np.abs(difference).max() <= 1
