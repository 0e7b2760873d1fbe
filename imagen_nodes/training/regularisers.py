"""Regularisers: what is added to a loss, or done to weights, to keep a game in balance.

A recipe lists any of :data:`AnyRegulariser`. Each names the network whose update it belongs to, and
what it needs of that network; what does not fit is refused when the recipe is read. Those with
``every`` are lazy: they are computed at each ``every``-th step, with so much more weight (Karras et
al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, section 3.1).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..networks.normalisation import raw_weight
from ..spec import Positive, Spec
from .randomness import Numbers
from .schedule import Number, value_at

# Signals of every step of the discriminator: means of its logits.
REAL_LOGIT, FAKE_LOGIT = "real logit", "fake logit"
# What is remembered from step to step.
LECAM_REAL, LECAM_FAKE = "lecam.real", "lecam.fake"
PATH_LENGTH = "path length"

Score = Callable[[Tensor], Tensor]
"""Images ``[b c h w]`` to logits ``[b]``, each image by itself."""


@dataclass(frozen=True)
class Round:
    """What a regulariser can look at. Images are as the discriminator saw them, generated ones with
    their graph where it is the generator's update; logits are float32, with theirs."""

    network: nn.Module
    """Whose update this is."""
    score: Score
    """The discriminator, at labels of these images."""
    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    random: Numbers
    memory: Mapping[str, Tensor]
    """What is remembered from the steps before: scalars, saved with the training's state."""
    generate: Callable[[Tensor], Tensor]
    """The generator, from latents of these images, ``[b d]``, or w+ ``[b layers d]``, to images."""
    latents: Tensor
    features: Callable[[Tensor], Tensor] | None = None
    """The discriminator's last features ``[b ...]`` of images, if it has any."""
    signals: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What a term leaves here is averaged over the whole batch, and comes back to ``follow``."""


class Regulariser(Spec):
    """One term. Subclasses add a literal ``kind``."""

    needs_single_images: ClassVar[bool] = False
    """Whether a logit may depend on its own image only: batch norm mixes them."""

    weight: Number = 1.0
    """Factor of the term; a number or a schedule."""
    every: Annotated[int, Field(ge=1, le=1024)] = 1
    """The network's turns from one computation to the next, the weight multiplied by as many."""

    @property
    def network(self) -> Literal["discriminator", "generator"]:
        """Whose update it belongs to."""
        return "discriminator"

    @abstractmethod
    def term(self, at: Round) -> Tensor:
        """The unweighted term, a float32 scalar."""

    def loss(self, at: Round, nimg: int = 0) -> Tensor:
        """What is added to the update's loss at a step that is due, after ``nimg`` images: in
        float32, since gradients of gradients are small."""
        with torch.autocast(at.real.device.type, enabled=False):
            return self.term(at).float() * (value_at(self.weight, nimg) * self.every)

    def follow(self, memory: dict[str, Tensor], signals: Mapping[str, Tensor]) -> None:
        """Remember what it needs of ``signals``, of the whole batch, after the update."""


class R1(Regulariser):
    """gamma / 2 |grad D|^2 at real images. ``weight`` is gamma.

    Source: Mescheder, Geiger, Nowozin, "Which Training Methods for GANs do actually Converge?",
    2018, equation 9."""

    kind: Literal["r1"] = "r1"
    """Names this regulariser in files."""
    needs_single_images: ClassVar[bool] = True

    def term(self, at: Round) -> Tensor:
        return squared_gradients(at.score, at.real.float()).mean() / 2


class R2(Regulariser):
    """gamma / 2 |grad D|^2 at generated images. ``weight`` is gamma.

    Source: Mescheder et al. 2018, equation 10."""

    kind: Literal["r2"] = "r2"
    """Names this regulariser in files."""
    needs_single_images: ClassVar[bool] = True

    def term(self, at: Round) -> Tensor:
        return squared_gradients(at.score, at.fake.float()).mean() / 2


