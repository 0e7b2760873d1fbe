"""Progressive GAN: two mirror images that grow by a resolution at a time while they are trained.

Source: Karras, Aila, Laine, Lehtinen, "Progressive Growing of GANs for Improved Quality,
Stability, and Variation", 2018: section 2 and figure 2 (growth), table 2 (layers). The generator
is

    z -> 4x4 -> two convolutions at 8 px, at 16 px, ... -> at each resolution a 1x1 "to RGB"

and the discriminator the same backwards, with minibatch standard deviation at 4 px. While a
resolution is faded in, the generator blends its image with the doubled image of the resolution
below, the discriminator what it has made of the picture with what the resolution below would have
been given.

Class conditions are not the paper's: the generator takes a normalised class embedding beside z,
the discriminator projects on one (Miyato & Koyama, "cGANs with Projection Discriminator", 2018,
equation 4).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import (
    Architecture,
    DiscriminatorArchitecture,
    GeneratorArchitecture,
    Growing,
    one_of,
    powers_of_two,
    required,
)
from .equalised import (
    HE_GAIN,
    Drawn,
    EqualisedConv2d,
    EqualisedEmbedding,
    EqualisedLinear,
    draw_weights,
    minibatch_deviation,
    pixel_norm,
    scale_smaller,
)
from .layers import spread

RESOLUTIONS = powers_of_two(16, 1024)


class _ProGAN(Architecture):
    """What generator and discriminator share: they mirror each other."""

    resolution: Annotated[int, one_of(RESOLUTIONS)] = 32
    """Side of the square images when fully grown, px: a power of two from 16 to 1024."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    width_base: Annotated[int, Field(ge=64, le=65536)] = 2048
    """Maps of s px have 2 ``width_base`` / s channels, within ``width_max``. The paper's: 8192."""
    width_max: Annotated[int, Field(ge=8, le=2048)] = 256
    """No layer has more channels than this. The paper's: 512."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""

    @property
    def sides(self) -> tuple[int, ...]:
        """Resolutions, px, from 4 to the images'."""
        return powers_of_two(4, self.resolution)

    def width_at(self, side: int) -> int:
        """Channels of the feature maps of ``side`` px."""
        return max(1, min(self.width_base * 2 // side, self.width_max))


class ProGANGenerator(_ProGAN, GeneratorArchitecture):
    """Latents to images, grown a resolution at a time."""

    kind: Literal["progan-generator"] = "progan-generator"
    """Names this architecture in files."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 128
    """Length of the latent vector z. The paper's: 512."""
    class_dim: Annotated[int, Field(ge=1, le=1024)] = 64
    """Length of the class embedding that is concatenated to z; unused without classes."""
    bias_by_place: bool = False
    """Whether the first layer has a bias for each position, as pytorch_GAN_zoo has it, not only for
    each channel."""

    def build(self) -> ProGANGeneratorNetwork:
        return ProGANGeneratorNetwork(self)


class ProGANDiscriminator(_ProGAN, DiscriminatorArchitecture):
    """Images to one logit each, grown a resolution at a time."""

    kind: Literal["progan-discriminator"] = "progan-discriminator"
    """Names this architecture in files."""
    group: Annotated[int, Field(ge=1, le=1024)] = 4
    """Images that minibatch standard deviation compares."""

    @property
    def compares_images(self) -> bool:
        return True

    def build(self) -> ProGANDiscriminatorNetwork:
        return ProGANDiscriminatorNetwork(self)


class _Grown(Growing):
    """The state of growth, of generator and discriminator alike."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides
        self.progress = float(self.grown)

    @property
    def grown(self) -> int:
        return len(self.sides) - 1

    @property
    def resolution(self) -> int:
        return self.sides[self.stage()[0]]

    @property
    def share(self) -> float:
        return self.stage()[1]

    def grow(self, progress: float) -> None:
        if not 0 <= progress < math.inf:
            raise ValueError(f"progress is {progress}, expected a number from 0")
        self.progress = float(min(progress, self.grown))

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.progress, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.grow(float(state))

    def stage(self) -> tuple[int, float]:
        """The present stage, 0 at 4 px, and how far it is faded in, above 0 to 1."""
        stage = math.ceil(self.progress)
        return stage, 1 - (stage - self.progress)

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``; fully grown."""
        draw_weights(self, random)
        self.grow(self.grown)


class ProGANGeneratorNetwork(_Grown):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels r r]``, r the present resolution; nominally in -1..1: the last layer is linear."""

    def __init__(self, architecture: ProGANGenerator) -> None:
        a = architecture
        super().__init__(a.sides)
        self.embed = EqualisedEmbedding(a.classes, a.class_dim) if a.classes else None
        inputs = a.z_dim + (a.class_dim if a.classes else 0)
        widths = [a.width_at(side) for side in a.sides]
        self.first = _FirstBlock(inputs, widths[0], by_place=a.bias_by_place)
        self.blocks = nn.ModuleList(_DoublingBlock(*pair) for pair in pairwise(widths))
        self.to_rgb = nn.ModuleList(EqualisedConv2d(width, a.channels, 1) for width in widths)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        stage, share = self.stage()
        z = pixel_norm(z)
        if self.embed is not None:
            labels = required(labels, "generator")
            z = torch.cat([z, pixel_norm(self.embed(labels))], 1)
        x = below = self.first(z)
        for block in self.blocks[:stage]:
            below, x = x, block(x)
        images = self.to_rgb[stage](x)
        if share < 1:
            old = F.interpolate(self.to_rgb[stage - 1](below), scale_factor=2.0)
            images = _blend(old, images, share)
        return images


class ProGANDiscriminatorNetwork(_Grown):
    """``[b channels r r]`` in -1..1, r the present resolution, ``labels [b]`` -> logits ``[b]``;
    positive: real."""

    def __init__(self, architecture: ProGANDiscriminator) -> None:
        a = architecture
        super().__init__(a.sides)
        self.group = a.group
        widths = [a.width_at(side) for side in a.sides]
        self.from_rgb = nn.ModuleList(
            EqualisedConv2d(a.channels, width, 1, gain=HE_GAIN) for width in widths
        )
        self.blocks = nn.ModuleList(_HalvingBlock(b, a) for a, b in pairwise(widths))
        width = widths[0]
        self.last = EqualisedConv2d(width + 1, width, 3, gain=HE_GAIN)
        self.dense = EqualisedLinear(width * 16, width, gain=HE_GAIN)
        self.logit = EqualisedLinear(width, 1)
        scale = 1 / math.sqrt(width)
        self.embed = EqualisedEmbedding(a.classes, width, scale) if a.classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        stage, share = self.stage()
        if images.shape[2:] != (self.resolution, self.resolution):
            raise ValueError(
                f"images of {images.shape[3]}x{images.shape[2]} px, expected {self.resolution} px "
                "at the present progress"
            )
        x = _rectify(self.from_rgb[stage](images))
        for k in range(stage, 0, -1):
            x = self.blocks[k - 1](x)
            if k == stage and share < 1:
                old = _rectify(self.from_rgb[k - 1](F.avg_pool2d(images, 2)))
                x = _blend(old, x, share)
        x = _rectify(self.last(minibatch_deviation(x, self.group)))
        x = _rectify(self.dense(x.flatten(1)))
        logits = self.logit(x)[:, 0]
        if self.embed is not None:
            labels = required(labels, "discriminator")
            logits = logits + (self.embed(labels) * x).sum(1)
        return logits


class _FirstBlock(Drawn):
    """``[b inputs] -> [b outputs 4 4]``: a 4x4 convolution over one position, and a 3x3 one."""

    def __init__(self, inputs: int, outputs: int, *, by_place: bool) -> None:
        super().__init__()
        # As a convolution its fan-in would be 16 times as large: hence the quarter.
        self.dense = EqualisedLinear(inputs, outputs * 16, bias=False, gain=HE_GAIN / 4)
        places = (4, 4) if by_place else ()
        self.bias = nn.Parameter(torch.zeros(outputs, *places))
        self.conv = EqualisedConv2d(outputs, outputs, 3, gain=HE_GAIN)

    def draw(self, random: Generator) -> None:
        """What its parts do not: bias 0."""
        nn.init.zeros_(self.bias)

    def forward(self, z: Tensor) -> Tensor:
        bias = self.bias if self.bias.ndim == 3 else self.bias[:, None, None]
        x = self.dense(z).unflatten(1, (-1, 4, 4)) + bias
        x = pixel_norm(_rectify(x))
        return pixel_norm(_rectify(self.conv(x)))


class _DoublingBlock(nn.Module):
    """``[b inputs h w] -> [b outputs 2h 2w]``: nearest upsampling and two convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = _DoublingConv2d(inputs, outputs, 3, gain=HE_GAIN)
        self.conv1 = EqualisedConv2d(outputs, outputs, 3, gain=HE_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(_rectify(self.conv0(x)))
        return pixel_norm(_rectify(self.conv1(x)))


class _DoublingConv2d(EqualisedConv2d):
    """Nearest upsampling and a 3x3 convolution in one: each output sees but 2x2 of the input, so
    that a transposed convolution of kernel 4 needs 16 products where 36 would be spent."""

    def forward(self, x: Tensor) -> Tensor:
        # Pixel i becomes 2i and 2i + 1; tap k of output m reads pixel m + k - 1. So offset a of the
        # transposed kernel, output 2i + a - 1, holds taps 2 - a and 3 - a, in each direction.
        weight = spread(self.weight.flip(2, 3)).transpose(0, 1)
        x, weight = scale_smaller(x, weight, self.scale)
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)


class _HalvingBlock(nn.Module):
    """``[b inputs 2h 2w] -> [b outputs h w]``: two convolutions and average pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = EqualisedConv2d(inputs, inputs, 3, gain=HE_GAIN)
        self.conv1 = EqualisedConv2d(inputs, outputs, 3, gain=HE_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        x = _rectify(self.conv1(_rectify(self.conv0(x))))
        return F.avg_pool2d(x, 2)


def _blend(old: Tensor, new: Tensor, share: float) -> Tensor:
    """``share`` of the new one."""
    return old + share * (new - old)


def _rectify(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, 0.2)
