"""SNGAN and SAGAN, against the papers' equations written out on the networks' tensors."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.checkpoint import Card
from imagen_nodes.networks.layers import SelfAttention
from imagen_nodes.networks.normalisation import fold, raw_weight
from imagen_nodes.networks.residual import doubled_conv, halved_conv
from imagen_nodes.networks.sngan import PRESETS, SNGANDiscriminator, SNGANGenerator

Weights = dict[str, Tensor]


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(network: nn.Module) -> nn.Module:
    """Every tensor random, so that none of them can be ignored unnoticed; variances positive."""
    generator = random(5)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            value = torch.randn(tensor.shape, generator=generator) * 0.2
            tensor.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return network.eval()


def tensors(network: nn.Module) -> Weights:
    """Parameters, which gradients are asked of, and buffers."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


# ---------------------------------------------------------------- the reference


def conv(x: Tensor, w: Weights, name: str) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def norm(x: Tensor, w: Weights, name: str, labels: Tensor | None) -> Tensor:
    inner = name if labels is None else f"{name}.norm"
    mean, var = w[f"{inner}.running_mean"], w[f"{inner}.running_var"]
    x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
    if labels is None:
        return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]
    rows = w[f"{name}.embed.weight"][labels]
    half = rows.shape[1] // 2
    return x * rows[:, :half, None, None] + rows[:, half:, None, None]


