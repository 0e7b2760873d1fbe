"""R3GAN, against the paper's description written out on the networks' tensors."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from imagen_nodes import checkpoint
from imagen_nodes.checkpoint import Card
from imagen_nodes.networks.r3gan import (
    PRESETS,
    Bottleneck,
    R3GANDiscriminator,
    R3GANGenerator,
)

Weights = dict[str, Tensor]
# A network of three resolutions, of which two differ in width.
SMALL = {"resolution": 16, "widths": (16, 16, 8), "group": 4, "classes": 3, "class_dim": 6}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(network: nn.Module) -> nn.Module:
    """Every tensor random, so that none of them can be ignored unnoticed."""
    generator = random(5)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return network.eval()


# ---------------------------------------------------------------- the reference


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("bchw,oc->bohw", x, weight[:, :, 0, 0])


def grouped(x: Tensor, weight: Tensor, group: int) -> Tensor:
    """A 3x3 convolution in groups, one group and one tap at a time."""
    h, w = x.shape[2:]
    padded = torch.zeros(*x.shape[:2], h + 2, w + 2)
    padded[:, :, 1:-1, 1:-1] = x
    parts: list[Tensor] = []
    for start in range(0, x.shape[1], group):
        inputs, kernel = padded[:, start : start + group], weight[start : start + group]
        taps = [
            torch.einsum("bchw,oc->bohw", inputs[:, :, i : i + h, j : j + w], kernel[:, :, i, j])
            for i in range(3)
            for j in range(3)
        ]
        parts.append(torch.stack(taps).sum(0))
    return torch.cat(parts, 1)


def act(x: Tensor, bias: Tensor) -> Tensor:
    x = x + bias[:, None, None]
    return torch.where(x > 0, x, 0.2 * x)


def blocks(x: Tensor, w: Weights, s: int, group: int) -> Tensor:
    for b in range(2):
        name = f"stages.{s}.{b}"
        h = act(pointwise(x, w[f"{name}.conv1.weight"]), w[f"{name}.conv1.bias"])
        h = act(grouped(h, w[f"{name}.conv2.weight"], group), w[f"{name}.conv2.bias"])
        x = x + pointwise(h, w[f"{name}.conv3.weight"])
    return x


def along(x: Tensor, dim: int) -> Tensor:
    """Doubled along one side: each new pixel 3/4 of the nearest old one and 1/4 of the next."""
    size = x.shape[dim]
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    padded = torch.cat([zero, x, zero], dim)
    before, after = padded.narrow(dim, 0, size), padded.narrow(dim, 2, size)
    return torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim + 1).flatten(
        dim, dim + 1
    )


def shorter(x: Tensor, dim: int) -> Tensor:
    """Halved along one side, weights 1 3 3 1, zeros outside."""
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    padded = torch.cat([zero, x, zero], dim)
    half = x.shape[dim] // 2
    parts = [
        weight / 8 * padded.index_select(dim, torch.arange(half) * 2 + tap)
        for tap, weight in enumerate((1, 3, 3, 1))
    ]
    return torch.stack(parts).sum(0)


def generator_by_hand(a: R3GANGenerator, w: Weights, z: Tensor, labels: Tensor) -> Tensor:
    z = torch.cat([z, w["embed.weight"][labels]], 1)
    x = (z @ w["linear.weight"].t())[:, :, None, None] * w["basis"]
    for s in range(len(a.widths)):
        if s:
            if f"changes.{s}.weight" in w:
                x = pointwise(x, w[f"changes.{s}.weight"])
            x = along(along(x, 2), 3)
        x = blocks(x, w, s, a.group)
    return pointwise(x, w["image.weight"])


def discriminator_by_hand(a: R3GANDiscriminator, w: Weights, x: Tensor, labels: Tensor) -> Tensor:
    x = pointwise(x, w["image.weight"])
    for s in range(len(a.widths)):
        x = blocks(x, w, s, a.group)
        if s < len(a.widths) - 1:
            x = shorter(shorter(x, 2), 3)
            if f"changes.{s}.weight" in w:
                x = pointwise(x, w[f"changes.{s}.weight"])
    features = (x * w["basis.weight"][:, 0]).sum((2, 3)) @ w["linear.weight"].t()
    return (features * w["embed.weight"][labels]).sum(1)


def close(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * scale)


# ---------------------------------------------------------------- numbers


def test_the_generator_computes_what_the_paper_says() -> None:
    a = R3GANGenerator.model_validate(SMALL)
    network = varied(a.build())
    w = dict(network.named_parameters())
    z, labels = torch.randn(2, 64, generator=random()), torch.tensor([2, 0])
    found, wanted = network(z, labels), generator_by_hand(a, w, z, labels)
    close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), list(w.values())),
        torch.autograd.grad(wanted.square().sum(), list(w.values())),
        strict=True,
    ):
        close(ours, theirs)


def test_the_discriminator_computes_what_the_paper_says() -> None:
    """Logits, their gradients, and those of the gradient penalties."""
    a = R3GANDiscriminator.model_validate(SMALL)
    network = varied(a.build())
    w = dict(network.named_parameters())
    images = torch.randn(2, 3, 16, 16, generator=random(), requires_grad=True)
    labels = torch.tensor([1, 2])

    def derivatives(logits: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(logits.sum(), [images, *w.values()], create_graph=True)
        # Biases move a penalty by steps alone, so they have no gradient of it.
        weights = [v for name, v in w.items() if not name.endswith("bias")]
        return [logits, *first, *torch.autograd.grad(first[0].square().sum(), weights)]

    found = derivatives(network(images, labels))
    wanted = derivatives(discriminator_by_hand(a, w, images, labels))
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours, theirs)


def test_unconditional() -> None:
    fields = SMALL | {"classes": 0}
    g = varied(R3GANGenerator.model_validate(fields).build())
    d = varied(R3GANDiscriminator.model_validate(fields).build())
    images = g(torch.randn(2, 64, generator=random()))
    assert images.shape == (2, 3, 16, 16)
    assert d(images).shape == (2,)
    assert not any("embed" in name for name in [*g.state_dict(), *d.state_dict()])


# ---------------------------------------------------------------- initial weights


def test_a_new_block_is_the_identity() -> None:
    block = varied(Bottleneck(16, 2, 4))
    block.initialise(8, random())  # pyright: ignore
    x = torch.randn(2, 16, 5, 5, generator=random())
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.conv3.weight.grad.abs().max() > 0  # pyright: ignore


def test_initial_weights() -> None:
    """Standard deviations: He's times 8 blocks to -1/4 within blocks, 1/sqrt(fan in) elsewhere."""
    he = math.sqrt(2 / 1.04) * 8**-0.25
    fields = {"resolution": 32, "widths": (256, 256, 128, 128), "classes": 50}
    g = R3GANGenerator.model_validate(fields).build()
    d = R3GANDiscriminator.model_validate(fields).build()
    expected = {
        "stages.0.0.conv1.weight": (he / 16, he / math.sqrt(128)),
        "stages.0.1.conv2.weight": (he / 12, he / 12),
        "image.weight": (128**-0.5, 3**-0.5),
        "linear.weight": (128**-0.5, 1 / 16),
        "embed.weight": (50**-0.5, 50**-0.5 * 768**-0.5),
        "changes.2.weight": (1 / 16, None),
        "changes.1.weight": (None, 128**-0.5),
        "basis": (1.0, None),
        "basis.weight": (None, 1 / 4),
    }
    for n, network in enumerate((g, d)):
        varied(network)
        network.initialise(random())
        weights = network.state_dict()
        for name, values in expected.items():
            std = values[n]
            assert (name in weights) == (std is not None), name
            if std is not None:
                tolerance = 5 / math.sqrt(2 * weights[name].numel())
                assert weights[name].std().item() == pytest.approx(std, rel=tolerance), name
        for name, value in weights.items():
            if name.endswith(("bias", "conv3.weight")):
                assert not value.any(), name


