"""pytorch_GAN_zoo's progressive GAN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from imagen_nodes.__main__ import main

from .importing import (
    Holder,
    close,
    imported,
    normalised,
    random,
    varied,
)


def zoo_shapes() -> Holder:
    """16 px: 12, 12 and 8 channels."""
    shapes: dict[str, tuple[int, ...]] = {
        "formatLayer": (16 * 12, 6),
        "groupScale0.0": (12, 12, 3, 3),
    }
    for i, (inputs, outputs) in enumerate(((12, 12), (12, 8))):
        shapes[f"scaleLayers.{i}.0"] = (outputs, inputs, 3, 3)
        shapes[f"scaleLayers.{i}.1"] = (outputs, outputs, 3, 3)
    for i, inputs in enumerate((12, 12, 8)):
        shapes[f"toRGBLayers.{i}"] = (3, inputs, 1, 1)
    parts = {f"{name}.module.weight": shape for name, shape in shapes.items()}
    return Holder(parts | {f"{n}.module.bias": shape[:1] for n, shape in shapes.items()}, {})


def zoo(w: dict[str, Tensor], z: Tensor) -> Tensor:
    def layer(x: Tensor, name: str) -> Tensor:
        weight, bias = w[f"{name}.module.weight"], w[f"{name}.module.bias"]
        scale = math.sqrt(2 / weight[0].numel())
        if weight.ndim == 2:
            return F.linear(x, weight, bias) * scale
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2) * scale

    x = normalised(F.leaky_relu(layer(normalised(z), "formatLayer"), 0.2).view(len(z), -1, 4, 4))
    x = normalised(F.leaky_relu(layer(x, "groupScale0.0"), 0.2))
    for i in range(2):
        x = F.interpolate(x, scale_factor=2)
        for k in (0, 1):
            x = normalised(F.leaky_relu(layer(x, f"scaleLayers.{i}.{k}"), 0.2))
    return layer(x, "toRGBLayers.2")


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_progressive_gan_of_the_zoo(place: Path, alpha: float, capsys: Any) -> None:
    network = varied(zoo_shapes())
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    config = {"alpha": alpha, "lossMode": "WGANGP", "categoryVectorDim": 0}
    torch.save({"config": config, "netG": zoo_shapes().state_dict(), "avgG": state}, "theirs.pth")
    ours = imported()
    z = torch.randn(2, 6, generator=random())
    close(ours(z), zoo(dict(network.named_parameters()), z))
    assert ("still being faded in" in capsys.readouterr().out) == (alpha > 0)
    for wrong, text in (
        ({"lossMode": "DCGAN"}, "a tanh at its end"), ({"categoryVectorDim": 4}, "classes, which"),
    ):  # fmt: skip
        torch.save({"config": config | wrong, "avgG": state}, "theirs.pth")
        assert main(["import", "theirs.pth", "-o", "ours.safetensors"]) == 1
        assert f"progressive GAN of pytorch_GAN_zoo: {text}" in capsys.readouterr().err
