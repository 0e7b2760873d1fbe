"""R3GAN: bottleneck blocks of grouped convolutions without any normalisation, held stable by their
initial weights alone; generator and discriminator are each other's mirror image.

Source: Huang et al., "The GAN is dead; long live the GAN! A Modern Baseline GAN", 2024
(configuration E of the roadmap, and the settings in the appendix); initial weights: Zhang et al.,
"Fixup Initialization", 2019, section 3. For CIFAR-10 the generator is

    [z 64, class 64] -> 4x4x768 -> 8x8x768 -> 16x16x768 -> 32x32x768 -> 32x32x3

two blocks at each resolution. Its output is linear: in -1..1 as the data is, but for stray values.

Of the published pickles each tensor is one of ours (s counts stages, b blocks, both in the order of
the forward pass; their Layers also hold the way between stages: in G before a stage's blocks, in D
behind them):

    theirs (G under Model., D likewise)                      ours
    MainLayers.{s}.Layers.{..}.LinearLayer{1,2,3}.Layer.weight  stages.{s}.{b}.conv{1,2,3}.weight
    MainLayers.{s}.Layers.{..}.NonLinearity{1,2}.Bias        stages.{s}.{b}.conv{1,2}.bias
    MainLayers.{s}.Layers.{..}.LinearLayer.Layer.weight      changes.{s}.weight, if widths differ
    ... .Basis, ... .LinearLayer.weight                      basis, linear.weight
    AggregationLayer (G), ExtractionLayer (D)                image.weight
    EmbeddingLayer.weight                                    embed.weight, transposed

Filters for resampling are buffers there and constants here.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import (
    Architecture,
    DiscriminatorArchitecture,
    GeneratorArchitecture,
    Network,
    one_of,
    powers_of_two,
    required,
)
from .resampling import double, halve

RESOLUTIONS = powers_of_two(8, 512)
SLOPE = 0.2
# Of He's initial weights, for leaky ReLUs of this slope.
GAIN = math.sqrt(2 / (1 + SLOPE**2))

Width = Annotated[int, Field(ge=8, le=2048, multiple_of=8)]


class _R3GAN(Architecture):
    """What generator and discriminator share: they mirror each other."""

    resolution: Annotated[int, one_of(RESOLUTIONS)] = 32
    """Side of the square images, px: a power of two from 8 to 512."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    widths: tuple[Width, ...] = (768, 768, 768, 768)
    """Channels at 4 px, 8 px and so on to the images' resolution."""
    blocks: Annotated[int, Field(ge=1, le=16)] = 2
    """Residual blocks at each resolution."""
    expansion: Annotated[int, Field(ge=1, le=8)] = 2
    """Channels within a block over those outside."""
    group: Annotated[int, Field(ge=1, le=2048)] = 16
    """Channels of each group of the 3x3 convolutions."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        sides = powers_of_two(4, self.resolution)
        if len(self.widths) != len(sides):
            raise ValueError(
                f"widths has {len(self.widths)} values, but at {self.resolution} px it needs "
                f"{len(sides)}: for {', '.join(map(str, sides))} px"
            )
        for width in self.widths:
            if self.expansion * width % self.group:
                raise ValueError(
                    f"group is {self.group}, which does not divide the {self.expansion * width} "
                    f"channels within a block of width {width}"
                )
        return self

    def width_at(self, side: int) -> int:
        """Channels of the feature maps of ``side`` px."""
        return self.widths[powers_of_two(4, self.resolution).index(side)]


class R3GANGenerator(_R3GAN, GeneratorArchitecture):
    """Latents to images."""

    kind: Literal["r3gan-generator"] = "r3gan-generator"
    """Names this architecture in files."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 64
    """Length of the latent vector z."""
    class_dim: Annotated[int, Field(ge=1, le=4096)] = 64
    """Length of the class embedding that is concatenated to z; unused without classes."""

    def build(self) -> R3GANGeneratorNetwork:
        return R3GANGeneratorNetwork(self)


class R3GANDiscriminator(_R3GAN, DiscriminatorArchitecture):
    """Images to one logit each."""

    kind: Literal["r3gan-discriminator"] = "r3gan-discriminator"
    """Names this architecture in files."""
    class_dim: Annotated[int, Field(ge=1, le=4096)] = 768
    """Length of the features that are projected on the class embedding; unused without classes."""

    def build(self) -> R3GANDiscriminatorNetwork:
        return R3GANDiscriminatorNetwork(self)


class Bottleneck(nn.Module):
    """x + 1x1(act(grouped 3x3(act(1x1(x))))): ``[b c h w] -> [b c h w]``; act adds a bias and is a
    leaky ReLU.

    The grouped convolution is torch's: as one matrix product a group, or as a dense convolution
    with zeros, it took 5 to 15 times as long on a CPU.
    """

    def __init__(self, channels: int, expansion: int, group: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.conv1 = nn.Conv2d(channels, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv1(x), SLOPE, inplace=True)
        h = F.leaky_relu(self.conv2(h), SLOPE, inplace=True)
        return x + self.conv3(h)

    def initialise(self, blocks: int, random: Generator) -> None:
        """He's, times ``blocks`` (those in the network) to the power -1/(2m - 2), m = 3 layers; the
        last one 0, so that a new block is the identity.

        Source: Zhang et al. 2019, section 3, rules 1 and 2."""
        for conv in (self.conv1, self.conv2):
            _draw(conv.weight, GAIN * blocks**-0.25, random)
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.conv3.weight)


