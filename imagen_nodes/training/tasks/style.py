"""Style: the content of photographs in the style of any picture.

Sources: Huang & Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance
Normalization", 2017, section 6 (encoder that is not trained, content and style loss); Isola et al.,
"Image-to-Image Translation with Conditional Adversarial Networks", 2017 (a discriminator of
patches, here between results and style pictures).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ...checkpoint import Measurement
from ...images import to_network
from ...networks.adain import AdaIN, StyleNetwork, adapted, moments
from ...networks.architecture import Architecture
from ...networks.patch import PatchDiscriminator
from ...networks.residual_adain import ResidualAdaIN
from ...networks.vgg import PRUNED
from ..data.dataset import Dataset
from ..losses import LOSSES, LossName
from ..perceptual import CONTENT, content_loss, features_network, style_loss, total_variation
from ..randomness import Numbers
from ..task import Batch, Measure, Moment, Task, Update, Wanted
from ..windows import windows
from .pictures import MEASURED, SHOWN, Weight, check_game, judged, logits, with_judge

# Labels of the two kinds of pictures, as folders of these names are sorted.
CONTENTS, STYLES = 0, 1
# Pairs that are read at a time, to be measured.
AT_ONCE = 4
STYLE, CONTENT_LOSS = "style loss (VGG-19 pruned)", "content loss (VGG-19 pruned)"
# The orders of three colours.
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


class Pairs(NamedTuple):
    """Content and style pictures ``[b 3 h w]`` in 0..1, as many of each."""

    content: Tensor
    style: Tensor


class Made(NamedTuple):
    """What a step's generator made of its pairs."""

    content: Tensor
    """The contents' features."""
    result: Tensor
    """In 0..1 or so, float32."""


