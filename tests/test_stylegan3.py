"""StyleGAN3: numbers against the formulas of the paper, image by image, with a kernel for each and
zeros between the pixels; filters against scipy's; sizes against the published ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import signal, special
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes.networks import lowpass
from imagen_nodes.networks.stylegan3 import (
    RESOLUTIONS,
    StyleGAN3Generator,
    StyleGAN3GeneratorNetwork,
)

SMALL: dict[str, Any] = {
    "resolution": 16, "width_base": 256, "width_max": 12, "z_dim": 6, "w_dim": 5, "depth": 5,
    "margin": 4,
}  # fmt: skip
TURNS: dict[str, Any] = {"kernel": 1, "radial": True}
T = {"resolution": 1024, "width_base": 32768, "width_max": 512}
R = {"resolution": 1024, "width_base": 65536, "width_max": 1024, **TURNS}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(network: nn.Module) -> StyleGAN3GeneratorNetwork:
    """Every tensor but the filters random, so that none of them can be ignored unnoticed."""
    assert isinstance(network, StyleGAN3GeneratorNetwork)
    generator = random(5)
    for name, tensor in network.state_dict().items():
        if "taps" not in name:
            value = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(value.abs() + 0.5 if "magnitude" in name else value)
    return network.eval()


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


def close(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-4 * scale)


# ---------------------------------------------------------------- the paper, plainly


def kaiser(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    found = signal.firwin(taps, cutoff, width=2 * half_width, fs=rate)
    return torch.tensor(found, dtype=torch.float32)


def jinc(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(*np.meshgrid(x, x)) * np.pi
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, 2 * half_width / (rate / 2)))
    window = np.kaiser(taps, beta)
    found = special.j1(2 * cutoff * r) / r * np.outer(window, window)
    return torch.tensor(found / found.sum(), dtype=torch.float32)


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel with a kernel ``[k k]``, where all of it is inside."""
    b, c, h, w = x.shape
    y = F.conv2d(x.reshape(b * c, 1, h, w), kernel.flip(0, 1)[None, None])
    return y.view(b, c, *y.shape[2:])


def rectified(
    x: Tensor, up: Tensor, down: Tensor, u: int, d: int, size: int, clamp: float
) -> Tensor:
    """Zeros between the pixels, margins such that centres stay in place, the doubling filter, the
    rectifier, the other filter, every d-th pixel."""
    b, c, h, _ = x.shape
    spread = x.new_zeros(b, c, h * u, h * u)
    spread[:, :, ::u, ::u] = x
    total = (size - 1) * d + 1 - h * u + len(up) + len(down) - 2
    low = (total + u) // 2
    x = F.pad(spread, (low, total - low, low, total - low))
    x = convolved(x, up[:, None] * up * u * u)
    x = torch.where(x < 0, 0.2 * x, x) * math.sqrt(2)
    x = x.clamp(-clamp, clamp) if clamp else x
    return convolved(x, down if down.ndim == 2 else down[:, None] * down)[:, :, ::d, ::d]


def modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, gain: Tensor) -> Tensor:
    images = []
    for image, s in zip(x, style, strict=True):
        kernel = weight * s[None, :, None, None]
        if demodulate:
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-12).sqrt()
        images.append(F.conv2d(image[None], kernel * gain, padding=weight.shape[2] - 1))
    return torch.cat(images)


def dense(x: Tensor, w: dict[str, Tensor], name: str, lr: float = 1.0) -> Tensor:
    weight = w[f"{name}.weight"] * lr / math.sqrt(x.shape[1])
    return x @ weight.t() + w[f"{name}.bias"] * lr


def features(a: StyleGAN3Generator, w: dict[str, Tensor], v: Tensor) -> Tensor:
    """Image by image, with matrices of homogeneous places."""
    first, images = a.signals[0], []
    grid = (torch.arange(first.size) + 0.5 - first.size / 2) / first.rate
    places = torch.stack([grid[None].expand(first.size, -1), grid[:, None].expand(-1, first.size)])
    places = torch.cat([places, torch.ones(1, first.size, first.size)])  # x, y, 1
    for c, s, right, down in dense(v, w, "synthesis.input.transform"):
        length = torch.hypot(c, s)
        c, s, right, down = c / length, s / length, right / length, down / length
        o, i = torch.zeros(()), torch.ones(())
        turn = torch.stack(
            [torch.stack([c, -s, o]), torch.stack([s, c, o]), torch.stack([o, o, i])]
        )
        shift = torch.stack(
            [torch.stack([i, o, -right]), torch.stack([o, i, -down]), torch.stack([o, o, i])]
        )
        moved = torch.einsum("ij,jhw->ihw", turn @ shift, places)[:2]
        waves = torch.einsum("ci,ihw->chw", w["synthesis.input.frequencies"], moved)
        waves = (2 * math.pi * (waves + w["synthesis.input.phases"][:, None, None])).sin()
        weight = w["synthesis.input.weight"] / math.sqrt(len(waves))
        images.append(torch.einsum("oc,chw->ohw", weight, waves))
    return torch.stack(images)


