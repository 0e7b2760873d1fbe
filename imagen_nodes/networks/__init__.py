"""Networks: one file per family. ``ARCHITECTURES`` lists what a card can name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .architecture import Architecture
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .mobilenet import MobileNetV2Features
from .progan import ProGANDiscriminator, ProGANGenerator

ARCHITECTURES: tuple[type[Architecture], ...] = (
    DCGANGenerator,
    DCGANDiscriminator,
    MobileNetV2Features,
    ProGANGenerator,
    ProGANDiscriminator,
)

AnyArchitecture = Annotated[
    DCGANGenerator
    | DCGANDiscriminator
    | MobileNetV2Features
    | ProGANGenerator
    | ProGANDiscriminator,
    Field(discriminator="kind"),
]
