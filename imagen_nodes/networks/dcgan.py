"""DCGAN: a stack of strided transposed convolutions, and its mirror image.

Source: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", 2015, section 3 (layers) and section 4 (initial weights). At
32 px with the default width the generator is

    z 100 -> 4x4x512 -> 8x8x256 -> 16x16x128 -> 32x32x3

and the discriminator 32x32x3 -> 16x16x128 -> 8x8x256 -> 4x4x512 -> one logit. Every further power
of two adds one layer at the inner end, so that there is one logit an image at every resolution.

Both take class conditions: the generator concatenates a class embedding to z (Mirza & Osindero,
"Conditional Generative Adversarial Nets", 2014), or has batch norms of the class (Dumoulin et al.,
"A Learned Representation for Artistic Style", 2017, equation 5); the discriminator projects on an
embedding (Miyato & Koyama, "cGANs with Projection Discriminator", 2018, equation 4).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

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
from .layers import DoublingConv2d, HalvingConv2d, MapToLogit, SelfAttention, VectorToMap
from .normalisation import (
    ClassConditionalBatchNorm2d,
    initialise_spectral_norms,
    raw_weight,
    spectral_norm,
)

RESOLUTIONS = powers_of_two(8, 256)


class _DCGAN(Architecture):
    """What generator and discriminator share: they mirror each other."""

    resolution: Annotated[int, one_of(RESOLUTIONS)] = 32
    """Side of the square images, px: a power of two from 8 to 256."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 128
    """Channels at half the resolution; doubled at each halving."""
    width_max: Annotated[int, Field(ge=8, le=2048, multiple_of=8)] = 1024
    """No layer has more channels than this."""
    attention: tuple[int, ...] = ()
    """Resolutions (px) whose feature maps get self-attention; none: ()."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""

    @model_validator(mode="after")
    def _attention_fits(self) -> Self:
        check_attention(self.attention, self.sides, "feature maps")
        return self

    @property
    def sides(self) -> tuple[int, ...]:
        """Resolutions of the feature maps, px, from 4 to half the image's."""
        return powers_of_two(4, self.resolution // 2)

    def width_at(self, side: int) -> int:
        """Channels of the feature map of ``side`` px."""
        return min(self.width * self.resolution // (2 * side), self.width_max)


class DCGANGenerator(_DCGAN, GeneratorArchitecture):
    """Latents to images by transposed convolutions."""

    kind: Literal["dcgan-generator"] = "dcgan-generator"
    """Names this architecture in files."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 100
    """Length of the latent vector z."""
    class_dim: Annotated[int, Field(ge=1, le=1024)] = 64
    """Length of the class embedding that is concatenated to z; unused without classes."""
    conditioning: Literal["embedding", "batch-norm"] = "embedding"
    """How a class enters: an embedding beside z, or batch norms with a gain and bias for each
    class; unused without classes."""

    def build(self) -> DCGANGeneratorNetwork:
        return DCGANGeneratorNetwork(self)


class DCGANDiscriminator(_DCGAN, DiscriminatorArchitecture):
    """Images to one logit each by strided convolutions."""

    has_features: ClassVar[bool] = True

    kind: Literal["dcgan-discriminator"] = "dcgan-discriminator"
    """Names this architecture in files."""
    norm: Literal["batch", "spectral", "none"] = "batch"
    """Batch norm of all maps but the outermost; spectral norm of all weights; or neither. Gradient
    penalties need a discriminator without batch norm."""
    conditioning: Conditioning = "projection"
    """How it judges classes; unused without."""

    @property
    def normalises_batches(self) -> bool:
        return self.norm == "batch"

    @property
    def spectral(self) -> bool:
        return self.norm == "spectral"

    @property
    def classifies(self) -> bool:
        return bool(self.classes) and self.conditioning == "auxiliary"

    def build(self) -> DCGANDiscriminatorNetwork:
        return DCGANDiscriminatorNetwork(self)


class DCGANGeneratorNetwork(Network):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels resolution resolution]`` in -1..1."""

    def __init__(self, architecture: DCGANGenerator) -> None:
        super().__init__()
        a = architecture
        by_norm = bool(a.classes) and a.conditioning == "batch-norm"
        embedded = a.class_dim if a.classes and not by_norm else 0
        self.embed = nn.Embedding(a.classes, embedded) if embedded else None
        inputs = a.z_dim + embedded
        layers: list[nn.Module] = []
        for side in a.sides:
            outputs = a.width_at(side)
            if side == 4:  # from 1x1
                layers.append(VectorToMap(inputs, outputs))
            else:
                layers.append(DoublingConv2d(inputs, outputs, bias=False))
            norm = ClassConditionalBatchNorm2d(outputs, a.classes) if by_norm else None
            layers += [norm or nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            if side in a.attention:
                layers.append(SelfAttention(outputs))
            inputs = outputs
        layers += [DoublingConv2d(inputs, a.channels, bias=True), nn.Tanh()]
        self.main = nn.Sequential(*layers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            z = torch.cat([z, self.embed(required(labels, "generator"))], dim=1)
        for layer in self.main:
            if isinstance(layer, ClassConditionalBatchNorm2d):
                z = layer(z, required(labels, "generator"))
            else:
                z = layer(z)
        return z

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`; class embeddings ~ N(0, 1)."""
        initialise(self, random)
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, generator=random)


class DCGANDiscriminatorNetwork(Network):
    """``[b channels resolution resolution]`` in -1..1, ``labels [b]`` -> logits ``[b]``;
    positive: real."""

    def __init__(self, architecture: DCGANDiscriminator) -> None:
        super().__init__()
        a = architecture
        layers: list[nn.Module] = []
        inputs = a.channels
        for side in reversed(a.sides):
            outputs = a.width_at(side)
            outermost = side == a.sides[-1]
            # Batch norm has a bias of its own.
            bias = outermost or a.norm != "batch"
            conv = HalvingConv2d(inputs, outputs, bias=bias)
            layers.append(spectral_norm(conv, a.spectral))
            if a.norm == "batch" and not outermost:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            if side in a.attention:
                layers.append(SelfAttention(outputs))
            inputs = outputs
        self.main = nn.Sequential(*layers)
        self.logit = spectral_norm(MapToLogit(inputs), a.spectral)
        self.embed = self.classes = None
        if a.classifies:
            self.classes = spectral_norm(nn.Linear(inputs, a.classes), a.spectral)
        elif a.classes:
            self.embed = spectral_norm(nn.Embedding(a.classes, inputs), a.spectral)

    def features(self, images: Tensor) -> Tensor:
        """The last feature maps ``[b c 4 4]``."""
        return self.main(images)

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[b]`` and class logits ``[b classes]``: Odena et al., "Conditional Image
        Synthesis With Auxiliary Classifier GANs", 2017, section 3."""
        assert self.classes is not None
        features = self.main(images)
        return self.logit(features), self.classes(features.sum((2, 3)))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.main(images)
        logits = self.logit(features)
        if self.embed is not None:
            labels = required(labels, "discriminator")
            logits = logits + (self.embed(labels) * features.sum((2, 3))).sum(1)
        return logits

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`initialise`."""
        initialise(self, random)


def initialise(network: nn.Module, random: Generator) -> None:
    """Convolutions, linear layers, embeddings ~ N(0, 0.02), batch norm gains ~ N(1, 0.02), biases
    0; gains of the class are 1.

    Source: Radford et al. 2015, section 4 (0.02); the gains' mean of 1 is the authors' code."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Embedding | nn.Linear):
            nn.init.normal_(raw_weight(module), 0.0, 0.02, generator=random)
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02, generator=random)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
    for module in network.modules():
        if isinstance(module, ClassConditionalBatchNorm2d):
            module.initialise()
    initialise_spectral_norms(network, random)
