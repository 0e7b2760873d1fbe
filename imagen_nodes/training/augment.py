"""Augmentation: what the discriminator sees of real and generated images alike, and the data's own.

An augmentation of a recipe is one of :data:`Augment`. The trainer passes real images and generated
ones, each with random numbers of their own, through :func:`apply`: differentiable once, for the
generator (gradient penalties are taken at the augmented images).

Sources: Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training" (DiffAugment),
2020, section 3; Karras et al., "Training Generative Adversarial Networks with Limited Data" (ADA),
2020, section 3 and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..spec import Positive, Spec
from .ada import Draws, Pipe, Share, cut_out, resample, split_alpha, translation
from .randomness import Numbers
from .schedule import Schedule, value_at

Policy = Literal["colour", "translation", "cutout"]

# What ADA remembers from step to step.
P, SIGNS = "augment.p", "augment.signs"
ADAPT_STEPS = 4
"""Steps between two moves of ADA's p, as in Karras et al. 2020, section 3.1."""


class DiffAugment(Spec):
    """DiffAugment: a few strong transformations, always on."""

    kind: Literal["diff-augment"] = "diff-augment"
    """Names this augmentation in files."""
    policy: Annotated[tuple[Policy, ...], Field(min_length=1)] = ("colour", "translation", "cutout")
    """The transformations, in this order."""
    p: Share | Schedule = 1.0
    """Probability of each, for each image; 0: none; a number or a schedule."""

    def probability(self, nimg: int) -> float:
        """p after ``nimg`` images."""
        return min(value_at(self.p, nimg), 1)

    def transform(self, images: Tensor, p: float, random: Numbers) -> Tensor:
        return diff_augment(images, self.policy, random, p)


class AdaptiveAugment(Pipe):
    """ADA: p follows how far the discriminator overfits, see :func:`adapt`."""

    kind: Literal["ada"] = "ada"
    """Names this augmentation in files."""
    target: Annotated[float, Field(ge=-1, le=1)] = 0.6
    """Of the mean sign of the discriminator's logits at real images, which p is steered to."""
    kimg: Positive = 500
    """In which p can go from 0 to 1."""
    start: Share = 0.0
    """p at the beginning."""

    def remembered(self, memory: Mapping[str, Tensor]) -> float:
        """p at this moment."""
        return float(memory[P]) if P in memory else self.start

    def follow(self, memory: dict[str, Tensor], mean_sign: Tensor, images: int, step: int) -> None:
        """Take note of the mean sign of the logits at a step's ``images`` real images; every few
        steps p moves."""
        signs = memory.get(SIGNS, torch.zeros_like(mean_sign)) + mean_sign
        if (step + 1) % ADAPT_STEPS == 0:
            images = ADAPT_STEPS * images
            p = torch.tensor(self.remembered(memory), dtype=torch.float64)
            # On the CPU, where apply needs it.
            memory[P] = adapt(p, (signs / ADAPT_STEPS).cpu(), images, self.target, self.kimg)
            signs = torch.zeros_like(signs)
        memory[SIGNS] = signs


class RampedAugment(Pipe):
    """ADA's transformations at a p that is known beforehand.

    Source: Huang et al., "The GAN is dead; long live the GAN!" (R3GAN), 2024, appendix."""

    kind: Literal["ada-ramp"] = "ada-ramp"
    """Names this augmentation in files."""
    start: Share = 0.0
    """p at the beginning."""
    end: Share = 0.55
    """p from ``kimg`` on."""
    kimg: Positive = 20_000
    """Length of the ramp, which is half a cosine."""

    def probability(self, nimg: int) -> float:
        """p after ``nimg`` images."""
        done = min(nimg / (self.kimg * 1000), 1)
        return self.start + (self.end - self.start) * (1 - math.cos(math.pi * done)) / 2


Augment = Annotated[DiffAugment | AdaptiveAugment | RampedAugment, Field(discriminator="kind")]


def apply(
    augment: DiffAugment | AdaptiveAugment | RampedAugment,
    images: Tensor,
    p: float | Tensor,
    random: Numbers,
) -> Tensor:
    """``images [b c h w]``, c from 1 to 4, about -1..1 -> the same, seen through ``augment``.

    ``p`` in 0..1 is the probability of each transformation for each image at this moment (a tensor
    had better be on the CPU: its value is needed there). At 0 the very tensor that came in is
    returned and nothing drawn. ``random`` alone decides; each image
    has numbers of its own, wherever it stands. Computed in float32, returned in the images' type.
    """
    p = float(p)
    if not 0 <= p <= 1:
        raise ValueError(f"an augmentation's p is {p}, expected 0 to 1")
    if p == 0:
        return images
    with torch.autocast(images.device.type, enabled=False):
        return augment.transform(images.float(), p, random).to(images.dtype)