class GradientPenalty(Regulariser):
    """lambda (|grad D| - 1)^2, at a random point between each real image and a generated one.

    Source: Gulrajani et al., "Improved Training of Wasserstein GANs" (WGAN-GP), 2017,
    equation 3."""

    kind: Literal["gradient-penalty"] = "gradient-penalty"
    """Names this regulariser in files."""
    weight: Number = 10.0
    """lambda."""
    needs_single_images: ClassVar[bool] = True

    def term(self, at: Round) -> Tensor:
        real = at.real.float()
        share = at.random.uniform(len(real), 1, 1, 1).to(real.device)
        between = torch.lerp(at.fake.float(), real, share)
        # The root's slope at 0 is infinite: a discriminator that is flat there would give NaN.
        return ((squared_gradients(at.score, between) + 1e-12).sqrt() - 1).square().mean()


class Drift(Regulariser):
    """D(real)^2: keeps the logits of a Wasserstein game, which nothing else ties down, about 0.

    Source: Karras et al., "Progressive Growing of GANs", 2018, appendix A.1."""

    kind: Literal["drift"] = "drift"
    """Names this regulariser in files."""
    weight: Number = 0.001
    """epsilon_drift."""

    def term(self, at: Round) -> Tensor:
        return at.real_logits.square().mean()


class LeCam(Regulariser):
    """(D(real) - a_fake)^2 + (D(fake) - a_real)^2 with a running mean a of either side's logits:
    holds back a discriminator that learns few images by heart. The means are of the steps before;
    the first step has but its own.

    Source: Tseng et al., "Regularizing Generative Adversarial Networks under Limited Data", 2021,
    equation 5 and section 4; only distances beyond the means count, as in the authors' code."""

    kind: Literal["lecam"] = "lecam"
    """Names this regulariser in files."""
    weight: Number = 0.1
    """lambda."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the running means, a step."""

    def term(self, at: Round) -> Tensor:
        real, fake = at.real_logits, at.fake_logits
        mean_real = at.memory.get(LECAM_REAL, real.detach().mean())
        mean_fake = at.memory.get(LECAM_FAKE, fake.detach().mean())
        above, below = torch.relu(real - mean_fake), torch.relu(mean_real - fake)
        return above.square().mean() + below.square().mean()

    def follow(self, memory: dict[str, Tensor], signals: Mapping[str, Tensor]) -> None:
        for name, signal in ((LECAM_REAL, REAL_LOGIT), (LECAM_FAKE, FAKE_LOGIT)):
            new, old = signals[signal], memory.get(name)
            memory[name] = new if old is None else torch.lerp(new, old.to(new), self.decay)


class Orthogonal(Regulariser):
    """The squares of W W^T off its diagonal, over all convolutions and linear layers, W as rows of
    outputs: outputs of a layer keep apart.

    Source: Brock, Donahue, Simonyan, "Large Scale GAN Training", 2019, equation 3."""

    kind: Literal["orthogonal"] = "orthogonal"
    """Names this regulariser in files."""
    weight: Number = 1e-4
    """beta."""
    of: Literal["discriminator", "generator"] = "generator"
    """Whose weights."""

    @property
    def network(self) -> Literal["discriminator", "generator"]:
        return self.of

    def term(self, at: Round) -> Tensor:
        return torch.stack([off_diagonal(w) for w in matrices(at.network)]).sum()


class FeatureMatching(Regulariser):
    """|mean f(real) - mean f(fake)|^2, f the discriminator's last features: the generator is to
    match what the discriminator looks at, not only to win.

    Source: Salimans et al., "Improved Techniques for Training GANs", 2016, section 3.1. The paper
    sums over features; this is their mean, which does not grow with the discriminator."""

    kind: Literal["feature-matching"] = "feature-matching"
    """Names this regulariser in files."""

    @property
    def network(self) -> Literal["discriminator", "generator"]:
        return "generator"

    def term(self, at: Round) -> Tensor:
        assert at.features is not None
        with torch.no_grad():
            wanted = at.features(at.real.float()).mean(0)
        return (at.features(at.fake.float()).mean(0) - wanted).square().mean()