def by_hand(
    a: StyleGAN3Generator, w: dict[str, Tensor], z: Tensor, labels: Any, psi: float = 1.0
) -> Tensor:
    def unit(x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    v = unit(z)
    if a.classes:
        v = torch.cat([v, unit(dense(torch.eye(a.classes)[labels], w, "mapping.embed"))], 1)
    for i in range(a.mapping_layers):
        v = dense(v, w, f"mapping.layers.{i}", a.mapping_lr)
        v = torch.where(v < 0, 0.2 * v, v) * math.sqrt(2)
    v = w["w_avg"] + psi * (v - w["w_avg"])
    x = features(a, w, v)
    given = a.signals[0]
    for i, wanted in enumerate(a.signals):
        name = f"synthesis.layers.{i}"
        last = i == a.depth
        style = dense(v, w, f"{name}.style")
        style = style / math.sqrt(x.shape[1]) if last else style
        gain = 1 / w[f"{name}.magnitude"].sqrt()
        x = modulated(x, w[f"{name}.weight"], style, not last, gain)
        x = x + w[f"{name}.bias"][:, None, None]
        if not last:
            rate = 2 * max(given.rate, wanted.rate)
            u, d = rate // given.rate, rate // wanted.rate
            up = kaiser(6 * u, given.cutoff, given.half_width, rate)
            design = jinc if a.radial and i < a.depth - a.critical else kaiser
            down = design(6 * d, wanted.cutoff, wanted.half_width, rate)
            x = rectified(x, up, down, u, d, wanted.size, a.clamp)
        elif a.clamp:
            x = x.clamp(-a.clamp, a.clamp)
        given = wanted
    return x / 4


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "fields",
    [
        {},
        TURNS,
        {"classes": 3, "channels": 1, "critical": 1},
        {"clamp": 0.3},
        {"clamp": 0.0, "margin": 0, "depth": 4},  # rates that rise by more than 2 at once
        {"resolution": 32, "first_cutoff": 1.0, "first_stopband": 3.0, "last_stopband": 1.5},
    ],
)
def test_it_computes_what_the_paper_says(fields: dict[str, Any]) -> None:
    """Images and the gradients of everything."""
    a = StyleGAN3Generator.model_validate(SMALL | fields)
    network = varied(a.build())
    w = tensors(network)
    z = torch.randn(2, 6, generator=random(), requires_grad=True)
    labels = torch.tensor([2, 0]) if a.classes else None
    found, wanted = network(z, labels), by_hand(a, w, z, labels)
    assert found.shape == (2, a.channels, *a.size)
    close(found, wanted)
    inputs = [z, *network.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found.square().mean(), inputs),
        torch.autograd.grad(wanted.square().mean(), inputs),
        strict=True,
    ):
        close(ours, theirs)


def test_signals_are_those_of_nvidias_networks() -> None:
    """Sizes and channels of configuration T, 1024 px, and R, 128 px, as their code prints them."""
    t = [(s.size, s.channels) for s in StyleGAN3Generator.model_validate(T).signals]
    assert t[:5] == [(36, 512), (36, 512), (52, 512), (52, 512), (84, 512)]
    assert t[-5:] == [(1044, 81), (1044, 51), (1044, 32), (1024, 32), (1024, 3)]
    r = StyleGAN3Generator.model_validate(R | {"resolution": 128}).signals
    assert [(s.size, s.channels) for s in r[8:]] == [
        (84, 1024), (148, 1024), (148, 912), (148, 683), (148, 512), (128, 512), (128, 3)
    ]  # fmt: skip


def test_parameters_are_the_published_ones() -> None:
    """As NVIDIA's code prints them; buffers but for a constant transform of 9 values."""

    def counts(fields: dict[str, Any]) -> tuple[int, int]:
        with torch.device("meta"):
            network = StyleGAN3Generator.model_validate(fields).build()
        return sum(p.numel() for p in network.parameters()), sum(
            b.numel() for b in network.buffers()
        )

    assert counts(T)[0] == 22_313_167
    assert counts(R) == (15_093_151, 5600 - 9)


