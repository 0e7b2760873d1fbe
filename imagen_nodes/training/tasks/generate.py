"""Generate: images from noise, a generator against a discriminator in turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Generator, Tensor, nn

from ...networks.architecture import Architecture
from ...networks.dcgan import DCGANDiscriminator, DCGANGenerator
from ..losses import LOSSES, LossName
from ..task import Batch, Task


class Generate(Task):
    """Train a generator to draw images like the data's."""

    kind: Literal["generate"] = "generate"
    """Names this task in files."""
    generator: DCGANGenerator = DCGANGenerator()
    """Latents to images."""
    discriminator: DCGANDiscriminator = DCGANDiscriminator()
    """Images to a logit."""
    loss: LossName = "bce"
    """bce: cross-entropy, non-saturating; mse: least squares."""

    @model_validator(mode="after")
    def _networks_match(self) -> Self:
        for field in ("resolution", "channels", "classes"):
            ours, theirs = getattr(self.generator, field), getattr(self.discriminator, field)
            if ours != theirs:
                raise ValueError(f"generator.{field} is {ours}, discriminator.{field} is {theirs}")
        return self

    @property
    def architectures(self) -> dict[str, Architecture]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    @property
    def shipped(self) -> str:
        return "generator"

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, random: Generator
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        generator, discriminator = networks["generator"], networks["discriminator"]
        game = LOSSES[self.loss]
        z = self._z(len(batch.images), random).to(batch.images.device)
        # One set of images serves both updates; batch norm sees real and generated ones apart.
        fake = generator(z, batch.labels)
        real_logits = discriminator(batch.images, batch.labels).float()
        fake_logits = discriminator(fake.detach(), batch.labels).float()
        yield "discriminator", {"discriminator": game.discriminator(real_logits, fake_logits)}
        discriminator.requires_grad_(False)  # its gradients are neither wanted nor paid for
        fake_logits = discriminator(fake, batch.labels).float()
        discriminator.requires_grad_(True)
        yield "generator", {"generator": game.generator(fake_logits)}

    def latents(self, count: int, random: Generator) -> tuple[Tensor, Tensor | None]:
        labels = torch.arange(count) % self.generator.classes if self.generator.classes else None
        return self._z(count, random), labels

    def _z(self, count: int, random: Generator) -> Tensor:
        return torch.randn(count, self.generator.z_dim, generator=random)
