"""Heads for contrastive learning of patches: what of a feature map a patch is known by.

For each map of an encoder a network of two layers, at positions of it: ``c -> width, ReLU, width``,
of length 1. Source: Park et al., "Contrastive Learning for Unpaired Image-to-Image Translation"
(CUT), 2020, section 3.2 and appendix C.1, after Chen et al., "SimCLR", 2020.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture, Network
from .dcgan import initialise


class PatchHeads(Architecture):
    """Features of patches to vectors of length 1."""

    kind: Literal["patch-heads"] = "patch-heads"
    """Names this architecture in files."""
    inputs: Annotated[tuple[int, ...], Field(min_length=1)] = (3, 128, 256, 256, 256)
    """Channels of each of the encoder's maps."""
    width: Annotated[int, Field(ge=8, le=2048)] = 256
    """Length of the vectors."""

    def build(self) -> PatchHeadsNetwork:
        return PatchHeadsNetwork(self)


class PatchHeadsNetwork(Network):
    """A list of ``[b n c]``, n positions of each map -> a list of ``[b n width]``."""

    def __init__(self, architecture: PatchHeads) -> None:
        super().__init__()
        width = architecture.width
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
            for channels in architecture.inputs
        )

    def forward(self, patches: list[Tensor]) -> list[Tensor]:
        return [
            F.normalize(head(found), dim=2) for head, found in zip(self.heads, patches, strict=True)
        ]

    def initialise(self, random: Generator) -> None:
        """Weights ~ N(0, 0.02), biases 0, as the other networks' (the authors' code)."""
        initialise(self, random)
