"""The generators of lucidrains' programs, in our nodes. Their numbers are tested against the files'
own arithmetic in ``test_lucidrains_importers.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from imagen_nodes import generation, styles
from imagen_nodes.checkpoint import Card, Model
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.latents import sample
from imagen_nodes.networks.architecture import GeneratorArchitecture
from imagen_nodes.networks.lightweight import RESOLUTIONS, LightweightGenerator
from imagen_nodes.networks.linear_attention import LinearAttention
from imagen_nodes.networks.lucid_stylegan2 import LucidStyleGAN2Generator
from imagen_nodes.training.randomness import Numbers

HOST = LocalHost(device="cpu")
LUCID = LucidStyleGAN2Generator(
    resolution=16, z_dim=10, mapping_layers=2, width=4, width_max=24, attention=(8,)
)
LIGHT = LightweightGenerator(
    resolution=128, z_dim=8, width_base=1024, width_max=24, attention=(16,)
)
FREQUENT = LIGHT.model_copy(update={"steering": "frequencies"})


def model_of(architecture: GeneratorArchitecture) -> Model:
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    for name, tensor in network.state_dict().items():
        if "noise_strength" in name or "w_avg" in name:
            tensor.normal_(generator=torch.Generator().manual_seed(1))
    network.requires_grad_(False).eval()
    card = Card(title="x", architecture=architecture.model_dump(mode="json"), task="generate")
    return Model("x.safetensors", card, architecture, network)


@pytest.mark.parametrize("architecture", [LUCID, LIGHT, FREQUENT])
def test_images_are_the_same_again_and_in_any_batch(architecture: GeneratorArchitecture) -> None:
    model = model_of(architecture)
    latent = sample(9, architecture.z_dim, 0)
    with torch.inference_mode():
        images = generation.generate(HOST, model, latent)
        alone = generation.generate(HOST, model, latent.part(slice(8, 9)))
    assert images.shape == (9, *architecture.size, 3)
    assert torch.equal(images[8], alone[0])
    other = model_of(architecture).network.state_dict()
    assert all(
        torch.equal(value, other[name]) for name, value in model.network.state_dict().items()
    )


def test_styles_one_a_resolution() -> None:
    model = model_of(LUCID)
    latent = sample(2, 10, 0)
    w = styles.truncate(HOST, model, latent, 0.0, 2).w
    assert w is not None
    assert w.shape == (2, 3, 10)
    network: Any = model.network
    torch.testing.assert_close(w[:, :2], network.w_avg.expand(2, 2, -1))
    torch.testing.assert_close(w[:, 2], network.mapping(latent.z))
    directions = styles.find_directions(HOST, model, "sefa", 3)
    assert directions.shape == (3, 10)


def test_noise_is_uniform() -> None:
    network: Any = model_of(LUCID).network
    noise = network.synthesis._noise("random", 50, Numbers(torch.Generator().manual_seed(0)))
    assert noise.shape == (50, 1, 16, 16)
    shares = torch.histc(noise, 10, 0, 1) / noise.numel()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)
    w = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))
    images = [network.synthesis(w, kind) for kind in ("constant", "none", "random")]
    assert len({float(image.sum()) for image in images}) == 3


def test_attention_is_that_of_all_positions() -> None:
    """Of one head alone that has something to say, against the full matrix of weights."""
    attention = LinearAttention(4, neighbours=False)
    x = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = attention._of_all(x)[0, 2]  # [64 n]
        query = attention.query(x)[0, 128:192].flatten(1)
        key, value = (
            part[0, 128:192].flatten(1)
            for part in attention.key_value(attention.around(x)).chunk(2, 1)
        )
        weights = query.softmax(0).t() @ key.softmax(1) / 8  # [n n]
    torch.testing.assert_close(found, value @ weights.t())


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution_builds(resolution: int) -> None:
    with torch.device("meta"):
        light = LightweightGenerator(resolution=resolution).build()
        assert light(torch.zeros(2, 256)).shape == (2, 3, resolution, resolution)
        lucid = LucidStyleGAN2Generator(resolution=resolution, constant=False).build()
        assert lucid(torch.zeros(2, 512)).shape == (2, 3, resolution, resolution)


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        (LightweightGenerator, {"attention": (256,)}, "attention at 256 px: this network has maps"),
        (LucidStyleGAN2Generator, {"attention": (256,)}, "attention at 256 px: this network has l"),
        (LightweightGenerator, {"classes": 3}, "less than or equal to 0"),
    ],
)
def test_what_cannot_be_built_is_refused(kind: Any, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        kind.model_validate({"resolution": 128} | fields)