def test_resampling_leaves_a_wave_in_its_place() -> None:
    """A wave below the cutoff comes out as the filter's response has it, with next to no alias of
    it; a faster one is stopped."""
    taps = lowpass.separable(12, 8, 8, 64)

    def wave(rate: int, *frequencies: int, passed: float = 1.0) -> Tensor:
        places = (torch.arange(rate) + 0.5) / rate * 2 * math.pi
        x = torch.stack([(f * places + f).cos() for f in frequencies]).sum(0)
        return passed * x[None, None, None].expand(-1, -1, rate, -1)

    def near(found: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(
            found[..., 8:-8, 8:-8], wanted[..., 8:-8, 8:-8], atol=0.01, rtol=0
        )

    offsets = torch.arange(12) - 5.5
    passed = float((taps * (2 * math.pi * 3 * offsets / 64).cos()).sum())
    assert 0.9 < passed < 1
    near(lowpass.upsample(wave(32, 3), taps * 2, 2, 5), wave(64, 3, passed=passed))
    padded = F.pad(wave(64, 3, 24), (5, 5, 5, 5))
    near(lowpass.downsample(padded, taps, 2), wave(32, 3, passed=passed))
    around = lowpass.radial(12, 8, 8, 64)
    passed = float((around.sum(0) * (2 * math.pi * 3 * offsets / 64).cos()).sum())
    near(lowpass.downsample(padded, around, 2), wave(32, 3, passed=passed))


def test_what_is_drawn_moves_and_turns() -> None:
    """As the Fourier features are: R."""
    a = StyleGAN3Generator.model_validate(
        SMALL | TURNS | {"resolution": 32, "depth": 8, "margin": 10, "width_base": 512}
    )
    network = a.build().eval()
    assert isinstance(network, StyleGAN3GeneratorNetwork)
    network.initialise(random())
    bias = network.synthesis.input.transform.bias
    v = torch.randn(1, 1, 5, generator=random()).expand(-1, a.layers, -1)

    def drawn(*transform: float) -> Tensor:
        bias.copy_(torch.tensor(transform))
        return network.synthesis(v)

    with torch.no_grad():
        still = drawn(1, 0, 0, 0)
        moved = drawn(1, 0, 3 / 32, 0)
        turned = drawn(0, 1, 0, 0)
    size = still.square().mean()
    assert (moved[..., 3:] - still[..., :-3]).square().mean() < 1e-5 * size
    assert min((turned - still.rot90(k, (2, 3))).square().mean() for k in (1, 3)) < 1e-6 * size


def test_magnitudes_follow_in_training_only() -> None:
    network = StyleGAN3Generator.model_validate(SMALL).build()
    assert isinstance(network, StyleGAN3GeneratorNetwork)
    network.initialise(random())
    layer = network.synthesis.layers[0]
    z = torch.randn(4, 6, generator=random())
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network(z)
    share = 1 - 0.5 ** (4 / 20_000)
    wanted = 1 + share * (seen[0].square().mean() - 1)
    torch.testing.assert_close(layer.magnitude, wanted.detach())
    network.eval()(z)
    torch.testing.assert_close(layer.magnitude, wanted.detach())


def test_truncation() -> None:
    a = StyleGAN3Generator.model_validate(SMALL)
    network = varied(a.build())
    z = torch.randn(2, 6, generator=random())
    whole = network.w_plus(z, psi=0.5)
    assert whole.shape == (2, a.layers, 5) == (2, 7, 5)
    close(network.synthesis(whole), by_hand(a, tensors(network), z, None, psi=0.5))
    part = network.w_plus(z, psi=0.5, cutoff=3)
    torch.testing.assert_close(part[:, :3], whole[:, :3])
    torch.testing.assert_close(part[:, 3:], network.mapping(z)[:, None].expand(-1, 4, -1))


@pytest.mark.parametrize("fields", [{}, TURNS])
def test_bfloat16_is_close(fields: dict[str, Any]) -> None:
    a = StyleGAN3Generator.model_validate(SMALL | fields | {"depth": 14, "width_max": 32})
    network = a.build().eval()
    network.initialise(random())
    network.to(memory_format=torch.channels_last)  # pyright: ignore
    z = torch.randn(2, 6, generator=random())
    with torch.inference_mode():
        wanted = network(z)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(z)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_images_do_not_depend_on_their_batch() -> None:
    network = varied(StyleGAN3Generator.model_validate(SMALL).build())
    z = torch.randn(3, 6, generator=random())
    with torch.inference_mode():
        together = network(z)
        for i in range(3):
            close(network(z[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("fields", [{}, TURNS])
def test_every_resolution_builds(resolution: int, fields: dict[str, Any]) -> None:
    g = StyleGAN3Generator.model_validate({"resolution": resolution} | fields)
    with torch.device("meta"):
        images = g.build()(torch.zeros(2, 512))
    assert images.shape == (2, 3, resolution, resolution)


def test_initial_weights() -> None:
    a = StyleGAN3Generator.model_validate(SMALL | {"width_max": 64, "width_base": 4096})
    network, other = a.build(), a.build()
    network.initialise(random())
    other.initialise(random())
    w = tensors(network)
    assert all(torch.equal(value, tensors(other)[name]) for name, value in w.items())
    frequencies = w["synthesis.input.frequencies"]
    lengths = frequencies.norm(dim=1) / 2
    assert lengths.max() <= 1
    assert float(lengths.square().mean()) == pytest.approx(0.5, abs=0.1)  # evenly over the disc
    assert w["synthesis.input.phases"].abs().max() <= 0.5
    assert w["synthesis.input.transform.bias"].tolist() == [1, 0, 0, 0]
    network.eval()
    with torch.no_grad():
        images = network(torch.randn(8, 6, generator=random(1)))
    assert 0.05 < float(images.std()) < 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"depth": 4, "critical": 4}, "critical is 4, of 4 layers in all"),
        ({"first_stopband": 2.0}, "first_stopband is 2, expected more than first_cutoff, 2"),
        ({"kernel": 5}, "must be one of 1, 3"),
        ({"resolution": 48}, "must be one of 16, 32"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        StyleGAN3Generator.model_validate(fields)