class R3GANGeneratorNetwork(Network):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels resolution resolution]`` in -1..1, unbounded."""

    def __init__(self, architecture: R3GANGenerator) -> None:
        super().__init__()
        a = architecture
        self.embed = nn.Embedding(a.classes, a.class_dim) if a.classes else None
        inputs = a.z_dim + (a.class_dim if a.classes else 0)
        self.linear = nn.Linear(inputs, a.widths[0], bias=False)
        self.basis = nn.Parameter(torch.zeros(a.widths[0], 4, 4))
        self.stages = nn.ModuleList(_stage(a, width) for width in a.widths)
        self.changes = _changes(a.widths, 1)
        self.image = nn.Conv2d(a.widths[-1], a.channels, 1, bias=False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            z = torch.cat([z, self.embed(required(labels, "generator"))], dim=1)
        # A 4x4 pattern for each channel, learned, times a weight that z gives.
        x = self.linear(z)[:, None, None, :] * self.basis.permute(1, 2, 0)
        x = x.permute(0, 3, 1, 2)
        for s, stage in enumerate(self.stages):
            if s:
                x = double(self.changes[str(s)](x) if str(s) in self.changes else x)
            x = stage(x)
        return self.image(x)

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`; the basis ~ N(0, 1)."""
        initialise(self, random)
        nn.init.normal_(self.basis, generator=random)
        if self.embed is not None:
            _draw(self.embed.weight.t(), 1.0, random)


class R3GANDiscriminatorNetwork(Network):
    """``[b channels resolution resolution]`` in -1..1, ``labels [b]`` -> logits ``[b]``;
    positive: real."""

    def __init__(self, architecture: R3GANDiscriminator) -> None:
        super().__init__()
        a = architecture
        widths = a.widths[::-1]
        self.image = nn.Conv2d(a.channels, widths[0], 1, bias=False)
        self.stages = nn.ModuleList(_stage(a, width) for width in widths)
        self.changes = _changes(widths, 0)
        self.basis = nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False)
        self.linear = nn.Linear(widths[-1], a.class_dim if a.classes else 1, bias=False)
        self.embed = nn.Embedding(a.classes, a.class_dim) if a.classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.image(images)
        for s, stage in enumerate(self.stages):
            x = stage(x)
            if s < len(self.stages) - 1:
                x = halve(x)
                x = self.changes[str(s)](x) if str(s) in self.changes else x
        features = self.linear(self.basis(x).flatten(1))
        if self.embed is None:
            return features[:, 0]
        return (features * self.embed(required(labels, "discriminator"))).sum(1)

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`."""
        initialise(self, random)
        if self.embed is not None:
            _draw(self.embed.weight.t(), self.embed.embedding_dim**-0.5, random)


def _stage(a: R3GANGenerator | R3GANDiscriminator, width: int) -> nn.Sequential:
    """The blocks at one resolution."""
    return nn.Sequential(*(Bottleneck(width, a.expansion, a.group) for _ in range(a.blocks)))


def _changes(widths: tuple[int, ...], first: int) -> nn.ModuleDict:
    """Where the width changes, a 1x1 convolution, at the smaller map; by stage, counted from
    ``first`` for the step from the first stage to the second."""
    steps = enumerate(pairwise(widths), first)
    return nn.ModuleDict({str(s): nn.Conv2d(i, o, 1, bias=False) for s, (i, o) in steps if i != o})


def initialise(network: nn.Module, random: Generator) -> None:
    """Blocks as :meth:`Bottleneck.initialise`; all else ~ N(0, 1/fan_in), which keeps variances."""
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    inside = {layer for block in blocks for layer in block.modules()}
    for block in blocks:
        block.initialise(len(blocks), random)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module not in inside:
            _draw(module.weight, 1.0, random)


@torch.no_grad()
def _draw(weight: Tensor, gain: float, random: Generator) -> None:
    """``weight [outputs inputs ...]`` ~ N(0, gain^2 / fan_in)."""
    weight.normal_(0, gain / math.sqrt(weight[0].numel()), generator=random)


class Pair(NamedTuple):
    """A generator and its discriminator."""

    generator: R3GANGenerator
    discriminator: R3GANDiscriminator


def _pair(resolution: int, widths: tuple[int, ...], classes: int) -> Pair:
    return Pair(
        R3GANGenerator(resolution=resolution, widths=widths, classes=classes),
        R3GANDiscriminator(resolution=resolution, widths=widths, classes=classes),
    )


# Published: cifar10, ffhq-64. Slim is ours: about an eighth of the work.
PRESETS: dict[str, Pair] = {
    "r3gan-cifar10": _pair(32, (768, 768, 768, 768), classes=10),
    "r3gan-ffhq64": _pair(64, (768, 768, 768, 768, 384), classes=0),
    "r3gan-slim": _pair(32, (256, 256, 256, 256), classes=10),
}
