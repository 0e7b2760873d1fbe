"""DCGAN: layers, numbers, initial weights and conditions, against plain re-computations."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes.networks.dcgan import RESOLUTIONS, DCGANDiscriminator, DCGANGenerator
from imagen_nodes.networks.layers import (
    DoublingConv2d,
    HalvingConv2d,
    MapToLogit,
    SelfAttention,
    VectorToMap,
)
from imagen_nodes.networks.minimal_filtering import suits


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


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_shapes_and_one_logit_an_image(resolution: int) -> None:
    generator = DCGANGenerator(resolution=resolution, width=8).build()
    discriminator = DCGANDiscriminator(resolution=resolution, width=8).build()
    images = generator(torch.randn(2, 100, generator=random()))
    assert images.shape == (2, 3, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


def test_resolutions() -> None:
    assert RESOLUTIONS == (8, 16, 32, 64, 128, 256)


def layers(network: nn.Module) -> list[str]:
    """Every leaf: kind and the numbers that matter."""
    lines: list[str] = []
    for module in network.modules():
        match module:
            case nn.Conv2d() | nn.ConvTranspose2d():
                bias = "" if module.bias is None else " bias"
                kind = "Conv2d" if isinstance(module, nn.Conv2d) else "ConvTranspose2d"
                lines.append(
                    f"{kind} {module.in_channels}-{module.out_channels} "
                    f"k{module.kernel_size[0]} s{module.stride[0]} p{module.padding[0]}{bias}"
                )
            case nn.BatchNorm2d():
                lines.append(f"BatchNorm2d {module.num_features}")
            case nn.LeakyReLU():
                lines.append(f"LeakyReLU {module.negative_slope}")
            case nn.ReLU() | nn.Tanh():
                lines.append(type(module).__name__)
            case _:
                pass
    return lines


def test_the_generator_at_32_px() -> None:
    network = DCGANGenerator().build()
    assert layers(network) == [
        "ConvTranspose2d 100-512 k4 s1 p0",
        "BatchNorm2d 512",
        "ReLU",
        "ConvTranspose2d 512-256 k4 s2 p1",
        "BatchNorm2d 256",
        "ReLU",
        "ConvTranspose2d 256-128 k4 s2 p1",
        "BatchNorm2d 128",
        "ReLU",
        "ConvTranspose2d 128-3 k4 s2 p1 bias",
        "Tanh",
    ]
    convolutions = 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 3) + 3
    norms = 2 * (512 + 256 + 128)
    assert sum(p.numel() for p in network.parameters()) == convolutions + norms == 3_448_579


def test_the_discriminator_at_32_px() -> None:
    network = DCGANDiscriminator().build()
    assert layers(network) == [
        "Conv2d 3-128 k4 s2 p1 bias",
        "LeakyReLU 0.2",
        "Conv2d 128-256 k4 s2 p1",
        "BatchNorm2d 256",
        "LeakyReLU 0.2",
        "Conv2d 256-512 k4 s2 p1",
        "BatchNorm2d 512",
        "LeakyReLU 0.2",
        "Conv2d 512-1 k4 s1 p0 bias",
    ]
    convolutions = 16 * (3 * 128 + 128 * 256 + 256 * 512 + 512) + 128 + 1
    norms = 2 * (256 + 512)
    assert sum(p.numel() for p in network.parameters()) == convolutions + norms


def test_width_is_capped() -> None:
    a = DCGANGenerator(resolution=256, width=128, width_max=1024)
    assert [a.width_at(side) for side in a.sides] == [1024, 1024, 1024, 512, 256, 128]


def test_meta_allocates_nothing() -> None:
    with torch.device("meta"):
        network = DCGANGenerator(resolution=256, width=512, width_max=2048).build()
    assert all(p.is_meta for p in network.parameters())


# ---------------------------------------------------------------- numbers


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return F.batch_norm(
        x,
        weights[f"{name}.running_mean"],
        weights[f"{name}.running_var"],
        weights[f"{name}.weight"],
        weights[f"{name}.bias"],
        training=False,
        eps=1e-5,
    )


def attention_by_loops(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """SAGAN's equations 1 and 2, one position at a time, in double precision."""
    w = {k: weights[f"{name}.{k}.weight"].double().numpy()[:, :, 0, 0] for k in
         ("query", "key", "value", "out")}  # fmt: skip
    b, c, h, side = x.shape
    flat = x.double().numpy().reshape(b, c, h * side)
    result = flat.copy()
    for i in range(b):
        for here in range(h * side):
            query = w["query"] @ flat[i, :, here]
            scores = np.array([query @ (w["key"] @ flat[i, :, j]) for j in range(h * side)])
            weight = np.exp(scores - scores.max())
            weight /= weight.sum()
            attended = sum(weight[j] * (w["value"] @ flat[i, :, j]) for j in range(h * side))
            result[i, :, here] += float(weights[f"{name}.gamma"]) * (w["out"] @ attended)
    return torch.from_numpy(result.reshape(b, c, h, side)).float()


