"""Gated convolutions: a network that fills in what a mask covers.

    blocks of pixels, 2 of (gated conv, gated conv of stride 2), a trunk of dilated gated
    convolutions with shortcuts, 2 of (enlarge, gated conv, beside the map of that size, gated
    conv), conv, blocks of pixels

A gated convolution weighs each of its features, at each place, by a second convolution's sigmoid,
so that the network itself learns which features to trust where pixels are missing. Source: Yu et
al., "Free-Form Image Inpainting with Gated Convolution" (DeepFillv2), 2019, section 3.1; dilated
convolutions in the trunk: Iizuka et al., "Globally and Locally Consistent Image Completion", 2017,
section 3. One stage, without attention; working on blocks of pixels makes it four times as fast,
and costs nothing where pixels are known, since those are never taken from its result.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..tiles import Sizes
from .architecture import Architecture, Network, Pictures
from .fused import NONE, RELU, SIGMOID, FusedConv2d, convolve, leaky

# Deviation of a new kernel's weights around its middle, and of the gates' weights.
AROUND, GATES = 0.02, 0.02
# What a new gate lets through of a feature: sigmoid of this.
OPEN = 1.0
# The last convolution's first weights, over the others'.
LAST = 0.1

# What features of a network that leaks pass.
LEAKY = leaky(0.2)

Width = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
Dilation = Annotated[int, Field(ge=1, le=64)]
Rectifier = Literal["elu", "leaky-relu", "relu"]


class GatedInpainting(Architecture):
    """A picture and a mask to a picture, of the same size."""

    kind: Literal["gated-inpainting"] = "gated-inpainting"
    """Names this architecture in files."""
    channels: Literal[1, 3] = 3
    """Image channels: 1 grey, 3 RGB."""
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 40
    """Channels of the finest maps; doubled by each halving of the size."""
    levels: Annotated[int, Field(ge=1, le=4)] = 2
    """Halvings of the size."""
    widths: Annotated[tuple[Width, ...], Field(min_length=2, max_length=5)] | None = None
    """Channels at each size, from the finest, in place of ``width`` and ``levels``. A CPU's matrix
    unit takes as long with 40 as with 64."""
    dilations: Annotated[tuple[Dilation, ...], Field(min_length=1, max_length=32)] = (2, 4, 8, 16)
    """Of the trunk's convolutions, in pixels of its maps."""
    activation: Rectifier = "elu"
    """Of the features: ELU, as in the paper; a leaky ReLU of slope 0.2, which a CPU runs as part of
    the convolutions; ReLU, with which it runs the gates' product so, too."""
    unshuffle: Annotated[int, Field(ge=1, le=4)] = 2
    """Pictures go in and come out as blocks of so many px in channels."""

    @property
    def channels_by_size(self) -> tuple[int, ...]:
        """Of the maps, from the finest."""
        return self.widths or tuple(self.width * 2**i for i in range(self.levels + 1))

    @property
    def pictures(self) -> Pictures:
        sides = [2**i for i in range(len(self.channels_by_size))]
        # Positions: of a 3x3 convolution at size 1/s, s: the first and the last, two of each size
        # on the way down and up, the trunk's; of the halvings, up to one of the smallest size.
        reach = 2 + 4 * sum(sides[:-1]) + (sum(self.dilations) + 1) * sides[-1]
        return Pictures(
            channels=self.channels,
            outputs=self.channels,
            masked=True,
            sizes=Sizes(multiple=self.unshuffle * sides[-1]),
            reach=reach * self.unshuffle,
            tile=1024,
        )

    def build(self) -> GatedInpaintingNetwork:
        return GatedInpaintingNetwork(self)


