"""What makes a clean picture into one to be restored: smaller, noisy, compressed.

A degradation of a recipe is one of :data:`Degradation`. It takes clean pictures ``[b c h w]`` in
0..1 and gives what the network sees, ``[b c h/scale w/scale]`` in 0..1, in steps of 1/255 as files
have them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Annotated, Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, TypeAdapter, model_validator
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint import Model
from ..images import MODES
from ..spec import Spec, check_order
from .masks import masked
from .randomness import Numbers, torch_random

Probability = Annotated[float, Field(ge=0, le=1)]
Sigma = Annotated[float, Field(ge=0, le=255)]
Quality = Annotated[int, Field(ge=1, le=100)]

# The photo degradation draws its factors of size from these filters, as files on the web have been
# through all of them.
FILTERS = ("area", "bilinear", "bicubic")
# Of JPEG of this quality and more the blocks cannot always be found.
FINE = 75


class Shrink(Spec):
    """Bicubic reduction alone, antialiased, as super-resolution papers make their small pictures
    (Matlab's imresize)."""

    kind: Literal["shrink"] = "shrink"
    """Names this degradation in files."""

    def apply(self, images: Tensor, scale: int, random: Numbers) -> Tensor:
        return rounded(shrunk(images, scale))


class Noise(Spec):
    """Gaussian noise of an unknown strength, and JPEG in some of the pictures."""

    kind: Literal["noise"] = "noise"
    """Names this degradation in files."""
    sigma: tuple[Sigma, Sigma] = (0.0, 55.0)
    """Least and greatest deviation, in steps of 1/255; uniform between them."""
    common: tuple[Sigma, Sigma] | None = None
    """Limits that every other deviation is drawn between in their place: strengths that are met
    most; none: null."""
    jpeg: Probability = 0.0
    """Share of the pictures that are compressed, in place of the noise."""
    noisy: Probability = 0.0
    """Share of those that have the noise first."""
    quality: tuple[Quality, Quality] = (10, 60)
    """Least and greatest JPEG quality."""
    grey: Probability = 0.0
    """Share of the pictures whose noise is the same in all channels, as it is of grey pictures."""
    clipped: Probability = 1.0
    """Share of the pictures that are in 0..1 and in steps of 1/255 after the noise too, as files
    have them; in papers none are."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self, "sigma", "quality", *(["common"] if self.common else []))
        return self

    def apply(self, images: Tensor, scale: int, random: Numbers) -> Tensor:
        return self.told(images, scale, random)[0]

    def told(self, images: Tensor, scale: int, random: Numbers) -> tuple[Tensor, Tensor, Tensor]:
        """And the noise's deviation ``[b]``, where pictures are in 0..1; of compressed pictures 0,
        or, where they have noise, some part of it: so much an estimate finds. And which pictures
        ``[b]`` have blocks that can be found."""
        x = shrunk(images, scale) if scale > 1 else images
        count = len(x)
        sigma = between(random, count, self.sigma)
        if self.common:
            usual = between(random, count, self.common)
            sigma = torch.where(random.uniform(count) < 0.5, usual, sigma)
        sigma, blocks = sigma / 255, torch.zeros(count, dtype=torch.bool)
        noise = random.normal(count, *x.shape[1:])
        which, quality = random.uniform(count), qualities(random, count, self.quality)
        if self.grey:
            alike = random.uniform(count).view(-1, 1, 1, 1) < self.grey
            noise = torch.where(alike, noise[:, :1], noise)
        noisy = x + (noise * sigma.view(-1, 1, 1, 1)).to(x.device)
        if self.jpeg:
            chosen, part = which < self.jpeg, torch.zeros(count)
            given = x
            if self.noisy:
                both = random.uniform(count) < self.noisy
                part = torch.where(both, random.uniform(count), 0.0)
                given = torch.where(both.view(-1, 1, 1, 1).to(x.device), noisy, x)
            noisy[chosen.to(x.device)] = jpeg(given[chosen.to(x.device)], quality[chosen])
            sigma = torch.where(chosen, sigma * part, sigma)
            blocks = chosen & ((quality < FINE) | (random.uniform(count) < 0.5))
        told = sigma.to(x.device), blocks.to(x.device)
        if self.clipped == 1:
            return rounded(noisy), *told
        clipped = (random.uniform(count) < self.clipped).to(x.device).view(-1, 1, 1, 1)
        return torch.where(clipped, rounded(noisy), noisy), *told


class Photo(Spec):
    """What photographs on the web have been through, twice over: blurred, resized, noisy,
    compressed; and at last brought to the small size.

    Source: Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
    Synthetic Data", 2021, section 3, with round Gaussian kernels and Gaussian noise alone (no sinc
    filters, no generalised kernels, no Poisson noise); ranges of the released training."""

    kind: Literal["photo"] = "photo"
    """Names this degradation in files."""

    def apply(self, images: Tensor, scale: int, random: Numbers) -> Tensor:
        h, w = images.shape[2] // scale, images.shape[3] // scale
        whole = (images.shape[2], images.shape[3])
        x = _passed(images, random, (0.2, 3.0), whole, (0.15, 1.5), (1, 30), (30, 95))
        x = _passed(x, random, (0.2, 1.5), (h, w), (0.3, 1.2), (1, 25), (0, 0))
        (which,) = random.shared(1)
        x = resized(x, (h, w), FILTERS[int(which * len(FILTERS))]).clamp(0, 1)
        return rounded(jpeg(x, qualities(random, len(x), (30, 95))))


Degradation = Annotated[Shrink | Noise | Photo, Field(discriminator="kind")]


def degradation_of(
    model: Model, sigma: float | None = None, quality: int | None = None, clipped: bool = True
) -> Callable[[Tensor, int], Tensor]:
    """What to restore with a network: noise of the deviation ``sigma``, in steps of 1/255, and then
    JPEG of a ``quality`` (1 to 100), or what it was trained on; where that is not known, pictures
    made smaller, or noise of 25; nothing but masks of 10 to 50% for a network that fills in. Takes
    clean pictures ``[b c h w]`` in 0..1 and the first one's number, on which random numbers depend.
    ``clipped`` noise is in 0..1 and steps of 1/255."""
    pictures = model.architecture.pictures
    assert pictures is not None
    if pictures.masked:
        return masked()
    scale = pictures.scale
    task = model.card.task_recipe
    degradation: Degradation = Shrink() if scale > 1 else Noise(sigma=(25, 25))
    if quality is not None:
        s = sigma or 0.0
        degradation = Noise(sigma=(s, s), jpeg=1, noisy=1, quality=(quality, quality))
    elif sigma is not None:
        degradation = Noise(sigma=(sigma, sigma), clipped=float(clipped))
    elif "degradation" in task:
        degradation = TypeAdapter[Degradation](Degradation).validate_python(task["degradation"])

    return seeded(lambda clean, random: degradation.apply(clean, scale, random))


def seeded(degrade: Callable[[Tensor, Numbers], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """A degradation of clean pictures ``[b c h w]`` in 0..1 whose random numbers depend on the
    first one's number alone."""
    return lambda clean, first: degrade(clean, Numbers(torch_random(0, 0, first, "degradation")))


