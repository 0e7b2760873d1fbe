"""BigGAN: wide residual networks whose generator gets class and a part of z in every block, through
batch norm; spectral norm and orthogonal initial weights in both networks.

Source: Brock, Donahue, Simonyan, "Large Scale GAN Training for High Fidelity Natural Image
Synthesis", 2019, appendix B, tables 4 to 6 (layers), section 3.1 (shared embedding), section 3.2
(z in every block). At 128 px, with ``width`` ch, generator and discriminator are

    z -> 4x4x16ch -> 8x8x16ch -> 16x16x8ch -> 32x32x4ch -> 64x64x2ch, attention -> 128x128xch -> RGB
    RGB -> 64x64xch, attention -> 32x32x2ch -> ... -> 4x4x16ch -> 4x4x16ch -> sum -> one logit

Of BigGAN-PyTorch's files each tensor is one of ours, once weight / sigma(u0) is folded:

    theirs                                          ours
    shared.weight                                   embed.weight
    linear                                          linear, rows in another order (1)
    blocks.{i}.0.conv1, conv2, conv_sc              blocks.{i}.conv1, conv2, shortcut
    blocks.{i}.0.bn1.gain, bias                     blocks.{i}.norm1.gain, bias, columns (2)
    blocks.{i}.0.bn1.stored_mean, stored_var        blocks.{i}.norm1.norm.running_mean, running_var
    blocks.{i}.1.theta, phi, g, o, gamma            attention.{side}.query, key, value, out, gamma
    output_layer.0.gain, bias, stored_..., .2       norm.weight, bias, running_..., conv
    linear, embed (D)                               head.linear, head.embed

(1) ours gives [h w c], theirs [c h w]. (2) ours are of [z, class], theirs of [class, z]. Where they
have no shared embedding, their gain and bias [classes c] are norm1.embed.weight, [1 + gain, bias].
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
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
    check_attention,
    one_of,
    powers_of_two,
    required,
)
from .layers import SelfAttention
from .normalisation import (
    BatchNorm2d,
    ClassConditionalBatchNorm2d,
    VectorConditionalBatchNorm2d,
    initialise_spectral_norms,
    raw_weight,
    spectral_norm,
)
from .residual import (
    DiscriminatorBlock,
    GeneratorBlock,
    Norm,
    Projection,
    conv3x3,
    neutralise,
)

# Channels over ``width``: of the generator's maps from 4 px up; of what the discriminator's blocks
# give, the first of which halve (BigGAN-deep's: its first convolution, then its stages). 32 and
# 64 px: the authors' PyTorch code, the rest: the paper.
GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
DISCRIMINATOR = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
RESOLUTIONS = tuple(GENERATOR)


class BigGANArchitecture(Architecture):
    """What the networks of BigGAN and BigGAN-deep share."""

    resolution: Annotated[int, one_of(RESOLUTIONS)] = 32
    """Side of the square images, px: a power of two from 32 to 512."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 96
    """The unit in which the paper's tables count channels, ch."""
    attention: tuple[int, ...] = ()
    """Resolutions (px) whose feature maps get self-attention; none: ()."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""
    spectral_norm: bool = True
    """Normalise the weights, but for the generator's class embedding; files of generators hold
    plain ones."""

    @model_validator(mode="after")
    def _attention_fits(self) -> Self:
        check_attention(self.attention, self.sides, "blocks that end")
        return self

    @property
    @abstractmethod
    def sides(self) -> tuple[int, ...]:
        """Resolutions at which blocks end, px, in the order of the forward pass."""

    def attentions(self, widths: tuple[int, ...]) -> nn.ModuleDict:
        """Self-attention by side; ``widths``: channels at :attr:`sides`."""
        return nn.ModuleDict(
            {
                str(side): SelfAttention(width, pool=True, spectral=self.spectral_norm)
                for side, width in zip(self.sides, widths, strict=True)
                if side in self.attention
            }
        )


class BigGANGeneratorArchitecture(BigGANArchitecture, GeneratorArchitecture):
    """What the generators share."""

    z_dim: Annotated[int, Field(ge=1, le=4096)] = 80
    """Length of the latent vector z."""
    norm_eps: Annotated[float, Field(gt=0, le=0.1)] = 1e-5
    """Added to variances by the batch norms."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at 4 px, and of what each block, or pair of blocks, gives."""
        return tuple(self.width * factor for factor in GENERATOR[self.resolution])

    @property
    def sides(self) -> tuple[int, ...]:
        return powers_of_two(8, self.resolution)

    def width_at(self, side: int) -> int:
        """Channels of the feature maps of ``side`` px, where blocks end, or 4."""
        return self.widths[(4, *self.sides).index(side)]


