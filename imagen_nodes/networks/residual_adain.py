"""AdaIN with an encoder of its own, whose layers are of the kind that processors are fast with.

    encoder: pixel unshuffle by u, conv 3u^2 -> w0, ReLU; at each size but the smallest: n residual
    blocks, conv 2x2 of stride 2 to the next; at the smallest, an eighth of the picture's: m
    residual blocks, conv, ReLU
    decoder: m residual blocks; on the way back, at each size: nearest neighbours, conv, leaky ReLU,
    n residual blocks; at last conv -> 3u^2, pixel shuffle by u

In VGG-19, most time goes into maps of few channels at the picture's size, borders that mirror, and
pooling. Here the encoder is trained along with the decoder, by the same losses, as in Wang et al.,
"MicroAST: Towards Super-Fast Ultra-Resolution Arbitrary Style Transfer", 2023. Means and deviations
of its features are a style, as in ``adain.py``. Residual blocks are those of ``residual_unet.py``,
with biases. Their borders are zeros, which AdaIN would make much of where a channel has little
else: the encoder is given mirrored ones of several positions, the decoder of one, and what comes of
them is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from .adain import LAST, STRIDE, StyleArchitecture, StyleNetwork
from .fused import FusedConv2d, FusedSequential, padded
from .residual_unet import ResidualBlock, Width, conv3x3, initialise_residual

# Positions that are mirrored around the encoder's picture. Of three a frame is left to be seen; in
# training, whose pictures are small, one will do.
MARGIN = 5
# Of the decoder's rectifiers below 0.
SLOPE = 0.2

Blocks = Annotated[int, Field(ge=0, le=8)]


class ResidualAdaIN(StyleArchitecture):
    """Content and style to a stylised picture."""

    kind: Literal["residual-adain"] = "residual-adain"
    """Names this architecture in files."""
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)] = (64, 128)
    """Channels of the encoder's maps, from the largest size to an eighth of the picture's; the last
    are those of the features."""
    blocks: Annotated[int, Field(ge=1, le=8)] = 1
    """Residual blocks of the encoder at each size but the smallest."""
    decoder_widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)] = (32, 64, 128)
    """Channels of the decoder's maps, in the same order."""
    decoder_blocks: tuple[Blocks, ...] = (0, 2)
    """Residual blocks of the decoder at each size but the smallest, in the same order."""
    middle: Annotated[int, Field(ge=1, le=8)] = 3
    """Residual blocks of either at the smallest."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.decoder_widths[-1] != self.widths[-1]:
            raise ValueError(
                f"decoder_widths: {self.decoder_widths}, but the features have {self.widths[-1]} "
                "channels, the last of widths"
            )
        if len(self.decoder_blocks) != len(self.decoder_widths) - 1:
            raise ValueError(
                f"decoder_blocks: {self.decoder_blocks}; takes {len(self.decoder_widths) - 1}, one "
                "for each of decoder_widths but the last"
            )
        return self

    @property
    def reach(self) -> int:
        u, v = _block(self.widths), _block(self.decoder_widths)
        # px: two 3x3 convolutions a block; those between, the first and the last.
        middle, outer = 2 * STRIDE * self.middle, 2 * (STRIDE - u) * self.blocks
        sizes = [v << i for i in range(len(self.decoder_blocks))]
        back = sum((2 * n + 1) * size for n, size in zip(self.decoder_blocks, sizes, strict=True))
        # Of nearest neighbours, up to a position of the smaller size.
        return middle + max(u + outer + STRIDE, back + v + STRIDE)

    @property
    def width(self) -> int:
        sides = (self.widths, self.decoder_widths)
        return max(math.ceil(widths[0] / _block(widths) ** 2) for widths in sides)

    def build(self) -> ResidualAdaINNetwork:
        return ResidualAdaINNetwork(self)


class ResidualAdaINNetwork(StyleNetwork):
    """With an encoder that is trained, too."""

    def __init__(self, architecture: ResidualAdaIN) -> None:
        super().__init__(smallest=MARGIN + 1)
        a = architecture

        def blocks(width: int, count: int) -> list[nn.Module]:
            return [ResidualBlock(width, True) for _ in range(count)]

        u, v = _block(a.widths), _block(a.decoder_widths)
        largest, smallest = a.widths[0], a.widths[-1]
        first, last = conv3x3(3 * u**2, largest, True), conv3x3(smallest, smallest, True)
        self.encoder = FusedSequential(nn.PixelUnshuffle(u), first, nn.ReLU(inplace=True))
        for width, inner in pairwise(a.widths):
            self.encoder.extend([*blocks(width, a.blocks), FusedConv2d(width, inner, 2, 2)])
        self.encoder.extend([*blocks(smallest, a.middle), last, nn.ReLU(inplace=True)])
        self.decoder = FusedSequential(*blocks(smallest, a.middle))
        steps = zip(pairwise(reversed(a.decoder_widths)), reversed(a.decoder_blocks), strict=True)
        for (inner, width), count in steps:
            doubled = [nn.Upsample(scale_factor=2), conv3x3(inner, width, True)]
            self.decoder.extend([*doubled, nn.LeakyReLU(SLOPE, inplace=True)])
            self.decoder.extend(blocks(width, count))
        self.decoder.extend([conv3x3(a.decoder_widths[0], 3 * v**2, True), nn.PixelShuffle(v)])

    def encode(self, images: Tensor) -> Tensor:
        margin = 1 if self.training else MARGIN
        features = self.encoder(padded(images, [margin * STRIDE] * 4, "reflect"))
        return features[:, :, margin:-margin, margin:-margin]

    def decode(self, features: Tensor) -> Tensor:
        result = self.decoder(padded(features, [1] * 4, "reflect"))
        return result[:, :, STRIDE:-STRIDE, STRIDE:-STRIDE]

    @torch.no_grad()
    def initialise(self, random: Generator) -> None:
        """Of a residual network. Of the decoder's last convolution, what becomes the pixels of a
        block is alike, so that no pattern of them is there at first (Aitken et al., "Checkerboard
        artifact free sub-pixel convolution", 2017), and small; its biases are grey."""
        initialise_residual(self, random)
        last, shuffle = self.decoder[-2], self.decoder[-1]
        assert isinstance(last, nn.Conv2d)
        assert isinstance(shuffle, nn.PixelShuffle)
        block = shuffle.upscale_factor**2
        last.weight.copy_(last.weight[::block].repeat_interleave(block, 0) * LAST)
        assert last.bias is not None
        nn.init.constant_(last.bias, 0.5)


def _block(widths: Sequence[int]) -> int:
    """Side of the blocks of pixels that are one position of the largest map."""
    return STRIDE >> (len(widths) - 1)
