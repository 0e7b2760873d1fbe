"""Generate: images from noise, a generator against a discriminator in turns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from ...networks.architecture import Architecture
from ...networks.dcgan import DCGANDiscriminator, DCGANGenerator
from ...networks.progan import ProGANDiscriminator, ProGANGenerator
from ...networks.r3gan import R3GANDiscriminator, R3GANGenerator
from ...networks.sngan import SNGANDiscriminator, SNGANGenerator
from ..augment import AdaptiveAugment, Augment, apply
from ..losses import LOSSES, LossName
from ..regularisers import AnyRegulariser, Clip, Regulariser, Round
from ..task import Batch, Moment, Task, Update


class Generate(Task):
    """Train a generator to draw images like the data's."""

    kind: Literal["generate"] = "generate"
    """Names this task in files."""
    generator: Annotated[
        DCGANGenerator | SNGANGenerator | ProGANGenerator | R3GANGenerator,
        Field(discriminator="kind"),
    ] = DCGANGenerator()
    """Latents to images."""
    discriminator: Annotated[
        DCGANDiscriminator | SNGANDiscriminator | ProGANDiscriminator | R3GANDiscriminator,
        Field(discriminator="kind"),
    ] = DCGANDiscriminator()
    """Images to a logit."""
    loss: LossName = "bce"
    """bce: cross-entropy, non-saturating; bce-saturating; mse: least squares; wasserstein; hinge;
    relativistic: real and generated images in pairs."""
    regularisers: tuple[AnyRegulariser, ...] = ()
    """What is added to the losses, or done to the weights, in this order."""
    generator_every: Annotated[int, Field(ge=1, le=100)] = 1
    """Steps of the discriminator to one of the generator."""
    augment: Augment | None = None
    """Changes that the discriminator sees on all images, real and generated; none: null."""

    @model_validator(mode="after")
    def _networks_match(self) -> Self:
        for field in ("resolution", "channels", "classes"):
            ours, theirs = getattr(self.generator, field), getattr(self.discriminator, field)
            if ours != theirs:
                raise ValueError(f"generator.{field} is {ours}, discriminator.{field} is {theirs}")
        return self

    @model_validator(mode="after")
    def _regularisers_fit(self) -> Self:
        kinds = [term.kind for term in self.regularisers]
        twice = {kind for kind in kinds if kinds.count(kind) > 1}
        if twice:
            raise ValueError(f"regularisers: {', '.join(sorted(twice))} twice; once is enough")
        if "clip" in kinds and self.loss != "wasserstein":
            raise ValueError(
                f"regularisers: clip keeps a wasserstein discriminator smooth; with {self.loss} it "
                "would only weaken it. Leave it out, or set loss to wasserstein"
            )
        single = [
            t.kind
            for t in self.regularisers
            if isinstance(t, Regulariser) and t.needs_single_images
        ]
        if single and _mixes_images(self.discriminator):
            raise ValueError(
                f"regularisers: {single[0]} takes the gradient at each image by itself, but this "
                "discriminator's batch norm mixes the images of a batch. Set discriminator.norm to "
                "spectral or none, or leave it out"
            )
        if self.loss == "wasserstein" and not self._is_smooth(kinds):
            raise ValueError(
                "loss: wasserstein needs a discriminator that is kept smooth: regularisers "
                "gradient-penalty or clip, or spectral norm in the discriminator"
            )
        return self

    def _is_smooth(self, kinds: list[str]) -> bool:
        return bool({"gradient-penalty", "clip"} & set(kinds)) or _is_spectral(self.discriminator)

    @property
    def architectures(self) -> dict[str, Architecture]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    @property
    def shipped(self) -> str:
        return "generator"

    @property
    def period(self) -> int:
        lazy = [
            term.every * (self.generator_every if term.network == "generator" else 1)
            for term in self.regularisers
            if isinstance(term, Regulariser)
        ]
        return math.lcm(self.generator_every, *lazy)

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        generator, discriminator = networks["generator"], networks["discriminator"]
        game, labels, random = LOSSES[self.loss], batch.labels, moment.random
        step = moment.nimg // len(batch.images)
        z = self._z(len(batch.images), random).to(batch.images.device)
        generator_too = (step + 1) % self.generator_every == 0
        # One set of images serves both updates; batch norm sees real and generated ones apart.
        with torch.set_grad_enabled(generator_too):
            fake = generator(z, labels)
        p = self._p(moment)
        real = self._augmented(batch.images, p, random)
        seen = self._augmented(fake.detach(), p, random)
        real_logits = discriminator(real, labels).float()
        fake_logits = discriminator(seen, labels).float()

        def score(images: Tensor) -> Tensor:
            return discriminator(images, labels).float()

        def terms(network: str) -> dict[str, Tensor]:
            at = Round(
                networks[network],
                score,
                real,
                seen,
                real_logits,
                fake_logits,
                random,
                moment.memory,
            )
            # Counted in the network's own turns, or a lazy term might never meet one.
            turn = step // self.generator_every if network == "generator" else step
            return self._terms(network, turn, at)

        signals = {
            "real logit": real_logits.mean(),
            "fake logit": fake_logits.mean(),
            "real sign": real_logits.sign().mean(),
        }
        if self.augment is not None:
            signals["augment p"] = real_logits.new_tensor(p)
        loss = game.discriminator(real_logits, fake_logits)
        yield Update("discriminator", {"discriminator": loss} | terms("discriminator"), signals)
        self._after_discriminator(discriminator, real_logits, step, moment)
        if not generator_too:
            return
        discriminator.requires_grad_(False)  # its gradients are neither wanted nor paid for
        if game.relativistic:
            with torch.no_grad():
                real_logits = discriminator(real, labels).float()
        fake_logits = discriminator(self._augmented(fake, p, random), labels).float()
        discriminator.requires_grad_(True)
        loss = game.generator(real_logits.detach(), fake_logits)
        yield Update("generator", {"generator": loss} | terms("generator"))

    def _terms(self, network: str, turn: int, at: Round) -> dict[str, Tensor]:
        """The regularisers' losses that are due at this turn of ``network``."""
        due = (
            term
            for term in self.regularisers
            if isinstance(term, Regulariser) and term.network == network
            if turn % term.every == 0
        )
        return {term.kind: term.loss(at) for term in due}

    @torch.no_grad()
    def _after_discriminator(
        self, discriminator: nn.Module, real_logits: Tensor, step: int, moment: Moment
    ) -> None:
        for term in self.regularisers:
            if isinstance(term, Clip):
                term.apply(discriminator)
        if isinstance(self.augment, AdaptiveAugment):
            self.augment.follow(moment.memory, real_logits, step)

    def _p(self, moment: Moment) -> float:
        """The augmentation's p of this step."""
        if self.augment is None:
            return 0.0
        if isinstance(self.augment, AdaptiveAugment):
            return self.augment.remembered(moment.memory)
        return self.augment.probability(moment.nimg)

    def _augmented(self, images: Tensor, p: float, random: Generator) -> Tensor:
        return images if self.augment is None else apply(self.augment, images, p, random)

    def latents(self, count: int, random: Generator) -> tuple[Tensor, Tensor | None]:
        labels = torch.arange(count) % self.generator.classes if self.generator.classes else None
        return self._z(count, random), labels

    def _z(self, count: int, random: Generator) -> Tensor:
        return torch.randn(count, self.generator.z_dim, generator=random)


def _mixes_images(architecture: Architecture) -> bool:
    """Whether a network normalises over its batch."""
    with torch.device("meta"):
        modules = architecture.build().modules()
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)  # pyright: ignore[reportPrivateUsage]


def _is_spectral(architecture: Architecture) -> bool:
    return (
        getattr(architecture, "norm", None) == "spectral"
        or getattr(architecture, "spectral_norm", False) is True
    )
