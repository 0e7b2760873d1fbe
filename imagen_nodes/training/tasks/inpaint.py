"""Inpaint: what a mask covers, made up so that it fits what is around it.

Sources: Yu et al., "Free-Form Image Inpainting with Gated Convolution" (DeepFillv2), 2019, section
3 (spectrally normalised patch discriminator that sees the mask); Suvorov et al., "Resolution-robust
Large Mask Inpainting with Fourier Convolutions" (LaMa), 2021, section 2.2 (perceptual loss, feature
matching).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...checkpoint import Measurement
from ...evaluation import restoration
from ...networks.architecture import Architecture
from ...networks.gated import GatedInpainting
from ...networks.patch import PatchDiscriminator
from ...networks.squeezenet import SMALLEST
from ..data.dataset import Dataset
from ..losses import LOSSES, LossName, feature_matching
from ..masks import Masks, masked
from ..randomness import Numbers
from ..task import Batch, Measure, Moment, Task, Update, Wanted
from .pictures import (
    SHOWN,
    Weight,
    check_game,
    judged,
    lpips,
    patches,
    tiles_to_measure,
    with_judge,
)

DISCRIMINATOR = PatchDiscriminator(channels=4, width=32, norm="spectral")


class Inpaint(Task):
    """Train a network to fill in what random masks cover."""

    kind: Literal["inpaint"] = "inpaint"
    """Names this task in files."""
    generator: GatedInpainting = GatedInpainting()
    """A picture and a mask to a picture."""
    masks: Masks = Masks()
    """What is covered."""
    tile: Annotated[int, Field(ge=32, le=4096)] = 256
    """Pictures are cut into tiles of this side, px; smaller ones are left out."""
    patch: Annotated[int, Field(ge=32, le=4096)] = 128
    """Side of the window of a tile that a step sees, px, at a random place."""
    turn: bool = False
    """Mirror every other patch along its diagonal, which with ``flip`` turns it, too."""
    hole_weight: Weight = 2.0
    """Of the mean absolute error where the mask is."""
    known_weight: Weight = 1.0
    """Of the mean absolute error elsewhere, which is no part of the result, but teaches."""
    perceptual_weight: Weight = 0.7
    """Of LPIPS (SqueezeNet, which ships) between result and original."""
    adversarial_weight: Weight = 0.03
    """Of what the discriminator says of the result; 0: there is none. In short trainings more of it
    makes noise: 0.2 did."""
    feature_weight: Weight = 0.0
    """Of feature matching, the difference in the discriminator's feature maps."""
    discriminator: PatchDiscriminator | None = DISCRIMINATOR
    """Judges results, with their masks as one channel more, against originals; none: null."""
    loss: LossName = "hinge"
    """Of the game between the two, at every logit of a patch with a hole in it."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        pictures = self.generator.pictures
        step = pictures.sizes.multiple
        if self.patch > self.tile or self.patch % step or self.tile % step:
            raise ValueError(
                f"patch: {self.patch} px of tiles of {self.tile}; takes multiples of {step} px "
                "(generator.unshuffle and levels), the patch at most as large as the tile"
            )
        weights = self.hole_weight, self.known_weight, self.perceptual_weight
        if self.discriminator is None and not any(weights):
            raise ValueError(
                "hole_weight: without it, the other weights and a discriminator there is nothing "
                "to learn"
            )
        if self.perceptual_weight and (self.generator.channels != 3 or self.patch < SMALLEST):
            raise ValueError(
                f"perceptual_weight: needs RGB and patches of {SMALLEST} px or more; else set it "
                "to 0"
            )
        return self

    @model_validator(mode="after")
    def _discriminator_fits(self) -> Self:
        d = self.discriminator
        check_game(d, self.adversarial_weight, self.loss)
        if d is None:
            if self.feature_weight:
                raise ValueError(
                    "feature_weight: compares what a discriminator sees; there is none"
                )
            return self
        if d.channels != self.generator.channels + 1:
            raise ValueError(
                f"discriminator.channels is {d.channels}; the image's and the mask's are "
                f"{self.generator.channels + 1}"
            )
        if self.patch < d.smallest:
            raise ValueError(
                f"patch: {self.patch} px; this discriminator judges {d.smallest} px or more"
            )
        return self

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
        return "inpainting"

    @property
    def summary(self) -> str:
        return f"{self.generator.kind} network that fills in what a mask covers"

    @property
    def row(self) -> tuple[object, object, object, str, str]:
        terms = ["lpips"] * bool(self.perceptual_weight) + [self.loss] * bool(self.discriminator)
        return self.patch, self.generator.channels_by_size[0], "-", "l1", ",".join(terms)

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        generator = networks["generator"]
        clean = patches(batch.images, self.patch, moment.random, self.turn)
        mask = self.masks.draw(len(clean), (self.patch, self.patch), moment.random).to(clean)
        seen = torch.cat([clean * (1 - mask), mask], 1)
        drawn = None
        if self.discriminator is not None:
            drawn = generator(seen).float() if moment.graphs else None
            with torch.no_grad():
                found = generator(seen).float() if drawn is None else drawn.detach()
                fake = torch.cat([filled(clean, mask, found), mask], 1)
            yield self._judging(networks["discriminator"], torch.cat([clean, mask], 1), fake)
        if drawn is None:
            drawn = generator(seen).float()
        error = (drawn - clean).abs().mean(1, keepdim=True)
        losses = {
            "hole": (error * mask).sum() / mask.sum().clamp(min=1) * self.hole_weight,
            "known": (error * (1 - mask)).sum() / (1 - mask).sum().clamp(min=1) * self.known_weight,
        }
        result = filled(clean, mask, drawn)
        if self.perceptual_weight:
            losses["lpips"] = lpips(result, clean, moment.random) * self.perceptual_weight
        if self.discriminator is not None:
            losses |= self._game(networks["discriminator"], clean, result, mask)
        with torch.no_grad():
            mse = (result.clamp(-1, 1) - clean).div(2).square().mean((1, 2, 3))
            psnr = -10 * torch.log10(mse.clamp(min=1e-10)).mean()
        yield Update("generator", losses, {"PSNR": psnr})

    def _judging(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Update:
        of_real, of_fake = (_logits(discriminator(x), real[:, -1:]) for x in (real, fake))
        return judged(self.loss, of_real, of_fake)

    def _game(
        self, discriminator: nn.Module, clean: Tensor, result: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """The generator's losses in the game."""
        game, losses = LOSSES[self.loss], dict[str, Tensor]()
        network = discriminator
        assert hasattr(network, "features")
        network.requires_grad_(False)  # its gradients are neither wanted nor paid for
        of_fake = network.features(torch.cat([result, mask], 1))  # pyright: ignore
        of_real = None
        if game.relativistic or self.feature_weight:
            with torch.no_grad():
                of_real = network.features(torch.cat([clean, mask], 1))  # pyright: ignore
        fake = _logits([maps[-1] for maps in of_fake], mask)
        real = fake if of_real is None else _logits([maps[-1] for maps in of_real], mask)
        losses["generator"] = game.generator(real, fake) * self.adversarial_weight
        if of_real is not None and self.feature_weight:
            losses["features"] = feature_matching(of_real, of_fake) * self.feature_weight
        network.requires_grad_(True)
        return losses

    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        numbers = Numbers(random)
        clean = patches(pictures.images[: min(count, SHOWN)], self.patch, numbers, self.turn)
        mask = self.masks.draw(len(clean), (self.patch, self.patch), numbers).to(clean)
        seen = torch.cat([clean * (1 - mask), mask], 1)
        result = filled(clean, mask, network(seen).float()).clamp(-1, 1)
        triples = torch.cat([torch.where(mask > 0, 1.0, clean), result, clean], 3)
        return triples.add(1).div(2).permute(0, 2, 3, 1).contiguous().cpu()

    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        """Of ``reference`` tiles at most; ``samples`` are results of as many."""
        if self.generator.channels != 3 or self.tile < restoration.smallest(0):
            return None

        def measure(network: nn.Module) -> tuple[Measurement, ...]:
            def restore(seen: Tensor) -> Tensor:
                picture, mask = seen[:, :-1], seen[:, -1:]
                drawn = network(torch.cat([picture * 2 - 1, mask], 1)).float()
                return filled(picture, mask, drawn.add(1).div(2))

            found = restoration.figures(
                restore,
                masked(),
                tiles_to_measure(dataset, min(samples, reference), device),
                0,
                f"tiles of {dataset.name}",
            )
            return tuple(sorted(found, key=lambda figure: figure.metric != restoration.LPIPS))

        return measure


def filled(picture: Tensor, mask: Tensor, drawn: Tensor) -> Tensor:
    """``picture``, and ``drawn`` where ``mask`` is 1."""
    return torch.where(mask > 0, drawn, picture)


def _logits(found: list[Tensor], mask: Tensor) -> Tensor:
    """What a discriminator says of patches with a hole around their middle, ``[n]``, float32: of
    the others it would learn nothing (as LaMa, section 2.2.3, which calls these real)."""
    seen = [F.adaptive_max_pool2d(mask, part.shape[2:]) > 0 for part in found]
    return torch.cat([part.float()[where] for part, where in zip(found, seen, strict=True)])
