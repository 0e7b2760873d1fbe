"""Denoise: a network's result, and part of the way to it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes import checkpoint, super_resolution, tiles
from imagen_nodes.checkpoint import Card, Model, Training
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.networks.compact import Compact
from imagen_nodes.networks.residual_unet import ResidualUNet
from imagen_nodes.noise_level import JPEG_MARK, noise_level
from imagen_nodes.runner import Runner
from imagen_nodes.training.degradation import Noise, Photo, Shrink, degradation_of
from imagen_nodes.training.randomness import Numbers, torch_random


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def model(**fields):
    return model_of(Compact.model_validate({"width": 8, "depth": 2, "scale": 1} | fields))


def model_of(architecture):
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    network.requires_grad_(False).eval()
    described = architecture.model_dump()
    card = Card(title="Small", architecture=described, task="restoration", value_range=(0.0, 1.0))
    return Model("small.safetensors", card, architecture, network)


def restore(model, image, *strength, **options):
    with torch.inference_mode():
        return super_resolution.restore(LocalHost(), model, image, *strength, **options)


@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("count", [1, 2])
def test_the_result_and_part_of_the_way(unshuffle, strength, count):
    """Of the picture clamped, where its values are beyond 0 and 1."""
    small, given = model(unshuffle=unshuffle), noise(count, 12, 14, 3) * 3 - 1
    image = given.clamp(0, 1)
    with torch.inference_mode():
        result = small.network(image.movedim(3, 1)).movedim(1, 3).clamp(0, 1)
    wanted = image + strength * (result - image)
    torch.testing.assert_close(restore(small, given, strength), wanted, rtol=0, atol=1e-5)


def test_the_mean_over_eight_orientations():
    """Turned by hand, as somebody would who has no such option; the noise is estimated once."""
    small, image = drawn(TOLD), noise(1, 20, 34, 3)
    level = noise_level(image[0].movedim(2, 0))
    wanted = torch.zeros_like(image)
    for picture, back in ((image, False), (image.transpose(1, 2), True)):
        for turns in range(4):
            x = torch.rot90(picture, turns, (1, 2))
            y = torch.rot90(restore(small, x, noise=level), -turns, (1, 2))
            wanted += (y.transpose(1, 2) if back else y) / 8
    found = restore(small, image, ensemble=True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert float((found - restore(small, image)).abs().max()) > 1e-2
    half = restore(small, image, 0.5, ensemble=True)
    torch.testing.assert_close(half, (image + wanted) / 2, rtol=0, atol=1e-5)


UNET = ResidualUNet(widths=(8, 8, 8), blocks=1, middle=1)
BLOCKS = Compact(width=8, depth=2, scale=1, unshuffle=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (13, 7), (33, 20)])
@pytest.mark.parametrize("architecture", [BLOCKS, UNET])
def test_any_size(architecture, size):
    image = noise(1, *size, 3)
    small = model_of(architecture)
    for tensor in small.network.parameters():  # also where it begins by giving the picture back
        tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    found = restore(small, image)
    assert found.shape == image.shape
    sizes = small.architecture.pictures.sizes
    with torch.inference_mode():
        wanted = small.network(tiles.padded(image.movedim(3, 1), sizes)).movedim(1, 3)
    wanted = wanted[:, : size[0], : size[1]].clamp(0, 1)
    assert float((wanted - image).abs().max()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_alpha_is_kept_and_grey_stays_grey():
    image = noise(1, 10, 12, 4)
    found = restore(model(), image, 0.5)
    assert torch.equal(found[..., 3], image[..., 3])
    grey = noise(1, 10, 12, 1).expand(-1, -1, -1, 3)
    found = restore(model(), grey, 0.5)
    torch.testing.assert_close(found[..., 0], found[..., 2])


def test_a_network_that_enlarges_is_refused():
    with pytest.raises(CheckpointError, match=r"enlarges pictures 2 times\. Use Super-Resolve"):
        restore(model(scale=2), noise(1, 8, 8, 3))


TOLD = ResidualUNet(widths=(8, 8), blocks=1, middle=1, noise_map=True)


def drawn(architecture):
    found = model_of(architecture)
    for tensor in found.network.parameters():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return found


def seen_by(small, image, *options):
    """The last channel of what its network is given for each picture."""
    maps = []
    hook = small.network.register_forward_pre_hook(lambda module, x: maps.append(x[0][:, -1]))
    found = restore(small, image, *options)
    hook.remove()
    assert all(torch.equal(x, x[:, :1, :1].expand_as(x)) for x in maps)
    return found, [float(x[0, 0, 0]) for x in maps]


def test_a_network_that_is_told_how_strong_the_noise_is():
    small, image = drawn(TOLD), noise(2, 40, 48, 3)
    image[0] = 0.5 + 0.1 * (image[0] - 0.5)
    found, levels = seen_by(small, image)
    estimates = [noise_level(picture.movedim(2, 0)) for picture in image]
    assert levels == pytest.approx(estimates)
    assert estimates[1] > 5 * estimates[0] > 0
    x = image.movedim(3, 1)
    x = torch.cat([x, torch.tensor(levels).view(2, 1, 1, 1).expand(2, 1, 40, 48)], 1)
    with torch.inference_mode():
        wanted = small.network(x).movedim(1, 3).clamp(0, 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    found, levels = seen_by(small, image, 1.0, 0.2)
    assert levels == pytest.approx([0.2, 0.2])
    assert not torch.allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_the_noise_is_that_of_the_whole_picture(monkeypatch, factor):
    """Not that of the rows which are resized at a time, where half of them have hardly any."""
    small, image = drawn(TOLD), noise(2, 96, 20, 3)
    image[:, :48] = 0.5 + 0.01 * image[:, :48]
    with torch.inference_mode():
        whole = super_resolution.enlarge(LocalHost(), small, image, factor)
        monkeypatch.setattr(super_resolution, "BAND", 200)
        found = super_resolution.enlarge(LocalHost(), small, image, factor)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("jpeg_mark", [False, True])
def test_a_picture_with_jpegs_blocks(jpeg_mark):
    steps = torch.rand(9, 9, generator=torch.Generator().manual_seed(0))
    blocks = steps.repeat_interleave(8, 0).repeat_interleave(8, 1)[None, :, :, None]
    image = (0.5 * blocks + 0.02 * noise(1, 72, 72, 3)).clamp(0, 1)
    small = drawn(TOLD.model_copy(update={"jpeg_mark": jpeg_mark}))
    estimate = noise_level(image[0].movedim(2, 0))
    _, levels = seen_by(small, image)
    assert levels == pytest.approx([JPEG_MARK if jpeg_mark else estimate])
    _, levels = seen_by(small, image, 1.0, 0.2)
    assert levels == pytest.approx([0.2])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_pictures_noise_is_that_of_one_channel(channels):
    grey = noise(1, 40, 48, 1)
    image = grey.expand(-1, -1, -1, channels)
    _, levels = seen_by(drawn(TOLD), image)
    assert levels == pytest.approx([noise_level(grey[0].movedim(2, 0))])


def test_the_noise_of_a_network_for_single_channels():
    small, image = drawn(TOLD.model_copy(update={"channels": 1})), noise(1, 40, 48, 3)
    image[..., 1] = 0.5
    found, levels = seen_by(small, image)
    assert found.shape == image.shape
    assert levels == pytest.approx([noise_level(x[None]) for x in image[0].movedim(2, 0)])


def test_a_picture_too_small_for_an_estimate_stays_as_it_is():
    """As one without noise does, of which a trained network changes nothing."""
    _, levels = seen_by(drawn(TOLD), noise(1, 2, 3, 3))
    assert levels == [0]


def test_a_network_that_is_not_told_is_not():
    with pytest.raises(CheckpointError, match="is not told how strong the noise is"):
        restore(model(), noise(1, 8, 8, 3), 1.0, 0.1)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("known", [Photo(), Noise(sigma=(5, 15), jpeg=0.5), None])
def test_what_a_network_is_judged_by(scale, known):
    """What its recipe says, or, where noise is said, that."""
    small, clean = model(scale=scale), noise(2, 3, 32, 32)
    if known:
        recipe = {"task": {"kind": "restore", "degradation": known.model_dump(mode="json")}}
        training = Training(recipe=recipe, data="some", images=1, nimg=1)
        card = small.card.model_copy(update={"training": training})
        small = Model(small.name, card, small.architecture, small.network)
    usual = known or (Noise(sigma=(25, 25)) if scale == 1 else Shrink())
    for sigma, wanted in ((None, usual), (7.0, Noise(sigma=(7, 7)))):
        for first in (0, 3):
            random = Numbers(torch_random(0, 0, first, "degradation"))
            found = degradation_of(small, sigma)(clean, first)
            assert found.shape == (2, 3, 32 // scale, 32 // scale)
            assert torch.equal(found, wanted.apply(clean, scale, random))


def test_broken_pixels_are_refused():
    image = noise(1, 8, 8, 3)
    image[0, 3, 3] = float("nan")
    with pytest.raises(DataError, match=r"image 0 of the batch .* holds NaN"):
        restore(model(), image)


@pytest.mark.parametrize("options", [{}, {"noise": 30.0}, {"noise": 30.0, "ensemble": True}])
def test_the_workflow(tmp_path, options):
    """Load Image, Load Checkpoint, Denoise, Save Image; saved before it took more, too."""
    for folder in ("input", "weights"):
        (tmp_path / folder).mkdir()
    small = drawn(TOLD) if options else model(unshuffle=2)
    checkpoint.save(tmp_path / "weights" / "clean.safetensors", small.card, small.network)
    pixels = np.random.RandomState(0).randint(0, 256, (11, 14, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "a.png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": "clean.safetensors"}},
        "3": {
            "class_type": "ImagenDenoise",
            "inputs": {"model": ["2", 0], "image": ["1", 0], "strength": 0.5} | options,
        },
        "4": {
            "class_type": "SaveImage",
            "inputs": {"images": ["3", 0], "filename_prefix": "clean"},
        },
    }
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    runner = Runner(
        input=tmp_path / "input", output=tmp_path / "output", weights=[tmp_path / "weights"]
    )
    results = runner.run(tmp_path / "workflow.json")
    (file,) = results["4"].files
    more = options | {"noise": 30 / 255} if options else {}
    wanted = restore(small, torch.from_numpy(pixels / 255.0).float()[None], 0.5, **more)[0]
    difference = np.asarray(Image.open(file)).astype(int) - (wanted * 255).byte().numpy()
    assert np.abs(difference).max() <= 1
