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
from ...images import luma
from ...networks.architecture import Architecture
from ...networks.compact import Compact
from ...networks.patch import PatchDiscriminator
from ...networks.residual_unet import ResidualUNet
from ...networks.unet_discriminator import UNetDiscriminator
from ...noise_level import JPEG_MARK, noise_map
from ...spec import by_kind
from ..data.dataset import Dataset
from ..degradation import Degradation, Noise, Probability, Shrink, seeded
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
    """Mirror every other patch along its diagonal, which with ``flip`` turns it, too."""
    grey: Probability = 0.0
    """Share of the patches that are made grey, as old photographs are."""
    tinted: Probability = 0.0
    """Share of the patches each of whose channels passes a curve of its own, so that colours have
    as fine detail as brightness has. Of most photographs JPEG has left colours at half the size,
    and what learns from those alone takes finer colours for noise."""
    halved: Probability = 0.0
    """Share of the patches that are taken twice as large and made smaller, for the same reason."""
    pixel: Literal["l1", "charbonnier", "mse", "psnr"] = "charbonnier"
    """Distance of result and original, a mean over pixels; ``psnr``: minus the PSNR of each patch,
    in dB, at most 60 (Chen et al., "HINet: Half Instance Normalization Network for Image
    Restoration", 2021, section 3), to which easy patches count as much as hard ones."""
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
        if self.generator.pictures.noise_map and not isinstance(self.degradation, Noise):
            raise ValueError(
                "generator.noise_map: says how strong the noise is, of which the degradation "
                f"{self.degradation.kind} knows nothing; set degradation to noise"
            )
        if self.halved and 2 * self.patch > self.tile:
            raise ValueError(
                f"halved: takes windows of twice the patch, {2 * self.patch} px, of tiles of "
                f"{self.tile}; set tile to as much, or halved to 0"
            )
        if self.scale == 1 and isinstance(self.degradation, Shrink):
            raise ValueError(
                "degradation: shrink, but the generator enlarges nothing; set degradation to "
                'noise, or generator to one that does, as {"kind": "compact", "scale": 2}'
            )
        if self.discriminator is None and not self.pixel_weight and not self.perceptual_weight:
            raise ValueError(
                "pixel_weight: without it, perceptual_weight and a discriminator there is nothing "
                "to learn"
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
    def measures_by_picture(self) -> bool:
        return True

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
        clean = self._clean(images, moment.random)
        # In float32: what is to be undone should be what the name says, not its rounding.
        with torch.autocast(clean.device.type, enabled=False):
            seen = self._degraded(clean, moment.random)
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

    def _clean(self, images: Tensor, random: Numbers) -> Tensor:
        """Patches ``[b c patch patch]`` of ``[b c h w]``, both in 0..1."""
        clean = patches(images, self.patch, random, self.turn)

        def chosen(share: float) -> Tensor:
            return (random.uniform(len(clean)) < share).to(clean.device).view(-1, 1, 1, 1)

        if self.halved:
            larger = patches(images, 2 * self.patch, random, self.turn)
            clean = torch.where(chosen(self.halved), F.avg_pool2d(larger, 2), clean)
        if self.tinted:
            clean = torch.where(chosen(self.tinted), _tinted(clean, random), clean)
        if self.grey:
            clean = torch.where(chosen(self.grey), _greyed(clean), clean)
        return clean

    def _degraded(self, clean: Tensor, random: Numbers) -> Tensor:
        """What the network takes, in the place of ``clean [b c h w]``."""
        if not self.generator.pictures.noise_map:
            return self.degradation.apply(clean, self.scale, random)
        assert isinstance(self.degradation, Noise)
        seen, sigma, blocks = self.degradation.told(clean, self.scale, random)
        if self.generator.pictures.jpeg_mark:
            sigma = torch.where(blocks, JPEG_MARK, sigma)
        return torch.cat([seen, noise_map(seen, sigma)], 1)

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        if self.pixel == "l1":
            return F.l1_loss(x, y)
        if self.pixel == "mse":
            return F.mse_loss(x, y)
        if self.pixel == "psnr":
            return 10 * torch.log10((x - y).square().mean((1, 2, 3)) + SOFT**2).mean()
        return ((x - y).square() + SOFT**2).sqrt().mean()

    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        images = pictures.images[: min(count, SHOWN)].add(1).div(2)
        clean = patches(images, self.patch, Numbers(random), self.turn)
        seen = self._degraded(clean, Numbers(random))
        restored = network(seen).float().clamp(0, 1)
        enlarged = F.interpolate(seen[:, : clean.shape[1]], restored.shape[2:], mode="nearest")
        triples = torch.cat([enlarged, restored, clean], 3)
        return triples.permute(0, 2, 3, 1).contiguous().cpu()

    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        """Of ``reference`` tiles at most; ``samples`` are results of as many."""
        crop = restoration.border(self.scale)
        if self.generator.channels != 3 or self.tile < restoration.smallest(crop):
            return None

        def measure(network: nn.Module) -> tuple[Measurement, ...]:
            found = restoration.figures(
                lambda seen: network(seen).float(),
                seeded(self._degraded),
                tiles_to_measure(dataset, min(samples, reference), device),
                crop,
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


def _greyed(images: Tensor) -> Tensor:
    """``[b c h w]`` without colours."""
    return luma(images).expand_as(images) if images.shape[1] == 3 else images


def _tinted(images: Tensor, random: Numbers) -> Tensor:
    """``[b c h w]`` in 0..1, each channel of each image by a power between 1/2 and 2, and brought
    to limits of its own, of which the lower one may be the brighter."""
    b, c = images.shape[:2]
    power, low, high = (random.uniform(b * c).to(images).view(b, c, 1, 1) for _ in range(3))
    return low + (high - low) * images**4 ** (power - 0.5)
