"""The residual U-Net: a restorer whose layers are mostly at small sizes, where they are cheap.

    pixel unshuffle, if any; conv 3 -> w0; at each size: n residual blocks, conv 2x2 of stride 2 to
    the next; at the smallest: m residual blocks; on the way back: conv 1x1, pixel shuffle (a
    transposed convolution 2x2 of stride 2), plus the map of that size from before it was halved, n
    residual blocks; conv w0 -> 3, pixel shuffle, plus the picture itself

A residual block is ``x + conv(relu(conv(x)))``; nothing has a bias, unless asked for. After Zhang
et al., "Plug-and-Play Image Restoration with Deep Denoiser Prior" (DRUNet), 2021, section III,
which is wider, and gives the picture itself. Without biases the network scales with its input, so
that it also does well at strengths that it was not trained on: Mohan et al., "Robust and
Interpretable Blind Image Denoising via Bias-Free Convolutional Neural Networks", 2020.

As DRUNet it can be told how strong the noise is (``noise_map``), by a channel of its own, as in
Zhang et al., "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image Denoising", 2018,
section III. Fine texture, which a blind network takes for noise, is then kept, as far as the
strength is right. And its blocks can be ``modulated`` by that: He, Dong, Qiao, "Modulating Image
Restoration with Continual Levels via Adaptive Feature Modification Layers", 2019, scale features so
to bring a network for one strength to another; here it learns all of them at once. It then scales
with its input only where the strength stays what it is.

As a denoiser it learns in minutes what a plain stack of convolutions on blocks of 2x2 px learns in
an hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise, repeat
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..tiles import Sizes
from .architecture import Architecture, Network, Pictures
from .fused import RELU, FusedConv2d, convolve

# First weights of the convolutions that end a residual block, over He's.
LAST = 0.1
# Longest side to run at once, px, with at most so many channels a pixel: 128 MiB of float32. With
# more it is shorter.
TILE, CHANNELS = 1024, 32
# Deviations of noise, in steps of 1/255, that modulation has rows of; closest where they matter
# most.
STRENGTHS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 35.0, 50.0)

Width = Annotated[int, Field(ge=8, le=512, multiple_of=8)]


class ResidualUNet(Architecture):
    """Pictures to pictures of the same size."""

    kind: Literal["residual-unet"] = "residual-unet"
    """Names this architecture in files."""
    channels: Literal[1, 3] = 3
    """Image channels: 1 grey, 3 RGB."""
    widths: Annotated[tuple[Width, ...], Field(min_length=2, max_length=6)] = (32, 64, 80)
    """Channels of the feature maps at full size, at half of it, and so on."""
    blocks: Annotated[int, Field(ge=1, le=16)] = 2
    """Residual blocks at each size but the smallest, on the way down and again on the way back."""
    middle: Annotated[int, Field(ge=1, le=32)] = 2
    """Residual blocks at the smallest size."""
    unshuffle: Literal[1, 2, 4] = 1
    """Side of the blocks of pixels that are one position of the largest map, with their values as
    its channels: 2 is a quarter of the work at that size, where only few channels can be paid for.
    A translator can do so; what has to keep each pixel's own noise out should not."""
    noise_map: bool = False
    """Whether it is told how strong the noise is, as one channel more."""
    jpeg_mark: bool = False
    """Whether that channel also says, by a negative value of its own, that a picture has JPEG's
    blocks. A network that has to guess it takes some of each for the other."""
    modulated: bool = False
    """Whether that channel's value also scales the maps inside the residual blocks, by a table that
    is learned: filters for weak noise, strong noise and JPEG's blocks then need not be the same."""
    bias: bool = False
    """Whether convolutions have biases: a translator's should, to which black and grey are colours
    like others."""

    @model_validator(mode="after")
    def _noise_is_told(self) -> Self:
        if self.jpeg_mark and not self.noise_map:
            raise ValueError("jpeg_mark: is a value of the noise map; set noise_map to true")
        if self.modulated and not self.noise_map:
            raise ValueError("modulated: is by the noise map; set noise_map to true")
        return self

    @property
    def width(self) -> int:
        """Channels at full size."""
        return self.widths[0]

    @property
    def pictures(self) -> Pictures:
        multiple = 2 ** (len(self.widths) - 1)
        channels = max(CHANNELS, self.width // self.unshuffle**2)
        # Positions: of a 3x3 convolution at size 1/s, s; of the halvings, up to one of the next
        # size.
        outer, inner = 4 * self.blocks * (multiple - 1), 2 * self.middle * multiple
        return Pictures(
            channels=self.channels,
            outputs=self.channels,
            noise_map=self.noise_map,
            jpeg_mark=self.jpeg_mark,
            sizes=Sizes(multiple=multiple * self.unshuffle),
            reach=(2 + outer + inner + multiple) * self.unshuffle,
            tile=int(TILE * math.sqrt(CHANNELS / channels)),
        )

    def build(self) -> ResidualUNetNetwork:
        return ResidualUNetNetwork(self)


class ResidualUNetNetwork(Network):
    """``[b channels h w]`` in 0..1 -> the same, not clamped; h and w are multiples of
    ``unshuffle * 2**(len(widths) - 1)``. With a noise map the noise's deviation, in the same
    values, is the last channel of what it takes."""

    def __init__(self, architecture: ResidualUNet) -> None:
        super().__init__()
        a = architecture

        def blocks(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(width, a.bias) for _ in range(count)))

        outer, steps, block = a.widths[:-1], list(pairwise(a.widths)), a.unshuffle**2
        self.channels, self.unshuffle = a.channels, a.unshuffle
        self.first = conv3x3((a.channels + a.noise_map) * block, a.widths[0], a.bias)
        self.encoders = nn.ModuleList(blocks(width, a.blocks) for width in outer)
        self.halvings = nn.ModuleList(FusedConv2d(w, v, 2, 2, bias=a.bias) for w, v in steps)
        self.middle = blocks(a.widths[-1], a.middle)
        self.doublings = nn.ModuleList(FusedConv2d(v, 4 * w, 1, bias=a.bias) for w, v in steps)
        self.decoders = nn.ModuleList(blocks(width, a.blocks) for width in outer)
        self.last = conv3x3(a.widths[0], a.channels * block, a.bias)
        down, middle = [w for w in outer for _ in range(a.blocks)], [a.widths[-1]] * a.middle
        inside = down + middle + down[::-1]  # channels in the blocks, in the order that they run in
        self.modulation = Modulation(inside) if a.modulated else None

    def features(self, images: Tensor) -> list[Tensor]:
        """What contrastive learning compares: the pixels, what each size's blocks make of them, and
        the smallest size's first block."""
        found, x = [images], self._first(images)
        for encoder, halving in zip(self.encoders, self.halvings, strict=True):
            found.append(encoder(x))
            x = halving(found[-1])
        return [*found, self.middle[0](x)]

    def forward(self, images: Tensor) -> Tensor:
        x, maps = self._first(images), list[Tensor]()
        scales: Iterator[Tensor | None] = repeat(None)
        if self.modulation is not None:
            scales = iter(self.modulation(images[:, -1, 0, 0]))

        def blocks(group: nn.Module, x: Tensor) -> Tensor:
            for block in group.children():
                x = block(x, next(scales))
            return x

        for encoder, halving in zip(self.encoders, self.halvings, strict=True):
            x = blocks(encoder, x)
            maps.append(x)
            x = halving(x)
        x = blocks(self.middle, x)
        back = zip(reversed(self.doublings), reversed(self.decoders), strict=True)
        for doubling, decoder in back:
            x = blocks(decoder, F.pixel_shuffle(doubling(x), 2) + maps.pop())
        change = self.last(x)
        if self.unshuffle > 1:
            change = F.pixel_shuffle(change, self.unshuffle)
        return images[:, : self.channels] + change

    def _first(self, images: Tensor) -> Tensor:
        """The largest map."""
        if self.unshuffle > 1:
            images = F.pixel_unshuffle(images, self.unshuffle)
        return self.first(images)

    @torch.no_grad()
    def initialise(self, random: Generator) -> None:
        """He's, for rectifiers, a tenth of it where a residual block ends; 0 where the network
        does, so that it begins by giving the picture back; biases 0."""
        initialise_residual(self, random)
        nn.init.zeros_(self.last.weight)


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``, ``[b c h w]``; ``x`` may be overwritten."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.first, self.second = (conv3x3(width, width, bias) for _ in range(2))

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """``scale``, ``[b c 1 1]``, is of the map between the convolutions, before its ReLU."""
        return self.second(convolve(self.first, x, RELU, by=scale), onto=x)


