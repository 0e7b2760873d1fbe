"""Keeping a picture's colours while its style changes. All take and give ``[b h w 3]`` in 0..1.

Source: Gatys et al., "Preserving Color in Neural Artistic Style Transfer", 2016.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Y of RGB: ITU-R BT.601, as in the paper's YIQ.
LUMA = (0.299, 0.587, 0.114)
# Below this, of values in 0..1, colours do not vary: less than half a step of 8 bits.
FLAT = 1e-3


class Statistics(NamedTuple):
    """Of pictures' pixels, float64."""

    mean: Tensor
    """``[3]``."""
    covariance: Tensor
    """``[3 3]``."""


def luminance(pictures: Tensor) -> Tensor:
    """Y, ``[b h w 1]``."""
    return (pictures * pictures.new_tensor(LUMA)).sum(3, keepdim=True)


def with_luminance(pictures: Tensor, wanted: Tensor) -> Tensor:
    """``pictures`` with the luminance ``wanted [b h w 1]``: I and Q of YIQ stay as they are, so
    that red, green and blue move alike. Clamped."""
    return (pictures + (wanted - luminance(pictures))).clamp(0, 1)


def levelled(style: Tensor, content: Tensor) -> Tensor:
    """The luminance ``style`` with the mean and deviation of the luminance ``content``, both
    ``[1 h w 1]`` of any sizes. Clamped.

    Source: section 3.2, equation 10."""
    shift, scale = style.mean(), style.std(correction=0).clamp(min=FLAT)
    return ((style - shift) * (content.std(correction=0) / scale) + content.mean()).clamp(0, 1)


def matched(style: Tensor, content: Statistics) -> Tensor:
    """``style [1 h w 3]`` in the colours of what has the statistics ``content``: by the linear map
    that gives it that mean and covariance. Clamped.

    Source: section 3.1, equations 1 to 8, with the square roots of matrices of Image Analogies
    (Hertzmann et al. 2001), which the paper prefers to Cholesky's."""
    mean, covariance = statistics(style)
    change = _power(covariance, -0.5, FLAT**2) @ _power(content.covariance, 0.5)
    colours = (style.reshape(-1, 3).double() - mean) @ change + content.mean
    return colours.to(style.dtype).view_as(style).clamp(0, 1)


def statistics(pictures: Tensor) -> Statistics:
    """Of all pixels of ``[b h w 3]``."""
    pixels = pictures.reshape(-1, 3).double()
    mean = pixels.mean(0)
    return Statistics(mean, (pixels - mean).T @ (pixels - mean) / len(pixels))


def _power(matrix: Tensor, exponent: float, least: float = 0.0) -> Tensor:
    """Of a symmetric matrix; eigenvalues below ``least`` count as that."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=least) ** exponent @ vectors.T
