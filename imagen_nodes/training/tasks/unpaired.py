"""Unpaired translation: pictures of one kind into those of another, from examples of both that do
not belong together, such as photographs and paintings.

What keeps the content: another network that must be able to go back (Zhu et al., "Unpaired
Image-to-Image Translation using Cycle-Consistent Adversarial Networks" (CycleGAN), 2017), or that
each place of the result is to be told by the place of the picture that it came from (Park et al.,
"Contrastive Learning for Unpaired Image-to-Image Translation" (CUT), 2020).

CycleGAN's authors show the discriminators results of up to 50 steps before, too, against swings of
the game (Shrivastava et al. 2017). This does without: the pool would be part of the training state,
40 MB at 256 px and another in each process, and CUT's authors, who set it to 0, are better without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, Tag, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ... import tiles
from ...checkpoint import Measurement
from ...evaluation.evaluator import FEWEST, Evaluator
from ...evaluation.features import mobilenet
from ...evaluation.translation import set_figures
from ...images import from_network
from ...networks.architecture import Architecture
from ...networks.patch import PatchDiscriminator
from ...networks.patch_heads import PatchHeads
from ...networks.residual_unet import ResidualUNet, ResidualUNetNetwork
from ...networks.resnet_generator import ResNetGenerator, ResNetGeneratorNetwork
from ...spec import Positive, by_kind
from ..data.dataset import Dataset
from ..losses import LOSSES, LossName, patch_nce
from ..randomness import Numbers
from ..task import Batch, Measure, Moment, Task, Update, Wanted
from ..windows import windows
from .pictures import Weight, check_game
from .translate import check_discriminator, check_window, judged, logits, total

# Pairs of input and result in a preview.
SHOWN = 16


class Unpaired(Task):
    """What both ways share: networks, data, previews."""

    generator: Annotated[
        Annotated[ResNetGenerator, Tag("resnet-generator")]
        | Annotated[ResidualUNet, Tag("residual-unet")],
        by_kind("resnet-generator"),
    ] = ResNetGenerator()
    """Pictures of the one kind to such of the other."""
    discriminator: PatchDiscriminator = PatchDiscriminator(norm="instance")
    """Judges results against pictures of the other kind."""
    source: Literal["first", "second"] = "first"
    """Which kind is turned into the other: that of the subfolder which comes first by its name
    (trainA), or second (trainB)."""
    read: Annotated[int, Field(ge=16, le=8192)] = 286
    """Side at which pictures are read, px."""
    window: Annotated[int, Field(ge=16, le=4096)] = 256
    """Side of the window of a picture that a step sees, px, at a random place."""
    loss: LossName = "mse"
    """Of the game, at every logit."""
    adversarial_weight: Weight = 2.0
    """Of what the discriminator says. The authors' squares are not halved, as ours (mse) are: 2 is
    their 1."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        g, d = self.generator, self.discriminator
        if isinstance(g, ResNetGenerator) and g.enhancers:
            raise ValueError(
                "generator.enhancers: takes 0; local enhancers are for paired pictures"
            )
        outputs = g.pictures.outputs
        if g.channels not in (1, 3) or not g.channels == outputs == d.channels:
            raise ValueError(
                f"generator.channels is {g.channels}, generator.outputs {outputs}, "
                f"discriminator.channels {d.channels}: both kinds have as many, 1 or 3"
            )
        if getattr(g, "dropout", 0):
            raise ValueError("generator.dropout: takes 0; here nothing is dropped")
        if g.pictures.noise_map:
            raise ValueError("generator.noise_map: takes false; here there is no noise")
        check_window(g.pictures.sizes, self.read, self.window, "window")
        check_game(d, self.adversarial_weight, self.loss)
        check_discriminator(d, self.window)
        if self.loss == "relativistic":
            raise ValueError(
                "loss: relativistic compares pictures in pairs, and here there are none; use mse, "
                "bce or hinge"
            )
        return self

    @property
    def shipped(self) -> str:
        return "generator"

    @property
    def wanted(self) -> Wanted:
        roles = ("turned into the other", "the other")
        return Wanted(
            (self.read, self.read),
            self.generator.channels,
            roles=roles if self.source == "first" else roles[::-1],
        )

    @property
    def purpose(self) -> str:
        return "translation"

    @property
    def summary(self) -> str:
        return f"{self.generator.kind} that makes pictures of one kind into such of another"

    def _windows(self, batch: Batch, random: Numbers) -> tuple[Tensor, Tensor]:
        """Pictures to be translated and of the other kind; they take turns in a batch."""
        (images,) = windows([batch.images], self.window, random)
        return images[self._from :: 2], images[1 - self._from :: 2]

    @property
    def _from(self) -> int:
        """The number of the kind that is translated."""
        return 0 if self.source == "first" else 1

    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        images = pictures.images[self._from :: 2][: min(count, SHOWN)]
        (images,) = windows([images], self.window, None)
        return from_network(torch.cat([images, network(images).float()], 3))

    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        """Results of ``samples`` whole pictures at most, padded as the node does, against
        ``reference`` of the other kind."""
        assert dataset.labels is not None
        source = _of_kind(dataset, self._from, samples)
        target = _of_kind(dataset, 1 - self._from, reference)
        sizes = self.generator.pictures.sizes
        if min(len(source.images), len(target.images)) < FEWEST:
            return None
        evaluator = Evaluator(mobilenet(device), target)

        def measure(network: nn.Module) -> tuple[Measurement, ...]:
            def translate(x: Tensor) -> Tensor:
                h, w = x.shape[2:]
                return network(tiles.padded(x, sizes))[:, :, :h, :w]

            return set_figures(translate, source, evaluator)

        return measure


