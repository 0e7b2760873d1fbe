"""A stack of discriminators, each of the images at half the size of the one before.

Source: Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional
GANs" (pix2pixHD), 2018, section 3.2: the coarse ones see more of the image at a time, the fine ones
its detail. Halving is theirs, an average over 3x3 px.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import DiscriminatorArchitecture, Network
from .dcgan import DCGANDiscriminator
from .sngan import SNGANDiscriminator


class MultiScaleDiscriminator(DiscriminatorArchitecture):
    """Images to one logit at each of several scales."""

    kind: Literal["multi-scale-discriminator"] = "multi-scale-discriminator"
    """Names this architecture in files."""
    scales: Annotated[int, Field(ge=2, le=4)] = 3
    """Discriminators, at 1, 1/2, 1/4, 1/8 of the size."""
    finest: Annotated[DCGANDiscriminator | SNGANDiscriminator, Field(discriminator="kind")] = (
        DCGANDiscriminator()
    )
    """The one of the whole size; the others are of the same kind."""

    @property
    def resolution(self) -> int:
        """Side of the square images, px."""
        return self.finest.resolution

    @property
    def channels(self) -> int:
        """Image channels."""
        return self.finest.channels

    @property
    def classes(self) -> int:
        """Number of classes; 0: unconditional."""
        return self.finest.classes

    @property
    def normalises_batches(self) -> bool:
        return self.finest.normalises_batches

    @property
    def spectral(self) -> bool:
        return self.finest.spectral

    @model_validator(mode="after")
    def _has_scales(self) -> Self:
        if self.finest.classifies:
            raise ValueError(
                "the discriminators of a stack judge classes by projection: set "
                "finest.conditioning to projection"
            )
        self.coarser()
        return self

    def coarser(self) -> list[DCGANDiscriminator | SNGANDiscriminator]:
        """The discriminators' architectures, the finest first.

        Raises:
            ValueError: the coarsest would be too small."""
        found: list[DCGANDiscriminator | SNGANDiscriminator] = []
        for k in range(self.scales):
            side = self.resolution >> k
            attention = [s for s in self.finest.attention if s <= side // 2]
            try:
                fields = {"resolution": side, "attention": attention}
                found.append(type(self.finest)(**self.finest.model_dump() | fields))
            except ValueError as error:
                raise ValueError(
                    f"scales: {self.scales} of them need a {self.finest.kind} for {side} px, which "
                    "is too small; use fewer"
                ) from error
        return found

    def build(self) -> MultiScaleDiscriminatorNetwork:
        return MultiScaleDiscriminatorNetwork(self)


class MultiScaleDiscriminatorNetwork(Network):
    """``[b channels resolution resolution]`` in -1..1, ``labels [b]`` -> logits ``[b scales]``, the
    finest first; positive: real."""

    def __init__(self, architecture: MultiScaleDiscriminator) -> None:
        super().__init__()
        self.scales = nn.ModuleList(a.build() for a in architecture.coarser())

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: list[Tensor] = []
        for k, discriminator in enumerate(self.scales):
            if k:
                images = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
            logits.append(discriminator(images, labels))
        return torch.stack(logits, 1)

    def initialise(self, random: Generator) -> None:
        """Each as its own kind does."""
        for discriminator in self.scales:
            assert isinstance(discriminator, Network)
            discriminator.initialise(random)
