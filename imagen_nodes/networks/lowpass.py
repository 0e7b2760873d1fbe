"""Low-pass filters of a given cutoff, and resampling with them.

Source: Karras et al., "Alias-Free Generative Adversarial Networks", 2021, section 3.1 (resampling)
and appendix C.1, C.2: windowed ideal filters, after Kaiser, "Nonrecursive Digital Filter Design
Using the I0-sinh Window Function", 1974. Filters are symmetric, and signals are shifted so that
resampling moves no picture. Zeros outside.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def separable(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """``[taps]``, sum 1, to be applied in each direction: a windowed sinc.

    Args:
        cutoff, half_width: where the transition band lies, and half of how wide it is; in the unit
            of ``rate``, the sampling rate."""
    x = _positions(taps) * (2 * cutoff / rate)
    ideal = torch.where(x == 0, 1.0, (math.pi * x).sin() / (math.pi * x))
    found = ideal * _window(taps, half_width, rate)
    return (found / found.sum()).float()


def radial(taps: int, cutoff: float, half_width: float, rate: float) -> Tensor:
    """``[taps taps]``, sum 1: a jinc, the ideal filter that treats all directions alike, windowed
    in each direction. ``taps`` is even: the jinc at 0 is a limit."""
    assert taps % 2 == 0
    x = _positions(taps) / rate
    r = torch.hypot(x[:, None], x) * math.pi
    window = _window(taps, half_width, rate)
    found = torch.special.bessel_j1(2 * cutoff * r) / r * window[:, None] * window
    return (found / found.sum()).float()


def upsample(x: Tensor, taps: Tensor, factor: int, crop: int) -> Tensor:
    """``[b c h w] -> [b c h' w']``: ``factor - 1`` zeros after each pixel, then the separable
    filter, whose sum is ``factor``; h' = (h - 1) factor + taps - 2 ``crop``, which leaves out as
    much at each end."""
    c = x.shape[1]
    down, right = _kernels(x, taps)
    x = F.conv_transpose2d(x, down, stride=(factor, 1), padding=(crop, 0), groups=c)
    return F.conv_transpose2d(x, right, stride=(1, factor), padding=(0, crop), groups=c)


def downsample(x: Tensor, taps: Tensor, factor: int) -> Tensor:
    """``[b c h w] -> [b c h' w']``: the filter, separable or not, where all of it is inside; then
    every ``factor``-th pixel."""
    c = x.shape[1]
    if taps.ndim == 2:
        kernel = taps.to(x.dtype).expand(c, 1, -1, -1)
        return F.conv2d(x, kernel, stride=factor, groups=c)
    down, right = _kernels(x, taps)
    x = F.conv2d(x, down, stride=(factor, 1), groups=c)
    return F.conv2d(x, right, stride=(1, factor), groups=c)


def _kernels(x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Of every channel of ``x``: along columns, and along rows."""
    kernel = taps.to(x.dtype).expand(x.shape[1], 1, 1, -1)
    return kernel.transpose(2, 3), kernel


def _positions(taps: int) -> Tensor:
    """``[taps]`` around 0, one apart."""
    return torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2


def _window(taps: int, half_width: float, rate: float) -> Tensor:
    """Kaiser's window whose transition band is of that width: his formulas for the attenuation that
    so many taps reach, and for the beta that reaches it."""
    attenuation = 2.285 * (taps - 1) * math.pi * (4 * half_width / rate) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    return torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)
