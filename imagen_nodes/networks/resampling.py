"""Resampling by a factor of two with the binomial filter [1 3 3 1], in each direction.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, appendix B;
where it was first used to keep aliases out: "A Style-Based Generator Architecture for GANs", 2019,
section 2. Zeros outside the image. Each is a convolution of every channel by itself, which
differentiates any number of times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .equalised import widened

TAPS = (1.0, 3.0, 3.0, 1.0)


def double(x: Tensor) -> Tensor:
    """``[b c h w] -> [b c 2h 2w]``: zeros between the pixels, then the filter."""
    return _Double.apply(x, 4.0) if x.device.type == "cpu" else _doubled(x, 4.0)


def halve(x: Tensor) -> Tensor:
    """``[b c h w] -> [b c h/2 w/2]``: the filter, then every other pixel."""
    return _Halve.apply(x, 1.0) if x.device.type == "cpu" else _halved(x, 1.0)


def smooth(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """The filter alone, ``gain`` its sum: ``[b c h w] -> [b c h+2p-3 w+2p-3]``."""
    if x.device.type == "cpu":
        return _Smooth.apply(x, padding, gain)
    return _smoothed(x, padding, gain)


def _doubled(x: Tensor, gain: float) -> Tensor:
    return F.conv_transpose2d(x, _filter(x, gain), stride=2, padding=1, groups=x.shape[1])


def _halved(x: Tensor, gain: float) -> Tensor:
    return F.conv2d(x, _filter(x, gain), stride=2, padding=1, groups=x.shape[1])


def _smoothed(x: Tensor, padding: int, gain: float) -> Tensor:
    return F.conv2d(x, _filter(x, gain), padding=padding, groups=x.shape[1])


# On a processor the transposed convolution takes some 15 times as long in bfloat16 as in float32,
# and torch's second derivative asks for that of the filter too, channel by channel. The filter is
# symmetric and constant: doubling and halving are each other's gradient, and smoothing its own.
class _Double(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        with torch.autocast(x.device.type, enabled=False):
            return _doubled(widened(x), gain).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return _Halve.apply(grads[0], ctx.gain), None


class _Halve(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        return _halved(x, gain)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return _Double.apply(grads[0], ctx.gain), None


class _Smooth(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int, gain: float) -> Tensor:
        ctx.padding, ctx.gain = padding, gain
        return _smoothed(x, padding, gain)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return _Smooth.apply(grads[0], 3 - ctx.padding, ctx.gain), None, None


def _filter(x: Tensor, gain: float) -> Tensor:
    """``[c 1 4 4]``: one for each channel of ``x``."""
    taps = x.new_tensor(TAPS)
    total = sum(TAPS) ** 2
    return (taps[:, None] * taps * (gain / total)).expand(x.shape[1], 1, -1, -1)
