"""Compact: a plain stack of convolutions at the picture's own size, enlarged at the very end.

    conv 3 -> width, PReLU, depth x (conv width -> width, PReLU), conv width -> 3 s^2,
    pixel shuffle, plus the picture itself, enlarged by repeating its pixels

so that the network learns what repeating pixels lacks. Source: Wang et al., "Real-ESRGAN: Training
Real-World Blind Super-Resolution with Pure Synthetic Data", 2021, whose released small networks
(SRVGGNetCompact) have this shape: width 64 and depth 16 or 32; the pixel shuffle is Shi et al.,
2016. Names of tensors are theirs (``body.{n}.weight``), so that spandrel, and with it ComfyUI's
Load Upscale Model, reads our files as they are. Working on blocks of pixels: Zhang et al., "FFDNet:
Toward a Fast and Flexible Solution for CNN-Based Image Denoising", 2018, section III.

On a CPU, without gradients, a large picture goes through all layers a few rows at a time: every
convolution keeps the two rows above, so that nothing is computed twice, results are those of the
whole picture, and feature maps stay in the cache and in memory that is used again
(``benchmarks/super_resolve.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..tiles import Sizes
from .architecture import Architecture, Network, Pictures
from .fused import Activation, FusedConv2d, FusedSequential, OneSlopePReLU

# Of the PReLUs at first: torch's and the authors'.
SLOPE = 0.25
# He's, for rectifiers of that slope; deviation of a new kernel's weights around its middle.
GAIN, AROUND = math.sqrt(2 / (1 + SLOPE**2)), 0.02
# The last convolution's first weights, over the others': it begins close to repeating pixels.
LAST = 0.1
# Pixels to run at once on a CPU: in 64 channels 8 MiB of float32.
STRIP = 1 << 15


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
    slopes: Literal["channel", "layer"] = "channel"
    """Whether each channel's PReLU has a slope of its own, as the authors', or a layer's have one
    together, which takes a fifth less time on a CPU. Files hold a value a channel either way."""
    unshuffle: Annotated[int, Field(ge=1, le=8)] = 1
    """The picture goes in, and the result comes out, as blocks of so many px in channels, so that
    there are fewer positions and each sees further; 1: as pixels. Only 1 is read by others."""

    @property
    def pictures(self) -> Pictures:
        return Pictures(
            scale=self.scale,
            channels=self.channels,
            outputs=self.channels,
            sizes=Sizes(multiple=self.unshuffle),
            # px: a block each convolution of 3x3, and the rest of its own.
            reach=(self.depth + 3) * self.unshuffle - 1,
            tile=1024,
        )

    def build(self) -> CompactNetwork:
        return CompactNetwork(self)


class CompactNetwork(Network):
    """``[b channels h w]`` in 0..1 -> ``[b channels s*h s*w]``, about 0..1, not clamped; h and w
    multiples of ``unshuffle``."""

    def __init__(self, architecture: Compact) -> None:
        super().__init__()
        a = architecture
        self.scale, self.unshuffle = a.scale, a.unshuffle
        layers: list[nn.Module] = []
        rectifier = OneSlopePReLU if a.slopes == "layer" else nn.PReLU
        for inputs in (a.channels * a.unshuffle**2, *[a.width] * a.depth):
            layers += [FusedConv2d(inputs, a.width, 3, 1, 1), rectifier(a.width, init=SLOPE)]
        outputs = a.channels * (a.scale * a.unshuffle) ** 2
        self.body = FusedSequential(*layers, FusedConv2d(a.width, outputs, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(images, self.unshuffle)
        _, _, h, w = blocks.shape
        rows = max(STRIP // w, 4)
        if torch.is_grad_enabled() or images.device.type != "cpu" or h <= rows:
            return self._enlarged(self.body(blocks), images)
        return torch.cat(list(self._strips(blocks, images, rows)), 2)

    def _strips(self, blocks: Tensor, images: Tensor, rows: int) -> Iterator[Tensor]:
        """The result from top to bottom; it lags behind what goes in by a row a convolution."""
        h, done = blocks.shape[2], 0
        layers = [
            _Rows(module, after) if isinstance(module, FusedConv2d) else module
            for module, after in self.body.steps()
        ]
        for top in range(0, h, rows):
            x = blocks[:, :, top : top + rows]
            for layer in layers:
                x = layer(x, top + rows >= h) if isinstance(layer, _Rows) else layer(x)
                if not x.shape[2]:
                    break
            else:
                height = x.shape[2] * self.unshuffle
                yield self._enlarged(x, images[:, :, done : done + height])
                done += height

    def _enlarged(self, residual: Tensor, images: Tensor) -> Tensor:
        # The enlarged picture as blocks, in which repeating pixels is repeating channels: half the
        # time of adding two large pictures.
        u, s = self.unshuffle, self.scale
        i = torch.arange(u * s, device=images.device) // s
        channels = torch.arange(images.shape[1], device=images.device) * u**2
        sources = (channels[:, None, None] + i[:, None] * u + i).flatten()
        base = F.pixel_unshuffle(images, u).index_select(1, sources)
        return F.pixel_shuffle(residual + base, u * s)

    @torch.no_grad()
    def initialise(self, random: Generator) -> None:
        """Orthogonal in the middle of each kernel, with He's gain for PReLUs of slope 0.25, so that
        every pixel comes through all layers where it was; a little noise around it; the last
        convolution's smaller; biases 0. A denoiser so started learns in 250 steps what one with
        He's random kernels did in 1,200.

        Source: Xiao et al., "Dynamical Isometry and a Mean Field Theory of CNNs", 2018, section
        3.3 (delta-orthogonal)."""
        for module in self.body:
            if isinstance(module, nn.Conv2d):
                outputs, inputs = module.weight.shape[:2]
                matrix = torch.empty(max(outputs, inputs), max(outputs, inputs))
                nn.init.orthogonal_(matrix, GAIN, generator=random)
                nn.init.normal_(module.weight, 0.0, AROUND, generator=random)
                module.weight[:, :, 1, 1] += matrix[:outputs, :inputs]
                if module is self.body[-1]:
                    module.weight *= LAST
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.PReLU):
                nn.init.constant_(module.weight, SLOPE)


class _Rows:
    """A 3x3 convolution of padding 1 and what follows it, fed from top to bottom: ``[b c r w] ->
    [b o r' w]``, as many rows as can be known so far."""

    def __init__(self, conv: FusedConv2d, activation: Activation) -> None:
        self.conv, self.activation = conv, activation
        self.above: Tensor | None = None

    def __call__(self, x: Tensor, last: bool) -> Tensor:
        parts = [_border(x) if self.above is None else self.above, x]
        x = torch.cat([*parts, _border(x)] if last else parts, 2)
        x = x.contiguous(memory_format=torch.channels_last)
        self.above = x[:, :, -2:]
        if x.shape[2] < 3:
            return x[:, :, :0]
        # Called as a module: whoever runs it is asked between modules whether to go on.
        return self.conv(x, self.activation, padding=(0, 1))


def _border(x: Tensor) -> Tensor:
    """A row of zeros, in the order of the others: joining maps of different orders takes eight
    times as long."""
    return torch.zeros_like(x[:, :, :1], memory_format=torch.channels_last)