def shrunk(images: Tensor, scale: int) -> Tensor:
    """``[b c h w] -> [b c h/scale w/scale]``, bicubic, antialiased, in 0..1."""
    size = (images.shape[2] // scale, images.shape[3] // scale)
    return resized(images, size, "bicubic").clamp(0, 1)


def resized(images: Tensor, size: tuple[int, int], method: str) -> Tensor:
    """``[b c h w]`` at another size, px; all methods but ``area`` antialiased."""
    if method == "area":
        return F.interpolate(images, size, mode="area")
    return F.interpolate(images, size, mode=method, antialias=True)


def rounded(images: Tensor) -> Tensor:
    """To what 8 bits can hold."""
    return images.clamp(0, 1).mul(255).round_().div_(255)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """``[b c h w]`` in 0..1 as its files of JPEG ``quality [b]`` (1 to 100) have it; no gradient
    passes."""
    pixels = images.detach().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    found: list[Tensor] = []
    for image, q in zip(pixels, quality.tolist(), strict=True):
        file = io.BytesIO()
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        picture.save(file, "JPEG", quality=int(q))
        with Image.open(file) as read:
            array = np.array(read.convert(MODES[image.shape[2]])).reshape(image.shape)
        found.append(torch.from_numpy(array))
    if not found:
        return images
    x = torch.stack(found).permute(0, 3, 1, 2).to(images)
    return x.div_(255).contiguous(memory_format=torch.channels_last)


def between(random: Numbers, count: int, limits: tuple[float, float]) -> Tensor:
    """``[count]`` uniform between ``limits``."""
    low, high = limits
    return low + (high - low) * random.uniform(count)


def qualities(random: Numbers, count: int, limits: tuple[int, int]) -> Tensor:
    """``[count]`` whole numbers from the lower limit to the upper one, each as often."""
    low, high = limits
    return between(random, count, (low, high + 1)).floor().clamp(max=high)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """``[b c h w]``, each image by a Gaussian of its own ``sigma [b]``, px; borders reflect."""
    b, c = images.shape[:2]
    sigma = sigma.to(images)[:, None]
    # Each ends at 3 sigma, whatever else is in the batch.
    ends = (3 * sigma + 0.5).floor().clamp(1, max(1, min(images.shape[2:]) - 1))
    reach = int(ends.max())
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernels = torch.exp(-offsets.square() / (2 * sigma.square())) * (offsets.abs() <= ends)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(c, 0)[:, None]
    x = F.pad(images, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[None]
    x = F.conv2d(x, kernels[:, :, None], groups=b * c)
    return F.conv2d(x, kernels[..., None], groups=b * c)[0].unflatten(0, (b, c))


def _passed(
    images: Tensor,
    random: Numbers,
    blur: tuple[float, float],
    base: tuple[int, int],
    factor: tuple[float, float],
    sigma: tuple[float, float],
    quality: tuple[int, int],
) -> Tensor:
    """Once through it; all pictures of a batch are resized alike, since they are one tensor, to a
    ``factor`` times the size ``base``."""
    count, (h, w) = len(images), base
    x = blurred(images, between(random, count, blur))
    larger, share, which = random.shared(3)
    low, high = factor
    by = 1 + (high - 1) * share if larger < 0.3 else low + (1 - low) * share
    size = (max(round(h * by), 16), max(round(w * by), 16))
    x = resized(x, size, FILTERS[int(which * len(FILTERS))])
    grey = random.uniform(count) < 0.4
    strength = between(random, count, sigma).view(-1, 1, 1, 1) / 255
    noise = random.normal(count, x.shape[1], *size)
    noise = torch.where(grey.view(-1, 1, 1, 1), noise[:, :1], noise) * strength
    x = (x + noise.to(x.device)).clamp(0, 1)
    return jpeg(x, qualities(random, count, quality)) if quality[1] else x
