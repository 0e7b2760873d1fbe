"""Progressive growing: which resolution a training has reached, and what it shows of real images.

Source: Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation",
2018, section 2 and appendix A.1: a resolution is faded in over some images, then held for as many;
real images are faded the same way.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from ..networks.architecture import one_of, powers_of_two
from ..spec import Positive, Spec


class Growth(Spec):
    """When the networks grow."""

    start: Annotated[int, one_of(powers_of_two(4, 1024))] = 4
    """The first resolution, px: a power of two from 4."""
    hold_kimg: Positive = 600
    """Thousands of images at each resolution before the next is faded in."""
    fade_kimg: Positive = 600
    """Thousands of images over which a resolution is faded in."""

    def progress(self, nimg: int) -> float:
        """What ``Growing.grow`` takes after ``nimg`` images, without its upper end."""
        stages, kimg = divmod(nimg / 1000, self.hold_kimg + self.fade_kimg)
        faded = max(kimg - self.hold_kimg, 0) / self.fade_kimg
        return math.log2(self.start / 4) + stages + faded

    def grown_at(self, resolution: int) -> int:
        """Images after which ``resolution`` is reached in full."""
        stages = max(0, round(math.log2(resolution / self.start)))
        return math.ceil(1000 * stages * (self.hold_kimg + self.fade_kimg))


def shown(images: Tensor, resolution: int, share: float) -> Tensor:
    """Real images ``[b c s s]`` at ``resolution``, by averaging areas; while it is faded in,
    ``share`` of them and the rest of the resolution below."""
    factor = images.shape[3] // resolution
    if factor > 1:
        images = F.avg_pool2d(images, factor)
    if share < 1:
        below = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0)
        images = torch.lerp(below, images, share)
    return images