def test_the_generator_computes_what_the_paper_says() -> None:
    network = varied(DCGANGenerator(resolution=16, width=8, attention=(4,), classes=3).build())
    w = dict(network.state_dict())
    z, labels = torch.randn(2, 100, generator=random()), torch.tensor([2, 0])
    x = torch.cat([z, w["embed.weight"][labels]], 1)[:, :, None, None]
    x = F.relu(norm(F.conv_transpose2d(x, w["main.0.weight"]), w, "main.1"))
    x = attention_by_loops(x, w, "main.3")
    x = F.conv_transpose2d(x, w["main.4.weight"], stride=2, padding=1)
    x = F.relu(norm(x, w, "main.5"))
    x = F.conv_transpose2d(x, w["main.7.weight"], w["main.7.bias"], stride=2, padding=1)
    torch.testing.assert_close(network(z, labels), torch.tanh(x), rtol=1e-4, atol=1e-5)


def test_the_discriminator_computes_what_the_paper_says() -> None:
    network = varied(DCGANDiscriminator(resolution=16, width=8, attention=(4,), classes=3).build())
    w = dict(network.state_dict())
    images, labels = torch.randn(2, 3, 16, 16, generator=random()), torch.tensor([1, 2])
    x = F.conv2d(images, w["main.0.weight"], w["main.0.bias"], stride=2, padding=1)
    x = F.leaky_relu(x, 0.2)
    x = F.conv2d(x, w["main.2.weight"], stride=2, padding=1)
    x = attention_by_loops(F.leaky_relu(norm(x, w, "main.3"), 0.2), w, "main.5")
    logits = F.conv2d(x, w["logit.weight"], w["logit.bias"])[:, 0, 0, 0]
    # Miyato & Koyama 2018, equation 4: the embedding times the features summed over positions.
    projection = torch.einsum("bchw,bc->b", x, w["embed.weight"][labels])
    torch.testing.assert_close(network(images, labels), logits + projection, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [2, 4, 6, 8, 12, 16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", [HalvingConv2d, DoublingConv2d])
def test_convolutions_are_torchs(layer: type, side: int, bias: bool) -> None:
    """Values and gradients, by minimal filtering or not."""
    module = layer(8, 10, bias=bias)
    x = torch.randn(3, 8, side, side, generator=random(), requires_grad=True)
    plain = F.conv2d if layer is HalvingConv2d else F.conv_transpose2d
    wanted = plain(x, module.weight, module.bias, stride=2, padding=1)
    weights = torch.randn(wanted.shape, generator=random(1))
    inputs = [x, *module.parameters()]
    expected = torch.autograd.grad((wanted * weights).sum(), inputs)
    found = module(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad((found * weights).sum(), inputs)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


def test_first_and_last_layer_are_torchs() -> None:
    first, last = VectorToMap(7, 5), MapToLogit(5)
    z = torch.randn(3, 7, generator=random())
    wanted = F.conv_transpose2d(z[:, :, None, None], first.weight)
    torch.testing.assert_close(first(z), wanted, rtol=1e-4, atol=1e-5)
    logits = F.conv2d(wanted, last.weight, last.bias).flatten()
    torch.testing.assert_close(last(wanted), logits, rtol=1e-4, atol=1e-5)


def test_attention_by_hand() -> None:
    block = varied(SelfAttention(16))
    x = torch.randn(2, 16, 3, 5, generator=random())
    weights = {f"a.{name}": value for name, value in block.state_dict().items()}
    torch.testing.assert_close(block(x), attention_by_loops(x, weights, "a"), rtol=1e-4, atol=1e-5)
    assert block.query.weight.shape == (2, 16, 1, 1)  # pyright: ignore


def test_attention_begins_as_the_identity() -> None:
    x = torch.randn(1, 16, 4, 4, generator=random())
    block = SelfAttention(16)
    assert torch.equal(block(x), x)
    block(x).sum().backward()
    assert block.gamma.grad is not None
    assert block.gamma.grad != 0


def test_batch_norms_of_the_class_compute_what_the_paper_says() -> None:
    a = DCGANGenerator(resolution=16, width=8, classes=3, conditioning="batch-norm")
    network = varied(a.build())
    w = dict(network.state_dict())
    z, labels = torch.randn(2, 100, generator=random()), torch.tensor([2, 0])

    def conditional_norm(x: Tensor, name: str) -> Tensor:
        mean, variance = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        gain, bias = w[f"{name}.embed.weight"][labels].chunk(2, 1)
        return x * gain[:, :, None, None] + bias[:, :, None, None]

    x = F.conv_transpose2d(z[:, :, None, None], w["main.0.weight"])
    x = F.relu(conditional_norm(x, "main.1"))
    x = F.conv_transpose2d(x, w["main.3.weight"], stride=2, padding=1)
    x = F.relu(conditional_norm(x, "main.4"))
    x = F.conv_transpose2d(x, w["main.6.weight"], w["main.6.bias"], stride=2, padding=1)
    torch.testing.assert_close(network(z, labels), torch.tanh(x), rtol=1e-4, atol=1e-5)
    # New weights are those of no class.
    network.initialise(random())
    gain, bias = network.state_dict()["main.1.embed.weight"].chunk(2, 1)
    assert gain.eq(1).all()
    assert not bias.any()


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_discriminators_without_batch_norm(norm: Literal["none", "spectral"]) -> None:
    """Plain convolutions with biases; with spectral norm, the weights over their largest singular
    values."""
    a = DCGANDiscriminator(resolution=16, width=8, classes=3, norm=norm)
    network = a.build()
    network.initialise(random())
    images, labels = torch.randn(2, 3, 16, 16, generator=random()), torch.tensor([1, 2])
    for _ in range(50 if norm == "spectral" else 0):  # power iterations
        network(images, labels)
    network.eval()
    w = dict(network.state_dict())

    def weight(name: str) -> Tensor:
        if norm == "none":
            return w[f"{name}.weight"]
        raw = w[f"{name}.parametrizations.weight.original"]
        return raw / torch.linalg.matrix_norm(raw.flatten(1), 2)

    x = F.conv2d(images, weight("main.0"), w["main.0.bias"], stride=2, padding=1)
    x = F.conv2d(F.leaky_relu(x, 0.2), weight("main.2"), w["main.2.bias"], stride=2, padding=1)
    x = F.leaky_relu(x, 0.2)
    logits = F.conv2d(x, weight("logit"), w["logit.bias"])[:, 0, 0, 0]
    logits += torch.einsum("bchw,bc->b", x, weight("embed")[labels])
    torch.testing.assert_close(network(images, labels), logits, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- initial weights


def test_initial_weights() -> None:
    a = DCGANGenerator(classes=200)
    network = a.build()
    network.initialise(random())
    for name, parameter in network.named_parameters():
        count = parameter.numel()
        mean, std = parameter.mean().item(), parameter.std().item()
        if name.endswith("bias"):
            assert not parameter.any(), name
            continue
        expected = (0.0, 1.0) if name == "embed.weight" else (float(parameter.ndim == 1), 0.02)
        # Five standard errors of mean and of standard deviation.
        assert abs(mean - expected[0]) < 5 * expected[1] / math.sqrt(count), name
        assert abs(std - expected[1]) < 5 * expected[1] / math.sqrt(2 * count), name


def test_discriminator_initial_weights() -> None:
    network = DCGANDiscriminator(classes=200).build()
    network.initialise(random())
    weights = network.state_dict()
    assert weights["main.2.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert weights["embed.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert not weights["main.0.bias"].any()
    assert not weights["logit.bias"].any()


def test_initial_weights_depend_on_the_generator_alone() -> None:
    a = DCGANGenerator(width=8)
    first, second, third = a.build(), a.build(), a.build()
    first.initialise(random(1))
    second.initialise(random(1))
    third.initialise(random(2))
    x = torch.randn(2, 100, generator=random())
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), third(x))


# ---------------------------------------------------------------- conditions and errors


def test_classes_change_the_result() -> None:
    generator = varied(DCGANGenerator(width=8, classes=3).build())
    discriminator = varied(DCGANDiscriminator(width=8, classes=3).build())
    z = torch.randn(1, 100, generator=random())
    zero, one = torch.tensor([0]), torch.tensor([1])
    images = generator(z, zero)
    assert not torch.equal(images, generator(z, one))
    assert not torch.equal(discriminator(images, zero), discriminator(images, one))


@pytest.mark.parametrize("architecture", [DCGANGenerator, DCGANDiscriminator])
def test_labels_are_needed_where_there_are_classes(architecture: type) -> None:
    network = architecture(width=8, classes=3).build()
    given = torch.zeros(2, 100) if architecture is DCGANGenerator else torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="needs class labels"):
        network(given)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": 48}, "must be one of 8, 16, 32, 64, 128, 256"),
        ({"resolution": 4}, "must be one of"),
        ({"resolution": 512}, "must be one of"),
        ({"attention": (32,)}, "feature maps at 4, 8, 16 px"),
        ({"width": 12}, "multiple of 8"),
        ({"channels": 5}, "less than or equal to 4"),
        ({"classes": -1}, "greater than or equal to 0"),
        ({"layers": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, object], message: str) -> None:
    for architecture in (DCGANGenerator, DCGANDiscriminator):
        with pytest.raises(ValidationError, match=message):
            architecture.model_validate(fields)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels: int) -> None:
    images = DCGANGenerator(width=8, channels=channels).build()(torch.zeros(2, 100))
    assert images.shape[1] == channels
    assert DCGANDiscriminator(width=8, channels=channels).build()(images).shape == (2,)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kind", "size", "plain"),
    [
        (HalvingConv2d, (8, 8), F.conv2d),
        (HalvingConv2d, (4, 16), F.conv2d),
        (DoublingConv2d, (4, 4), F.conv_transpose2d),
        (DoublingConv2d, (8, 2), F.conv_transpose2d),
    ],
)
def test_minimal_filtering_is_convolution(kind, size, plain, bias) -> None:
    """Values, gradients, and gradients of a gradient penalty."""
    layer = kind(16, 24, bias=bias)
    x = torch.randn(3, 16, *size, generator=random(), requires_grad=True)
    assert suits(x, layer.weight, 4 if kind is HalvingConv2d else 2, 16)
    plain = partial(plain, stride=2, padding=1)

    def derivatives(y: Tensor) -> list[Tensor]:
        inputs = [x, *layer.parameters()]
        once = torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        return [y, *once, *first, *torch.autograd.grad(first[0].square().sum(), inputs[:2])]

    F.leaky_relu_(layer(x), 0.2).sum().backward()  # what follows may work in place
    found, wanted = derivatives(layer(x)), derivatives(plain(x, layer.weight, layer.bias))
    with torch.inference_mode():
        found.append(layer(x))
        wanted.append(wanted[0])
    for ours, theirs in zip(found, wanted, strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("kind", [HalvingConv2d, DoublingConv2d])
def test_batches_of_nothing_and_other_default_types(kind) -> None:
    conv = kind(8, 8, bias=True)
    assert len(conv(torch.zeros(0, 8, 8, 8))) == 0
    wanted = conv(x := torch.rand(1, 8, 8, 8))
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(conv(x), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
