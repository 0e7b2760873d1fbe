"""What generators from pictures to pictures share: norms, dropout that draws from the step's random
numbers, and how large a picture is run at once.

Norms of a picture by itself see the whole of it, so its tiles would each be normalised another way.
Pictures are therefore run whole up to a bound of memory, and beyond it in tiles of that size, mixed
in broad strips.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from .normalisation import InstanceNorm2d

PictureNorm = Literal["instance", "batch", "none"]
Draw = Callable[..., Tensor]
"""``draw(count, *shape)``: numbers in 0..1."""

# Channels times pixels that a feature map has at most in a picture run at once: 256 MiB of float32.
MAP = 1 << 26
# Width of the strip in which tiles of a larger picture are mixed, px.
BLEND = 64


def tile_of(width: int) -> int:
    """Longest side to run at once, px, at ``width`` channels of full size."""
    return max(256, int(math.sqrt(MAP / width)) // 64 * 64)


def norm_of(norm: PictureNorm, channels: int, affine: bool) -> nn.Module:
    """A norm of ``channels``; the identity where there is none."""
    if norm == "instance":
        return InstanceNorm2d(channels, affine=affine)
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


def dropped(x: Tensor, share: float, draw: Draw) -> Tensor:
    """``x`` with ``share`` of its values 0, the others larger to make up for it."""
    kept = draw(*x.shape).to(x.device) >= share
    return x * (kept.to(x.dtype) / (1 - share))
