"""Generate: images from noise, a generator against a discriminator in turns."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...evaluation.evaluator import FEWEST, Evaluator
from ...evaluation.features import mobilenet
from ...images import from_network
from ...networks.architecture import Architecture, Growing
from ...networks.biggan import BigGANDiscriminator, BigGANGenerator
from ...networks.biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator
from ...networks.dcgan import DCGANDiscriminator, DCGANGenerator
from ...networks.multi_scale import MultiScaleDiscriminator
from ...networks.progan import ProGANDiscriminator, ProGANGenerator
from ...networks.r3gan import R3GANDiscriminator, R3GANGenerator
from ...networks.sngan import SNGANDiscriminator, SNGANGenerator
from ...networks.styled import StyledNetwork
from ...networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from ...networks.stylegan3 import StyleGAN3Generator
from ...spec import Positive
from .. import examination
from ..augment import AdaptiveAugment, Augment, apply
from ..data.dataset import Dataset
from ..diagnoses import ACCURACY, DIVERSITY, HELD_OUT_GAP, LEAK, MARGIN, SATURATION
from ..growth import Growth, shown
from ..losses import LOSSES, LossName
from ..randomness import Numbers
from ..regularisers import (
    FAKE_LOGIT,
    REAL_LOGIT,
    AnyRegulariser,
    Clip,
    Orthogonal,
    Regulariser,
    Round,
    matrices,
)
from ..task import Batch, Measure, Moment, Task, Update, Wanted

REAL_SIGN = "real sign"
# Images of each kind that an examination looks at.
EXAMINED = 256


@dataclass(frozen=True)
class Verdict:
    """What a discriminator says of images: ``logits [b]`` or ``[b n]`` of n parts, ``classes
    [b classes]`` of an auxiliary classifier or None; float32."""

    logits: Tensor
    classes: Tensor | None = None

    def part(self, which: slice) -> Verdict:
        """Of some of the images."""
        return Verdict(self.logits[which], None if self.classes is None else self.classes[which])


class Generate(Task):
    """Train a generator to draw images like the data's."""

    kind: Literal["generate"] = "generate"
    """Names this task in files."""
    generator: Annotated[
        DCGANGenerator
        | SNGANGenerator
        | BigGANGenerator
        | BigGANDeepGenerator
        | ProGANGenerator
        | R3GANGenerator
        | StyleGAN2Generator
        | StyleGAN3Generator,
        Field(discriminator="kind"),
    ] = DCGANGenerator()
    """Latents to images."""
    discriminator: Annotated[
        DCGANDiscriminator
        | SNGANDiscriminator
        | BigGANDiscriminator
        | BigGANDeepDiscriminator
        | ProGANDiscriminator
        | R3GANDiscriminator
        | StyleGAN2Discriminator
        | MultiScaleDiscriminator,
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
    growth: Growth | None = None
    """Grow both networks resolution by resolution; all at once: null."""
    style_mixing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the images that get their styles from two latents, of a generator that has styles;
    0: none."""
    classifier_weight: Positive = 1.0
    """Factor of the auxiliary classifier's cross-entropy, where the discriminator has one."""

    @model_validator(mode="after")
    def _networks_match(self) -> Self:
        for field in ("resolution", "smallest", "channels", "classes"):
            ours, theirs = (getattr(a, field, (4, 4)) for a in (self.generator, self.discriminator))
            if ours != theirs:
                raise ValueError(f"generator.{field} is {ours}, discriminator.{field} is {theirs}")
        return self

    @model_validator(mode="after")
    def _styles_fit(self) -> Self:
        if self.style_mixing and not self.generator.styled:
            raise ValueError(
                f"style_mixing: a {self.generator.kind} has no styles; use a stylegan2- or "
                "stylegan3-generator, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _growth_fits(self) -> Self:
        if self.growth is None:
            return self
        for name in ("generator", "discriminator"):
            architecture = getattr(self, name)
            if not isinstance(_built(architecture), Growing):
                raise ValueError(
                    f"growth: a {architecture.kind} does not grow; use a progan-{name}, or leave "
                    "growth out"
                )
        if self.growth.start > self.generator.resolution:
            raise ValueError(
                f"growth.start is {self.growth.start} px, more than the networks' "
                f"{self.generator.resolution}"
            )
        return self

    @model_validator(mode="after")
    def _regularisers_fit(self) -> Self:
        kinds = [term.kind for term in self.regularisers]
        of = [(term.kind, getattr(term, "network", "")) for term in self.regularisers]
        twice = {kind for kind, network in of if of.count((kind, network)) > 1}
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
        if single and self.discriminator.normalises_batches:
            raise ValueError(
                f"regularisers: {single[0]} takes the gradient at each image by itself, but this "
                "discriminator's batch norm mixes the images of a batch. Set discriminator.norm to "
                "spectral or none, or leave it out"
            )
        for term in self.regularisers:
            if not isinstance(term, Orthogonal):
                continue
            of_it = self.generator if term.network == "generator" else self.discriminator
            if not matrices(_built(of_it)):
                raise ValueError(
                    "regularisers: orthogonal looks at convolutions and linear layers as torch has "
                    f"them, and a {of_it.kind} has none. Leave it out"
                )
        vague = self.loss == "wasserstein" or LOSSES[self.loss].relativistic
        if vague and isinstance(self.augment, AdaptiveAugment):
            raise ValueError(
                "augment: ada goes by the sign of the discriminator's logits, of which "
                f"{self.loss} says nothing. Use ada-ramp or diff-augment"
            )
        if "path-length" in kinds and _has_batch_norm(_built(self.generator)):
            raise ValueError(
                "regularisers: path-length takes the gradient at each latent by itself, but this "
                f"{self.generator.kind}'s batch norm mixes the images of a batch. Leave it out, or "
                "use a progan-generator or r3gan-generator"
            )
        if "feature-matching" in kinds and not self.discriminator.has_features:
            raise ValueError(
                f"regularisers: feature-matching needs a discriminator with features, which a "
                f"{self.discriminator.kind} does not give. Use a dcgan- or sngan-discriminator"
            )
        smooth = {"gradient-penalty", "clip"} & set(kinds) or self.discriminator.spectral
        if self.loss == "wasserstein" and not smooth:
            raise ValueError(
                "loss: wasserstein needs a discriminator that is kept smooth: regularisers "
                "gradient-penalty or clip, or spectral norm in the discriminator"
            )
        return self

    @property
    def architectures(self) -> dict[str, Architecture]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    @property
    def shipped(self) -> str:
        return "generator"

    @property
    def wanted(self) -> Wanted:
        g = self.generator
        return Wanted(g.size, g.channels, g.classes)

    @property
    def purpose(self) -> str:
        return "generate"

    @property
    def summary(self) -> str:
        h, w = self.generator.size
        return f"{self.generator.kind} for {w if h == w else f'{w}x{h}'} px images"

    @property
    def row(self) -> tuple[object, object, object, str, str]:
        g = self.generator
        terms = ",".join(term.kind for term in self.regularisers)
        return max(g.size), g.width_at(g.resolution // 2), g.classes or "-", self.loss, terms

    @property
    def period(self) -> int:
        lazy = [
            term.every * (self.generator_every if term.network == "generator" else 1)
            for term in self.regularisers
            if isinstance(term, Regulariser)
        ]
        return math.lcm(self.generator_every, *lazy)

    @property
    def settled(self) -> int:
        return 0 if self.growth is None else self.growth.grown_at(self.generator.resolution)

    @property
    def grows(self) -> bool:
        return self.growth is not None

    def prepare(self, networks: Iterable[nn.Module], nimg: int) -> None:
        if self.growth is not None:
            for network in networks:
                assert isinstance(network, Growing)
                network.grow(self.growth.progress(nimg))

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        generator, discriminator = networks["generator"], networks["discriminator"]
        game, labels, random = LOSSES[self.loss], batch.labels, moment.random
        images, count = batch.images, len(batch.images)
        if isinstance(generator, Growing):
            images = shown(images, generator.resolution, generator.share)
        z = random.normal(count, self.generator.z_dim).to(images.device)
        generator_too = (moment.step + 1) % self.generator_every == 0
        # One set of images serves both updates; batch norm sees real and generated ones apart.
        with torch.set_grad_enabled(generator_too and moment.graphs):
            fake, w = self._drawn(generator, z, labels, random)
        p = self._p(moment)
        real = self._augmented(images, p, moment)
        seen = self._augmented(fake.detach(), p, moment)
        of_real, of_fake = self._judge_both(discriminator, real, seen, labels)

        def at(network: str, fake: Tensor, of_fake: Tensor) -> Round:
            return Round(
                network=networks[network],
                score=lambda images: _score(self._judge(discriminator, images, labels, plain=True)),
                real=real,
                fake=fake,
                real_logits=of_real.logits,
                fake_logits=of_fake,
                random=random,
                memory=moment.memory,
                generate=generate,
                latents=z if w is None else w,
                features=getattr(discriminator, "features", None),
            )

        def generate(latents: Tensor) -> Tensor:
            if isinstance(generator, StyledNetwork):
                # Never compiled: see _judge.
                return generator.synthesis.forward(latents, "random", random)
            # Labels of the first where there are fewer latents.
            return generator.forward(latents, None if labels is None else labels[: len(latents)])

        now = at("discriminator", seen, of_fake.logits)
        losses = {"discriminator": game.discriminator(of_real.logits, of_fake.logits)}
        if self.discriminator.classifies:
            losses["classifier"] = self._class_loss(of_real, labels) + self._class_loss(
                of_fake, labels
            )
        losses |= self._terms("discriminator", now, moment)
        signals = {
            REAL_LOGIT: of_real.logits.mean(),
            FAKE_LOGIT: of_fake.logits.mean(),
            REAL_SIGN: (of_real.logits - self._boundary).sign().mean(),
        }
        if self.loss != "wasserstein":  # whose logits have no zero
            signals |= self._rightness(of_real.logits.detach(), of_fake.logits.detach())
        if self.augment is not None:
            signals["augment p"] = of_real.logits.new_tensor(p)
        yield Update("discriminator", losses, signals | now.signals)
        if not generator_too:
            return
        discriminator.requires_grad_(False)  # its gradients are neither wanted nor paid for
        if not moment.graphs:
            fake, w = self._drawn(generator, z, labels, random)
        if game.relativistic:
            with torch.no_grad():
                of_real = self._judge(discriminator, real, labels)
        seen = self._augmented(fake, p, moment)
        of_fake = self._judge(discriminator, seen, labels)
        losses = {"generator": game.generator(of_real.logits.detach(), of_fake.logits)}
        if self.discriminator.classifies:
            losses["generator's class"] = self._class_loss(of_fake, labels)
        now = at("generator", seen, of_fake.logits)
        losses |= self._terms("generator", now, moment)
        discriminator.requires_grad_(True)
        yield Update("generator", losses, now.signals)

    def _drawn(
        self, generator: nn.Module, z: Tensor, labels: Tensor | None, random: Numbers
    ) -> tuple[Tensor, Tensor | None]:
        """Images of latents, and their w+ where there are styles: each image's from a random layer
        on those of another latent, in ``style_mixing`` of them.

        Source: Karras et al., "A Style-Based Generator Architecture for GANs", 2019, section 3.1.
        """
        if not isinstance(generator, StyledNetwork):
            return generator(z, labels), None
        w = generator.w_plus(z, labels)
        if self.style_mixing:
            count, layers = w.shape[:2]
            other = generator.mapping(random.normal(*z.shape).to(z.device), labels)
            mixed, first = random.uniform(count), random.uniform(count)
            first = torch.where(mixed < self.style_mixing, 1 + (first * (layers - 1)), layers)
            later = torch.arange(layers) >= first.long()[:, None]
            w = torch.where(later[:, :, None].to(w.device), other[:, None], w)
        return generator.synthesis(w, "random", random), w

    @torch.no_grad()
    def updated(
        self,
        update: Update,
        networks: dict[str, nn.Module],
        moment: Moment,
        memory: dict[str, Tensor],
    ) -> None:
        for term in self.regularisers:
            if isinstance(term, Regulariser) and term.network == update.network:
                term.follow(memory, update.signals)
            elif isinstance(term, Clip) and update.network == "discriminator":
                term.apply(networks[update.network])
        if isinstance(self.augment, AdaptiveAugment) and update.network == "discriminator":
            self.augment.follow(memory, update.signals[REAL_SIGN], moment.batch, moment.step)

    @property
    def _boundary(self) -> float:
        """The logit between real and generated: half-way from 0 to 1 with squared error."""
        return 0.5 if self.loss == "mse" else 0.0

    def _rightness(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """How often the discriminator is right, and by how much."""
        if LOSSES[self.loss].relativistic:
            right = (real > fake).float().mean()
        else:
            between = self._boundary
            right = ((real > between).float().mean() + (fake < between).float().mean()) / 2
        return {ACCURACY: right, MARGIN: real.mean() - fake.mean()}

    @property
    def examined(self) -> int:
        return EXAMINED

    @torch.no_grad()
    def examine(
        self,
        networks: Mapping[str, nn.Module],
        average: nn.Module,
        seen: Batch,
        held_out: Batch | None,
        moment: Moment,
    ) -> dict[str, float]:
        """Diversity, saturation, the held-out gap and the leak: see ``examination.py``."""
        generator, labels = networks["generator"], seen.labels

        def real_of(batch: Batch) -> Tensor:
            if isinstance(generator, Growing):
                return shown(batch.images, generator.resolution, generator.share)
            return batch.images

        real = real_of(seen)
        z = moment.random.normal(len(real), self.generator.z_dim).to(real.device)
        drawn = average(z, labels)
        p = self._p(moment)
        found = {
            DIVERSITY: examination.diversity(drawn, real),
            SATURATION: examination.saturation(drawn),
        }
        if p > 0:
            augmented = self._augmented(real, p, moment)
            found[LEAK] = examination.leak(drawn, real, augmented)
        if held_out is not None:
            # A copy: batch norm and spectral norm keep statistics of what they see.
            judge = copy.deepcopy(networks["discriminator"])
            batches = ((real, labels), (real_of(held_out), held_out.labels), (drawn, labels))
            logits = [
                _score(self._judge(judge, self._augmented(images, p, moment), classes))
                for images, classes in batches
            ]
            found[HELD_OUT_GAP] = examination.gap(*logits)
        return found

    def _judge_both(
        self, discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None
    ) -> tuple[Verdict, Verdict]:
        """In one pass, where an image's logit is its own affair."""
        if self.discriminator.compares_images:
            return self._judge(discriminator, real, labels), self._judge(
                discriminator, fake, labels
            )
        both = None if labels is None else torch.cat([labels, labels])
        verdict = self._judge(discriminator, torch.cat([real, fake]), both)
        return verdict.part(slice(len(real))), verdict.part(slice(len(real), None))

    def _judge(
        self,
        discriminator: nn.Module,
        images: Tensor,
        labels: Tensor | None,
        *,
        plain: bool = False,
    ) -> Verdict:
        """``plain``: never compiled, since what is compiled has no gradient of its gradient."""
        if self.discriminator.classifies:
            classify: Callable[[Tensor], tuple[Tensor, Tensor]] = discriminator.classify  # pyright: ignore
            logits, classes = classify(images)
            return Verdict(logits.float(), classes.float())
        judge = discriminator.forward if plain else discriminator
        return Verdict(judge(images, labels).float())

    def _class_loss(self, verdict: Verdict, labels: Tensor | None) -> Tensor:
        """Source: Odena et al., "Conditional Image Synthesis With Auxiliary Classifier GANs", 2017,
        equation 2 (L_C), of one kind of images."""
        assert verdict.classes is not None
        assert labels is not None
        return F.cross_entropy(verdict.classes, labels) * self.classifier_weight

    def _terms(self, network: str, at: Round, moment: Moment) -> dict[str, Tensor]:
        """The regularisers' losses that are due."""
        # Counted in the network's own turns, or a lazy term might never meet one.
        turn = moment.step // (self.generator_every if network == "generator" else 1)
        due = (
            term
            for term in self.regularisers
            if isinstance(term, Regulariser) and term.network == network
            if turn % term.every == 0
        )
        return {term.kind: term.loss(at, moment.nimg) for term in due}

    def _p(self, moment: Moment) -> float:
        """The augmentation's p of this step."""
        if self.augment is None:
            return 0.0
        if isinstance(self.augment, AdaptiveAugment):
            return self.augment.remembered(moment.memory)
        return self.augment.probability(moment.nimg)

    def _augmented(self, images: Tensor, p: float, moment: Moment) -> Tensor:
        return images if self.augment is None else apply(self.augment, images, p, moment.random)

    def latents(self, count: int, random: Generator) -> tuple[Tensor, Tensor | None]:
        labels = torch.arange(count) % self.generator.classes if self.generator.classes else None
        return torch.randn(count, self.generator.z_dim, generator=random), labels

    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        z, labels = self.latents(count, random)
        device, side = pictures.images.device, self.generator.resolution
        images = network(z.to(device), None if labels is None else labels.to(device))
        if images.shape[3] != side:  # it is still growing
            images = F.interpolate(images, side)
        return from_network(images)

    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        if len(dataset.images) < FEWEST:
            return None
        count = min(reference, len(dataset.images))
        evaluator = Evaluator(mobilenet(device), dataset, count)
        return lambda network: evaluator.figures(self.generator, network, samples)


def _score(verdict: Verdict) -> Tensor:
    """``[b]``: of a discriminator of several parts their mean, which is what the losses see."""
    return verdict.logits if verdict.logits.ndim == 1 else verdict.logits.mean(1)


def _built(architecture: Architecture) -> nn.Module:
    """Its network, without memory."""
    with torch.device("meta"):
        return architecture.build()


def _has_batch_norm(network: nn.Module) -> bool:
    kinds = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]
    return any(isinstance(module, kinds) for module in network.modules())
