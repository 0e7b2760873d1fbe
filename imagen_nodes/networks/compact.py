"""Compact: a plain stack of convolutions at the picture's own size, enlarged at the very end.

    conv 3 -> width, PReLU, depth x (conv width -> width, PReLU), conv width -> 3 s^2,
    pixel shuffle, plus the picture itself, enlarged by repeating its pixels

so that the network learns what repeating pixels lacks. Source: Wang et al., "Real-ESRGAN: Training
Real-World Blind Super-Resolution with Pure Synthetic Data", 2021, whose released small networks
(SRVGGNetCompact) have this shape: width 64 and depth 16 or 32; the pixel shuffle is Shi et al.,
2016. Names of tensors are theirs (``body.{n}.weight``), so that spandrel, and with it ComfyUI's
Load Upscale Model, reads our files as they are.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture, Network, Pictures

# Of the PReLUs at first: torch's and the authors'.
SLOPE = 0.25
# The last convolution's first weights, over He's: the network begins close to repeating pixels.
LAST = 0.1


class Compact(Architecture):
    """Pictures to pictures, larger by a whole factor, or of the same size to restore them."""

    kind: Literal["compact"] = "compact"
    """Names this architecture in files."""
    scale: Annotated[int, Field(ge=1, le=16)] = 4
    """Factor of both sides; 1: the size stays."""
    channels: Literal[1, 3] = 3
    """Image channels: 1 grey, 3 RGB."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 64
    """Channels of the feature maps."""
    depth: Annotated[int, Field(ge=1, le=128)] = 16
    """Convolutions between the first and the last."""

    @property
    def pictures(self) -> Pictures:
        return Pictures(
            scale=self.scale,
            channels=self.channels,
            outputs=self.channels,
            reach=self.depth + 2,  # px: one each convolution of 3x3
        )

    def build(self) -> CompactNetwork:
        return CompactNetwork(self)


class CompactNetwork(Network):
    """``[b channels h w]`` in 0..1 -> ``[b channels s*h s*w]``, about 0..1, not clamped."""

    def __init__(self, architecture: Compact) -> None:
        super().__init__()
        a = architecture
        self.scale = a.scale
        layers: list[nn.Module] = []
        for inputs in (a.channels, *[a.width] * a.depth):
            layers += [nn.Conv2d(inputs, a.width, 3, 1, 1), nn.PReLU(a.width, init=SLOPE)]
        self.body = nn.Sequential(*layers, nn.Conv2d(a.width, a.channels * a.scale**2, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        residual = F.pixel_shuffle(self.body(images), self.scale)
        return residual + F.interpolate(images, scale_factor=self.scale, mode="nearest")

    @torch.no_grad()
    def initialise(self, random: Generator) -> None:
        """He's weights for PReLUs of slope 0.25, the last convolution's smaller; biases 0."""
        for module in self.body:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE, generator=random)
                if module is self.body[-1]:
                    module.weight *= LAST
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.PReLU):
                nn.init.constant_(module.weight, SLOPE)
