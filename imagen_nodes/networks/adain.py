"""AdaIN: the content of one picture in the style of another, any two, in one pass.

    t = sigma(s) (f(c) - mu(f(c))) / sigma(f(c)) + mu(s),    result = g(t)

f is VGG-19 as far as relu4_1, which is not trained; mu and sigma are the mean and the deviation of
each channel over the positions; the decoder g mirrors f, with nearest neighbours in place of
pooling, and is trained. Source: Huang & Belongie, "Arbitrary Style Transfer in Real-time with
Adaptive Instance Normalization", 2017, equations 8 to 11, 14 (strength) and 15 (several styles).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from ..tiles import Sizes
from .architecture import Architecture, Network
from .fused import FusedSequential
from .vgg import VGGFeaturesNetwork, Width, initialise, reflecting

# Added to variances; the authors'.
EPS = 1e-5
# He's, for rectifiers; deviation of a new kernel's weights around its middle; the last
# convolution's first weights, over the others'.
GAIN, AROUND, LAST = math.sqrt(2), 0.02, 0.05
# Px of a picture to a position of the features.
STRIDE = 8
# Of VGG-19 as far as relu4_1, and of what mirrors it, px: a position at each size for each
# convolution there.
REACH = 8 + 4 * 4 + 2 * 2 + 2 * 1


class StyleArchitecture(Architecture):
    """Content and style to a stylised picture."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """How far encoder and decoder each see around a position of the features, px at most."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Values that the largest map has for each pixel."""

    @abstractmethod
    def build(self) -> StyleNetwork: ...


class AdaIN(StyleArchitecture):
    """Content and style to a stylised picture."""

    kind: Literal["adain"] = "adain"
    """Names this architecture in files."""
    widths: tuple[Width, Width, Width, Width] = (16, 32, 64, 128)
    """Channels of the encoder's four stages; 64, 128, 256, 512: VGG-19's own."""
    decoder_widths: tuple[Width, Width, Width] = (16, 32, 64)
    """Channels of the decoder at the picture's size, at a half and at a quarter of it."""
    slope: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Of the decoder's rectifiers below 0. 0: ReLU, as the authors' has; units that are never
    active learn nothing then, and a narrow decoder has none to spare."""

    @property
    def reach(self) -> int:
        return REACH

    @property
    def width(self) -> int:
        return max(self.widths[0], self.decoder_widths[0])

    def build(self) -> AdaINNetwork:
        return AdaINNetwork(self)


class Moments(NamedTuple):
    """Mean and deviation of each channel, ``[b c 1 1]``: of a picture's features, its style."""

    mean: Tensor
    deviation: Tensor


class StyleNetwork(Network):
    """Content and style ``[b 3 h w]`` in 0..1, each of sides as ``sizes`` says -> the content in
    that style, ``[b 3 h w]``, about 0..1, not clamped. Differentiable.

    Args:
        smallest: positions that either side of the features has at least.
    """

    def __init__(self, smallest: int = 2) -> None:
        super().__init__()
        self.sizes = Sizes(multiple=STRIDE, minimum=smallest * STRIDE)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        return self.decode(adapted(self.encode(content), moments(self.encode(style))))

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """``[b 3 h w]`` in 0..1 -> features ``[b c h/8 w/8]``."""

    @abstractmethod
    def decode(self, features: Tensor) -> Tensor:
        """Features ``[b c h w]`` -> ``[b 3 8h 8w]``, about 0..1."""


class AdaINNetwork(StyleNetwork):
    """With VGG-19's encoder as far as relu4_1, which is not trained."""

    def __init__(self, architecture: AdaIN) -> None:
        super().__init__()
        a = architecture
        self.encoder = VGGFeaturesNetwork(a.widths).requires_grad_(False)
        one, half, quarter = a.decoder_widths
        self.decoder = FusedSequential(
            *_rectified(a.slope, a.widths[3], quarter),
            nn.Upsample(scale_factor=2),
            *_rectified(a.slope, *[quarter] * 4, half),
            nn.Upsample(scale_factor=2),
            *_rectified(a.slope, half, half, one),
            nn.Upsample(scale_factor=2),
            *_rectified(a.slope, one, one),
            reflecting(one, 3),
        )

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images)[-1]

    def decode(self, features: Tensor) -> Tensor:
        return self.decoder(features)

    @torch.no_grad()
    def initialise(self, random: Generator) -> None:
        """The decoder's: orthogonal in the middle of each kernel, with He's gain, and a little
        noise around it, so that at first every position comes through; biases 0 (see
        ``compact.py``). The last one's smaller, and its biases grey. The encoder's are He's, and so
        of no use: whoever trains this puts in trained ones."""
        initialise(self.encoder, random)
        for module in self.decoder:
            if isinstance(module, nn.Conv2d):
                outputs, inputs = module.weight.shape[:2]
                matrix = torch.empty(outputs, inputs)
                nn.init.orthogonal_(matrix, GAIN, generator=random)
                nn.init.normal_(module.weight, 0.0, AROUND, generator=random)
                module.weight[:, :, 1, 1] += matrix
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        last = self.decoder[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.weight *= LAST
        nn.init.constant_(last.bias, 0.5)


def moments(features: Tensor) -> Moments:
    """Of ``[b c h w]``, in float32. The variance is over n - 1, as in the programs that people
    train this with, and 0 of a single position; the deviation has :data:`EPS` in it."""
    x = features.float()
    count = x.shape[2] * x.shape[3]
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().sum((2, 3), keepdim=True) / max(count - 1, 1)
    return Moments(mean, (variance + EPS).sqrt())


def mixed(styles: Sequence[Moments], weights: Sequence[float]) -> Moments:
    """The style between several. As t is linear in mean and deviation, it decodes to what the
    weighted mean of the styles' t does (equation 15). ``weights`` add up to 1."""
    means, deviations = (
        torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum(0)
        for values in zip(*styles, strict=True)
    )
    return Moments(means, deviations)


def adapted(features: Tensor, style: Moments, own: Moments | None = None) -> Tensor:
    """Adaptive instance normalisation: ``features [b c h w]`` with the mean and deviation of
    ``style``; ``own`` are those that they have, where they are known."""
    own = own or moments(features)
    gain = style.deviation / own.deviation
    return features * gain + (style.mean - own.mean * gain)


def _rectified(slope: float, *channels: int) -> list[nn.Module]:
    """Convolutions from each to the next, each with its rectifier."""
    return [
        layer
        for inputs, outputs in pairwise(channels)
        for layer in (
            reflecting(inputs, outputs),
            nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True),
        )
    ]
