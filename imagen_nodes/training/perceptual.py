"""Losses of VGG-19's features: how far pictures are apart in content, and in style.

All take lists of feature maps ``[b c h w]``, as :func:`features_network` gives them for pictures in
0..1 (relu1_1 to relu5_1), and give a scalar; all are differentiable in both arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..checkpoint import load
from ..folders import METRICS, shipped
from ..networks.adain import moments
from ..networks.vgg import VGGFeaturesNetwork

# Position of relu4_1, which content is compared at.
CONTENT = 3


@cache
def features_network(device: torch.device) -> VGGFeaturesNetwork:
    """VGG-19 with a quarter of its channels, which ships: on the device, frozen. Do not change
    it."""
    network = load(shipped("weights") / METRICS / "vgg19-16x-features.safetensors").network
    assert isinstance(network, VGGFeaturesNetwork)
    return network.to(device, memory_format=torch.channels_last)  # pyright: ignore


def content_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of feature maps of one layer.

    Source: Huang & Belongie 2017, equation 12, but for the square; Johnson et al., "Perceptual
    Losses for Real-Time Style Transfer and Super-Resolution", 2016, equation 2."""
    return (a.float() - b.float()).square().mean()


def style_loss(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Mean squared differences of the channels' means, and of their deviations, summed over the
    layers. Sizes may differ.

    Source: Huang & Belongie 2017, equation 13, but for the square."""
    total = a[0].new_zeros((), dtype=torch.float32)
    for x, y in zip(a, b, strict=True):
        for ours, theirs in zip(moments(x), moments(y), strict=True):
            total = total + (ours - theirs).square().mean()
    return total


def gram_loss(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Mean squared differences of the Gram matrices, summed over the layers. Sizes may differ.

    Source: Gatys et al., "Image Style Transfer Using Convolutional Neural Networks", 2016,
    equations 3 to 5, the matrices being means over positions (Johnson et al. 2016, equation 3)."""
    total = a[0].new_zeros((), dtype=torch.float32)
    for x, y in zip(a, b, strict=True):
        total = total + (gram(x) - gram(y)).square().mean()
    return total


def gram(features: Tensor) -> Tensor:
    """``[b c h w]`` -> ``[b c c]``: mean products of channels over positions and channels."""
    x = features.float().flatten(2)
    return x @ x.transpose(1, 2) / (x.shape[1] * x.shape[2])


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of ``[b c h w]``.

    Source: Rudin et al., "Nonlinear total variation based noise removal algorithms", 1992, in its
    anisotropic form."""
    return images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()