def _of_kind(dataset: Dataset, kind: int, count: int) -> Dataset:
    """At most ``count`` pictures of a kind, from all over it. Where they follow each other, as a
    folder's do, they stay where they are: those of a large set in a file."""
    found = np.flatnonzero(dataset.labels == kind)
    step = max(1, -(-len(found) // count))
    found = found[::step]
    images = dataset.images
    if len(found) and (np.diff(found) == step).all():
        chosen = images[found[0] : found[-1] + 1 : step]
    else:
        chosen = images[found]
    name = f"{dataset.class_names[kind]} of {dataset.name}"
    return Dataset(name, chosen, fingerprint=dataset.fingerprint)


class Contrast(Unpaired):
    """CUT: each place of a result is told, by what the generator's own encoder sees there, among
    all places of the picture that it was made of."""

    kind: Literal["cut"] = "cut"
    """Names this task in files."""
    heads: Annotated[int, Field(ge=8, le=2048)] = 256
    """Length of the vectors that places are told by."""
    contrast_weight: Weight = 1.0
    """Of that loss; FastCUT has 10."""
    identity: bool = True
    """Whether pictures of the second kind are to come through the same way, for half of that loss;
    FastCUT does without, in half the time."""
    mirrored: bool = False
    """Mirror the input of every other step: the result is to be mirrored too (FastCUT)."""
    places: Annotated[int, Field(ge=2, le=4096)] = 256
    """Places of each feature map that are compared."""
    temperature: Positive = 0.07
    """What similarities are divided by."""

    @property
    def architectures(self) -> dict[str, Architecture]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "heads": PatchHeads(inputs=_encoded(self.generator), width=self.heads),
        }

    @property
    def row(self) -> tuple[object, object, object, str, str]:
        terms = ["nce", *["identity"] * self.identity, *["mirrored"] * self.mirrored]
        return self.window, self.generator.width, "-", self.loss, ",".join(terms)

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        generator, discriminator = networks["generator"], networks["discriminator"]
        first, second = self._windows(batch, moment.random)
        source = torch.cat([first, second]) if self.identity else first
        turned = self.mirrored and moment.random.shared(1)[0] < 0.5
        given, count = (source.flip(3) if turned else source), len(first)
        with torch.set_grad_enabled(moment.graphs):
            made = generator(given).float()
        fake = made[:count].detach()
        yield judged(
            "discriminator", self.loss, logits(discriminator, second), logits(discriminator, fake)
        )
        if not moment.graphs:
            made = generator(given).float()
        discriminator.requires_grad_(False)  # its gradients are neither wanted nor paid for
        of_fake = logits(discriminator, made[:count])
        discriminator.requires_grad_(True)
        game = LOSSES[self.loss]
        found = {
            "generator": self.adversarial_weight * total(game.generator(x, x) for x in of_fake),
            "contrast": self.contrast_weight
            * self._contrast(networks, source, made, turned, moment),
        }
        yield Update("generator", found, partners=("heads",))

    def _contrast(
        self,
        networks: dict[str, nn.Module],
        source: Tensor,
        made: Tensor,
        turned: bool,
        moment: Moment,
    ) -> Tensor:
        """Park et al. 2020, equations 3 and 4: a mean over the encoder's maps."""
        generator, heads = networks["generator"], networks["heads"]
        assert isinstance(generator, ResNetGeneratorNetwork | ResidualUNetNetwork)
        with torch.no_grad():
            wanted = generator.features(source)
        seen = generator.features(made)
        if turned:
            seen = [x.flip(3) for x in seen]
        places = [self._places(x, moment).to(x.device) for x in wanted]
        keys, queries = (
            heads(
                [x.flatten(2)[:, :, at].transpose(1, 2) for x, at in zip(maps, places, strict=True)]
            )
            for maps in (wanted, seen)
        )
        losses = (
            patch_nce(q.float(), k.float(), self.temperature)
            for q, k in zip(queries, keys, strict=True)
        )
        return torch.stack(list(losses)).mean()

    def _places(self, features: Tensor, moment: Moment) -> Tensor:
        """``[n]``: positions in the map, none twice, the same in all images and processes."""
        size = features.shape[2] * features.shape[3]
        return torch.randperm(size, generator=moment.random.random)[: self.places]


class Cycle(Unpaired):
    """CycleGAN: a second generator goes the other way, and both ways together are to lead back."""

    kind: Literal["cyclegan"] = "cyclegan"
    """Names this task in files."""
    cycle_weight: Weight = 10.0
    """Of the mean absolute difference of a picture and what comes back of it."""
    identity_weight: Weight = 5.0
    """Of the difference that a generator makes to pictures that are of its result's kind already,
    which keeps colours; 0: none."""

    @property
    def architectures(self) -> dict[str, Architecture]:
        return {
            "generator": self.generator,
            "back": self.generator,
            "discriminator": self.discriminator,
            "discriminator-back": self.discriminator,
        }

    @property
    def row(self) -> tuple[object, object, object, str, str]:
        terms = ["cycle", *["identity"] * bool(self.identity_weight)]
        return self.window, self.generator.width, "-", self.loss, ",".join(terms)

    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        first, second = self._windows(batch, moment.random)
        there, back = networks["generator"], networks["back"]
        judges = networks["discriminator"], networks["discriminator-back"]
        with torch.set_grad_enabled(moment.graphs):
            made = there(first).float(), back(second).float()
        for name, judge, real, fake in zip(
            ("discriminator", "discriminator-back"), judges, (second, first), made, strict=True
        ):
            yield judged(name, self.loss, logits(judge, real), logits(judge, fake.detach()))
        if not moment.graphs:
            made = there(first).float(), back(second).float()
        game, found = LOSSES[self.loss], dict[str, Tensor]()
        for name, judge, fake in zip(("generator", "back"), judges, made, strict=True):
            judge.requires_grad_(False)  # its gradients are neither wanted nor paid for
            value = total(game.generator(x, x) for x in logits(judge, fake))
            found[name] = self.adversarial_weight * value
            judge.requires_grad_(True)
        returned = back(made[0]).float(), there(made[1]).float()
        for name, picture, came in zip(
            ("cycle", "cycle back"), (first, second), returned, strict=True
        ):
            found[name] = F.l1_loss(came, picture) * self.cycle_weight
        if self.identity_weight:
            for name, network, picture in (
                ("identity", there, second),
                ("identity back", back, first),
            ):
                found[name] = F.l1_loss(network(picture).float(), picture) * self.identity_weight
        yield Update("generator", found, partners=("back",))


def _encoded(generator: ResNetGenerator | ResidualUNet) -> tuple[int, ...]:
    """Channels of the maps that ``features`` gives."""
    with torch.device("meta"):
        network, side = generator.build(), 4 * generator.pictures.sizes.multiple
        return tuple(
            x.shape[1] for x in network.features(torch.empty(1, generator.channels, side, side))
        )
