"""How far a picture is from the one that it should be: PSNR, SSIM, LPIPS.

All take two batches ``[b 3 h w]`` in -1..1 and give ``[b]``; all are differentiable. Nothing is
clamped or rounded: to measure what a saved picture would give, round first
(``images.to_pixels``).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import checkpoint
from ..folders import METRICS, shipped
from ..networks.squeezenet import LPIPSSqueezeNetwork

PEAK = 255.0
# Of Y in 16..235 from RGB in 0..1: ITU-R BT.601, as in Matlab's rgb2ycbcr.
LUMA, OFFSET = (65.481, 128.553, 24.966), 16.0
# Wang et al. 2004: a Gaussian window of 11 px, sigma 1.5 px; K1 and K2.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
# What a PSNR counts as at most in a mean over pictures, dB: that of two equal ones is infinite, and
# such a mean would say nothing of the others.
EXACT = 100.0


def psnr_rgb(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """Peak signal-to-noise ratio over all channels, dB; infinite for identical pictures.

    Args:
        crop: px of border left out. Super-resolution leaves out as many as its scale."""
    return _psnr(*(_cropped(x, crop).add(1).mul(PEAK / 2) for x in (a, b)))


def psnr_y(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """Peak signal-to-noise ratio of the luma, dB, as super-resolution papers give it: Y of BT.601,
    which spans 16..235, against a peak of 255. About 2 dB above :func:`psnr_rgb`."""
    return _psnr(luma(_cropped(a, crop)), luma(_cropped(b, crop)))


def ssim_y(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """Structural similarity of the luma, at most 1: identical. A mean over all windows that lie
    within the picture, which is at least 11 px high and wide after cropping.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural
    Similarity", 2004, section III B and equation 13."""
    # Variances are differences of nearly equal numbers.
    x, y = (luma(_cropped(images, crop)).double() for images in (a, b))
    mean_x, mean_y, xx, yy, xy = map(_windowed, (x, y, x * x, y * y, x * y))
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    index = top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.mean((1, 2, 3)).to(a.dtype)


def luma(images: Tensor) -> Tensor:
    """``[b 3 h w]`` in -1..1 -> Y ``[b 1 h w]`` in 16..235."""
    weights = images.new_tensor(LUMA).view(1, 3, 1, 1)
    return (images.add(1).div(2) * weights).sum(1, keepdim=True) + OFFSET


def lpips_network() -> LPIPSSqueezeNetwork:
    """LPIPS v0.1 on SqueezeNet, which ships, in float32: call it on two batches of 17 px or more.
    Lower is more alike."""
    network = checkpoint.load(shipped("weights") / METRICS / "lpips-squeeze.safetensors").network
    assert isinstance(network, LPIPSSqueezeNetwork)
    return network.float()


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    return 10 * torch.log10(PEAK**2 / (x - y).square().mean((1, 2, 3)))


def _cropped(x: Tensor, crop: int) -> Tensor:
    return x[:, :, crop : x.shape[2] - crop, crop : x.shape[3] - crop]


def _windowed(x: Tensor) -> Tensor:
    """Weighted means over the Gaussian windows: ``[b 1 h w] -> [b 1 h-10 w-10]``."""
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-offset.square() / (2 * SIGMA**2))
    weights = (weights / weights.sum()).view(1, 1, WINDOW, 1)
    return F.conv2d(F.conv2d(x.double(), weights), weights.transpose(2, 3))
