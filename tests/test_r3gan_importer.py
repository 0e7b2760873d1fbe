"""R3GAN files."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .importing import (
    FILTER,
    Holder,
    close,
    imported,
    random,
    resampled,
    varied,
)


def r3gan_shapes() -> Holder:
    widths = {0: 32, 1: 16, 2: 16}
    shapes: dict[str, tuple[int, ...]] = {"EmbeddingLayer.weight": (4, 3)}
    buffers: dict[str, Tensor] = {}
    shapes |= {"MainLayers.0.Layers.0.Basis": (32, 4, 4)}
    shapes |= {"MainLayers.0.Layers.0.LinearLayer.weight": (32, 10)}
    for s, width in widths.items():
        if s and widths[s - 1] != width:
            shapes[f"MainLayers.{s}.Layers.0.LinearLayer.Layer.weight"] = (
                width,
                widths[s - 1],
                1,
                1,
            )
        if s:
            buffers[f"MainLayers.{s}.Layers.0.Resampler.Kernel"] = FILTER
        for i in (1, 2):
            block = f"MainLayers.{s}.Layers.{i}"
            shapes |= {
                f"{block}.LinearLayer1.Layer.weight": (2 * width, width, 1, 1),
                f"{block}.LinearLayer2.Layer.weight": (2 * width, 16, 3, 3),
                f"{block}.LinearLayer3.Layer.weight": (width, 2 * width, 1, 1),
                f"{block}.NonLinearity1.Bias": (2 * width,),
                f"{block}.NonLinearity2.Bias": (2 * width,),
            }  # fmt: skip
    shapes["AggregationLayer.Layer.weight"] = (3, 16, 1, 1)
    return Holder(shapes, buffers)


def r3gan(w: dict[str, Tensor], z: Tensor, y: Tensor) -> Tensor:
    given = torch.cat([z, F.one_hot(y, 3).float() @ w["EmbeddingLayer.weight"].t()], 1)
    x = given @ w["MainLayers.0.Layers.0.LinearLayer.weight"].t()
    x = x[:, :, None, None] * w["MainLayers.0.Layers.0.Basis"]
    for s in range(3):
        change = f"MainLayers.{s}.Layers.0.LinearLayer.Layer.weight"
        x = F.conv2d(x, w[change]) if change in w else x
        x = resampled(x, 2, (2, 1), 4.0) if s else x
        for i in (1, 2):
            block = f"MainLayers.{s}.Layers.{i}"
            h = F.conv2d(x, w[f"{block}.LinearLayer1.Layer.weight"])
            h = F.leaky_relu(h + w[f"{block}.NonLinearity1.Bias"][:, None, None], 0.2)
            weight = w[f"{block}.LinearLayer2.Layer.weight"]
            h = F.conv2d(h, weight, padding=1, groups=len(weight) // 16)
            h = F.leaky_relu(h + w[f"{block}.NonLinearity2.Bias"][:, None, None], 0.2)
            x = x + F.conv2d(h, w[f"{block}.LinearLayer3.Layer.weight"])
    return F.conv2d(x, w["AggregationLayer.Layer.weight"])


def test_r3gan(place: Path) -> None:
    network = nn.Module()
    network.Model = varied(r3gan_shapes())
    with Path("theirs.pkl").open("wb") as file:
        pickle.dump({"G": nn.Module(), "D": nn.Module(), "G_ema": network, "cur_nimg": 5}, file)
    ours = imported(file="theirs.pkl")
    z, y = torch.randn(2, 6, generator=random()), torch.tensor([2, 0])
    w = {**dict(network.Model.named_parameters()), **dict(network.Model.named_buffers())}
    close(ours(z, y), r3gan(w, z, y))