def attend(x: Tensor, w: Weights, name: str) -> Tensor:
    """The authors' attention: keys and values pooled, one image and one position at a time."""
    images: list[Tensor] = []
    for image in x:
        query = torch.einsum("chw,oc->ohw", image, w[f"{name}.query.weight"][:, :, 0, 0])
        key = torch.einsum("chw,oc->ohw", image, w[f"{name}.key.weight"][:, :, 0, 0])
        value = torch.einsum("chw,oc->ohw", image, w[f"{name}.value.weight"][:, :, 0, 0])
        # The largest of each 2x2.
        key, value = (
            torch.stack([m[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0).flatten(1)
            for m in (key, value)
        )
        columns = [
            value @ torch.softmax(key.t() @ query[:, i, j], 0)
            for i in range(x.shape[2])
            for j in range(x.shape[3])
        ]
        attended = torch.stack(columns, 1).reshape(-1, *x.shape[2:])
        out = torch.einsum("chw,oc->ohw", attended, w[f"{name}.out.weight"][:, :, 0, 0])
        images.append(image + w[f"{name}.gamma"] * out)
    return torch.stack(images)


def up(x: Tensor, mode: str) -> Tensor:
    if mode == "nearest":
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def generator_block(x: Tensor, w: Weights, name: str, labels: Tensor | None, mode: str) -> Tensor:
    """Miyato et al. 2018, figure 8b: everything after the doubling, as in the paper."""
    h = torch.relu(norm(x, w, f"{name}.norm1", labels))
    h = conv(up(h, mode), w, f"{name}.conv1")
    h = torch.relu(norm(h, w, f"{name}.norm2", labels))
    return conv(h, w, f"{name}.conv2") + conv(up(x, mode), w, f"{name}.shortcut")


def discriminator_block(x: Tensor, w: Weights, name: str, first: bool, halve: bool) -> Tensor:
    """Figure 8a: averages after the convolutions."""
    h = conv(x if first else torch.relu(x), w, f"{name}.conv1")
    h = conv(torch.relu(h), w, f"{name}.conv2")
    if f"{name}.shortcut.weight" in w:
        x = conv(x, w, f"{name}.shortcut")
    return F.avg_pool2d(h + x, 2) if halve else h + x


def generator_by_hand(a: SNGANGenerator, w: Weights, z: Tensor, labels: Tensor | None) -> Tensor:
    rows = z @ w["linear.weight"].t() + w["linear.bias"]
    x = rows.reshape(len(z), 4, 4, -1).permute(0, 3, 1, 2)
    for i in range(int(math.log2(a.resolution)) - 2):
        x = generator_block(x, w, f"blocks.{i}", labels, a.upsampling)
        if x.shape[2] in a.attention:
            x = attend(x, w, f"attention.{x.shape[2]}")
    return torch.tanh(conv(torch.relu(norm(x, w, "norm", None)), w, "conv"))


def discriminator_by_hand(a: SNGANDiscriminator, w: Weights, x: Tensor, labels: Tensor) -> Tensor:
    i = 0
    while x.shape[2] > a.last:
        x = discriminator_block(x, w, f"blocks.{i}", i == 0, True)
        if x.shape[2] in a.attention:
            x = attend(x, w, f"attention.{x.shape[2]}")
        i += 1
    for j in range(i, i + a.depth):
        x = discriminator_block(x, w, f"blocks.{j}", False, False)
    features = torch.relu(x).sum((2, 3))
    logits = features @ w["linear.weight"][0] + w["linear.bias"]
    return logits + torch.einsum("bc,bc->b", features, w["embed.weight"][labels])


def close(found: Tensor, wanted: Tensor) -> None:
    """Up to rounding, which grows with the largest value."""
    scale = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * scale)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_generator_computes_what_the_papers_say(classes: int, mode: str) -> None:
    a = SNGANGenerator.model_validate(
        {"width": 8, "width_max": 16, "classes": classes, "attention": (8,), "upsampling": mode}
    )
    network = varied(a.build())
    w = tensors(network)
    z = torch.randn(2, 128, generator=random(), requires_grad=True)
    labels = torch.tensor([2, 0]) if classes else None
    found, wanted = network(z, labels), generator_by_hand(a, w, z, labels)
    close(found, wanted)
    inputs = [z, *network.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(wanted.square().sum(), inputs),
        strict=True,
    ):
        close(ours, theirs)


@pytest.mark.parametrize(("resolution", "last", "depth"), [(32, 8, 2), (64, 4, 1)])
def test_the_discriminator_computes_what_the_papers_say(
    resolution: int, last: int, depth: int
) -> None:
    """Logits, their gradients, and those of the gradient penalty R1."""
    a = SNGANDiscriminator(
        resolution=resolution,
        width=8,
        width_max=16,
        last=last,
        depth=depth,
        classes=3,
        attention=(8,),
        spectral_norm=False,
    )
    network = varied(a.build())
    w = tensors(network)
    images = torch.randn(2, 3, resolution, resolution, generator=random(), requires_grad=True)
    labels = torch.tensor([1, 2])

    def derivatives(logits: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(logits.sum(), [images, *w.values()], create_graph=True)
        # Where attention weighs maxima, a second derivative asks much of float32.
        penalised = [w["blocks.0.conv1.weight"], w["blocks.1.conv2.weight"]]
        return [logits, *first, *torch.autograd.grad(first[0].square().sum(), penalised)]

    found = derivatives(network(images, labels))
    for ours, theirs in zip(
        found, derivatives(discriminator_by_hand(a, w, images, labels)), strict=True
    ):
        close(ours, theirs)


@pytest.mark.parametrize("side", [2, 8, 16, 17, 32])
def test_convolution_and_resampling_in_one(side: int) -> None:
    """Values, gradients and a gradient penalty's, whether they are one step or two."""
    layer = nn.Conv2d(5, 6, 3, padding=1)
    even = side - side % 2
    for x, ours, theirs in (
        (torch.randn(2, 5, side, side), doubled_conv, lambda c, x: c(up(x, "nearest"))),
        (torch.randn(2, 5, even, even), halved_conv, lambda c, x: F.avg_pool2d(c(x), 2)),
    ):
        x.requires_grad_()
        results: list[list[Tensor]] = []
        for function in (ours, theirs):
            y = function(layer, x)
            first = torch.autograd.grad(
                y.square().sum(), [x, layer.weight, layer.bias], create_graph=True
            )
            second = torch.autograd.grad(first[0].square().sum(), [x, layer.weight])
            results.append([y, *first, *second])
        for one, two in zip(*results, strict=True):
            close(one, two)


# ---------------------------------------------------------------- sizes


def convolution(inputs: int, outputs: int, side: int = 3) -> int:
    return inputs * outputs * side * side + outputs


def generator_count(widths: list[int], z: int = 128, attention: int = 0) -> int:
    """Widths from 4 px up."""
    total = z * 16 * widths[0] + 16 * widths[0]
    for i, o in pairwise(widths):
        total += 2 * i + 2 * o  # norms
        total += convolution(i, o) + convolution(o, o) + convolution(i, o, 1)
    total += 2 * widths[-1] + convolution(widths[-1], 3)
    return total + attention_count(attention)


def attention_count(c: int) -> int:
    return (2 * c * c // 8 + 2 * c * c // 2 + 1) if c else 0


def discriminator_count(widths: list[int], halvings: int, attention: int = 0) -> int:
    total, inputs = widths[-1] + 1, 3
    for n, o in enumerate(widths):
        hidden = o if n == 0 else inputs
        total += convolution(inputs, hidden) + convolution(hidden, o)
        if n < halvings or inputs != o:
            total += convolution(inputs, o, 1)
        inputs = o
    return total + attention_count(attention)


# From the shapes in Miyato et al. 2018, tables 4 and 6; those at 32 px, and only those, are also
# what StudioGAN's logs state for SNGAN: G 4.3 M, D 1.1 M.
COUNTS = {
    "sngan-32": (
        generator_count([256] * 4),
        discriminator_count([128] * 4, 2),
    ),
    "sngan-64": (
        generator_count([1024, 512, 256, 128, 64]),
        discriminator_count([64, 128, 256, 512, 1024], 5),
    ),
    "sngan-128": (
        generator_count([1024, 1024, 512, 256, 128, 64]),
        discriminator_count([64, 128, 256, 512, 1024, 1024], 5),
    ),
    "sagan-32": (
        generator_count([256] * 4, attention=256),
        discriminator_count([128] * 4, 2, attention=128),
    ),
    "sagan-128": (
        generator_count([1024, 1024, 512, 256, 128, 64], attention=256),
        discriminator_count([64, 128, 256, 512, 1024, 1024], 5, attention=128),
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_the_presets(name: str) -> None:
    with torch.device("meta"):
        networks = [architecture.build() for architecture in PRESETS[name]]
        x = networks[0](torch.zeros(2, 128))
        assert x.shape == (2, 3, PRESETS[name].generator.resolution, x.shape[2])
        assert networks[1](x).shape == (2,)
    assert tuple(sum(p.numel() for p in n.parameters()) for n in networks) == COUNTS[name]


def test_published_counts() -> None:
    assert [round(n / 1e6, 1) for n in COUNTS["sngan-32"]] == [4.3, 1.1]
    assert COUNTS["sngan-32"] == (4_276_739, 1_053_825)


# ---------------------------------------------------------------- initial weights


def test_initial_weights() -> None:
    g = SNGANGenerator(width=64, width_max=64, classes=3, attention=(16,), spectral_norm=True)
    d = SNGANDiscriminator(width=64, width_max=64, classes=3, attention=(16,))
    for network in (g.build(), d.build()):
        varied(network)
        network.initialise(random())
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = raw_weight(module).detach()
                area = weight[0, 0].numel()
                gain = math.sqrt(2) if "conv" in name and "blocks" in name else 1
                bound = gain * math.sqrt(6 / (area * sum(weight.shape[:2])))
                assert weight.abs().max() <= bound * 1.000001, name
                assert weight.numel() < 1000 or weight.abs().max() > 0.98 * bound, name
                assert module.bias is None or not module.bias.any(), name
            if isinstance(module, nn.BatchNorm2d):
                assert not module.running_mean.any()  # pyright: ignore
                assert (module.running_var == 1).all()  # pyright: ignore
            if isinstance(module, SelfAttention):
                assert module.gamma == 0
    weights = network.state_dict()
    assert "embed.parametrizations.weight.original" in weights


def test_initial_weights_depend_on_the_generator_alone() -> None:
    a = SNGANGenerator(width=8, width_max=8, classes=3, spectral_norm=True)
    networks = [a.build() for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        network.initialise(random(seed))
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


# ---------------------------------------------------------------- in use


def test_what_ships_holds_plain_weights(tmp_path: Path) -> None:
    a = SNGANGenerator(width=8, width_max=8, classes=3, attention=(8,), spectral_norm=True)
    network = a.build()
    network.initialise(random())
    network.to(memory_format=torch.channels_last)
    z, labels = torch.randn(4, 128, generator=random(1)), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        network(z, labels)
    before = copy.deepcopy(network).eval()(z, labels)
    folded = fold(a, network)
    card = Card(title="x", architecture=folded.model_dump(mode="json"), task="generate")
    checkpoint.save(tmp_path / "x.safetensors", card, network)
    model = checkpoint.load(tmp_path / "x.safetensors")
    names = model.network.state_dict()
    assert not [name for name in names if "parametrizations" in name]
    assert "blocks.0.conv1.weight" in names
    torch.testing.assert_close(model.network(z, labels), before, rtol=1e-4, atol=1e-5)


def test_images_do_not_depend_on_their_batch() -> None:
    network = varied(SNGANGenerator(width=8, width_max=8, classes=3, attention=(8,)).build())
    z, labels = torch.randn(3, 128, generator=random()), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        together = network(z, labels)
        for i in range(3):
            alone = network(z[i : i + 1], labels[i : i + 1])
            torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-5)


def test_bfloat16_and_memory_format() -> None:
    network = varied(SNGANGenerator(width=8, width_max=8, classes=3, attention=(16,)).build())
    network.to(memory_format=torch.channels_last)  # pyright: ignore
    z, labels = torch.randn(2, 128, generator=random()), torch.tensor([0, 1])
    with torch.inference_mode():
        wanted = network(z, labels)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(z, labels)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.float() - wanted).abs().mean() < 0.05


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("architecture", [SNGANGenerator, SNGANDiscriminator])
def test_labels_are_needed_where_there_are_classes(architecture: type) -> None:
    network = architecture(width=8, width_max=8, classes=3).build()
    given = torch.zeros(2, 128) if architecture is SNGANGenerator else torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="needs class labels"):
        network(given)


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        (SNGANGenerator, {"resolution": 48}, "must be one of 32, 64, 128, 256"),
        (SNGANGenerator, {"attention": (4,)}, "blocks that end at 8, 16, 32 px"),
        (SNGANDiscriminator, {"attention": (32,)}, "blocks that end at 8, 16 px"),
        (SNGANDiscriminator, {"last": 16}, "last must be one of 2, 4, 8"),
        (SNGANDiscriminator, {"width": 12}, "multiple of 8"),
        (SNGANGenerator, {"upsampling": "cubic"}, "'nearest' or 'bilinear'"),
        (SNGANGenerator, {"depth": 2}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_built_is_refused(
    architecture: type, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        architecture.model_validate(fields)
