"""StyleGAN2: numbers against the formulas of the paper, image by image, with a kernel for each;
sizes against the published ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes.networks.stylegan2 import (
    RESOLUTIONS,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleGAN2GeneratorNetwork,
)
from imagen_nodes.training.randomness import Numbers
from imagen_nodes.training.recipe import Recipe

Weights = dict[str, Tensor]
SMALL: dict[str, Any] = {
    "resolution": 16, "width_base": 1024, "width_max": 12, "mapping_layers": 2
}  # fmt: skip
STYLES: dict[str, Any] = {**SMALL, "z_dim": 6, "w_dim": 5}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(network: nn.Module) -> nn.Module:
    """Every tensor random, so that none of them can be ignored unnoticed."""
    generator = random(5)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return network.eval()


def tensors(network: nn.Module) -> Weights:
    return dict(network.named_parameters()) | dict(network.named_buffers())


# ---------------------------------------------------------------- the paper, plainly


def dense(x: Tensor, w: Weights, name: str, lr: float = 1.0) -> Tensor:
    weight = w[f"{name}.weight"] * lr / math.sqrt(x.shape[1])
    return x @ weight.t() + w[f"{name}.bias"] * lr


def rectified(x: Tensor, gain: float = 1.0, clamp: float = 0.0) -> Tensor:
    x = torch.where(x < 0, 0.2 * x, x) * math.sqrt(2) * gain
    return x.clamp(-clamp * gain, clamp * gain) if clamp else x


def normalised(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def mapping_by_hand(w: Weights, name: str, a: Any, z: Tensor | None, labels: Any) -> Tensor:
    parts = [] if z is None else [normalised(z)]
    if a.classes:
        one_hot = torch.eye(a.classes)[labels]
        parts.append(normalised(dense(one_hot, w, f"{name}.embed")))
    x = torch.cat(parts, 1)
    for i in range(a.mapping_layers):
        x = rectified(dense(x, w, f"{name}.layers.{i}", a.mapping_lr))
    return x


def with_zeros(x: Tensor) -> Tensor:
    """``[... h w] -> [... 2h-1 2w-1]``: a zero between every two pixels."""
    h, w = x.shape[-2:]
    found = x.new_zeros(*x.shape[:-2], 2 * h - 1, 2 * w - 1)
    found[..., ::2, ::2] = x
    return found


def filtered(x: Tensor, before: int, after: int, gain: float = 1.0) -> Tensor:
    """Zeros around it, then the binomial filter, by its four taps in each direction."""
    x = F.pad(x, (before, after, before, after))
    h, w = x.shape[-2] - 3, x.shape[-1] - 3
    taps = [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    total = torch.zeros(())
    for i, a in enumerate(taps):
        for j, b in enumerate(taps):
            total = total + x[..., i : i + h, j : j + w] * (a * b * gain)
    return total


def doubled(x: Tensor) -> Tensor:
    return filtered(with_zeros(x), 2, 2, 4.0)


def halved(x: Tensor) -> Tensor:
    return filtered(x, 1, 1)[..., ::2, ::2]


def modulated(x: Tensor, weight: Tensor, style: Tensor, up: bool, demodulate: bool) -> Tensor:
    """Equations 1 to 3, with a kernel for each image."""
    images = []
    for image, s in zip(x, style, strict=True):
        kernel = weight * s[None, :, None, None]
        if demodulate:
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:  # a transposed convolution, as zeros and a turned kernel
            y = F.conv2d(with_zeros(image[None]), kernel.flip(2, 3), padding=2)
            images.append(filtered(y, 1, 1, 4.0))
        else:
            images.append(F.conv2d(image[None], kernel, padding=kernel.shape[2] // 2))
    return torch.cat(images)


def styled(
    x: Tensor, v: Tensor, w: Weights, name: str, up: bool, noise: Any, gain: float, clamp: float
) -> Tensor:
    style = dense(v, w, f"{name}.style")
    x = modulated(x, w[f"{name}.weight"], style, up, True)
    x = x + noise(name, x) * w[f"{name}.noise_strength"] + w[f"{name}.bias"][:, None, None]
    return rectified(x, gain, clamp)


def generator_by_hand(
    a: StyleGAN2Generator, w: Weights, z: Tensor, labels: Any, noise: Any, psi: float = 1.0
) -> Tensor:
    v = mapping_by_hand(w, "mapping", a, z, labels)
    v = w["w_avg"] + psi * (v - w["w_avg"])
    x = w["synthesis.constant"][None].repeat(len(z), 1, 1, 1)
    image: Any = 0
    for side in a.sides:
        name = f"synthesis.blocks.{side}"
        gain = math.sqrt(0.5) if a.paths == "residual" and side > 4 else 1.0
        past = None
        if gain != 1:
            skip = w[f"{name}.skip.weight"] / math.sqrt(x.shape[1])
            past = F.conv2d(doubled(x), skip) * gain
        if side > 4:
            x = styled(x, v, w, f"{name}.conv0", True, noise, 1.0, a.clamp)
        x = styled(x, v, w, f"{name}.conv1", False, noise, gain, a.clamp)
        x = x if past is None else x + past
        if f"{name}.to_image.weight" in w:
            style = dense(v, w, f"{name}.to_image.style") / math.sqrt(x.shape[1])
            own = modulated(x, w[f"{name}.to_image.weight"], style, False, False)
            own = own + w[f"{name}.to_image.bias"][:, None, None]
            own = own.clamp(-a.clamp, a.clamp) if a.clamp else own
            image = own + (doubled(image) if isinstance(image, Tensor) else 0)
    return image


def conv(x: Tensor, w: Weights, name: str, gain: float = 1.0, clamp: float = 0.0) -> Tensor:
    weight = w[f"{name}.weight"]
    x = F.conv2d(x, weight / math.sqrt(weight[0].numel()), padding=weight.shape[2] // 2)
    return rectified(x + w[f"{name}.bias"][:, None, None], gain, clamp)


def discriminator_by_hand(a: StyleGAN2Discriminator, w: Weights, image: Tensor, labels: Any):
    x: Any = None
    for side in reversed(a.sides):
        if x is None or a.paths == "skip":
            own = conv(image, w, f"from_image.{side}", clamp=a.clamp)
            x = own if x is None else x + own
            image = halved(image)
        name = f"blocks.{side}"
        if side == 4:
            break
        gain = math.sqrt(0.5) if a.paths == "residual" else 1.0
        past: Any = 0
        if a.paths == "residual":
            past = F.conv2d(halved(x), w[f"{name}.skip.weight"] / math.sqrt(x.shape[1])) * gain
        x = conv(x, w, f"{name}.conv0", clamp=a.clamp)
        weight = w[f"{name}.conv1.weight"]
        x = F.conv2d(filtered(x, 2, 2), weight / math.sqrt(weight[0].numel()), stride=2)
        x = rectified(x + w[f"{name}.conv1.bias"][:, None, None], gain, a.clamp) + past
    if a.group > 1:
        deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()
        x = torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], 1)
    x = conv(x, w, "blocks.4.conv", clamp=a.clamp).flatten(1)
    x = dense(rectified(dense(x, w, "blocks.4.dense")), w, "blocks.4.out")
    if not a.classes:
        return x[:, 0]
    return (x * mapping_by_hand(w, "mapping", a, None, labels)).sum(1) / math.sqrt(x.shape[1])


def close(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * scale)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"classes": 3},
        {"paths": "residual"},
        {"paths": "plain"},
        {"smallest": (4, 3), "channels": 4},
        {"clamp": 0.7, "paths": "residual"},
    ],
)
def test_the_generator_computes_what_the_paper_says(fields: dict[str, Any]) -> None:
    a = StyleGAN2Generator.model_validate(STYLES | fields)
    network = varied(a.build())
    w = tensors(network)
    z = torch.randn(2, 6, generator=random(), requires_grad=True)
    labels = torch.tensor([2, 0]) if a.classes else None
    found = network(z, labels)
    wanted = generator_by_hand(a, w, z, labels, lambda name, x: w[f"{name}.noise"])
    assert found.shape == (2, a.channels, *a.size)
    close(found, wanted)
    inputs = [z, *network.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found.square().mean(), inputs),
        torch.autograd.grad(wanted.square().mean(), inputs),
        strict=True,
    ):
        close(ours, theirs)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"classes": 3},
        {"paths": "skip"},
        {"paths": "plain", "group": 1},
        {"smallest": (2, 4), "clamp": 0.9},
    ],
)
def test_the_discriminator_computes_what_the_paper_says(fields: dict[str, Any]) -> None:
    """Logits, their gradients, and those of a gradient penalty."""
    a = StyleGAN2Discriminator.model_validate(SMALL | fields)
    network = varied(a.build())
    w = tensors(network)
    images = torch.randn(3, 3, *a.size, generator=random(), requires_grad=True)
    labels = torch.tensor([2, 0, 1]) if a.classes else None
    some = [value for name, value in w.items() if name.endswith("weight") and "blocks" in name]

    def derivatives(y: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(y.square().sum(), [images, *some], create_graph=True)
        return [y, *first, *torch.autograd.grad(first[0].square().sum(), some)]

    found = derivatives(network(images, labels))
    wanted = derivatives(discriminator_by_hand(a, w, images, labels))
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours, theirs)


def test_truncation_and_its_cutoff() -> None:
    a = StyleGAN2Generator.model_validate(STYLES)
    network = varied(a.build())
    assert isinstance(network, StyleGAN2GeneratorNetwork)
    w, z = tensors(network), torch.randn(2, 6, generator=random())
    plain = network.mapping(z)
    expected = w["w_avg"] + 0.5 * (plain - w["w_avg"])
    whole = network.w_plus(z, psi=0.5)
    assert whole.shape == (2, a.layers, 5) == (2, 6, 5)
    torch.testing.assert_close(whole, expected[:, None].expand(-1, 6, -1))
    part = network.w_plus(z, psi=0.5, cutoff=2)
    torch.testing.assert_close(part[:, :2], whole[:, :2])
    torch.testing.assert_close(part[:, 2:], plain[:, None].expand(-1, 4, -1))
    by_hand = generator_by_hand(a, w, z, None, lambda name, x: w[f"{name}.noise"], psi=0.5)
    close(network.synthesis(whole), by_hand)


def test_noise() -> None:
    a = StyleGAN2Generator.model_validate(STYLES)
    network = varied(a.build())
    assert isinstance(network, StyleGAN2GeneratorNetwork)
    w, v = tensors(network), torch.randn(2, 1, 5, generator=random()).expand(-1, a.layers, -1)
    none = network.synthesis(v, "none")
    again = network.synthesis(v, "random", Numbers(random(3)))
    assert torch.equal(again, network.synthesis(v, "random", Numbers(random(3))))
    assert not torch.equal(again, network.synthesis(v, "random", Numbers(random(4))))
    assert not torch.equal(none, network.synthesis(v, "constant"))
    # By hand, the same values.
    numbers, maps = Numbers(random(3)), {}
    for side in a.sides:
        for name in ("conv0", "conv1") if side > 4 else ("conv1",):
            maps[f"synthesis.blocks.{side}.{name}"] = numbers.normal(2, 1, side, side)
    z = torch.randn(2, 6, generator=random(1))
    found = network.synthesis(network.w_plus(z), "random", Numbers(random(3)))
    close(found, generator_by_hand(a, w, z, None, lambda name, x: maps[name]))


def test_the_average_of_w_follows_in_training_only() -> None:
    network = StyleGAN2Generator.model_validate(STYLES).build()
    assert isinstance(network, StyleGAN2GeneratorNetwork)
    network.initialise(random())
    z = torch.randn(4, 6, generator=random())
    network.w_plus(z)
    mean = network.mapping(z).mean(0)
    torch.testing.assert_close(network.w_avg, mean * 0.005)
    network.eval().w_plus(z)
    torch.testing.assert_close(network.w_avg, mean * 0.005)


def test_bfloat16_is_close() -> None:
    network = StyleGAN2Generator.model_validate(STYLES).build().eval()
    network.initialise(random())
    network.to(memory_format=torch.channels_last)
    z = torch.randn(2, 6, generator=random())
    with torch.inference_mode():
        wanted = network(z)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(z)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize(("resolution", "first", "second"), [(64, 32, 16), (256, 64, 64)])
def test_layers_of_small_maps_are_in_float32(resolution: int, first: int, second: int) -> None:
    """Up to the block of so many px: its first and its second layer."""
    with torch.device("meta"):
        network = StyleGAN2Generator(resolution=resolution).build()
    for side, block in network.synthesis.blocks.items():
        if block.conv0 is not None:
            assert block.conv0.float32 == (int(side) <= first)
        assert block.conv1.float32 == (int(side) <= second)


def test_images_do_not_depend_on_their_batch() -> None:
    network = varied(StyleGAN2Generator.model_validate(STYLES).build())
    z = torch.randn(3, 6, generator=random())
    with torch.inference_mode():
        together = network(z)
        for i in range(3):
            close(network(z[i : i + 1]), together[i : i + 1])


# ---------------------------------------------------------------- sizes and initial weights


def test_parameters_are_the_published_ones() -> None:
    """Configuration F at 1024 px, as NVIDIA's code prints them; CIFAR-10's generator as StudioGAN
    does: 20.2 million."""
    f = {"resolution": 1024, "width_base": 32768, "width_max": 512}
    cifar = {"resolution": 32, "width_base": 32768, "width_max": 512, "mapping_layers": 2}

    def count(architecture: Any) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in architecture.build().parameters())

    assert count(StyleGAN2Generator.model_validate(f)) == 30_370_060
    assert count(StyleGAN2Discriminator.model_validate(f)) == 29_012_513
    small = count(StyleGAN2Generator.model_validate(cifar | {"classes": 10}))
    assert round(small / 1e6, 1) == 20.2


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution_builds(resolution: int) -> None:
    fields = {"resolution": resolution, "smallest": (3, 4)}
    g, d = StyleGAN2Generator.model_validate(fields), StyleGAN2Discriminator.model_validate(fields)
    with torch.device("meta"):
        images = g.build()(torch.zeros(2, 512))
        assert images.shape == (2, 3, resolution * 3 // 4, resolution)
        assert d.build()(images).shape == (2,)
    assert g.layers == 2 * int(math.log2(resolution)) - 2


def test_initial_weights() -> None:
    network = StyleGAN2Generator.model_validate(STYLES | {"width_max": 64, "z_dim": 512}).build()
    assert isinstance(network, StyleGAN2GeneratorNetwork)
    network.initialise(random())
    w = tensors(network)
    assert float(w["synthesis.blocks.16.conv1.weight"].detach().std()) == pytest.approx(1, rel=0.02)
    assert float(w["mapping.layers.0.weight"].detach().std()) == pytest.approx(100, rel=0.05)
    assert w["synthesis.blocks.16.conv1.style.bias"].eq(1).all()
    assert w["synthesis.blocks.16.conv1.noise_strength"] == 0
    other = StyleGAN2Generator.model_validate(STYLES | {"width_max": 64, "z_dim": 512}).build()
    other.initialise(random())
    assert all(torch.equal(value, tensors(other)[name]) for name, value in w.items())


# ---------------------------------------------------------------- in a training, and errors


def game(**fields: Any) -> Recipe:
    of_both = {"width_base": 1024, "width_max": 8, "resolution": 16, "mapping_layers": 2}
    networks = {
        name: {"kind": f"stylegan2-{name}", **of_both} for name in ("generator", "discriminator")
    }
    task = networks | {"style_mixing": 0.9, "regularisers": [{"kind": "path-length"}]} | fields
    return Recipe.model_validate({"name": "small", "task": task, "batch": 8, "kimg": 0.016})


def test_styles_are_mixed_from_a_layer_on() -> None:
    task: Any = game().task
    network = task.generator.build().eval()
    network.initialise(random())
    z = torch.randn(200, 512, generator=random())
    _, w = task._drawn(network, z, None, Numbers(random(1)))
    assert w is not None
    own = network.mapping(z)
    same = (w - own[:, None]).abs().amax(2) < 1e-6  # [200 layers]
    first = same.sum(1)
    assert torch.equal(same, torch.arange(6) < first[:, None])
    assert first.min() == 1
    assert 0.03 < float((first == 6).float().mean()) < 0.2
    other = network.mapping(Numbers(random(1)).normal(200, 512))
    close(w[first == 2][:, 2:], other[first == 2][:, None].expand(-1, 4, -1))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"smallest": (3, 3)}, "its longer side is 4 px"),
        ({"resolution": 48}, "must be one of 16, 32"),
        ({"paths": "dense"}, "Input should be 'skip', 'residual' or 'plain'"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        StyleGAN2Generator.model_validate(fields)


def test_what_does_not_fit_together() -> None:
    with pytest.raises(ValidationError, match="a dcgan-generator has no styles"):
        Recipe.model_validate({"name": "x", "task": {"style_mixing": 0.9}})
    of_generator = {"kind": "stylegan2-generator", "resolution": 16, "smallest": [4, 2]}
    with pytest.raises(
        ValidationError, match=r"generator.smallest is \(4, 2\), discriminator.small"
    ):
        game(generator=of_generator)


def test_an_image_of_another_size() -> None:
    network = StyleGAN2Discriminator.model_validate(SMALL | {"smallest": (4, 2)}).build()
    with pytest.raises(ValueError, match="images of 16x16 px, expected 8x16 px"):
        network(torch.zeros(2, 3, 16, 16))