class BigGANGenerator(BigGANGeneratorArchitecture):
    """Latents to images by residual blocks, each of which doubles the resolution."""

    kind: Literal["biggan-generator"] = "biggan-generator"
    """Names this architecture in files."""
    class_dim: Annotated[int, Field(ge=0, le=4096)] = 128
    """Length of the class embedding that all batch norms share; 0: each has embeddings of its own,
    of gains and biases. Unused without classes."""
    hierarchical: bool = True
    """Split z into equal parts, the first for the first layer and one more for each block."""

    @model_validator(mode="after")
    def _z_fits(self) -> Self:
        parts = len(self.sides) + 1
        if self.hierarchical and self.z_dim % parts:
            raise ValueError(
                f"z_dim is {self.z_dim}, but a hierarchical generator at {self.resolution} px "
                f"splits z into {parts} equal parts: give a multiple of {parts}"
            )
        if self.hierarchical and self.classes and not self.class_dim:
            raise ValueError(
                "class_dim is 0, so batch norms take classes alone and no part of z: set "
                "hierarchical to false, or class_dim to 1 or more"
            )
        return self

    @property
    def part(self) -> int:
        """Values of z in each block's condition."""
        return self.z_dim // (len(self.sides) + 1) if self.hierarchical else 0

    def build(self) -> BigGANGeneratorNetwork:
        return BigGANGeneratorNetwork(self)