def adapt(
    p: Tensor, mean_sign: Tensor, images: int, target: float = 0.6, kimg: float = 500
) -> Tensor:
    """The p that follows ``p``, after ``images`` more real images with ``mean_sign``, the mean of
    the signs of the discriminator's logits at them: up if it is above ``target``, which tells of
    overfitting, down if below, by a step of which ``kimg`` thousand images go from 0 to 1.

    Source: Karras et al. 2020, section 3.1 (r_t)."""
    return (p + torch.sign(mean_sign - target) * (images / (kimg * 1000))).clamp(0, 1)


# ------------------------------------------------------------------------------ DiffAugment


def diff_augment(
    images: Tensor, policy: tuple[Policy, ...], random: Numbers, p: float = 1.0
) -> Tensor:
    """``images [b c h w]`` float32 in -1..1 through each of ``policy`` in turn, each image with
    probability ``p``."""
    draws = Draws(len(images), random)
    for name in policy:
        images = POLICIES[name](images, draws, p)
    return images


def _colour(images: Tensor, draws: Draws, p: float) -> Tensor:
    images = brighten(images, draws.uniform(p, -0.5, 0.5))
    images = saturate(images, 1 + draws.uniform(p, -1, 1))
    return contrast(images, 1 + draws.uniform(p, -0.5, 0.5))


def _translation(images: Tensor, draws: Draws, p: float) -> Tensor:
    """By whole pixels up to an eighth of the side; 0 moves in."""
    h, w = images.shape[2:]
    moved = draws.coin(p)
    x, y = (_between(draws, -limit, limit) for limit in (round(w / 8), round(h / 8)))
    return resample(images, translation(moved * x, moved * y), "nearest", "zeros")


def _cutout(images: Tensor, draws: Draws, p: float) -> Tensor:
    """A box of half the side becomes 0; its middle is any pixel, so that it may stick out."""
    h, w = images.shape[2:]
    height, width = (h + 1) // 2, (w + 1) // 2
    cut = draws.coin(p)
    # A box of even size has its middle between two pixels: one place more.
    left = _between(draws, 0, w - width % 2) - width // 2
    top = _between(draws, 0, h - height % 2) - height // 2
    return cut_out(images, torch.stack([left, top, cut * width, cut * height], 1))


POLICIES: dict[Policy, Callable[[Tensor, Draws, float], Tensor]] = {
    "colour": _colour,
    "translation": _translation,
    "cutout": _cutout,
}


def _between(draws: Draws, low: int, high: int) -> Tensor:
    """Whole numbers, both ends included."""
    return low + draws.below(1, high - low + 1)


# ------------------------------------------------------------------------------ colour


def jitter(images: Tensor, strength: float, random: Numbers) -> Tensor:
    """Colour jitter of the data: ``images [b c h w]`` in -1..1, each with brightness, saturation
    and contrast of its own, stay in -1..1. ``strength`` from 0 (none) to 1: brightness moves by up
    to it, the others are multiplied by up to 1 - strength to 1 + strength."""
    if strength == 0:
        return images
    draws = Draws(len(images), random)
    images = brighten(images, draws.uniform(1, -strength, strength))
    images = saturate(images, 1 + draws.uniform(1, -strength, strength))
    images = contrast(images, 1 + draws.uniform(1, -strength, strength))
    return images.clamp(-1, 1)


def brighten(images: Tensor, shift: Tensor) -> Tensor:
    """``shift [b]`` is added to the colours."""
    colour, alpha = split_alpha(images)
    return torch.cat([colour + _beside(shift, images), alpha], 1)


def saturate(images: Tensor, gain: Tensor) -> Tensor:
    """Colours move away from their pixel's mean by ``gain [b]``; grey images have none."""
    colour, alpha = split_alpha(images)
    mean = colour.mean(1, keepdim=True)
    return torch.cat([torch.lerp(mean, colour, _beside(gain, images)), alpha], 1)


def contrast(images: Tensor, gain: Tensor) -> Tensor:
    """Colours move away from their image's mean by ``gain [b]``."""
    colour, alpha = split_alpha(images)
    mean = colour.mean((1, 2, 3), keepdim=True)
    return torch.cat([torch.lerp(mean, colour, _beside(gain, images)), alpha], 1)


def _beside(values: Tensor, images: Tensor) -> Tensor:
    """``[b] -> [b 1 1 1]``, where and of the type that the images are."""
    return values.to(images.device, images.dtype)[:, None, None, None]