class GatedInpaintingNetwork(Network):
    """``[b channels+1 h w] -> [b channels h w]``: pictures in -1..1 and, as the last channel, a
    mask of what to fill in (1), whose pixels are not looked at; about -1..1, not clamped. h and w
    are multiples of ``unshuffle * 2**(sizes - 1)``, of as many sizes as it has widths."""

    def __init__(self, architecture: GatedInpainting) -> None:
        super().__init__()
        a = architecture
        self.unshuffle = a.unshuffle
        widths = a.channels_by_size
        block = a.unshuffle**2
        gated = partial(Gated, activation=a.activation)
        self.first = gated((a.channels + 1) * block, widths[0])
        self.down = nn.ModuleList(
            nn.ModuleList([gated(c, c), gated(c, inner, stride=2)]) for c, inner in pairwise(widths)
        )
        self.trunk = nn.ModuleList(
            gated(widths[-1], widths[-1], dilation=dilation) for dilation in a.dilations
        )
        self.up = nn.ModuleList(
            nn.ModuleList([gated(inner, c), gated(2 * c, c)])
            for inner, c in pairwise(reversed(widths))
        )
        self.last = FusedConv2d(widths[0], a.channels * block, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # what the first layer takes
        mask = x[:, -1:]
        seen = torch.cat([x[:, :-1] * (1 - mask), mask], 1)
        x = self.first(F.pixel_unshuffle(seen, self.unshuffle))
        maps: list[Tensor] = []
        for same, halve in self.down:  # pyright: ignore[reportGeneralTypeIssues]
            x = same(x)
            maps.append(x)
            x = halve(x)
        for layer in self.trunk:
            x = x + layer(x)
        for enlarged, merged in self.up:  # pyright: ignore[reportGeneralTypeIssues]
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = enlarged(x)
            x = torch.cat([x, maps.pop()], 1)
            x = merged(x)
        return F.pixel_shuffle(self.last(x), self.unshuffle)

    @torch.no_grad()
    def initialise(self, random: Generator) -> None:
        """Features orthogonal in the middle of each kernel, with a little noise around (as
        ``compact.py`` has it); gates open alike; the trunk's features are halved, so that its
        shortcuts lead at first; biases 0."""
        for module in self.modules():
            if isinstance(module, Gated):
                _initialise(module.conv, module.outputs, random)
                nn.init.normal_(module.conv.weight[module.outputs :], 0.0, GATES, generator=random)
                module.conv.bias[module.outputs :] = OPEN  # pyright: ignore
        for layer in self.trunk:
            layer.conv.weight[: layer.outputs] *= 0.5  # pyright: ignore
        _initialise(self.last, self.last.out_channels, random)
        self.last.weight *= LAST


class Gated(nn.Module):
    """A convolution whose features are rectified, and pass a gate each: ``ELU(f) * sigmoid(g)``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        activation: Rectifier = "elu",
    ) -> None:
        super().__init__()
        self.outputs, self.after = outputs, {"leaky-relu": LEAKY, "relu": RELU}.get(activation)
        # Features and gates of the same picture: one convolution.
        self.conv = nn.Conv2d(inputs, 2 * outputs, 3, stride, dilation, dilation)

    def forward(self, x: Tensor) -> Tensor:
        after = self.after
        if torch.is_grad_enabled():
            features, gates = self.conv(x).chunk(2, 1)
            # Apart in memory: both functions take six to ten times as long on parts of maps.
            features, gates = (
                part.contiguous(memory_format=torch.channels_last) for part in (features, gates)
            )
            features = F.elu(features) if after is None else after(features)
            return features * gates.sigmoid()
        gates = convolve(self.conv, x, SIGMOID, outputs=slice(self.outputs, None))
        chosen = slice(self.outputs)
        if after == RELU:
            # What a positive gate lets through of the rectified is the rectified product.
            return convolve(self.conv, x, RELU, outputs=chosen, by=gates)
        features = convolve(self.conv, x, after or NONE, outputs=chosen)
        return (F.elu(features, inplace=True) if after is None else features).mul_(gates)


def _initialise(conv: nn.Conv2d, outputs: int, random: Generator) -> None:
    """Its first ``outputs`` features."""
    inputs = conv.in_channels
    side = max(outputs, inputs)
    matrix = nn.init.orthogonal_(torch.empty(side, side), generator=random)
    nn.init.normal_(conv.weight[:outputs], 0.0, AROUND, generator=random)
    conv.weight[:outputs, :, 1, 1] += matrix[:outputs, :inputs]
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
