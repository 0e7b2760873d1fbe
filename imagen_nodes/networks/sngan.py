"""SNGAN and SAGAN: residual networks, a spectrally normalised discriminator, class conditions by
batch norm and projection; SAGAN adds self-attention and normalises the generator as well.

Sources: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, tables 4
to 6 (layers); Miyato & Koyama, "cGANs with Projection Discriminator", 2018, equation 4 and section
4 (conditions); Zhang et al., "Self-Attention Generative Adversarial Networks", 2018, section 4.
:data:`PRESETS` holds the published sizes. At 32 px they are

    z 128 -> 4x4x256 -> 8x8x256 -> 16x16x256 -> 32x32x256 -> 32x32x3
    32x32x3 -> 16x16x128 -> 8x8x128 -> 8x8x128 -> 8x8x128 -> sum over positions -> one logit

Of mimicry's files (keys of its ``sngan``, ``cgan_pd`` and ``sagan`` networks) each tensor is one of
ours, once weight_orig / (weight_u . weight_orig weight_v) is folded into weight:

    theirs                                ours
    l1                                    linear, rows in another order (*)
    block{i+2}.c1, c2, c_sc               blocks.{i}.conv1, conv2, shortcut; in D of block{i+1}
    block{i+2}.b1, b2                     blocks.{i}.norm1, norm2
    block{i+2}.b1.bn, embed               blocks.{i}.norm1.norm, embed
    b{last}, c{last}                      norm, conv
    attn_block.theta, phi, g, o, gamma    attention.{side}.query, key, value, out, gamma
    l{last} and l_y of D                  linear, embed

(*) ours gives rows [h w c], theirs [c h w]: reshape to [c 4 4 n] and permute. Those networks
double bilinearly: ``upsampling="bilinear"``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import (
    Architecture,
    Conditioning,
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
    initialise_spectral_norms,
    raw_weight,
    spectral_norm,
)
from .residual import (
    DiscriminatorBlock,
    GeneratorBlock,
    Norm,
    Upsampling,
    conv3x3,
    neutralise,
)

RESOLUTIONS = powers_of_two(32, 256)


class _SNGAN(Architecture):
    """What generator and discriminator share."""

    resolution: Annotated[int, one_of(RESOLUTIONS)] = 32
    """Side of the square images, px: a power of two from 32 to 256."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    attention: tuple[int, ...] = ()
    """Resolutions (px) whose feature maps get self-attention; none: ()."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""

    @model_validator(mode="after")
    def _attention_fits(self) -> Self:
        check_attention(self.attention, self.sides, "blocks that end")
        return self

    @property
    @abstractmethod
    def sides(self) -> tuple[int, ...]:
        """Resolutions at which blocks end, px, in ascending order."""


class SNGANGenerator(_SNGAN, GeneratorArchitecture):
    """Latents to images by residual blocks, each of which doubles the resolution."""

    kind: Literal["sngan-generator"] = "sngan-generator"
    """Names this architecture in files."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 256
    """Channels at the full resolution; doubled at each halving."""
    width_max: Annotated[int, Field(ge=8, le=2048, multiple_of=8)] = 256
    """No layer has more channels than this."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 128
    """Length of the latent vector z."""
    upsampling: Upsampling = "nearest"
    """How maps are doubled: nearest, as in the paper, or bilinear."""
    spectral_norm: bool = False
    """Normalise the generator's weights too, as SAGAN does; not in files, which hold plain ones."""

    @property
    def sides(self) -> tuple[int, ...]:
        return powers_of_two(8, self.resolution)

    def width_at(self, side: int) -> int:
        """Channels of the feature map of ``side`` px."""
        return min(self.width * self.resolution // side, self.width_max)

    def build(self) -> SNGANGeneratorNetwork:
        return SNGANGeneratorNetwork(self)


class SNGANDiscriminator(_SNGAN, DiscriminatorArchitecture):
    """Images to one logit each by residual blocks, all but ``depth`` of which halve."""

    has_features: ClassVar[bool] = True

    kind: Literal["sngan-discriminator"] = "sngan-discriminator"
    """Names this architecture in files."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 128
    """Channels at half the resolution; doubled at each halving."""
    width_max: Annotated[int, Field(ge=8, le=2048, multiple_of=8)] = 128
    """No layer has more channels than this."""
    last: int = 8
    """Resolution down to which blocks halve, px: a power of two from 2 to a quarter of the
    images'."""
    depth: Annotated[int, Field(ge=0, le=8)] = 2
    """Number of blocks after that, which keep the resolution."""
    spectral_norm: bool = True
    """Normalise all weights, which is what SNGAN is named for."""
    conditioning: Conditioning = "projection"
    """How it judges classes; unused without."""

    @property
    def spectral(self) -> bool:
        return self.spectral_norm

    @property
    def classifies(self) -> bool:
        return bool(self.classes) and self.conditioning == "auxiliary"

    @model_validator(mode="after")
    def _last_fits(self) -> Self:
        allowed = powers_of_two(2, self.resolution // 4)
        if self.last not in allowed:
            raise ValueError(f"last must be one of {', '.join(map(str, allowed))}")
        return self

    @property
    def sides(self) -> tuple[int, ...]:
        return powers_of_two(self.last, self.resolution // 2)

    def width_at(self, side: int) -> int:
        """Channels of the feature map of ``side`` px."""
        return min(self.width * self.resolution // (2 * side), self.width_max)

    def build(self) -> SNGANDiscriminatorNetwork:
        return SNGANDiscriminatorNetwork(self)


class SNGANGeneratorNetwork(Network):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels resolution resolution]`` in -1..1."""

    def __init__(self, architecture: SNGANGenerator) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        norm: Norm = BatchNorm2d
        if a.classes:
            norm = partial(ClassConditionalBatchNorm2d, classes=a.classes)
        inputs = a.width_at(4)
        self.linear = spectral_norm(nn.Linear(a.z_dim, 16 * inputs), a.spectral_norm)
        self.blocks = nn.ModuleList()
        for side in a.sides:
            outputs = a.width_at(side)
            self.blocks.append(
                GeneratorBlock(
                    inputs, outputs, norm, upsampling=a.upsampling, spectral=a.spectral_norm
                )
            )
            inputs = outputs
        self.attention = _attention(a)
        self.norm = BatchNorm2d(inputs)
        self.conv = conv3x3(inputs, a.channels, a.spectral_norm)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.architecture.classes:
            labels = required(labels, "generator")
        x = self.linear(z).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)
        for side, block in zip(self.architecture.sides, self.blocks, strict=True):
            x = block(x, labels)
            if side in self.architecture.attention:
                x = self.attention[str(side)](x)
        return self.conv(F.relu(self.norm(x), inplace=True)).tanh()

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`."""
        initialise(self, random)


class SNGANDiscriminatorNetwork(Network):
    """``[b channels resolution resolution]`` in -1..1, ``labels [b]`` -> logits ``[b]``;
    positive: real."""

    def __init__(self, architecture: SNGANDiscriminator) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.blocks = nn.ModuleList()
        inputs = a.channels
        for side in (*reversed(a.sides), *[a.last] * a.depth):
            first, outputs = not self.blocks, a.width_at(side)
            self.blocks.append(
                DiscriminatorBlock(
                    inputs,
                    outputs if first else inputs,
                    outputs,
                    halve=len(self.blocks) < len(a.sides),
                    first=first,
                    spectral=a.spectral_norm,
                )
            )
            inputs = outputs
        self.attention = _attention(a)
        self.linear = spectral_norm(nn.Linear(inputs, 1), a.spectral_norm)
        self.embed = self.classes = None
        if a.classifies:
            self.classes = spectral_norm(nn.Linear(inputs, a.classes), a.spectral_norm)
        elif a.classes:
            self.embed = spectral_norm(nn.Embedding(a.classes, inputs), a.spectral_norm)

    def features(self, images: Tensor) -> Tensor:
        """What the logits are linear in: ``[b c]``."""
        x = images
        for block in self.blocks:
            x = block(x)
            # The first map of a side: blocks after the last halving add no attention.
            if x.shape[2] in self.architecture.attention and block.halve:
                x = self.attention[str(x.shape[2])](x)
        return F.relu(x).sum((2, 3))

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[b]`` and class logits ``[b classes]``: Odena et al., "Conditional Image
        Synthesis With Auxiliary Classifier GANs", 2017, section 3."""
        assert self.classes is not None
        features = self.features(images)
        return self.linear(features)[:, 0], self.classes(features)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.features(images)
        logits = self.linear(features)[:, 0]
        if self.embed is not None:
            # Equation 4: how far the features point to what is typical of the class.
            labels = required(labels, "discriminator")
            logits = logits + (self.embed(labels) * features).sum(1)
        return logits

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`."""
        initialise(self, random)


def _attention(a: SNGANGenerator | SNGANDiscriminator) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            str(side): SelfAttention(a.width_at(side), pool=True, spectral=a.spectral_norm)
            for side in a.attention
        }
    )


def initialise(network: nn.Module, random: Generator) -> None:
    """Weights uniform after Glorot, with gain sqrt 2 within blocks and 1 elsewhere; the rest
    neutral.

    Source: the authors' code of Miyato et al. 2018."""
    within = {
        conv
        for block in network.modules()
        if isinstance(block, GeneratorBlock | DiscriminatorBlock)
        for conv in (block.conv1, block.conv2)
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            gain = math.sqrt(2) if module in within else 1.0
            nn.init.xavier_uniform_(raw_weight(module), gain, generator=random)
    neutralise(network)
    initialise_spectral_norms(network, random)


class Pair(NamedTuple):
    """A generator and its discriminator."""

    generator: SNGANGenerator
    discriminator: SNGANDiscriminator


def _pair(
    resolution: int, g: tuple[int, int], d: tuple[int, int, int, int], *attention: int
) -> Pair:
    """``g`` = (width, width_max), ``d`` = (width, width_max, last, depth)."""
    return Pair(
        SNGANGenerator(
            resolution=resolution,
            width=g[0],
            width_max=g[1],
            attention=attention,
            spectral_norm=bool(attention),
        ),
        SNGANDiscriminator(
            resolution=resolution,
            width=d[0],
            width_max=d[1],
            last=d[2],
            depth=d[3],
            attention=attention,
        ),
    )


# The papers' tables: SNGAN 4 (32 px) and 6 (128 px); 64 px is the common step between them.
# SAGAN: 32 px maps at 128 px; 16 px maps at 32 px, which is StudioGAN's choice.
PRESETS: dict[str, Pair] = {
    #                  px    G: width, max  D: width, max, last, depth  attention
    "sngan-32":  _pair(32,  (256, 256),  (128, 128, 8, 2)),
    "sngan-64":  _pair(64,  (64, 1024),  (64, 1024, 2, 0)),
    "sngan-128": _pair(128, (64, 1024),  (64, 1024, 4, 1)),
    "sagan-32":  _pair(32,  (256, 256),  (128, 128, 8, 2), 16),
    "sagan-128": _pair(128, (64, 1024),  (64, 1024, 4, 1), 32),
}  # fmt: skip