def test_initial_weights_depend_on_the_generator_alone() -> None:
    a = R3GANGenerator.model_validate(SMALL)
    states = []
    for seed in (1, 1, 2):
        network = a.build()
        network.initialise(random(seed))
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["basis"], states[2]["basis"])


# ---------------------------------------------------------------- sizes


def count(widths: tuple[int, ...], blocks: int = 2) -> int:
    """Blocks and changes of width, from the published shapes: 1x1 (c -> 2c), 3x3 in groups of 16,
    1x1 (2c -> c), two biases of 2c."""
    total = sum(blocks * (2 * c * c + 2 * c * 16 * 9 + 2 * c * c + 4 * c) for c in widths)
    return total + sum(i * o for i, o in pairwise(widths) if i != o)


# Around them, from the published shapes: basis 4x4, linear from z (and class embedding), 1x1 to the
# image; in the discriminator the same backwards, and 768 features where there are classes.
COUNTS = {
    "r3gan-cifar10": (
        count((768,) * 4) + 10 * 64 + 768 * 16 + 128 * 768 + 768 * 3,
        count((768,) * 4) + 10 * 768 + 768 * 16 + 768 * 768 + 768 * 3,
    ),
    "r3gan-ffhq64": (
        count((768,) * 4 + (384,)) + 768 * 16 + 64 * 768 + 384 * 3,
        count((768,) * 4 + (384,)) + 768 * 16 + 768 + 384 * 3,
    ),
    "r3gan-slim": (
        count((256,) * 4) + 10 * 64 + 256 * 16 + 128 * 256 + 256 * 3,
        count((256,) * 4) + 10 * 768 + 256 * 16 + 256 * 768 + 256 * 3,
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name: str) -> None:
    g, d = PRESETS[name]
    with torch.device("meta"):
        networks = [g.build(), d.build()]
        labels = torch.zeros(2, dtype=torch.int64) if g.classes else None
        images = networks[0](torch.zeros(2, g.z_dim), labels)
        assert images.shape == (2, 3, g.resolution, g.resolution)
        assert networks[1](images, labels).shape == (2,)
    assert tuple(sum(p.numel() for p in n.parameters()) for n in networks) == COUNTS[name]


def test_the_count_of_the_cifar10_pair() -> None:
    assert COUNTS["r3gan-cifar10"] == (20_781_952, 21_280_512)


# ---------------------------------------------------------------- in use


def test_round_trip(tmp_path: Path) -> None:
    a = R3GANGenerator.model_validate(SMALL)
    network = varied(a.build()).to(memory_format=torch.channels_last)  # pyright: ignore
    card = Card(title="x", architecture=a.model_dump(mode="json"), task="generate")
    checkpoint.save(tmp_path / "x.safetensors", card, network)
    model = checkpoint.load(tmp_path / "x.safetensors")
    assert model.architecture == a
    z, labels = torch.randn(2, 64, generator=random()), torch.tensor([0, 1])
    torch.testing.assert_close(model.network(z, labels), network(z, labels), rtol=1e-4, atol=1e-5)


def test_images_do_not_depend_on_their_batch() -> None:
    network = varied(R3GANGenerator.model_validate(SMALL).build())
    z, labels = torch.randn(3, 64, generator=random()), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        together = network(z, labels)
        for i in range(3):
            close(network(z[i : i + 1], labels[i : i + 1]), together[i : i + 1])


def test_bfloat16_and_memory_format() -> None:
    network = varied(R3GANGenerator.model_validate(SMALL).build())
    network.to(memory_format=torch.channels_last)  # pyright: ignore
    z, labels = torch.randn(2, 64, generator=random()), torch.tensor([0, 1])
    with torch.inference_mode():
        wanted = network(z, labels)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(z, labels)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.float() - wanted).abs().mean() < 0.02 * wanted.abs().mean()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("architecture", [R3GANGenerator, R3GANDiscriminator])
def test_labels_are_needed_where_there_are_classes(architecture: type) -> None:
    network = architecture.model_validate(SMALL).build()  # pyright: ignore
    given = torch.zeros(2, 64) if architecture is R3GANGenerator else torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match="needs class labels"):
        network(given)


@pytest.mark.parametrize("architecture", [R3GANGenerator, R3GANDiscriminator])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": 48}, "must be one of 8, 16, 32, 64, 128, 256, 512"),
        ({"resolution": 64}, "widths has 4 values, but at 64 px it needs 5: for 4, 8, 16, 32, 64"),
        ({"widths": (768, 768)}, "widths has 2 values, but at 32 px it needs 4"),
        ({"widths": (8, 8, 8, 8), "group": 3}, "group is 3, which does not divide the 16 channels"),
        ({"widths": (12, 8, 8, 8)}, "multiple of 8"),
        ({"attention": (8,)}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_built_is_refused(
    architecture: type, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        architecture.model_validate(fields)  # pyright: ignore