class Modulation(nn.Module):
    """The noise's deviations ``[b]``, or ``JPEG_MARK`` -> scales ``[b c 1 1]``, one of each of the
    maps with so many ``channels``: 1 and, for each of ``STRENGTHS`` and the mark, a learned row of
    a table, at strengths between two a mean of theirs."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.channels = channels
        self.table = nn.Parameter(torch.zeros(len(STRENGTHS) + 1, sum(channels)))

    def forward(self, levels: Tensor) -> tuple[Tensor, ...]:
        known = torch.tensor(STRENGTHS).to(self.table) / 255
        levels = levels.to(known).contiguous()
        after = torch.bucketize(levels, known).clamp(1, len(known) - 1)
        low, high = known[after - 1], known[after]
        part = ((levels - low) / (high - low)).clamp(0, 1)[:, None]
        rows = torch.lerp(self.table[after - 1], self.table[after], part)
        rows = torch.where(levels[:, None] < 0, self.table[-1], rows)
        return (1 + rows)[:, :, None, None].split(self.channels, 1)


def conv3x3(inputs: int, outputs: int, bias: bool) -> FusedConv2d:
    """``[b inputs h w] -> [b outputs h w]``, borders of zeros."""
    return FusedConv2d(inputs, outputs, 3, 1, 1, bias=bias)


@torch.no_grad()
def initialise_residual(network: nn.Module, random: Generator) -> None:
    """He's, for rectifiers, a tenth of it where a residual block ends; biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            inputs = module.weight[0].numel()
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / inputs), generator=random)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.second.weight *= LAST