class Style(Task):
    """Train a network to draw any picture in the style of any other."""

    kind: Literal["style"] = "style"
    """Names this task in files."""
    generator: Annotated[AdaIN | ResidualAdaIN, Field(discriminator="kind")] = AdaIN()
    """Content and style to the result. AdaIN's encoder is not trained: it is the one that ships.
    The residual one's is, by all that is drawn."""
    size: Annotated[int, Field(ge=64, le=4096, multiple_of=8)] = 256
    """Side of the pictures, px."""
    patch: Annotated[int, Field(ge=64, le=4096, multiple_of=8)] = 192
    """Side of the window of a picture that a step sees, px, at a random place."""
    recolour: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the style pictures whose red, green and blue are exchanged at random, so that few
    pictures show more colours; 0: none."""
    warmup_kimg: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 4.0
    """Thousands of images at first, of both kinds, that the network only learns to give back (mean
    squared difference): else it stays for long with one texture for all styles; 0: none."""
    content_weight: Weight = 1.0
    """Of the distance of the result's features from the content's with the style's means and
    deviations (VGG-19's relu4_1)."""
    style_weight: Weight = 5.0
    """Of the distance of the result's means and deviations from the style's."""
    style_layers: Annotated[int, Field(ge=1, le=5)] = 4
    """Layers of that distance: 4: relu1_1 to relu4_1; 5: relu5_1 too."""
    identity_weight: Weight = 0.0
    """Of the distance between a picture and its result in its own style, mean squared; 0: none. It
    teaches detail."""
    variation_weight: Weight = 0.0
    """Of the result's total variation; 0: none."""
    adversarial_weight: Weight = 0.0
    """Of what the discriminator says; 0: there is none."""
    discriminator: PatchDiscriminator | None = None
    """Judges results against style pictures; none: null."""
    loss: LossName = "hinge"
    """Of the game between the two, at every logit."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.patch > self.size:
            raise ValueError(f"patch: {self.patch} px of pictures of {self.size}; at most as large")
        weights = self.content_weight, self.style_weight, self.identity_weight
        if self.discriminator is None and not any(weights):
            raise ValueError(
                "style_weight: without it, the other weights and a discriminator there is nothing "
                "to learn"
            )
        g = self.generator
        if isinstance(g, AdaIN) and g.widths != PRUNED[:4]:
            raise ValueError(
                f"generator.widths: {g.widths}, but the encoder that ships has {PRUNED[:4]}; a "
                "decoder for another one can be imported, not trained"
            )
        return self

    @model_validator(mode="after")
    def _discriminator_fits(self) -> Self:
        d = self.discriminator
        check_game(d, self.adversarial_weight, self.loss)
        if d is None:
            return self
        if d.channels != 3:
            raise ValueError(f"discriminator.channels is {d.channels}; results have 3")
        if self.patch < d.smallest:
            raise ValueError(
                f"patch: {self.patch} px; this discriminator takes {d.smallest} or more"
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
        return Wanted((self.size, self.size), 3, roles=("content", "style"))

    @property
    def measures_by_picture(self) -> bool:
        return True

    @property
    def purpose(self) -> str:
        return "style transfer"

    @property
    def summary(self) -> str:
        return f"{self.generator.kind} that draws pictures in others' style"

    @property
    def row(self) -> tuple[object, object, object, str, str]:
        terms = ["identity"] * bool(self.identity_weight) + [self.loss] * bool(self.discriminator)
        return self.patch, self.generator.decoder_widths[0], "-", "content,style", ",".join(terms)

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def settled(self) -> int:
        return math.ceil(self.warmup_kimg * 1000)

    def pretrained(self, network: str) -> dict[str, Tensor]:
        """The encoder's, where it is VGG-19's."""
        if network != "generator" or not isinstance(self.generator, AdaIN):
            return {}
        wanted = self.generator.build().encoder.state_dict()
        tensors = features_network(torch.device("cpu")).state_dict()
        return {f"encoder.{name}": tensors[name] for name in wanted}

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        generator, discriminator = networks["generator"], networks.get("discriminator")
        assert isinstance(generator, StyleNetwork)
        pairs = self._patches(batch, moment.random)
        if moment.nimg < self.warmup_kimg * 1000:
            both = torch.cat(pairs)
            same = _identity(generator, generator.encode(both), both)
            yield Update("generator", {"identity": same})
            return
        features = features_network(pairs.content.device)
        with torch.no_grad(), torch.autocast(pairs.content.device.type, enabled=False):
            content = features(pairs.content, CONTENT + 1)[CONTENT]
            style = features(pairs.style, self._layers)
            target = adapted(content, moments(style[CONTENT]))
        known = torch.cat([content, style[CONTENT]]) if isinstance(self.generator, AdaIN) else None
        made = None
        if discriminator is not None:
            made = _made(generator, pairs, known) if moment.graphs else None
            with torch.no_grad():
                seen = _made(generator, pairs, known) if made is None else made
            fake = seen.result.detach()
            yield judged(self.loss, *(logits(discriminator, x) for x in (pairs.style, fake)))
        if made is None:
            made = _made(generator, pairs, known)
        losses = self._distances(made.result, target, style)
        if self.identity_weight:
            same = _identity(generator, made.content, pairs.content)
            losses["identity"] = same * self.identity_weight
        if discriminator is not None:
            losses["generator"] = self._persuading(discriminator, pairs.style, made.result)
        yield Update("generator", losses)

    def _distances(self, result: Tensor, target: Tensor, style: list[Tensor]) -> dict[str, Tensor]:
        """Content, style (``style``: the features of its pictures) and total variation of the
        results."""
        layers = self.style_layers
        with torch.autocast(result.device.type, enabled=False):
            found = features_network(result.device)(result, self._layers)
        losses = {
            "content": content_loss(found[CONTENT], target) * self.content_weight,
            "style": style_loss(found[:layers], style[:layers]) * self.style_weight,
        }
        if self.variation_weight:
            losses["variation"] = total_variation(result) * self.variation_weight
        return losses

    @property
    def _layers(self) -> int:
        """That the losses look at."""
        return max(self.style_layers, CONTENT + 1)

    def _persuading(self, discriminator: nn.Module, style: Tensor, result: Tensor) -> Tensor:
        game = LOSSES[self.loss]
        discriminator.requires_grad_(False)  # its gradients are neither wanted nor paid for
        of_fake = of_real = logits(discriminator, result)
        if game.relativistic:
            with torch.no_grad():
                of_real = logits(discriminator, style)
        loss = game.generator(of_real, of_fake) * self.adversarial_weight
        discriminator.requires_grad_(True)
        return loss

    def _patches(self, batch: Batch, random: Numbers) -> Pairs:
        """Windows of the batch's pairs, each at a place of its own."""
        (found,) = windows([batch.images.add(1).div(2)], self.patch, random)
        content, style = found[CONTENTS::2], found[STYLES::2]
        drawn = random.uniform(len(style), 2)
        for i, (order, chance) in enumerate(drawn.tolist()):
            if chance < self.recolour:
                style[i] = style[i, list(ORDERS[int(order * len(ORDERS))])]
        return Pairs(content, style)

    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        shown = min(count, SHOWN, len(pictures.images) // 2)
        images = pictures.images[: 2 * shown].add(1).div(2)
        content, style = images[::2], images[1::2]
        result = network(content, style).float().clamp(0, 1)
        triples = torch.cat([content, style, result], 3)
        return triples.permute(0, 2, 3, 1).contiguous().cpu()

    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        """Of ``samples`` pairs at most: pictures of both domains in their order."""
        assert dataset.labels is not None
        of = [torch.from_numpy((dataset.labels == n).nonzero()[0]) for n in (CONTENTS, STYLES)]
        count = min(samples, MEASURED, *map(len, of))
        if not count:
            return None
        chosen = [x[torch.linspace(0, len(x) - 1, count).long()] for x in of]

        def measure(network: nn.Module) -> tuple[Measurement, ...]:
            features, sums = features_network(device), torch.zeros(2)
            for places in torch.arange(count).split(AT_ONCE):
                content, style = (
                    to_network(torch.from_numpy(dataset.images[x[places].numpy()]))
                    .to(device)
                    .add(1)
                    .div(2)
                    for x in chosen
                )
                for pair in zip(content.split(1), style.split(1), strict=True):
                    sums += torch.stack(distances(network(*pair), *pair, features)).cpu()
            values = (sums / count).tolist()
            reference = f"pairs of {dataset.name}"
            return tuple(
                Measurement(metric=name, value=value, samples=count, reference=reference)
                for name, value in zip((STYLE, CONTENT_LOSS), values, strict=True)
            )

        return measure


def distances(
    result: Tensor, content: Tensor, style: Tensor, features: nn.Module
) -> tuple[Tensor, Tensor]:
    """Of one result ``[1 3 h w]`` in 0..1: its style loss to the style (relu1_1 to relu5_1), and
    its content loss to the content (relu4_1). The result is clamped, as a saved picture is."""
    found = features(result.float().clamp(0, 1))
    return style_loss(found, features(style)), content_loss(
        found[CONTENT], features(content)[CONTENT]
    )


def _made(generator: StyleNetwork, pairs: Pairs, known: Tensor | None) -> Made:
    """Of contents and styles; ``known``: the features of both, one after the other, where the
    generator's encoder is the losses' network, which has seen them."""
    features = generator.encode(torch.cat(pairs)) if known is None else known
    content, style = features.chunk(2)
    return Made(content, generator.decode(adapted(content, moments(style))).float())


def _identity(generator: StyleNetwork, features: Tensor, images: Tensor) -> Tensor:
    """Of ``[b 3 h w]`` and what is decoded of their own features."""
    return F.mse_loss(generator.decode(features).float(), images)
