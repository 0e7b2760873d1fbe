"""Restore: pictures from worse ones of them; larger, or without noise. With a discriminator, what
cannot be known is made up to look real.

Sources: Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network" (SRGAN), 2017; Wang et al., "Real-ESRGAN", 2021, section 3.3 (losses and discriminator).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, Tag, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...checkpoint import Measurement
from ...evaluation import restoration
from ...networks.architecture import Architecture
from ...networks.compact import Compact
from ...networks.patch import PatchDiscriminator
from ...networks.residual_unet import ResidualUNet
from ...networks.unet_discriminator import UNetDiscriminator
from ...spec import by_kind
from ..data.dataset import Dataset
from ..degradation import Degradation, Shrink, seeded
from ..losses import LOSSES, LossName
from ..randomness import Numbers
from ..task import Batch, Measure, Moment, Task, Update, Wanted
from .pictures import (
    SHOWN,
    Weight,
    check_game,
    judged,
    logits,
    lpips,
    patches,
    tiles_to_measure,
    with_judge,
)

# Charbonnier's, in steps of 0..1.
SOFT = 1e-3


class Restore(Task):
    """Train a network to undo a degradation."""

    kind: Literal["restore"] = "restore"
    """Names this task in files."""
    generator: Annotated[
        Annotated[Compact, Tag("compact")] | Annotated[ResidualUNet, Tag("residual-unet")],
        by_kind("compact"),
    ] = Compact()
    """Pictures to pictures."""
    degradation: Degradation = Shrink()
    """What makes the network's pictures from clean ones."""
    tile: Annotated[int, Field(ge=32, le=4096)] = 256
    """Clean pictures are cut into tiles of this side, px; smaller ones are left out."""
    patch: Annotated[int, Field(ge=16, le=4096)] = 128
    """Side of the window of a tile that a step sees, px, at a random place."""
    turn: bool = True
    """Turn every other patch by 90 degrees."""
    pixel: Literal["l1", "charbonnier", "mse"] = "charbonnier"
    """Distance of result and original, a mean over pixels."""
    pixel_weight: Weight = 1.0
    """Of that distance."""
    perceptual_weight: Weight = 0.0
    """Of LPIPS (SqueezeNet, which ships) between result and original."""
    adversarial_weight: Weight = 0.0
    """Of what the discriminator says; 0: there is none."""
    discriminator: Annotated[
        UNetDiscriminator | PatchDiscriminator | None, Field(discriminator="kind")
    ] = None
    """Judges results against originals; none: null."""
    loss: LossName = "bce"
    """Of the game between the two, at every logit."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        step = self.scale * self.generator.pictures.sizes.multiple
        if self.patch > self.tile or self.patch % step or self.tile % step:
            raise ValueError(
                f"patch: {self.patch} px of tiles of {self.tile}; takes multiples of {step} px "
                f"({self.generator.kind}), the patch at most as large as the tile"
            )
        if self.scale == 1 and isinstance(self.degradation, Shrink):
            raise ValueError(
                "degradation: shrink, but the generator enlarges nothing; set degradation to "
                'noise, or generator to one that does, as {"kind": "compact", "scale": 2}'
            )
        if self.perceptual_weight and (self.generator.channels != 3 or self.patch < 32):
            raise ValueError("perceptual_weight: needs RGB and patches of 32 px or more")
        return self

    @model_validator(mode="after")
    def _discriminator_fits(self) -> Self:
        d = self.discriminator
        check_game(d, self.adversarial_weight, self.loss)
        if d is None:
            return self
        if d.channels != self.generator.channels:
            raise ValueError(
                f"discriminator.channels is {d.channels}, generator.channels is "
                f"{self.generator.channels}"
            )
        least = d.smallest if isinstance(d, PatchDiscriminator) else 16
        if self.patch % 8 or self.patch < least:
            raise ValueError(
                f"patch: {self.patch} px; with this discriminator a multiple of 8, {least} or more"
            )
        return self

    @property
    def scale(self) -> int:
        """How many times the result is larger."""
        return self.generator.pictures.scale

    @property
    def architectures(self) -> dict[str, Architecture]:
        return with_judge(self.generator, self.discriminator)

    @property
    def shipped(self) -> str:
        return "generator"

    @property
    def wanted(self) -> Wanted:
        return Wanted((self.tile, self.tile), self.generator.channels, tiles=True)

    @property
    def purpose(self) -> str:
        return "super-resolution" if self.scale > 1 else "restoration"

    @property
    def summary(self) -> str:
        what = f"enlarges pictures {self.scale} times" if self.scale > 1 else "restores pictures"
        return f"{self.generator.kind} that {what}"

    @property
    def row(self) -> tuple[object, object, object, str, str]:
        terms = ["lpips"] * bool(self.perceptual_weight) + [self.loss] * bool(self.discriminator)
        return self.patch, self.generator.width, "-", self.pixel, ",".join(terms)

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        generator = networks["generator"]
        images = batch.images.add(1).div(2)
        clean = patches(images, self.patch, moment.random, self.turn)
        # In float32: what is to be undone should be what the name says, not its rounding.
        with torch.autocast(clean.device.type, enabled=False):
            seen = self.degradation.apply(clean, self.scale, moment.random)
        restored = None
        if self.discriminator is not None:
            restored = generator(seen).float() if moment.graphs else None
            with torch.no_grad():
                fake = generator(seen).float() if restored is None else restored.detach()
            found = (logits(networks["discriminator"], x) for x in (clean, fake))
            yield judged(self.loss, *found)
        if restored is None:
            restored = generator(seen).float()
        losses = {self.pixel: self._distance(restored, clean) * self.pixel_weight}
        if self.perceptual_weight:
            distance = lpips(restored * 2 - 1, clean * 2 - 1, moment.random)
            losses["lpips"] = distance * self.perceptual_weight
        if self.discriminator is not None:
            discriminator, game = networks["discriminator"], LOSSES[self.loss]
            discriminator.requires_grad_(False)  # its gradients are neither wanted nor paid for
            with torch.no_grad():
                of_real = logits(discriminator, clean) if game.relativistic else None
            of_fake = logits(discriminator, restored)
            loss = game.generator(of_fake if of_real is None else of_real, of_fake)
            losses["generator"] = loss * self.adversarial_weight
            discriminator.requires_grad_(True)
        with torch.no_grad():
            error = (restored.clamp(0, 1) - clean).square().mean((1, 2, 3))
            psnr = -10 * torch.log10(error.clamp(min=1e-10)).mean()
        yield Update("generator", losses, {"PSNR": psnr})

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        if self.pixel == "l1":
            return F.l1_loss(x, y)
        if self.pixel == "mse":
            return F.mse_loss(x, y)
        return ((x - y).square() + SOFT**2).sqrt().mean()

    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        images = pictures.images[: min(count, SHOWN)].add(1).div(2)
        clean = patches(images, self.patch, Numbers(random), self.turn)
        seen = self.degradation.apply(clean, self.scale, Numbers(random))
        restored = network(seen).float().clamp(0, 1)
        enlarged = F.interpolate(seen, restored.shape[2:], mode="nearest")
        triples = torch.cat([enlarged, restored, clean], 3)
        return triples.permute(0, 2, 3, 1).contiguous().cpu()

    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        """Of ``reference`` tiles at most; ``samples`` are results of as many."""
        scale = self.scale
        if self.generator.channels != 3 or self.tile < restoration.smallest(scale):
            return None

        def measure(network: nn.Module) -> tuple[Measurement, ...]:
            found = restoration.figures(
                lambda seen: network(seen).float(),
                seeded(self.degradation, scale),
                tiles_to_measure(dataset, min(samples, reference), device),
                scale,
                f"tiles of {dataset.name}",
            )
            first = self._decisive
            return tuple(sorted(found, key=lambda figure: figure.metric != first))

        return measure

    @property
    def _decisive(self) -> str:
        """The metric that says which network is best."""
        if self.adversarial_weight or self.perceptual_weight:
            return restoration.LPIPS
        return restoration.PSNR_Y if self.scale > 1 else restoration.PSNR_RGB
