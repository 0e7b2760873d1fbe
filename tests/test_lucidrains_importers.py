"""lucidrains' stylegan2_pytorch and lightweight-gan."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft
from torch import Tensor
from torch.nn import functional as F

from imagen_nodes.__main__ import main

from .importing import (
    Holder,
    close,
    imported,
    modulated,
    random,
    varied,
)


def softened(x: Tensor) -> Tensor:
    """The blur [1 2 1], row by row and column by column, of a mirrored border."""
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


def channel_normed(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    variance = x.var(1, unbiased=False, keepdim=True)
    return (x - x.mean(1, keepdim=True)) / (variance + 1e-5).sqrt() * w[f"{name}.g"] + w[
        f"{name}.b"
    ]


def linearly_attended(
    x: Tensor, w: dict[str, Tensor], name: str, q_name: str, kv_name: str
) -> Tensor:
    """Head by head, ``[b 512 h w]``."""
    query = F.conv2d(x, w[f"{name}.{q_name}.weight"])
    around = F.conv2d(x, w[f"{name}.{kv_name}.net.0.weight"], padding=1, groups=x.shape[1])
    key, value = F.conv2d(around, w[f"{name}.{kv_name}.net.1.weight"]).chunk(2, 1)
    heads = []
    for q, k, v in zip(*(t.flatten(2).split(64, 1) for t in (query, key, value)), strict=True):
        context = torch.einsum("bdn,ben->bde", k.softmax(2), v)
        heads.append(torch.einsum("bdn,bde->ben", q.softmax(1) / 8, context))
    return torch.cat(heads, 1).unflatten(2, x.shape[2:])


def attention_shapes(name: str, c: int, near: bool) -> dict[str, tuple[int, ...]]:
    """In lightweight-gan, with ``near``, the linear part has other names."""
    q, kv = ("to_lin_q", "to_lin_kv") if near else ("to_q", "to_kv")
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.{q}.weight": (512, c, 1, 1), f"{name}.{kv}.net.0.weight": (c, 1, 3, 3),
        f"{name}.{kv}.net.1.weight": (1024, c, 1, 1),
        f"{name}.to_out.weight": (c, 1024 if near else 512, 1, 1), f"{name}.to_out.bias": (c,),
    }  # fmt: skip
    if near:
        shapes |= {f"{name}.to_q.weight": (512, c, 1, 1), f"{name}.to_kv.weight": (1024, c, 1, 1)}
    return shapes


def lucid_shapes(constant: bool, attends: bool) -> Holder:
    """16 px: capacity 4, so 24, 16 and 8 channels."""
    shapes: dict[str, tuple[int, ...]] = {"G.initial_conv.weight": (1,)}
    buffers: dict[str, Tensor] = {}
    for i in (0, 2):
        shapes |= {f"SE.net.{i}.weight": (10, 10), f"SE.net.{i}.bias": (10,)}
    first = (
        {"initial_block": (1, 24, 4, 4)}
        if constant
        else {"to_initial_block.weight": (10, 24, 4, 4)}
    )
    shapes |= {f"GE.{name}": shape for name, shape in first.items()}
    shapes |= {"GE.initial_conv.weight": (24, 24, 3, 3), "GE.initial_conv.bias": (24,)}
    for i, (a, b) in enumerate(((24, 24), (24, 16), (16, 8))):
        block = f"GE.blocks.{i}"
        for k, inputs in ((1, a), (2, b)):
            shapes |= {
                f"{block}.to_style{k}.weight": (inputs, 10), f"{block}.to_style{k}.bias": (inputs,),
                f"{block}.to_noise{k}.weight": (b, 1), f"{block}.to_noise{k}.bias": (b,),
                f"{block}.conv{k}.weight": (b, inputs, 3, 3),
            }  # fmt: skip
        shapes |= {
            f"{block}.to_rgb.to_style.weight": (b, 10), f"{block}.to_rgb.to_style.bias": (b,),
            f"{block}.to_rgb.conv.weight": (3, b, 1, 1),
        }  # fmt: skip
        if i < 2:
            buffers[f"{block}.to_rgb.upsample.1.f"] = torch.tensor([1.0, 2.0, 1.0])
    if attends:
        for k in (0, 1):
            shapes |= {f"GE.attns.1.{k}.fn.norm.{part}": (1, 24, 1, 1) for part in "gb"}
        shapes |= attention_shapes("GE.attns.1.0.fn.fn", 24, False)
        for k, (a, b) in ((0, (24, 48)), (2, (48, 24))):
            name = f"GE.attns.1.1.fn.fn.{k}"
            shapes |= {f"{name}.weight": (b, a, 1, 1), f"{name}.bias": (b,)}
    return Holder(shapes, buffers)


def lucid(w: dict[str, Tensor], z: Tensor, noise: Tensor, lr: float) -> Tensor:
    def layer(x: Tensor, name: str) -> Tensor:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    v = F.normalize(z, dim=1)
    for i in (0, 2):
        v = F.leaky_relu(F.linear(v, w[f"SE.net.{i}.weight"] * lr, w[f"SE.net.{i}.bias"] * lr), 0.2)
    if "GE.initial_block" in w:
        x = w["GE.initial_block"].expand(len(z), -1, -1, -1)
    else:
        x = F.conv_transpose2d(v[:, :, None, None], w["GE.to_initial_block.weight"])
    x, image = layer(x, "GE.initial_conv"), None
    for i in range(3):
        block = f"GE.blocks.{i}"
        if f"GE.attns.{i}.0.fn.norm.g" in w:
            name = f"GE.attns.{i}"
            seen = channel_normed(x, w, f"{name}.0.fn.norm")
            found = linearly_attended(seen, w, f"{name}.0.fn.fn", "to_q", "to_kv")
            x = x + layer(F.gelu(found), f"{name}.0.fn.fn.to_out")
            h = layer(channel_normed(x, w, f"{name}.1.fn.norm"), f"{name}.1.fn.fn.0")
            x = x + layer(F.leaky_relu(h, 0.2), f"{name}.1.fn.fn.2")
        x = up(x) if i else x
        n = noise[: x.shape[2], : x.shape[3], None]
        for k in (1, 2):
            style = layer(v, f"{block}.to_style{k}") + 1
            x = modulated(x, w[f"{block}.conv{k}.weight"], style, False, True)
            x = F.leaky_relu(x + layer(n, f"{block}.to_noise{k}").permute(2, 1, 0), 0.2)
        style = layer(v, f"{block}.to_rgb.to_style") + 1
        own = modulated(x, w[f"{block}.to_rgb.conv.weight"], style, False, False)
        image = own if image is None else image + own
        image = softened(up(image)) if i < 2 else image
    assert image is not None
    return image


@pytest.mark.parametrize(("constant", "attends", "lr"), [(True, False, 0.1), (False, True, 0.6)])
def test_stylegan2_of_lucidrains(
    place: Path, constant: bool, attends: bool, lr: float, capsys: Any
) -> None:
    network = varied(lucid_shapes(constant, attends))
    torch.save({"GAN": network.state_dict(), "version": "1.8.9"}, "model_12.pt")
    if lr != 0.1:
        Path(".config.json").write_text(json.dumps({"image_size": 16, "lr_mlp": lr}))
    ours = imported(file="model_12.pt")
    assert ("lr_mlp is taken to be 0.1" in capsys.readouterr().out) == (lr == 0.1)
    z = torch.randn(2, 10, generator=random())
    # Its images are in 0..1.
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close((ours(z) + 1) / 2, lucid(w, z, ours.synthesis.noise, lr))
    many = ours.mapping(torch.randn(20_000, 10, generator=random(9))).mean(0)
    torch.testing.assert_close(ours.w_avg, many.detach(), rtol=0.2, atol=0.02)


def test_settings_of_others_do_not_matter(place: Path) -> None:
    from imagen_nodes.importers import formats

    torch.save({"x.weight": torch.zeros(2)}, "other.pt")
    Path(".config.json").write_text("{")
    assert formats.read(Path("other.pt")).others


def test_settings_that_cannot_be_read(place: Path, capsys: Any) -> None:
    torch.save({"GAN": lucid_shapes(True, False).state_dict()}, "model_12.pt")
    Path(".config.json").write_text("{")
    assert main(["import", "model_12.pt", "-o", "ours.safetensors"]) == 1
    assert "the settings of model_12.pt cannot be read" in capsys.readouterr().err


def light_shapes(attends: bool, frequencies: bool) -> Holder:
    """128 px: 24 channels, those of 64 px 16 and of 128 px 8."""
    shapes: dict[str, tuple[int, ...]] = {
        "GE.initial_conv.0.weight": (6, 12, 4, 4), "GE.initial_conv.0.bias": (12,),
        "GE.out_conv.weight": (1, 8, 3, 3), "GE.out_conv.bias": (1,), "D.x.weight": (1,),
    }  # fmt: skip
    norms, buffers = {"GE.initial_conv.1": 12}, {}
    widths = [6, 24, 24, 24, 16, 8]
    for i, (a, b) in enumerate(pairwise(widths)):
        name = f"GE.layers.{i}"
        shapes |= {
            f"{name}.0.0.net.0.weight": (4 * a, a, 1, 1), f"{name}.0.0.net.0.bias": (4 * a,),
            f"{name}.0.2.1.weight": (2 * b, a, 4, 4), f"{name}.0.2.1.bias": (2 * b,),
            f"{name}.0.3.weight": (1,),
        }  # fmt: skip
        buffers[f"{name}.0.1.f"] = torch.tensor([1.0, 2.0, 1.0])
        norms[f"{name}.0.4"] = 2 * b
    if frequencies:
        buffers["GE.layers.1.1.dct_weights"] = cosine_transform(24, 16)[None]
    else:
        shapes |= {"GE.layers.1.1.to_k.weight": (1, 24, 1, 1), "GE.layers.1.1.to_k.bias": (1,)}
    hidden = 3 if frequencies else 4
    shapes |= {
        "GE.layers.1.1.net.0.weight": (hidden, 24, 1, 1), "GE.layers.1.1.net.0.bias": (hidden,),
        "GE.layers.1.1.net.2.weight": (8, hidden, 1, 1), "GE.layers.1.1.net.2.bias": (8,),
    }  # fmt: skip
    if attends:
        shapes |= {f"GE.layers.2.2.norm.{part}": (1, 24, 1, 1) for part in "gb"}
        shapes |= attention_shapes("GE.layers.2.2.fn", 24, True)
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        buffers |= {
            f"{name}.running_mean": torch.zeros(width), f"{name}.running_var": torch.ones(width),
            f"{name}.num_batches_tracked": torch.tensor(3),
        }  # fmt: skip
    return Holder(shapes, buffers)


def cosine_transform(channels: int, side: int) -> Tensor:
    """One function of scipy's orthonormal transform a channel: along the rows, then the columns."""
    places = [(0, k) for k in range(8)] + [(k, 0) for k in range(8)]
    found = torch.zeros(channels, side, side)
    for i, (u, v) in enumerate(places):
        one = np.zeros((side, side))
        one[u, v] = 1.0
        for channel in range(i * (channels // 16), (i + 1) * (channels // 16)):
            found[channel] = torch.from_numpy(fft.idctn(one, norm="ortho"))
    return found


def light(w: dict[str, Tensor], z: Tensor, noises: list[Tensor]) -> Tensor:
    def layer(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=padding)

    def normed(x: Tensor, name: str) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"])

    def gated(x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a * b.sigmoid()

    name = "GE.initial_conv.0"
    x = F.conv_transpose2d(z[:, :, None, None], w[f"{name}.weight"], w[f"{name}.bias"])
    x = gated(normed(x, "GE.initial_conv.1"))
    x = x / x.square().sum(1, keepdim=True).sqrt()
    factor = None
    for i, noise in enumerate(noises):
        name = f"GE.layers.{i}"
        if f"{name}.2.norm.g" in w:
            seen = channel_normed(x, w, f"{name}.2.norm")
            found = F.gelu(linearly_attended(seen, w, f"{name}.2.fn", "to_lin_q", "to_lin_kv"))
            query = layer(seen, f"{name}.2.fn.to_q") / 8
            near = torch.zeros_like(query)
            b, _, h, width = near.shape
            key, value = (
                F.pad(t, (1, 1, 1, 1)) for t in layer(seen, f"{name}.2.fn.to_kv").chunk(2, 1)
            )
            for r in range(h):  # position by position, head by head
                for c in range(width):
                    k, v = (
                        t[:, :, r : r + 3, c : c + 3].reshape(b, 8, 64, 9) for t in (key, value)
                    )
                    q = query[:, :, r, c].view(b, 8, 64, 1)
                    weights = (q * k).sum(2, keepdim=True).softmax(3)
                    near[:, :, r, c] = (weights * v).sum(3).flatten(1)
            x = x + layer(torch.cat([found, near], 1), f"{name}.2.fn.to_out")
        x = softened(F.pixel_shuffle(F.silu(layer(x, f"{name}.0.0.net.0")), 2))
        x = layer(F.pad(x, (2, 1, 2, 1)), f"{name}.0.2.1") + w[f"{name}.0.3.weight"] * noise
        x = gated(normed(x, f"{name}.0.4"))
        if i == 1:
            if f"{name}.1.dct_weights" in w:
                seen = torch.einsum("bchw,chw->bc", x, w[f"{name}.1.dct_weights"][0])[..., None]
                seen = seen[..., None]
            else:
                context = layer(x, f"{name}.1.to_k").flatten(2).softmax(2)
                seen = torch.einsum("bin,bcn->bci", context, x.flatten(2))[..., None]
            h = F.leaky_relu(layer(seen, f"{name}.1.net.0"), 0.1)
            factor = layer(h, f"{name}.1.net.2").sigmoid()
        elif i == 4:
            assert factor is not None
            x = x * factor
    return layer(x, "GE.out_conv", 1)


@pytest.mark.parametrize(("attends", "frequencies"), [(False, False), (True, False), (False, True)])
def test_lightweight_gan(place: Path, attends: bool, frequencies: bool, capsys: Any) -> None:
    network = varied(light_shapes(attends, frequencies))
    torch.save({"GAN": network.state_dict(), "version": "1.1", "G_scaler": {}}, "model_3.pt")
    ours = imported(file="model_3.pt")
    z = torch.randn(2, 6, generator=random())
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        found, wanted = ours(z), light(w, z, [b.noise for b in ours.blocks.values()])
    assert found.shape == (2, 1, 128, 128)
    close((found + 1) / 2, wanted)
    if frequencies:
        state = network.state_dict()
        state["GE.layers.1.1.dct_weights"][0, 3] *= 2
        torch.save({"GAN": state, "version": "1.1", "G_scaler": {}}, "model_3.pt")
        assert main(["import", "model_3.pt", "-o", "ours.safetensors"]) == 1
        assert "other frequencies than the usual ones" in capsys.readouterr().err
