"""BigGAN and BigGAN-deep, against the paper's figures written out on the networks' tensors."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.checkpoint import Card
from imagen_nodes.networks import biggan, biggan_deep
from imagen_nodes.networks.biggan import BigGANDiscriminator, BigGANGenerator
from imagen_nodes.networks.biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator
from imagen_nodes.networks.normalisation import fold, raw_weight, standing_statistics

Weights = dict[str, Tensor]
PRESETS: dict[str, Any] = biggan.PRESETS | biggan_deep.PRESETS
GENERATORS = (BigGANGenerator, BigGANDeepGenerator)
DISCRIMINATORS = (BigGANDiscriminator, BigGANDeepDiscriminator)
SMALL = {"width": 8, "attention": (16,), "classes": 3}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(network: nn.Module) -> Any:
    """Every tensor random, so that none of them can be ignored unnoticed; variances positive."""
    generator = random(5)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            value = torch.randn(tensor.shape, generator=generator) * 0.1
            tensor.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return network.eval()


def tensors(network: nn.Module) -> Weights:
    return dict(network.named_parameters()) | dict(network.named_buffers())


# ---------------------------------------------------------------- the reference


def conv(x: Tensor, w: Weights, name: str) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def standard(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return (x - mean[:, None, None]) / (var[:, None, None] + eps).sqrt()


def norm(x: Tensor, w: Weights, name: str, condition: Tensor | None, eps: float) -> Tensor:
    """On a vector, on labels, or on nothing, as the tensors are."""
    if f"{name}.gain.weight" in w:
        assert condition is not None
        gain, bias = 1 + condition @ w[f"{name}.gain.weight"].t(), None
        bias = condition @ w[f"{name}.bias.weight"].t()
        x = standard(x, w, f"{name}.norm", eps)
    elif f"{name}.embed.weight" in w:
        gain, bias = w[f"{name}.embed.weight"][condition].chunk(2, 1)
        x = standard(x, w, f"{name}.norm", eps)
    else:
        gain, bias = w[f"{name}.weight"][None], w[f"{name}.bias"][None]
        x = standard(x, w, name, eps)
    return x * gain[:, :, None, None] + bias[:, :, None, None]


def attend(x: Tensor, w: Weights, name: str) -> Tensor:
    """Keys and values pooled: every position attends to every 2x2."""
    query, key, value = (conv(x, w, f"{name}.{part}") for part in ("query", "key", "value"))
    key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
    scores = torch.einsum("bchw,bcij->bhwij", query, key).flatten(3).softmax(3)
    attended = torch.einsum("bhwn,bcn->bchw", scores, value.flatten(2))
    return x + w[f"{name}.gamma"] * conv(attended, w, f"{name}.out")


def up(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def block_up(x: Tensor, w: Weights, name: str, condition: Tensor | None, eps: float) -> Tensor:
    """Figure 15a."""
    h = conv(up(norm(x, w, f"{name}.norm1", condition, eps).relu()), w, f"{name}.conv1")
    h = conv(norm(h, w, f"{name}.norm2", condition, eps).relu(), w, f"{name}.conv2")
    return h + conv(up(x), w, f"{name}.shortcut")


def block_down(x: Tensor, w: Weights, name: str, first: bool, halve: bool) -> Tensor:
    """Figure 15b."""
    h = conv(x if first else x.relu(), w, f"{name}.conv1")
    h = conv(h.relu(), w, f"{name}.conv2")
    if f"{name}.shortcut.weight" in w:
        x = conv(x, w, f"{name}.shortcut")
    return F.avg_pool2d(h + x, 2) if halve else h + x


def deep_block_up(x: Tensor, w: Weights, name: str, condition: Tensor, twice: bool) -> Tensor:
    """Figure 16a; eps as by default."""
    h = x
    for k in range(4):
        h = norm(h, w, f"{name}.norms.{k}", condition, 1e-5).relu()
        h = conv(up(h) if twice and k == 1 else h, w, f"{name}.convs.{k}")
    x = x[:, : h.shape[1]]
    return h + (up(x) if twice else x)


def deep_block_down(x: Tensor, w: Weights, name: str, halve: bool) -> Tensor:
    """Figure 16b."""
    h = x
    for k in range(4):
        h = h.relu()
        if halve and k == 3:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = conv(h, w, f"{name}.convs.{k}")
    if f"{name}.shortcut.weight" in w:
        x = torch.cat([x, conv(x, w, f"{name}.shortcut")], 1)
    return h + x


def rgb(x: Tensor, w: Weights, eps: float) -> Tensor:
    return torch.tanh(conv(norm(x, w, "norm", None, eps).relu(), w, "conv"))


def first_map(vector: Tensor, w: Weights) -> Tensor:
    rows = vector @ w["linear.weight"].t() + w["linear.bias"]
    return rows.reshape(len(vector), 4, 4, -1).permute(0, 3, 1, 2)


def generator_by_hand(a: BigGANGenerator, w: Weights, z: Tensor, labels: Tensor | None) -> Tensor:
    blocks = 3
    shared = w["embed.weight"][labels] if "embed.weight" in w else labels
    conditions: list[Tensor | None] = [shared] * blocks
    if a.hierarchical:
        z, *parts = z.reshape(len(z), blocks + 1, -1).unbind(1)
        conditions = [p if shared is None else torch.cat([p, shared], 1) for p in parts]
    x = first_map(z, w)
    for i, condition in enumerate(conditions):
        x = block_up(x, w, f"blocks.{i}", condition, a.norm_eps)
        if x.shape[2] in a.attention:
            x = attend(x, w, f"attention.{x.shape[2]}")
    return rgb(x, w, a.norm_eps)


def deep_generator_by_hand(
    a: BigGANDeepGenerator, w: Weights, z: Tensor, labels: Tensor | None
) -> Tensor:
    condition = z if labels is None else torch.cat([z, w["embed.weight"][labels]], 1)
    x = first_map(condition, w)
    for i in range(3 * a.depth):
        twice = i % a.depth == a.depth - 1
        x = deep_block_up(x, w, f"blocks.{i}", condition, twice)
        if twice and x.shape[2] in a.attention:
            x = attend(x, w, f"attention.{x.shape[2]}")
    return rgb(x, w, a.norm_eps)


def logits(x: Tensor, w: Weights, labels: Tensor) -> Tensor:
    features = x.relu().sum((2, 3))
    plain = features @ w["head.linear.weight"][0] + w["head.linear.bias"]
    return plain + (w["head.embed.weight"][labels] * features).sum(1)


def discriminator_by_hand(_: BigGANDiscriminator, w: Weights, x: Tensor, labels: Tensor) -> Tensor:
    """At 32 px: down, attention at 16 px, down, two that stay."""
    x = attend(block_down(x, w, "blocks.0", True, True), w, "attention.16")
    x = block_down(x, w, "blocks.1", False, True)
    x = block_down(x, w, "blocks.2", False, False)
    return logits(block_down(x, w, "blocks.3", False, False), w, labels)


def deep_discriminator_by_hand(
    a: BigGANDeepDiscriminator, w: Weights, x: Tensor, labels: Tensor
) -> Tensor:
    x = conv(x, w, "conv")
    for s in range(len(a.widths) - 1):
        halve = x.shape[2] > (8 if a.resolution == 32 else 4)
        for n in range(a.depth):
            x = deep_block_down(x, w, f"stages.{s}.{n}", halve and n == 0)
        if halve and x.shape[2] in a.attention:
            x = attend(x, w, f"attention.{x.shape[2]}")
    return logits(x, w, labels)


BY_HAND: dict[type, Any] = {
    BigGANGenerator: generator_by_hand,
    BigGANDeepGenerator: deep_generator_by_hand,
    BigGANDiscriminator: discriminator_by_hand,
    BigGANDeepDiscriminator: deep_discriminator_by_hand,
}


def close(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * scale)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        (BigGANGenerator, {}),
        (BigGANGenerator, {"classes": 0}),
        (BigGANGenerator, {"hierarchical": False, "norm_eps": 1e-2}),
        (BigGANGenerator, {"hierarchical": False, "classes": 0}),
        (BigGANGenerator, {"hierarchical": False, "class_dim": 0}),
        (BigGANDeepGenerator, {}),
        (BigGANDeepGenerator, {"classes": 0}),
        (BigGANDeepGenerator, {"depth": 3}),
    ],
)
def test_generators_compute_what_the_paper_says(architecture: Any, fields: dict[str, Any]) -> None:
    a = architecture.model_validate(
        SMALL | {"z_dim": 8, "class_dim": 6, "spectral_norm": False} | fields
    )
    network = varied(a.build())
    w = tensors(network)
    z = torch.randn(2, 8, generator=random(), requires_grad=True)
    labels = torch.tensor([2, 0]) if a.classes else None
    found, wanted = network(z, labels), BY_HAND[architecture](a, w, z, labels)
    close(found, wanted)
    inputs = [z, *network.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(wanted.square().sum(), inputs),
        strict=True,
    ):
        close(ours, theirs)


@pytest.mark.parametrize(
    ("architecture", "resolution"),
    [(BigGANDiscriminator, 32), (BigGANDeepDiscriminator, 32), (BigGANDeepDiscriminator, 64)],
)
def test_discriminators_compute_what_the_paper_says(architecture: Any, resolution: int) -> None:
    """Logits, their gradients, and those of a gradient penalty."""
    a = architecture.model_validate(SMALL | {"resolution": resolution, "spectral_norm": False})
    network = varied(a.build())
    w = tensors(network)
    images = torch.randn(2, 3, resolution, resolution, generator=random(), requires_grad=True)
    labels = torch.tensor([1, 2])
    some = [v for name, v in w.items() if name.endswith("weight") and v.ndim == 4 and len(v) > 8]

    def derivatives(y: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(y.sum(), [images, *w.values()], create_graph=True)
        return [y, *first, *torch.autograd.grad(first[0].square().sum(), some)]

    found = derivatives(network(images, labels))
    wanted = derivatives(BY_HAND[architecture](a, w, images, labels))
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours, theirs)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name: str) -> None:
    g, d = PRESETS[name]
    with torch.device("meta"):
        labels = torch.zeros(2, dtype=torch.int64)
        images = g.build()(torch.zeros(2, g.z_dim), labels)
        assert images.shape == (2, 3, g.resolution, g.resolution)
        assert d.build()(images, labels).shape == (2,)


# Millions of parameters, G and D. Brock et al. 2019, appendix B, give the two pairs at 128 px,
# StudioGAN's CIFAR-10 logs the third.
PUBLISHED = {
    "biggan-128": (70.4, 88.0),
    "biggan-deep-128": (50.4, 34.6),
    "biggan-cifar10-96": (9.4, 2.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        networks = [architecture.build() for architecture in PRESETS[name]]
    g, d = (sum(p.numel() for p in n.parameters()) for n in networks)
    # The published BigGAN-deep's last convolution gives 128 channels, of which three are used.
    g += 125 * (128 * 9 + 1) if "deep" in name else 0
    assert (round(g / 1e6, 1), round(d / 1e6, 1)) == PUBLISHED[name]


def test_channels_at_every_resolution() -> None:
    """Tables 4 to 9: a discriminator's last stage does not halve, but at BigGAN-deep's 128 px."""
    for sides, factors in (
        (BigGANGenerator(resolution=512, z_dim=160).sides, biggan.GENERATOR[512][1:]),
        (BigGANDiscriminator(resolution=256).sides, biggan.DISCRIMINATOR[256][:-1]),
        (BigGANDeepDiscriminator(resolution=256).sides, biggan.DISCRIMINATOR[256][1:]),
    ):
        assert len(sides) == len(factors)
    for table in (biggan.GENERATOR, biggan.DISCRIMINATOR):
        assert tuple(table) == biggan.RESOLUTIONS
    assert all(i >= o for row in biggan.GENERATOR.values() for i, o in pairwise(row))


# ---------------------------------------------------------------- initial weights


@pytest.mark.parametrize("architecture", [*GENERATORS, *DISCRIMINATORS])
def test_initial_weights_are_orthogonal(architecture: Any) -> None:
    network = varied(architecture.model_validate(SMALL).build())
    network.initialise(random())
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            matrix = raw_weight(module).detach().flatten(1)
            product = matrix @ matrix.t() if len(matrix) <= matrix.shape[1] else matrix.t() @ matrix
            torch.testing.assert_close(product, torch.eye(len(product)), atol=1e-5, rtol=0)
            if not isinstance(module, nn.Embedding) and isinstance(module.bias, Tensor):
                assert not module.bias.any(), name
    # Of an orthogonal matrix the spectral norm is 1.
    for name, module in network.eval().named_modules():
        if isinstance(module, nn.Conv2d):
            torch.testing.assert_close(module.weight, raw_weight(module), msg=name)


@pytest.mark.parametrize("architecture", GENERATORS)
def test_initial_weights_depend_on_the_generator_alone(architecture: Any) -> None:
    a = architecture.model_validate(SMALL)
    states: list[Weights] = []
    for seed in (1, 1, 2):
        network = a.build()
        network.initialise(random(seed))
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


# ---------------------------------------------------------------- in use


@pytest.mark.parametrize("architecture", GENERATORS)
def test_what_ships_holds_plain_weights(architecture: Any, tmp_path: Path) -> None:
    a = architecture.model_validate(SMALL)
    network = a.build()
    network.initialise(random())
    network.to(memory_format=torch.channels_last)
    z, labels = torch.randn(4, a.z_dim, generator=random(1)), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        network(z, labels)
    before = copy.deepcopy(network).eval()(z, labels)
    folded = fold(a, network)
    card = Card(title="x", architecture=folded.model_dump(mode="json"), task="generate")
    checkpoint.save(tmp_path / "x.safetensors", card, network)
    model = checkpoint.load(tmp_path / "x.safetensors")
    assert model.architecture == folded
    assert not [name for name in model.network.state_dict() if "parametrizations" in name]
    torch.testing.assert_close(model.network(z, labels), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", GENERATORS)
def test_images_do_not_depend_on_their_batch(architecture: Any) -> None:
    a = architecture.model_validate(SMALL)
    network = varied(a.build())
    z, labels = torch.randn(3, a.z_dim, generator=random()), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        together = network(z, labels)
        for i in range(3):
            close(network(z[i : i + 1], labels[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("architecture", GENERATORS)
def test_bfloat16_and_memory_format(architecture: Any) -> None:
    a = architecture.model_validate(SMALL)
    network = varied(a.build()).to(memory_format=torch.channels_last)
    z, labels = torch.randn(2, a.z_dim, generator=random()), torch.tensor([0, 1])
    with torch.inference_mode():
        wanted = network(z, labels)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(z, labels)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.float() - wanted).abs().mean() < 0.05


def test_standing_statistics_are_means_over_batches() -> None:
    """By hand, of the first norm, whose input the first layer gives; and for good."""
    a = BigGANDeepGenerator.model_validate(SMALL | {"spectral_norm": False})
    network = varied(a.build())
    batches = [
        (torch.randn(4, 128, generator=random(i)), torch.tensor([0, 1, 2, 0])) for i in (1, 2)
    ]
    w = tensors(network)
    maps = [first_map(torch.cat([z, w["embed.weight"][y]], 1), w) for z, y in batches]
    mean = sum(m.mean((0, 2, 3)) for m in maps) / 2
    var = sum(m.var((0, 2, 3)) for m in maps) / 2
    standing_statistics(network, batches)
    first = network.blocks[0].norms[0].norm
    torch.testing.assert_close(first.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.running_var, var, rtol=1e-4, atol=1e-5)
    assert first.momentum == 0.1
    assert not network.training


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("architecture", [*GENERATORS, *DISCRIMINATORS])
def test_labels_are_needed_where_there_are_classes(architecture: Any) -> None:
    a = architecture.model_validate(SMALL)
    given = torch.zeros(2, a.z_dim) if architecture in GENERATORS else torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="needs class labels"):
        a.build()(given)


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        (BigGANGenerator, {"resolution": 48}, "must be one of 32, 64, 128, 256, 512"),
        (BigGANDeepDiscriminator, {"resolution": 1024}, "must be one of 32, 64, 128, 256, 512"),
        (BigGANGenerator, {"attention": (4,)}, "blocks that end at 8, 16, 32 px"),
        (BigGANDiscriminator, {"attention": (32,)}, "blocks that end at 16, 8 px"),
        (BigGANGenerator, {"z_dim": 81}, "z_dim is 81, .* splits z into 4 equal parts"),
        (BigGANGenerator, {"classes": 3, "class_dim": 0}, "set hierarchical to false"),
        (BigGANDeepGenerator, {"class_dim": 0}, "greater than or equal to 1"),
        (BigGANDeepGenerator, {"hierarchical": True}, "Extra inputs are not permitted"),
        (BigGANDiscriminator, {"width": 12}, "multiple of 8"),
    ],
)
def test_what_cannot_be_built_is_refused(
    architecture: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        architecture.model_validate(fields)