class BigGANDiscriminatorArchitecture(BigGANArchitecture, DiscriminatorArchitecture):
    """What the discriminators share."""

    @property
    def spectral(self) -> bool:
        return self.spectral_norm

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of what each block gives; of BigGAN-deep's first convolution, then its
        stages."""
        return tuple(self.width * factor for factor in DISCRIMINATOR[self.resolution])

    @property
    def sides(self) -> tuple[int, ...]:
        last = 8 if self.resolution == 32 else 4
        return powers_of_two(last, self.resolution // 2)[::-1]


class BigGANDiscriminator(BigGANDiscriminatorArchitecture):
    """Images to one logit each by residual blocks."""

    kind: Literal["biggan-discriminator"] = "biggan-discriminator"
    """Names this architecture in files."""

    def build(self) -> BigGANDiscriminatorNetwork:
        return BigGANDiscriminatorNetwork(self)


class BigGANGeneratorNetwork(Network):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels resolution resolution]`` in -1..1."""

    def __init__(self, architecture: BigGANGenerator) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        shared = a.class_dim if a.classes else 0
        self.embed = nn.Embedding(a.classes, shared) if shared else None
        widths = a.widths
        self.linear = spectral_norm(
            nn.Linear(a.part or a.z_dim, 16 * widths[0]), enabled=a.spectral_norm
        )
        norm = _norm(a, a.part + shared)
        self.blocks = nn.ModuleList(
            GeneratorBlock(inputs, outputs, norm, spectral=a.spectral_norm)
            for inputs, outputs in pairwise(widths)
        )
        self.attention = a.attentions(widths[1:])
        self.norm = BatchNorm2d(widths[-1], a.norm_eps)
        self.conv = conv3x3(widths[-1], a.channels, a.spectral_norm)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        a = self.architecture
        if a.classes:
            labels = required(labels, "generator")
        first, conditions = self._conditions(z, labels)
        x = self.linear(first).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)
        for side, block, condition in zip(a.sides, self.blocks, conditions, strict=True):
            x = block(x, condition)
            if side in a.attention:
                x = self.attention[str(side)](x)
        return self.conv(F.relu(self.norm(x), inplace=True)).tanh()

    def _conditions(
        self, z: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """What the first layer takes, and what each block does."""
        a = self.architecture
        shared = labels if self.embed is None else self.embed(required(labels, "generator"))
        if not a.hierarchical:
            return z, (shared,) * len(a.sides)
        first, *parts = z.split(a.part, dim=1)
        if shared is None:
            return first, tuple(parts)
        return first, tuple(torch.cat([part, shared], dim=1) for part in parts)

    def z_weight(self) -> Tensor:
        """``[n z_dim]``: what z is multiplied with where it goes in; each part of a hierarchical
        one's in its own layers."""
        a = self.architecture
        if not a.hierarchical:
            return self.linear.weight
        rows: list[Tensor] = []

        def add(weight: Tensor, part: int) -> None:
            row = weight.new_zeros(len(weight), a.z_dim)
            row[:, part * a.part : (part + 1) * a.part] = weight[:, : a.part]
            rows.append(row)

        add(self.linear.weight, 0)
        for part, block in enumerate(self.blocks, 1):
            for norm in (block.norm1, block.norm2):
                assert isinstance(norm, VectorConditionalBatchNorm2d)
                add(norm.gain.weight, part)
                add(norm.bias.weight, part)
        return torch.cat(rows)

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`."""
        initialise(self, random)


class BigGANDiscriminatorNetwork(Network):
    """``[b channels resolution resolution]`` in -1..1, ``labels [b]`` -> logits ``[b]``;
    positive: real."""

    def __init__(self, architecture: BigGANDiscriminator) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        widths = a.widths
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(
                inputs,
                outputs,
                outputs,
                halve=n < len(a.sides),
                first=n == 0,
                spectral=a.spectral_norm,
            )
            for n, (inputs, outputs) in enumerate(
                zip((a.channels, *widths[:-1]), widths, strict=True)
            )
        )
        self.attention = a.attentions(widths[: len(a.sides)])
        self.head = Projection(widths[-1], a.classes, spectral=a.spectral_norm)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = images
        for block in self.blocks:
            x = block(x)
            if block.halve and x.shape[2] in self.architecture.attention:
                x = self.attention[str(x.shape[2])](x)
        return self.head(x, labels)

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`."""
        initialise(self, random)


def _norm(a: BigGANGenerator, condition: int) -> Norm:
    """Batch norm on a condition of so many values; of none, on the class; or on nothing."""
    if condition:
        return partial(
            VectorConditionalBatchNorm2d,
            inputs=condition,
            eps=a.norm_eps,
            spectral=a.spectral_norm,
        )
    if a.classes:
        return partial(ClassConditionalBatchNorm2d, classes=a.classes, eps=a.norm_eps)
    return partial(BatchNorm2d, eps=a.norm_eps)


def initialise(network: nn.Module, random: Generator) -> None:
    """Orthogonal weights; the rest neutral.

    Source: Brock et al. 2019, section 3 (Saxe et al., "Exact Solutions to the Nonlinear Dynamics of
    Learning", 2014)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.orthogonal_(raw_weight(module), generator=random)
    neutralise(network)
    initialise_spectral_norms(network, random)


class Pair(NamedTuple):
    """A generator and its discriminator."""

    generator: BigGANGenerator
    discriminator: BigGANDiscriminator


def _pair(
    resolution: int,
    width: tuple[int, int],
    z_dim: int,
    classes: int,
    *attention: int,
    class_dim: int = 128,
) -> Pair:
    """``width`` of generator and discriminator; without a shared embedding, not hierarchical."""
    return Pair(
        BigGANGenerator(
            resolution=resolution,
            width=width[0],
            attention=attention,
            classes=classes,
            z_dim=z_dim,
            class_dim=class_dim,
            hierarchical=class_dim > 0,
        ),
        BigGANDiscriminator(
            resolution=resolution, width=width[1], attention=attention, classes=classes
        ),
    )


# ImageNet: the paper's. CIFAR-10: 64 is that of the authors' PyTorch code, 96 StudioGAN's, whose
# discriminator counts in units of half the size.
PRESETS: dict[str, Pair] = {
    #                          px   width G, D   z  classes  attention
    "biggan-cifar10-64": _pair(32,  (64, 64), 128,   10, class_dim=0),
    "biggan-cifar10-96": _pair(32,  (96, 48),  80,   10, 16),
    "biggan-128":        _pair(128, (96, 96), 120, 1000, 64),
    "biggan-256":        _pair(256, (96, 96), 140, 1000, 64),
    "biggan-512":        _pair(512, (96, 96), 160, 1000, 64),
}  # fmt: skip
