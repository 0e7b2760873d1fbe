"""Weights to pictures: the nodes of the main job, on the weights that ship."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from imagen_nodes import checkpoint, generation, images
from imagen_nodes.devices import is_fast_in_bfloat16
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.folders import shipped
from imagen_nodes.latents import Latents, sample
from imagen_nodes.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from imagen_nodes.networks.stylegan2 import StyleGAN2Generator

WEIGHTS = "dcgan-cifar10.safetensors"
WORKFLOW = {
    "model": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": WEIGHTS}},
    "noise": {
        "class_type": "ImagenSampleNoise",
        "inputs": {"model": ["model", 0], "seed": 3, "count": 5},
    },
    "images": {
        "class_type": "ImagenGenerate",
        "inputs": {"model": ["model", 0], "latent": ["noise", 0]},
    },
    "save": {
        "class_type": "SaveImage",
        "inputs": {"images": ["images", 0], "filename_prefix": "x"},
    },
}


def reference(state, z):
    """DCGAN's generator at 32 px, written out from the paper on the file's tensors."""
    x = z[:, :, None, None]
    for conv, norm in ((0, 1), (3, 4), (6, 7)):
        stride, padding = (1, 0) if conv == 0 else (2, 1)
        x = F.conv_transpose2d(x, state[f"main.{conv}.weight"], None, stride, padding)
        mean, var = state[f"main.{norm}.running_mean"], state[f"main.{norm}.running_var"]
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        x = x * state[f"main.{norm}.weight"][:, None, None]
        x = torch.relu(x + state[f"main.{norm}.bias"][:, None, None])
    return torch.tanh(F.conv_transpose2d(x, state["main.9.weight"], state["main.9.bias"], 2, 1))


def test_pixels_are_those_of_an_independent_generator(runner):
    results = runner.run(WORKFLOW)
    state = checkpoint.load(shipped("weights") / WEIGHTS).network.state_dict()
    z = torch.cat(
        [torch.from_numpy(np.random.RandomState(3 + i).randn(1, 100)).float() for i in range(5)]
    )
    wanted = ((reference(state, z) + 1) / 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(results["images"]["image"], wanted, atol=1e-5, rtol=0)
    saved = np.stack([np.asarray(Image.open(file)) for file in results["save"].files])
    difference = saved.astype(int) - (wanted * 255).numpy().astype(np.uint8)
    assert np.abs(difference).max() <= 1  # truncation right at a step
    assert (difference != 0).mean() < 1e-3


def test_a_torch_that_cannot_tell_of_matrix_tiles(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not is_fast_in_bfloat16(torch.device("cpu"))


def test_in_bfloat16_where_that_is_faster(runner, monkeypatch):
    """Off by a few steps of 1/255 at most, and by less than one in the mean."""
    wanted = runner.run(WORKFLOW)["images"]["image"]
    monkeypatch.setattr("imagen_nodes.devices.is_fast_in_bfloat16", lambda device: True)
    model = checkpoint.load(shipped("weights") / WEIGHTS)
    with torch.inference_mode():
        latents = generation.sample(model, 3, 5)
        found = generation.generate(runner.host, model, latents)
    difference = (found - wanted).abs()
    assert 1e-4 < float(difference.max()) < 0.05
    assert float(difference.mean()) < 1 / 255


def test_seeds_mean_the_stylegan_tools_latents():
    latents = sample(3, 100, 2**32 - 2)
    for i, seed in enumerate((2**32 - 2, 2**32 - 1, 0)):
        wanted = np.random.RandomState(seed).randn(1, 100).astype(np.float32)
        np.testing.assert_array_equal(latents.z[i : i + 1].numpy(), wanted)
    assert latents.labels is None
    assert sample(4, 8, 9, classes=10).labels.tolist() == [9, 0, 1, 2]


def test_an_image_does_not_depend_on_its_batch(runner):
    model = checkpoint.load(shipped("weights") / WEIGHTS)
    with torch.inference_mode():
        together = generation.generate(runner.host, model, generation.sample(model, 0, 19))
        for i in (0, 7, 18):
            alone = generation.generate(runner.host, model, generation.sample(model, i, 1))
            assert torch.equal(alone[0], together[i])


def model_of(architecture):
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    card = checkpoint.Card(title="x", architecture=architecture.model_dump(), task="generate")
    return checkpoint.Model("x.safetensors", card, architecture, network.eval())


@pytest.mark.parametrize(("resolution", "wanted"), [(32, 8), (128, 8), (256, 2), (512, 1)])
def test_fewer_large_images_at_once(resolution, wanted):
    assert generation.at_once(StyleGAN2Generator(resolution=resolution)) == wanted


def running_out(model, most):
    """The sizes of the batches that are tried; more than ``most`` do not fit into memory."""
    sizes = []

    def forward(module, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    model.network.register_forward_pre_hook(forward)
    return sizes


def test_out_of_memory_it_goes_on_one_by_one(runner):
    model = model_of(DCGANGenerator(resolution=16, width=8))
    latents = generation.sample(model, 0, 9)
    with torch.inference_mode():
        wanted = generation.generate(runner.host, model, latents)
        sizes = running_out(model, 1)
        found = generation.generate(runner.host, model, latents)
    torch.testing.assert_close(found, wanted, atol=4e-3, rtol=0)
    assert sizes == [8, *[1] * 9]
    running_out(model, 0)
    with pytest.raises(DataError, match="out of memory with one image of 16x16 px"):
        generation.generate(runner.host, model, latents)


def test_a_conditional_grey_generator(runner):
    model = model_of(DCGANGenerator(resolution=16, width=8, channels=1, classes=3))
    with torch.inference_mode():
        latents = generation.sample(model, 0, 4)
        image = generation.generate(runner.host, model, latents)
    assert image.shape == (4, 16, 16, 3)
    assert torch.equal(image[..., 0], image[..., 2])
    with torch.inference_mode():
        wanted = images.from_network(model.network(latents.z, latents.labels))
    torch.testing.assert_close(image[..., :1], wanted)


@pytest.mark.parametrize(
    ("model", "latents", "text"),
    [
        (
            DCGANGenerator(width=8),
            Latents(torch.zeros(1, 64)),
            "takes latents of length 100, these",
        ),
        (DCGANGenerator(width=8, classes=2), Latents(torch.zeros(1, 100)), "no class labels"),
        (
            DCGANGenerator(width=8, classes=2),
            Latents(torch.zeros(2, 100), torch.tensor([1, 2])),
            "has 2 classes, counted from 0, these latents are of class 2",
        ),
        (
            DCGANGenerator(width=8, classes=2),
            Latents(torch.zeros(1, 100), torch.tensor([-1])),
            "these latents are of class -1",
        ),
        (DCGANDiscriminator(width=8), Latents(torch.zeros(1, 100)), "does not generate images"),
    ],
)
def test_what_does_not_fit_together(runner, model, latents, text):
    with pytest.raises(CheckpointError, match=text):
        generation.generate(runner.host, model_of(model), latents)


def test_pictures_for_networks_of_other_channels():
    colours = torch.rand(2, 5, 7, 4, generator=torch.Generator().manual_seed(0))
    x = colours.permute(0, 3, 1, 2) * 2 - 1
    red, green, blue, alpha = x.split(1, 1)
    grey, full = (red + green + blue) / 3, torch.ones_like(red)
    for channels, given, wanted in (
        (1, colours[..., :1], [red]),
        (1, colours[..., :3], [grey]),
        (1, colours, [grey]),
        (3, colours[..., :1], [red, red, red]),
        (3, colours, [red, green, blue]),
        (4, colours[..., :1], [red, red, red, full]),
        (4, colours[..., :3], [red, green, blue, full]),
        (4, colours, [red, green, blue, alpha]),
    ):
        torch.testing.assert_close(images.for_network(given, channels), torch.cat(wanted, 1))


def test_a_grid_of_nothing(runner):
    from imagen_nodes.nodes.generate import ImageGrid

    with pytest.raises(DataError, match="the batch holds no picture"):
        ImageGrid(image=torch.zeros(0, 4, 4, 3)).run(runner.host)


def test_grid_puts_images_in_reading_order():
    batch = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 3, 3) / 10
    sheet = images.grid(batch, columns=3, gap=1, fill=0.9)
    assert sheet.shape == (1, 5, 11, 3)
    assert sheet[0, 0, 4, 0] == pytest.approx(0.1)
    assert sheet[0, 3, 0, 0] == pytest.approx(0.3)
    assert sheet[0, 2, 0, 0] == pytest.approx(0.9)  # a gap
    assert sheet[0, 4, 10, 0] == pytest.approx(0.9)  # an empty cell
    assert images.grid(batch).shape == (1, 4, 9, 3)  # three by two
    assert images.grid(batch, columns=99).shape == (1, 2, 15, 3)
