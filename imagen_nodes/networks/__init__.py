"""Generators and discriminators: one file per family. ``ARCHITECTURES`` lists them all."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .architecture import Architecture as Architecture
from .dcgan import DCGANDiscriminator, DCGANGenerator

ARCHITECTURES: tuple[type[Architecture], ...] = (DCGANGenerator, DCGANDiscriminator)

AnyArchitecture = Annotated[DCGANGenerator | DCGANDiscriminator, Field(discriminator="kind")]
