"""AdaIN with an encoder of its own, whose layers are of the kind that processors are fast with.

    encoder: pixel unshuffle by u, conv 3u^2 -> w0, ReLU; at each size but the smallest: n residual
    blocks, conv 2x2 of stride 2 to the next; at the smallest, an eighth of the picture's: m
    residual blocks, conv, ReLU
    decoder: m residual blocks; on the way back, at each size: conv 1x1, pixel shuffle by 2, n
    residual blocks; conv w0 -> 3u^2, pixel shuffle by u

In VGG-19, most time goes into maps of few channels at the picture's size, borders that mirror, and
pooling. Here an encoder is trained along with the decoder, to give the features that VGG-19 gives
(relu4_1), as Wang et al., "Collaborative Distillation for Ultra-Resolution Universal Style
Transfer", 2020, distil a small VGG from the large one. Its means and deviations are a style, as in
``adain.py``. Residual blocks and what lies between the sizes are those of ``residual_unet.py``,
with biases; borders are zeros.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from .adain import LAST, STRIDE, StyleArchitecture, StyleNetwork
from .fused import FusedConv2d, FusedSequential
from .residual_unet import ResidualBlock, Width, conv3x3, initialise_residual

class ResidualAdaIN(StyleArchitecture):
    """Content and style to a stylised picture."""

    kind: Literal["residual-adain"] = "residual-adain"
    """Names this architecture in files."""
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)] = (64, 128)
    """Channels of the maps, from the largest size to an eighth of the picture's; the last are those
    of the features, which are trained to be VGG-19's."""
    encoder_blocks: Annotated[int, Field(ge=1, le=8)] = 1
    """Residual blocks of the encoder at each size but the smallest."""
    decoder_blocks: Annotated[int, Field(ge=1, le=8)] = 2
    """Those of the decoder there."""
    middle: Annotated[int, Field(ge=1, le=8)] = 3
    """Residual blocks of either at the smallest."""

    @property
    def unshuffle(self) -> int:
        """Side of the blocks of pixels that are one position of the largest map."""
        return STRIDE >> (len(self.widths) - 1)

    @property
    def reach(self) -> int:
        blocks, u = max(self.encoder_blocks, self.decoder_blocks), self.unshuffle
        # px of two 3x3 convolutions a block; of the first or last one, and the encoder's last.
        return 2 * (STRIDE - u) * blocks + 2 * STRIDE * self.middle + u + STRIDE

    @property
    def width(self) -> int:
        return math.ceil(self.widths[0] / self.unshuffle**2)

    def build(self) -> ResidualAdaINNetwork:
        return ResidualAdaINNetwork(self)


class ResidualAdaINNetwork(StyleNetwork):
    """Content and style ``[b 3 h w]`` in 0..1, each of sides that are multiples of 8 from 16 px ->
    the content in that style, ``[b 3 h w]``, about 0..1, not clamped. Differentiable."""

    def __init__(self, architecture: ResidualAdaIN) -> None:
        super().__init__()
        a = architecture
        largest, smallest, pixels = a.widths[0], a.widths[-1], 3 * a.unshuffle**2
        first, last = conv3x3(pixels, largest, True), conv3x3(largest, pixels, True)
        self.encoder = FusedSequential(nn.PixelUnshuffle(a.unshuffle), first, nn.ReLU(inplace=True))
        for width, inner in pairwise(a.widths):
            self.encoder.extend(ResidualBlock(width, True) for _ in range(a.encoder_blocks))
            self.encoder.append(FusedConv2d(width, inner, 2, 2))
        self.encoder.extend(ResidualBlock(smallest, True) for _ in range(a.middle))
        self.encoder.extend([conv3x3(smallest, smallest, True), nn.ReLU(inplace=True)])
        self.decoder = FusedSequential(*(ResidualBlock(smallest, True) for _ in range(a.middle)))
        for inner, width in pairwise(reversed(a.widths)):
            self.decoder.extend([FusedConv2d(inner, 4 * width, 1), nn.PixelShuffle(2)])
            self.decoder.extend(ResidualBlock(width, True) for _ in range(a.decoder_blocks))
        self.decoder.extend([last, nn.PixelShuffle(a.unshuffle)])

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode(self, features: Tensor) -> Tensor:
        return self.decoder(features)

    @torch.no_grad()
    def initialise(self, random: Generator) -> None:
        """Of a residual network; the decoder's last convolution smaller, and its biases grey."""
        initialise_residual(self, random)
        last = self.decoder[-2]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.weight *= LAST
        nn.init.constant_(last.bias, 0.5)
