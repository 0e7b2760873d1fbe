"""StyleGAN3 files: NVIDIA's PyTorch pickles."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal, special
from torch import Tensor
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main

from .importing import (
    EasyDict,
    Holder,
    close,
    imported,
    normalised,
    persistent,
    random,
    varied,
)

SMALL_3 = {"num_layers": 5, "channel_base": 200, "channel_max": 12, "margin_size": 4}


def stylegan3_layers(radial: bool) -> list[dict[str, Any]]:
    """16 px: number, channels, size, rate, cutoff and half of the transition band of each."""
    layers = []
    for i in range(6):
        share = min(i / 3, 1)
        cutoff, stopband = 2 * 4**share, 2**2.1 * (8 * 2**0.3 / 2**2.1) ** share
        rate = int(2 ** math.ceil(math.log2(min(2 * stopband, 16))))
        channels = 3 if i == 5 else min(round(100 / cutoff), 12)
        size = 16 if i > 3 else rate + 8
        half_width = max(stopband, rate / 2) - cutoff
        layers.append({
            "name": f"synthesis.L{i}_{size}_{channels}", "channels": channels, "size": size,
            "rate": rate, "cutoff": cutoff, "half_width": half_width,
            "radial": radial and i < 3,
        })  # fmt: skip
    return layers


def stylegan3_filter(layer: dict[str, Any], factor: int, radial: bool, rate: int) -> Tensor:
    taps, cutoff, width = 6 * factor, layer["cutoff"], 2 * layer["half_width"]
    if not radial:
        return torch.tensor(signal.firwin(taps, cutoff, width=width, fs=rate)).float()
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(*np.meshgrid(x, x))
    f = special.j1(2 * cutoff * (np.pi * r)) / (np.pi * r)
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2)))
    f *= np.outer(np.kaiser(taps, beta), np.kaiser(taps, beta))
    return torch.tensor(f / f.sum()).float()


def stylegan3_shapes(radial: bool, classes: int) -> Holder:
    layers = stylegan3_layers(radial)
    first, kernel = layers[0]["channels"], 1 if radial else 3
    shapes: dict[str, tuple[int, ...]] = {
        "synthesis.input.weight": (first, first), "synthesis.input.affine.weight": (4, 10),
        "synthesis.input.affine.bias": (4,),
    }  # fmt: skip
    buffers = {
        "mapping.w_avg": torch.zeros(10), "synthesis.input.transform": torch.eye(3),
        "synthesis.input.freqs": torch.zeros(first, 2),
        "synthesis.input.phases": torch.zeros(first),
    }  # fmt: skip
    for i, inputs in enumerate((8 + 10 * bool(classes), 10)):
        shapes |= {f"mapping.fc{i}.weight": (10, inputs), f"mapping.fc{i}.bias": (10,)}
    if classes:
        shapes |= {"mapping.embed.weight": (10, classes), "mapping.embed.bias": (10,)}
    given = layers[0]
    for layer in layers:
        name, inputs, last = layer["name"], given["channels"], layer is layers[-1]
        k = 1 if last else kernel
        shapes |= {
            f"{name}.weight": (layer["channels"], inputs, k, k),
            f"{name}.bias": (layer["channels"],),
            f"{name}.affine.weight": (inputs, 10), f"{name}.affine.bias": (inputs,),
        }  # fmt: skip
        buffers[f"{name}.magnitude_ema"] = torch.ones(())
        if not last:
            rate = 2 * max(given["rate"], layer["rate"])
            up, down = rate // given["rate"], rate // layer["rate"]
            buffers[f"{name}.up_filter"] = stylegan3_filter(given, up, False, rate)
            buffers[f"{name}.down_filter"] = stylegan3_filter(layer, down, layer["radial"], rate)
        given = layer
    return Holder(shapes, buffers)


def upfirdn(x: Tensor, f: Tensor, up: int, down: int, pad: tuple[int, int], gain: float) -> Tensor:
    b, c, h, w = x.shape
    y = x.new_zeros(b, c, h, up, w, up)
    y[:, :, :, 0, :, 0] = x
    y = F.pad(y.view(b, c, h * up, w * up), (pad[0], pad[1], pad[0], pad[1]))
    f = f if f.ndim == 2 else f[:, None] * f
    return F.conv2d(y, (f * gain).flip(0, 1).expand(c, 1, -1, -1), groups=c)[..., ::down, ::down]


def stylegan3(w: dict[str, Tensor], radial: bool, z: Tensor, labels: Any, clamp: float) -> Tensor:
    """The generator of the stylegan3 repository."""

    def dense(x: Tensor, name: str, lr: float = 1.0) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.linear(x, weight * lr / math.sqrt(weight.shape[1]), w[f"{name}.bias"] * lr)

    v = normalised(z)
    if labels is not None:
        one_hot = F.one_hot(labels, 3).float()
        v = torch.cat([v, normalised(dense(one_hot, "mapping.embed"))], 1)
    for i in range(2):
        v = F.leaky_relu(dense(v, f"mapping.fc{i}", 0.01), 0.2) * math.sqrt(2)
    layers = stylegan3_layers(radial)
    given, b = layers[0], len(z)
    t = dense(v, "synthesis.input.affine")
    t = t / t[:, :2].norm(dim=1, keepdim=True)
    turn, shift = torch.eye(3).repeat(b, 1, 1), torch.eye(3).repeat(b, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = t[:, 0], -t[:, 1], t[:, 1], t[:, 0]
    shift[:, 0, 2], shift[:, 1, 2] = -t[:, 2], -t[:, 3]
    matrix = turn @ shift
    freqs = w["synthesis.input.freqs"][None]
    phases = w["synthesis.input.phases"] + (freqs @ matrix[:, :2, 2:])[..., 0]
    freqs = freqs @ matrix[:, :2, :2]
    theta = torch.eye(2, 3)[None] * (0.5 * given["size"] / given["rate"])
    grid = F.affine_grid(theta, [1, 1, given["size"], given["size"]], align_corners=False)
    x = torch.einsum("hwi,bci->bhwc", grid[0], freqs) + phases[:, None, None]
    weight = w["synthesis.input.weight"]
    x = (x * 2 * math.pi).sin() @ weight.t() / math.sqrt(len(weight))
    x = x.permute(0, 3, 1, 2)
    for layer in layers:
        name, last = layer["name"], layer is layers[-1]
        style, weight = dense(v, f"{name}.affine"), w[f"{name}.weight"]
        if last:
            style = style / math.sqrt(x.shape[1])
        else:
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
            style = style * style.square().mean().rsqrt()
        kernels = weight[None] * style[:, None, :, None, None]
        if not last:
            kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        kernels = kernels * w[f"{name}.magnitude_ema"].rsqrt()
        padding = weight.shape[2] - 1
        y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=padding, groups=b)
        x = y.view(b, -1, *y.shape[2:]) + w[f"{name}.bias"][:, None, None]
        if last:
            return x.clamp(-clamp, clamp) * 0.25
        up_filter, down_filter = w[f"{name}.up_filter"], w[f"{name}.down_filter"]
        rate = 2 * max(given["rate"], layer["rate"])
        up, down = rate // given["rate"], rate // layer["rate"]
        total = (layer["size"] - 1) * down + 1 - (given["size"] + padding) * up
        total += len(up_filter) + len(down_filter) - 2
        low = (total + up) // 2
        x = upfirdn(x, up_filter, up, 1, (low, total - low), up**2)
        x = (F.leaky_relu(x, 0.2) * math.sqrt(2)).clamp(-clamp, clamp)
        x = upfirdn(x, down_filter, 1, down, (0, 0), 1.0)
        given = layer
    raise AssertionError


@pytest.mark.usefixtures("persistence")
@pytest.mark.parametrize(("radial", "classes", "clamp"), [(False, 0, 256), (True, 3, 0.9)])
def test_stylegan3(place: Path, radial: bool, classes: int, clamp: float) -> None:
    network = varied(stylegan3_shapes(radial, classes), 0.7)
    for name, tensor in network.state_dict().items():
        if name.endswith("magnitude_ema"):
            tensor.abs_().add_(0.5)
        elif name.endswith("input.transform"):
            tensor.copy_(torch.eye(3))
    kwargs = {**SMALL_3, "img_resolution": 16, "mapping_kwargs": EasyDict(num_layers=2)}
    kwargs |= {"conv_clamp": clamp} if clamp != 256 else {}
    Path("theirs.pkl").write_bytes(pickle.dumps({"G_ema": persistent(network, **kwargs)}))
    ours = imported(file="theirs.pkl")
    z = torch.randn(2, 8, generator=random())
    labels = torch.tensor([2, 0]) if classes else None
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close(ours(z, labels), stylegan3(w, radial, z, labels, clamp))
    assert torch.equal(ours.w_avg, network.mapping.w_avg)
    assert "StyleGAN3 of NVIDIA's PyTorch code, G_ema" in (
        checkpoint.inspect(Path("ours.safetensors")).card.description
    )


@pytest.mark.usefixtures("persistence")
def test_a_stylegan3_of_another_kind(place: Path, capsys: Any) -> None:
    network = varied(stylegan3_shapes(False, 0), 0.7)
    network.synthesis.input.transform[0, 2] = 0.5
    for kwargs, text in (
        (SMALL_3 | {"lrelu_upsampling": 4}, "lrelu_upsampling is 4, not 2"),
        (SMALL_3 | {"margin_size": 6}, "layers whose sizes follow another rule"),
        (SMALL_3, "a transform of its own at the input"),
    ):
        Path("theirs.pkl").write_bytes(pickle.dumps({"G_ema": persistent(network, **kwargs)}))
        assert main(["import", "theirs.pkl", "-o", "ours.safetensors"]) == 1
        assert f"StyleGAN3 of NVIDIA's PyTorch code: {text}" in capsys.readouterr().err
