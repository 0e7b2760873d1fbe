"""The U-Net generator: a picture is halved until little is left of it, and doubled again; every
size hands what it has to the same size on the way back.

    down: conv 4x4 stride 2, norm, leaky ReLU;  up: ReLU, transposed conv 4x4 stride 2, norm

no norm in the first and last convolution and at the smallest size; tanh. Source: Isola et al.,
"Image-to-Image Translation with Conditional Adversarial Networks" (pix2pix), 2017, section 3.2.1
and appendix 6.1.1: depth 8, width 64, at most 512 channels; dropout of one half in the three sizes
above the smallest takes the place of noise, which the generator would learn to ignore.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..tiles import Sizes
from .architecture import Architecture, Network, Pictures
from .dcgan import initialise
from .layers import DoublingConv2d, HalvingConv2d
from .picture_layers import BLEND, Draw, PictureNorm, dropped, norm_of, tile_of

# Sizes, from the second smallest on, that dropout is in.
DROPPED = 3


class UNetGenerator(Architecture):
    """Pictures to pictures of the same size."""

    kind: Literal["unet-generator"] = "unet-generator"
    """Names this architecture in files."""
    resolution: Annotated[int, Field(ge=2, le=4096)] = 256
    """Side of the pictures that it is trained on, px; it takes others too."""
    channels: Annotated[int, Field(ge=1, le=512)] = 3
    """Channels of the picture: 1 grey, 3 RGB; more: label maps, one channel a label."""
    outputs: Annotated[int, Field(ge=1, le=4)] = 3
    """Channels of the result."""
    width: Annotated[int, Field(ge=1, le=512)] = 64
    """Channels at half the size; doubled by each further halving."""
    width_max: Annotated[int, Field(ge=1, le=2048)] = 512
    """No map has more channels than this."""
    depth: Annotated[int, Field(ge=2, le=10)] = 8
    """How often the size is halved: 8 takes 256 px to 1. Sides are multiples of 2^depth."""
    norm: PictureNorm = "batch"
    """Instance: of each picture by itself."""
    affine: bool = False
    """Whether instance norm has gains and biases, as batch norm has. The authors use batch norm on
    one picture at a time, with that picture's own statistics, which is just that."""
    bias: bool = False
    """Whether convolutions but the last have biases; norms without gains and biases need them."""
    inner_norm: bool = False
    """Whether there is a norm at the smallest size too, which must then be above 1 px."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of values that are dropped while it is trained, at the three sizes above the smallest;
    0: none."""

    @property
    def pictures(self) -> Pictures:
        multiple = 2**self.depth
        return Pictures(
            channels=self.channels,
            outputs=self.outputs,
            sizes=Sizes(multiple=multiple, minimum=multiple * (2 if self.inner_norm else 1)),
            tile=max(tile_of(self.width), 2 * multiple),
            blend=BLEND,
        )

    def width_at(self, depth: int) -> int:
        """Channels after ``depth`` halvings, 1 and more."""
        return min(self.width * 2 ** (depth - 1), self.width_max)

    def build(self) -> UNetGeneratorNetwork:
        return UNetGeneratorNetwork(self)


class UNetGeneratorNetwork(Network):
    """``[b channels h w]`` in -1..1 -> ``[b outputs h w]`` in -1..1; h and w multiples of 2^depth.

    ``draw`` gives the random numbers of dropout; without it nothing is dropped."""

    def __init__(self, architecture: UNetGenerator) -> None:
        super().__init__()
        a = architecture
        self.dropout, self.depth = a.dropout, a.depth
        widths = [a.width_at(i + 1) for i in range(a.depth)]
        self.downs, self.down_norms = nn.ModuleList(), nn.ModuleList()
        self.ups, self.up_norms = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            normed = i > 0 and (i < a.depth - 1 or a.inner_norm)
            inputs = widths[i - 1] if i else a.channels
            self.downs.append(HalvingConv2d(inputs, width, bias=a.bias))
            self.down_norms.append(norm_of(a.norm if normed else "none", width, a.affine))
        for i in reversed(range(a.depth)):
            outputs = widths[i - 1] if i else a.outputs
            inputs = widths[i] * (1 if i == a.depth - 1 else 2)
            self.ups.append(DoublingConv2d(inputs, outputs, bias=a.bias or i == 0))
            self.up_norms.append(norm_of(a.norm if i else "none", outputs, a.affine))

    def forward(self, images: Tensor, draw: Draw | None = None) -> Tensor:
        x, skips = images, list[Tensor]()
        for i, (down, norm) in enumerate(zip(self.downs, self.down_norms, strict=True)):
            # In place, also in what is handed over: the ReLU there takes both for the same.
            x = norm(down(F.leaky_relu(x, 0.2, inplace=True) if i else x))
            skips.append(x)
        x = skips.pop()
        for i, (up, norm) in enumerate(zip(self.ups, self.up_norms, strict=True)):
            x = norm(up(F.relu(x, inplace=True)))
            if self.dropout and draw is not None and 0 < i <= min(DROPPED, self.depth - 2):
                x = dropped(x, self.dropout, draw)
            if skips:
                x = torch.cat([skips.pop(), x], 1)
        return x.tanh_()

    def initialise(self, random: Generator) -> None:
        """Weights ~ N(0, 0.02), batch norm gains ~ N(1, 0.02), biases 0 (Isola et al., 6.2)."""
        initialise(self, random)
