"""Super-Resolve: any picture, any factor, in the graph and out of it."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from imagen_nodes import checkpoint, images, super_resolution, tiles
from imagen_nodes.checkpoint import Card, Model
from imagen_nodes.errors import Cancelled, CheckpointError, DataError
from imagen_nodes.folders import shipped
from imagen_nodes.foreign import open_model
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.networks.compact import Compact
from imagen_nodes.runner import Runner

MODELS = Path(__file__).parent / "data" / "golden" / "models" / "upscale_models"


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def model(value_range=(0.0, 1.0), **fields):
    architecture = Compact.model_validate({"width": 8, "depth": 2, "scale": 2} | fields)
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    network.requires_grad_(False).eval()
    card = Card(
        title="Small", architecture=architecture.model_dump(), task="super-resolution",
        value_range=value_range,
    )  # fmt: skip
    return Model("small.safetensors", card, architecture, network)


def enlarge(model, image, *arguments, **options):
    with torch.inference_mode():
        return super_resolution.enlarge(LocalHost(**options), model, image, *arguments)


def plainly(model, image):
    with torch.inference_mode():
        return model.network(image.movedim(3, 1)).movedim(1, 3).clamp(0, 1)


def test_the_networks_own_factor():
    image, small = noise(3, 20, 30, 3), model()
    found = enlarge(small, image)
    torch.testing.assert_close(found, plainly(small, image), rtol=0, atol=1e-5)
    assert torch.equal(found, enlarge(small, image))
    assert torch.equal(found[1:2], enlarge(small, image[1:2]))


def test_tiles_do_not_show(monkeypatch):
    small, image = model(), noise(1, 150, 200, 3)
    described = small.architecture.pictures.model_copy(update={"tile": 64})
    monkeypatch.setattr(Compact, "pictures", property(lambda self: described))
    found = enlarge(small, image)
    torch.testing.assert_close(found, plainly(small, image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("factor", "size"), [(4, (80, 120)), (1.5, (30, 45)), (0.5, (10, 15)),
                                              (2, (40, 60)), (0.01, (1, 1))])  # fmt: skip
@pytest.mark.parametrize("method", ["lanczos", "bicubic"])
def test_other_factors(factor, size, method):
    small, image = model(), noise(2, 20, 30, 3)
    found = enlarge(small, image, factor, method)
    assert found.shape == (2, *size, 3)
    wanted = images.resized(plainly(small, image), size, method)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_resizing_averages_what_it_shrinks():
    board = (torch.arange(64) % 2).float().expand(64, 64).clone()[None, :, :, None]
    for method in ("lanczos", "bicubic"):
        small = images.resized(board, (16, 16), method)
        torch.testing.assert_close(small[:, 2:-2, 2:-2], torch.full((1, 12, 12, 1), 0.5),
                                   rtol=0, atol=0.02)  # fmt: skip
        assert torch.equal(images.resized(torch.ones(1, 5, 5, 2), (9, 7), method).round(),
                           torch.ones(1, 9, 7, 2))  # fmt: skip


def test_alpha_is_kept():
    small, image = model(), noise(2, 9, 12, 4)
    found = enlarge(small, image)
    assert found.shape == (2, 18, 24, 4)
    torch.testing.assert_close(found[..., :3], enlarge(small, image[..., :3]))
    alpha = images.resized(image[..., 3:], (18, 24), "lanczos")
    assert torch.equal(found[..., 3:], alpha)


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.6])
def test_alpha_some_rows_at_a_time(monkeypatch, factor):
    image = noise(1, 31, 20, 4) * 2 - 0.5
    whole = enlarge(model(), image, factor)
    monkeypatch.setattr(super_resolution, "BAND", 100)
    found = enlarge(model(), image, factor)
    torch.testing.assert_close(found[..., 3], whole[..., 3], rtol=0, atol=1e-5)
    assert found.amin() >= 0
    assert found.amax() <= 1
    wanted = images.resized(image[..., 3:], tuple(whole.shape[1:3]), "lanczos")
    torch.testing.assert_close(whole[..., 3:], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey(channels):
    small, grey = model(channels=channels), noise(1, 9, 12, 1)
    one = enlarge(small, grey)
    assert one.shape == (1, 18, 24, 1)
    three = enlarge(small, grey.expand(-1, -1, -1, 3))
    assert torch.equal(three, one.expand(-1, -1, -1, 3))


def test_a_grey_network_takes_colour_a_channel_at_a_time():
    small, image = model(channels=1), noise(1, 9, 12, 3)
    found = enlarge(small, image)
    for c in range(3):
        one = enlarge(small, image[..., c : c + 1])
        torch.testing.assert_close(found[..., c : c + 1], one, rtol=0, atol=1e-6)


def test_values_are_clamped_and_ranges_kept():
    image = noise(1, 9, 12, 3) * 3 - 1
    wide = model(value_range=(-1.0, 1.0))
    found = enlarge(wide, image)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    with torch.inference_mode():
        y = wide.network(image.clamp(0, 1).movedim(3, 1) * 2 - 1).movedim(1, 3)
    torch.testing.assert_close(found, ((y + 1) / 2).clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("factor", [0, 0.7, 1, 1.37, 3])
@pytest.mark.parametrize("method", ["lanczos", "bicubic"])
def test_some_rows_at_a_time(channels, factor, method, monkeypatch):
    """Give what all at once do; a grey part of a picture of colours is no grey picture."""
    image = noise(2, 57, 20, channels)
    image[:, 20:, :, :3] = image[:, 20:, :, :1]
    whole, made = enlarge(model(), image, factor, method), []
    small = model()
    small.network.register_forward_hook(lambda module, x, y: made.append(y.shape[2]))
    monkeypatch.setattr(super_resolution, "BAND", 200)
    found = enlarge(small, image, factor, method)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert len(made) == 12
    assert max(made) < 2 * 57


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_broken_pixels_are_refused(value):
    image = noise(3, 4, 4, 3)
    image[1, 2, 3, 0] = value
    with pytest.raises(DataError, match=r"image 1 of the batch .* holds NaN or infinity"):
        enlarge(model(), image)
    with pytest.raises(DataError, match="holds no picture"):
        enlarge(model(), image[:0])


def test_other_networks_are_refused(monkeypatch):
    generator = open_model(shipped("weights") / "dcgan-cifar10.safetensors")
    with pytest.raises(
        CheckpointError, match="dcgan-generator for generate, which takes no pictures"
    ):
        enlarge(generator, noise(1, 4, 4, 3))
    small = model()
    translator = replace(small, card=small.card.model_copy(update={"task": "translation"}))
    with pytest.raises(CheckpointError, match="for translation, which makes other pictures"):
        enlarge(translator, noise(1, 4, 4, 3))
    coloured = small.architecture.pictures.model_copy(update={"channels": 1})
    monkeypatch.setattr(Compact, "pictures", property(lambda self: coloured))
    with pytest.raises(CheckpointError, match="makes other pic"):
        enlarge(small, noise(1, 4, 4, 3))
    masked = model().architecture.pictures.model_copy(update={"masked": True})
    monkeypatch.setattr(Compact, "pictures", property(lambda self: masked))
    with pytest.raises(CheckpointError, match="needs a mask"):
        enlarge(model(), noise(1, 4, 4, 3))


@pytest.mark.parametrize("name", ["tiny_esrgan_x2", "tiny_compact_x4"])
def test_networks_of_other_programs(name):
    loaded = open_model(MODELS / f"{name}.safetensors")
    image = noise(1, 13, 9, 3)
    torch.testing.assert_close(enlarge(loaded, image), plainly(loaded, image), rtol=0, atol=1e-5)


def test_the_input_is_kept():
    image = noise(2, 9, 12, 4)
    before = image.clone()
    enlarge(model(), image)
    assert torch.equal(image, before)


def test_progress_counts_tiles_over_the_batch():
    steps = []
    enlarge(model(), noise(3, 9, 12, 3), listen=steps.append)
    assert [(s["done"], s["total"]) for s in steps] == [(1, 3), (2, 3), (3, 3)]


def test_a_cancelled_run_stops_within_a_tile():
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.3)
            return x

    small = model()
    small.network.body.append(nn.Sequential(*(Slow() for _ in range(50))))
    start = time.monotonic()

    def listen(event):
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        enlarge(small, noise(1, 9, 12, 3), listen=listen)
    assert time.monotonic() - start < 5
    assert not any(module._forward_pre_hooks for module in small.network.modules())


@pytest.mark.parametrize("ensemble", [None, False, True])
def test_the_workflow(tmp_path, ensemble):
    """Load Image, Load Checkpoint, Super-Resolve, Save Image; saved before it had an ensemble,
    too."""
    for folder in ("input", "weights"):
        (tmp_path / folder).mkdir()
    small = model()
    checkpoint.save(tmp_path / "weights" / "x2.safetensors", small.card, small.network)
    pixels = np.random.RandomState(0).randint(0, 256, (10, 14, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "a.png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": "x2.safetensors"}},
        "3": {
            "class_type": "ImagenSuperResolve",
            "inputs": {"model": ["2", 0], "image": ["1", 0], "factor": 0.0, "resize": "lanczos"},
        },
        "4": {"class_type": "SaveImage",
              "inputs": {"images": ["3", 0], "filename_prefix": "large"}},
    }  # fmt: skip
    if ensemble is not None:
        workflow["3"]["inputs"]["ensemble"] = ensemble
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    runner = Runner(
        input=tmp_path / "input", output=tmp_path / "output", weights=[tmp_path / "weights"]
    )
    results = runner.run(tmp_path / "workflow.json")
    (file,) = results["4"].files
    image = torch.from_numpy(pixels / 255.0).float()[None]
    wanted = plainly(small, image)[0]
    if ensemble:
        call = tiles.ensemble(lambda x: plainly(small, x.movedim(1, 3)).movedim(3, 1))
        wanted = call(image.movedim(3, 1)).movedim(1, 3)[0]
    torch.testing.assert_close(results["3"]["image"][0], wanted, rtol=0, atol=1e-5)
    difference = np.asarray(Image.open(file)).astype(int) - (wanted * 255).byte().numpy()
    assert np.abs(difference).max() <= 1
