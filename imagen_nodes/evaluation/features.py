"""What sets of images are compared in: the features of a network that was trained on photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import checkpoint
from ..folders import METRICS, shipped
from ..images import to_network
from ..networks.mobilenet import MobileNetV2FeaturesNetwork


@dataclass(frozen=True)
class FeatureSpace:
    """A feature network, and what the figures in it are called."""

    name: str
    """Of the network."""
    frechet: str
    """Name of the Frechet distance."""
    kernel: str
    """Name of the kernel distance."""
    size: int
    """Number of features."""
    device: torch.device
    """Where the network is."""
    extract: Callable[[Tensor], Tensor]
    """``[b h w 3]`` uint8 on that device -> ``[b size]`` float32."""
    classes: Tensor | None = None
    """``[classes size]``, logits from features, for the Inception score; none: it has none."""


def mobilenet(device: torch.device) -> FeatureSpace:
    """MobileNetV2, which ships: pictures are resized to 128 px, bilinear and antialiased."""
    network = mobilenet_network()
    network.to(device, memory_format=torch.channels_last)  # pyright: ignore
    return FeatureSpace(
        name="MobileNetV2",
        frechet="FD-MobileNetV2",
        kernel="KID-MobileNetV2",
        size=1280,
        device=device,
        extract=lambda pixels: network(to_network(pixels)),
    )


def mobilenet_network() -> MobileNetV2FeaturesNetwork:
    """The feature network that ships, in float32."""
    path = shipped("weights") / METRICS / "mobilenet-v2-features.safetensors"
    network = checkpoint.load(path).network
    assert isinstance(network, MobileNetV2FeaturesNetwork)
    return network.float()