class PathLength(Regulariser):
    """(|J' y| - a)^2, J the generator's Jacobian at its latents, y random images and a the running
    mean of the length in the computations before, 0 at first: a step in latent space changes the
    image by as much everywhere.

    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
    section 3.2 and appendix B."""

    kind: Literal["path-length"] = "path-length"
    """Names this regulariser in files."""
    weight: Number = 2.0
    """gamma."""
    every: Annotated[int, Field(ge=1, le=1024)] = 4
    """The generator's turns from one computation to the next, the weight multiplied by as many."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the running mean, a computation."""
    shrink: Annotated[int, Field(ge=1, le=64)] = 2
    """One of so many images of the batch is looked at."""

    @property
    def network(self) -> Literal["discriminator", "generator"]:
        return "generator"

    def term(self, at: Round) -> Tensor:
        count = max(1, len(at.latents) // self.shrink)
        latents = at.latents[:count]
        if not latents.requires_grad:
            latents = latents.detach().requires_grad_()
        images = at.generate(latents)
        noise = at.random.normal(*images.shape).to(images) / math.sqrt(images[0, 0].numel())
        (slope,) = torch.autograd.grad((images * noise).sum(), latents, create_graph=True)
        # As in GradientPenalty: no infinite slope where the length is 0.
        squares = slope.square().sum(-1)
        # Of w+ the mean over layers, as in the authors' code.
        squares = squares if squares.ndim == 1 else squares.mean(1)
        lengths = (squares + 1e-12).sqrt()
        at.signals[PATH_LENGTH] = lengths.detach().mean()
        mean = at.memory.get(PATH_LENGTH, torch.zeros_like(at.signals[PATH_LENGTH]))
        return (lengths - mean.to(lengths)).square().mean()

    def follow(self, memory: dict[str, Tensor], signals: Mapping[str, Tensor]) -> None:
        if PATH_LENGTH in signals:  # it was due
            new = signals[PATH_LENGTH]
            old = memory.get(PATH_LENGTH, torch.zeros_like(new))
            memory[PATH_LENGTH] = torch.lerp(new, old.to(new), self.decay)


class Clip(Spec):
    """After each of its updates the discriminator's parameters are cut to -limit..limit.

    Source: Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017, algorithm 1."""

    kind: Literal["clip"] = "clip"
    """Names this regulariser in files."""
    limit: Positive = 0.01
    """c."""

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Cut ``network``'s parameters."""
        for parameter in network.parameters():
            parameter.clamp_(-self.limit, self.limit)


AnyRegulariser = Annotated[
    R1 | R2 | GradientPenalty | Drift | LeCam | Orthogonal | FeatureMatching | PathLength | Clip,
    Field(discriminator="kind"),
]


def squared_gradients(score: Score, images: Tensor) -> Tensor:
    """|grad D|^2 at each of ``images [b c h w]``: ``[b]``, differentiable."""
    images = images.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(score(images).sum(), images, create_graph=True)
    return gradients.square().sum((1, 2, 3))


def off_diagonal(weight: Tensor) -> Tensor:
    """The sum of squares of ``W W^T`` without its diagonal; ``weight [outputs inputs]``."""
    gram = weight @ weight.t()
    return gram.square().sum() - gram.diagonal().square().sum()


def matrices(network: nn.Module) -> list[Tensor]:
    """Weights as rows of outputs, the trained ones where they are normalised."""
    matrices: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            matrices.append(raw_weight(module).transpose(0, 1).flatten(1))
        elif isinstance(module, nn.Conv2d | nn.Linear):
            matrices.append(raw_weight(module).flatten(1))
    return matrices
