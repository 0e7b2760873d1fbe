"""Layers with an equalised learning rate, and what else the two Karras families share.

Source: Karras, Aila, Laine, Lehtinen, "Progressive Growing of GANs for Improved Quality,
Stability, and Variation", 2018, section 3 (minibatch standard deviation), 4.1 (equalised learning
rate), 4.2 (pixel norm). Weights are kept as they are drawn, from N(0, 1), and scaled by He's
constant, gain / sqrt(fan-in), each time they are used: an optimiser that divides by the gradient's
size then moves every layer by the same share. The learning rate multiplier is from Karras et al.,
"A Style-Based Generator Architecture for GANs", 2019, appendix C.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

# What a rectifier takes from a signal's square: He et al., "Delving Deep into Rectifiers", 2015.
HE_GAIN = math.sqrt(2)


class Drawn(nn.Module):
    """A layer that draws its own initial weights; until then they are 0."""

    @abstractmethod
    def draw(self, random: Generator) -> None:
        """Draw new weights, all of them from ``random``."""


def draw_weights(network: nn.Module, random: Generator) -> None:
    """New weights for all layers of ``network`` that draw them, in order."""
    for module in network.modules():
        if isinstance(module, Drawn):
            module.draw(random)


class EqualisedLinear(Drawn):
    """``[b inputs] -> [b outputs]``: x W^T ``gain`` / sqrt(inputs) + b, both learned ``lr`` times
    as fast as other layers. The bias begins at ``start``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        gain: float = 1.0,
        lr: float = 1.0,
        start: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain * lr / math.sqrt(inputs)
        self.lr = lr
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        # x is smaller than the weight at all usual batch sizes: scale that.
        bias = self.bias if self.bias is None or self.lr == 1 else self.bias * self.lr
        return F.linear(x * self.scale, self.weight, bias)

    def draw(self, random: Generator) -> None:
        """Weights such that what is used is N(0, 1) times He's constant."""
        nn.init.normal_(self.weight, 0.0, 1 / self.lr, generator=random)
        if self.bias is not None:
            nn.init.constant_(self.bias, self.start / self.lr)


class EqualisedConv2d(Drawn):
    """Convolution of an odd kernel, ``[b inputs h w] -> [b outputs h w]``, zeros outside."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs * kernel**2)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        x, weight = scale_smaller(x, self.weight, self.scale)
        return F.conv2d(x, weight, self.bias, padding=self.padding)

    def draw(self, random: Generator) -> None:
        """Weights ~ N(0, 1), bias 0."""
        nn.init.normal_(self.weight, generator=random)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class EqualisedEmbedding(Drawn):
    """``labels [b]`` -> ``[b outputs]``: rows ~ N(0, 1) at the start, times ``scale``."""

    def __init__(self, classes: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, outputs))
        self.scale = scale

    def forward(self, labels: Tensor) -> Tensor:
        return F.embedding(labels, self.weight) * self.scale

    def draw(self, random: Generator) -> None:
        """Rows ~ N(0, 1)."""
        nn.init.normal_(self.weight, generator=random)


def scale_smaller(x: Tensor, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The two factors of a product with one of them scaled: the smaller, since the result is the
    same and at 4 px the weight is ten times the map."""
    return (x * scale, weight) if x.numel() < weight.numel() else (x, weight * scale)


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off: for small layers that need the precision."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def widened(x: Tensor) -> Tensor:
    """At least float32: for what half precisions are too coarse for, or too slow."""
    return x.float() if x.element_size() < 4 else x


def pixel_norm(x: Tensor) -> Tensor:
    """Every vector over axis 1 to a mean square of 1: section 4.2, with its epsilon."""
    size = widened(x).square().mean(1, keepdim=True)
    return x * (size + 1e-8).rsqrt().to(x.dtype)


def minibatch_deviation(x: Tensor, group: int, channels: int = 1) -> Tensor:
    """``[b c h w] -> [b c+channels h w]``: adds maps that hold how far images of the batch lie
    apart: the standard deviation over images, averaged over positions and over ``c / channels``
    neighbouring channels. Section 3; the batch in groups as in the authors' code.

    Args:
        group: images that are compared, i, i + b/group, ...; where the batch is not a multiple,
            its largest divisor below.
    """
    b, c, h, w = x.shape
    size = next(n for n in range(min(group, b), 0, -1) if b % n == 0)
    y = widened(x).reshape(size, b // size, channels, c // channels, h, w)
    deviation = (y.var(0, correction=0) + 1e-8).sqrt().mean((2, 3, 4))  # [b/size channels]
    maps = deviation.to(x.dtype).repeat(size, 1)[:, :, None, None].expand(-1, -1, h, w)
    return torch.cat([x, maps], 1)
