"""Translate: pictures into what they are paired with, such as label maps into photographs.

Sources: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (pix2pix),
2017; with discriminators at several scales and feature matching, Wang et al., "High-Resolution
Image Synthesis and Semantic Manipulation with Conditional GANs" (pix2pixHD), 2018, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...checkpoint import Measurement
from ...evaluation import translation
from ...images import from_network, to_network
from ...networks.architecture import Architecture
from ...networks.patch import PatchDiscriminator
from ...networks.residual_unet import ResidualUNet
from ...networks.resnet_generator import ResNetGenerator
from ...networks.unet_generator import UNetGenerator
from ...tiles import Sizes
from ..data.dataset import Dataset
from ..losses import LOSSES, LossName, Maps, feature_matching
from ..regularisers import FAKE_LOGIT, REAL_LOGIT
from ..task import Batch, Measure, Moment, Task, Update, Wanted
from ..windows import windows
from .pictures import MEASURED, Weight, check_game, lpips, with_judge

# Side of a step's windows where neither recipe nor generator has one, px.
WINDOW = 256
# Triples of input, result and target in a preview.
SHOWN = 12
# Pairs that are measured at a time.
BATCH = 4


class Translate(Task):
    """Train a network to make of one picture the other of its pair."""

    kind: Literal["translate"] = "translate"
    """Names this task in files."""
    generator: Annotated[
        UNetGenerator | ResNetGenerator | ResidualUNet, Field(discriminator="kind")
    ] = UNetGenerator()
    """Pictures to pictures."""
    discriminator: PatchDiscriminator | None = PatchDiscriminator(channels=6)
    """Judges input and result together against input and target; none: null."""
    input: Literal["left", "right"] = "left"
    """Where the input is in a picture that holds both side by side; the target is on the other
    side."""
    read: Annotated[int, Field(ge=16, le=8192)] = 286
    """Side at which pictures are read, px."""
    window: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Side of the window of a picture that a step sees, px, at a random place; null: the
    generator's resolution, or 256 where it has none."""
    loss: LossName = "bce"
    """Of the game between the two, at every logit."""
    adversarial_weight: Weight = 1.0
    """Of what the discriminator says; 0: there is none."""
    l1_weight: Weight = 100.0
    """Of the mean absolute difference of result and target, values in -1..1."""
    feature_weight: Weight = 0.0
    """Of feature matching, the difference in the discriminator's feature maps; pix2pixHD has 10."""
    perceptual_weight: Weight = 0.0
    """Of LPIPS (SqueezeNet, which ships) between result and target."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        g = self.generator
        name = "window" if self.window or isinstance(g, ResidualUNet) else "generator.resolution"
        check_window(g.pictures.sizes, self.read, self.side, name)
        outputs = g.pictures.outputs
        if g.channels not in (1, 3) or g.channels != outputs:
            raise ValueError(
                f"generator.channels is {g.channels}, generator.outputs {outputs}: input and "
                "target have as many, 1 or 3"
            )
        if g.pictures.noise_map:
            raise ValueError("generator.noise_map: takes false; here there is no noise")
        if self.perceptual_weight and (outputs != 3 or self.side < 32):
            raise ValueError("perceptual_weight: needs RGB and a window of 32 px or more")
        if self.discriminator is None and not self.l1_weight and not self.perceptual_weight:
            raise ValueError("l1_weight: without it and a discriminator there is nothing to learn")
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
        both = 2 * self.generator.channels
        if d.channels != both:
            raise ValueError(
                f"discriminator.channels is {d.channels}; it sees input and result together, {both}"
            )
        check_discriminator(d, self.side)
        return self

    @property
    def side(self) -> int:
        """Of the windows that a step sees, px."""
        if self.window is not None:
            return self.window
        return WINDOW if isinstance(self.generator, ResidualUNet) else self.generator.resolution

    @property
    def architectures(self) -> dict[str, Architecture]:
        return with_judge(self.generator, self.discriminator)

    @property
    def shipped(self) -> str:
        return "generator"

    @property
    def wanted(self) -> Wanted:
        return Wanted((self.read, 2 * self.read), self.generator.channels, panels=2)

    @property
    def measures_by_picture(self) -> bool:
        return True

    @property
    def purpose(self) -> str:
        return "translation"

    @property
    def summary(self) -> str:
        return f"{self.generator.kind} that makes of pictures those that they were paired with"

    @property
    def row(self) -> tuple[object, object, object, str, str]:
        terms = ["l1"] * bool(self.l1_weight) + ["features"] * bool(self.feature_weight)
        terms += ["lpips"] * bool(self.perceptual_weight)
        g = self.generator
        return (
            self.side,
            g.width,
            "-",
            self.loss if self.discriminator else "l1",
            ",".join(terms),
        )

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        generator, random = networks["generator"], moment.random
        given, target = windows(self._sides(batch.images), self.side, random)
        # Of the residual U-Net nothing is dropped.
        draws = () if isinstance(self.generator, ResidualUNet) else (random.uniform,)
        # The same values are dropped where the picture is made a second time.
        state = random.random.get_state()
        made = None
        if self.discriminator is not None:
            made = generator(given, *draws).float() if moment.graphs else None
            with torch.no_grad():
                seen = generator(given, *draws).float() if made is None else made.detach()
            yield self._judging(networks["discriminator"], given, target, seen)
        if made is None:
            random.random.set_state(state)
            made = generator(given, *draws).float()
        losses = {"l1": F.l1_loss(made, target) * self.l1_weight} if self.l1_weight else {}
        if self.perceptual_weight:
            losses["lpips"] = lpips(made, target, moment.random) * self.perceptual_weight
        if self.discriminator is not None:
            losses |= self._game(networks["discriminator"], given, target, made)
        with torch.no_grad():
            error = (made - target).div(2).square().mean((1, 2, 3))
            psnr = -10 * torch.log10(error.clamp(min=1e-10)).mean()
        yield Update("generator", losses, {"PSNR": psnr})

    def _judging(
        self, discriminator: nn.Module, given: Tensor, target: Tensor, made: Tensor
    ) -> Update:
        of_real = logits(discriminator, torch.cat([given, target], 1))
        of_fake = logits(discriminator, torch.cat([given, made], 1))
        return judged("discriminator", self.loss, of_real, of_fake)

    def _game(
        self, discriminator: nn.Module, given: Tensor, target: Tensor, made: Tensor
    ) -> dict[str, Tensor]:
        """What the discriminator says to the generator."""
        game = LOSSES[self.loss]
        discriminator.requires_grad_(False)  # its gradients are neither wanted nor paid for
        of_fake = features(discriminator, torch.cat([given, made], 1))
        of_real = None
        if game.relativistic or self.feature_weight:
            with torch.no_grad():
                of_real = features(discriminator, torch.cat([given, target], 1))
        found = {
            "generator": self.adversarial_weight
            * total(
                game.generator(_last(of_real or of_fake)[k], x)
                for k, x in enumerate(_last(of_fake))
            )
        }
        if self.feature_weight:
            assert of_real is not None
            found["features"] = feature_matching(of_real, of_fake) * self.feature_weight
        discriminator.requires_grad_(True)
        return found

    def _sides(self, images: Tensor) -> list[Tensor]:
        """``[b c h 2w]`` -> input and target, ``[b c h w]`` each."""
        left, right = images.chunk(2, 3)
        return [left, right] if self.input == "left" else [right, left]

    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        images = pictures.images[: min(count, SHOWN)]
        given, target = windows(self._sides(images), self.side, None)
        return from_network(torch.cat([given, network(given).float(), target], 3))

    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        """Of ``reference`` pairs at most; ``samples`` are results of as many."""
        if self.generator.channels != 3 or self.side < translation.SMALLEST:
            return None
        count = min(samples, reference, len(dataset.images), MEASURED)
        chosen = torch.linspace(0, len(dataset.images) - 1, count).long().split(BATCH)

        def measure(network: nn.Module) -> tuple[Measurement, ...]:
            pictures = (to_network(torch.from_numpy(dataset.images[i.numpy()])) for i in chosen)
            pairs = (windows(self._sides(x.to(device)), self.side, None) for x in pictures)
            return translation.paired_figures(network, pairs, f"pairs of {dataset.name}")

        return measure


# ---- What unpaired translation has too ----------------------------------------------------------


def check_window(sizes: Sizes, read: int, side: int, name: str) -> None:
    """Refuse windows of ``side`` px, as the field ``name`` says, that a generator does not take, or
    that pictures do not have.

    Raises:
        ValueError: it is such a one."""
    if sizes.fit(side) != side:
        raise ValueError(
            f"{name} is {side} px; this generator takes multiples of {sizes.multiple} px, "
            f"{sizes.minimum} or more"
        )
    if read < side:
        raise ValueError(f"read: {read} px, less than the {side} px of {name}")


def check_discriminator(d: PatchDiscriminator, side: int) -> None:
    """Refuse one that would see less than it needs.

    Raises:
        ValueError: it is such a one."""
    if side < d.smallest:
        raise ValueError(f"discriminator: needs {d.smallest} px, it would see {side}")


def features(discriminator: nn.Module, pictures: Tensor) -> Maps:
    """Its feature maps at each scale, the last of them the logits."""
    return discriminator.features(pictures)  # pyright: ignore


def logits(discriminator: nn.Module, pictures: Tensor) -> list[Tensor]:
    """``[b 1 h w]`` a scale, float32."""
    return [x.float() for x in discriminator(pictures)]


def judged(
    network: str, loss: LossName, real: list[Tensor], fake: list[Tensor], name: str = ""
) -> Update:
    """The discriminator's turn: the sum over its scales (Wang et al. 2018, equation 3)."""
    game = LOSSES[loss]
    value = total(game.discriminator(r, f) for r, f in zip(real, fake, strict=True))
    signals = {REAL_LOGIT: real[0].mean(), FAKE_LOGIT: fake[0].mean()}
    return Update(network, {name or network: value}, signals)


def total(values: Iterator[Tensor]) -> Tensor:
    """Their sum."""
    return torch.stack(list(values)).sum()


def _last(maps: Maps) -> list[Tensor]:
    """The logits, float32."""
    return [of_scale[-1].float() for of_scale in maps]
