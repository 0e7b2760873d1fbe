"""U-Net discriminator: one logit a pixel, judged near and far, with spectral norm throughout.

    down  c -> w, w -> 2w, 2w -> 4w, 4w -> 8w     each but the first halves the size
    up    8w -> 4w, 4w -> 2w, 2w -> w             bilinear doubling, conv, plus the map from below
    out   w -> w, w -> w, w -> 1

Source: Wang et al., "Real-ESRGAN", 2021, section 3.3, after Schonfeld et al., "A U-Net Based
Discriminator for Generative Adversarial Networks", 2020; spectral norm: Miyato et al., 2018.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture, Network
from .dcgan import initialise
from .normalisation import spectral_norm

HALVINGS = 3


class UNetDiscriminator(Architecture):
    """Pictures to one logit a pixel."""

    kind: Literal["unet-discriminator"] = "unet-discriminator"
    """Names this architecture in files."""
    channels: Annotated[int, Field(ge=1, le=64)] = 3
    """Image channels."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 64
    """Channels at the picture's size; doubled at each halving."""

    def build(self) -> UNetDiscriminatorNetwork:
        return UNetDiscriminatorNetwork(self)


class UNetDiscriminatorNetwork(Network):
    """``[b channels h w]`` -> logits ``[b 1 h w]``, h and w multiples of 8; positive: real."""

    def __init__(self, architecture: UNetDiscriminator) -> None:
        super().__init__()
        a = architecture
        widths = [a.width << i for i in range(HALVINGS + 1)]
        self.first = nn.Conv2d(a.channels, a.width, 3, 1, 1)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1, bias=False))
            for i in range(HALVINGS)
        )
        self.up = nn.ModuleList(
            _conv3x3(widths[i + 1], widths[i]) for i in reversed(range(HALVINGS))
        )
        self.out = nn.ModuleList(_conv3x3(a.width, a.width) for _ in range(2))
        self.logit = nn.Conv2d(a.width, 1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [F.leaky_relu(self.first(images), 0.2)]
        for conv in self.down:
            maps.append(F.leaky_relu(conv(maps[-1]), 0.2))
        x = maps.pop()
        for conv in self.up:
            doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(conv(doubled), 0.2) + maps.pop()
        for conv in self.out:
            x = F.leaky_relu(conv(x), 0.2)
        return self.logit(x)

    def initialise(self, random: Generator) -> None:
        """See :func:`~.dcgan.initialise`."""
        initialise(self, random)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return spectral_norm(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False))
