"""The augmentations of ADA: what a discriminator may be shown without the generator learning it.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data" (ADA), 2020,
appendix B. Each transformation falls on each image with probability p, apart from the others; all
geometric ones become one matrix and one resampling, all colour ones one matrix.

Two differences to the paper. It resamples on a grid of twice the resolution between wavelet
filters, here it is done on the plain grid by bicubic interpolation: half a pixel off the grid,
detail at half the highest frequency keeps 97% of its amplitude then (bilinear: 71%) without the
paper's four times as many pixels. What is lost above is lost in real and generated images alike;
shrinking, at most by a third as a rule, aliases a little. And its image-space filters, which its
own choice of groups (blit, geometry, colour) leaves out, are not here.

The numbers are drawn on the CPU in float64, as are the matrices, which then move in one piece.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..spec import Spec
from .randomness import Numbers

Share = Annotated[float, Field(ge=0, le=1)]

# Standard deviations and ranges of appendix B; of scales and gains: of their base 2 logarithms.
SHIFT = 1 / 8  # of the side
SCALE = 0.2
BRIGHTNESS = 0.2
CONTRAST = 0.5
SATURATION = 1.0
NOISE = 0.1
CUTOUT = 0.5  # of the side


class Pipe(Spec):
    """Which groups of transformations are on: each field multiplies p for its group, 1 takes it
    whole, 0 leaves the group out."""

    blit: Share = 1.0
    """Mirroring, quarter turns and shifts, all of whole pixels."""
    geometry: Share = 1.0
    """Scaling, rotation, stretching and shifts by fractions of a pixel."""
    colour: Share = 1.0
    """Brightness, contrast, inverted luma, hue and saturation."""
    cutout: Share = 0.0
    """A box of half the side, anywhere, becomes mid-grey."""
    noise: Share = 0.0
    """Gaussian noise on the colours."""

    def transform(self, images: Tensor, p: float, random: Numbers) -> Tensor:
        """``[b c h w]`` float32 in -1..1 -> the same, a little beyond -1..1 at places; ``p`` in
        0..1."""
        draws = Draws(len(images), random)
        h, w = images.shape[2:]
        matrix = identity(len(images), 3)
        if self.blit:
            matrix = matrix @ blits(draws, self.blit * p, h, w)
        if self.geometry:
            matrix = matrix @ warps(draws, self.geometry * p, h, w)
        images = resample(images, matrix, "bicubic", "reflection")
        if self.colour:
            images = recolour(images, colours(draws, self.colour * p))
        if self.noise:
            images = add_noise(images, draws.normal(self.noise * p, NOISE).abs(), random)
        if self.cutout:
            images = cut_out(images, boxes(draws, self.cutout * p, h, w))
        return images


class Draws:
    """Random numbers for ``count`` images, ``[count]`` float64: 0, which leaves an image as it is,
    but for those that a coin of probability p picks."""

    def __init__(self, count: int, random: Numbers) -> None:
        self.count = count
        self.random = random

    def coin(self, p: float) -> Tensor:
        """Whether each image is picked (bool)."""
        return self._rand() < p

    def uniform(self, p: float, low: float, high: float) -> Tensor:
        return self.coin(p) * (low + (high - low) * self._rand())

    def normal(self, p: float, deviation: float) -> Tensor:
        drawn = self.random.normal(self.count, dtype=torch.float64)
        return self.coin(p) * deviation * drawn

    def below(self, p: float, limit: int) -> Tensor:
        """Whole numbers from 0 to ``limit`` - 1."""
        return self.coin(p) * (self._rand() * limit).floor()

    def _rand(self) -> Tensor:
        return self.random.uniform(self.count, dtype=torch.float64)


# ------------------------------------------------------------------------------ geometry
#
# Matrices [b 3 3] take a position in the new image to the one in the old that is shown there, in
# px from the centre, x right and y down. So each holds its transformation's inverse, and that of
# one transformation after another is the product in the same order.


def blits(draws: Draws, p: float, h: int, w: int) -> Tensor:
    """Mirroring, quarter turns, shifts by whole pixels."""
    one = torch.ones(draws.count, dtype=torch.float64)
    mirrored = scaling(1 - 2 * draws.below(p, 2), one)
    turned = rotation(draws.below(p, 4) * (math.pi / 2))
    shifted = draws.coin(p)
    x, y = draws.uniform(1, -SHIFT, SHIFT), draws.uniform(1, -SHIFT, SHIFT)
    return mirrored @ turned @ translation((shifted * x * w).round(), (shifted * y * h).round())


def warps(draws: Draws, p: float, h: int, w: int) -> Tensor:
    """Scaling, rotation, stretching, rotation again, shifts. Two rotations about a stretching
    stretch any way; each has the probability with which at least one of them falls at p."""
    p_rotation = 1 - math.sqrt(1 - p)
    scale = torch.exp2(draws.normal(p, SCALE))
    before = rotation(draws.uniform(p_rotation, -math.pi, math.pi))
    stretch = torch.exp2(draws.normal(p, SCALE))
    after = rotation(draws.uniform(p_rotation, -math.pi, math.pi))
    shifted = draws.coin(p)
    shift = translation(shifted * draws.normal(1, SHIFT) * w, shifted * draws.normal(1, SHIFT) * h)
    return scaling(scale, scale) @ before @ scaling(stretch, 1 / stretch) @ after @ shift


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """The image becomes ``x`` times as wide, ``y`` times as high; -1 mirrors."""
    return torch.diag_embed(torch.stack([1 / x, 1 / y, torch.ones_like(x)], 1))


def rotation(angle: Tensor) -> Tensor:
    """The image turns clockwise by ``angle``, radians."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return _rows((cos, sin, zero), (-sin, cos, zero), (zero, zero, one))


def translation(x: Tensor, y: Tensor) -> Tensor:
    """The image moves right by ``x`` px and down by ``y`` px."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _rows((one, zero, -x), (zero, one, -y), (zero, zero, one))


def resample(images: Tensor, matrix: Tensor, mode: str, padding: str) -> Tensor:
    """``images [b c h w]`` seen through ``matrix [b 3 3]``; ``mode`` and ``padding`` are those of
    torch's grid_sample. Where no image moves, the very tensor that came in."""
    if torch.equal(matrix, identity(len(images), 3)):
        return images
    h, w = images.shape[2:]
    # grid_sample counts from -1 to 1 over each side.
    half = torch.tensor([w / 2, h / 2, 1], dtype=matrix.dtype)
    theta = (matrix * half / half[:, None])[:, :2].to(images.device, images.dtype)
    theta = theta[:, None, None]
    x = (torch.arange(w, device=images.device, dtype=images.dtype)[:, None] * 2 + 1) / w - 1
    y = (torch.arange(h, device=images.device, dtype=images.dtype)[:, None, None] * 2 + 1) / h - 1
    # affine_grid's matrix product would lose whole pixels of large images where TF32 is on.
    grid = theta[..., 0] * x + theta[..., 1] * y + theta[..., 2]
    return F.grid_sample(images, grid, mode, padding, align_corners=False)


# ------------------------------------------------------------------------------ colour
#
# Matrices [b 4 4] act on (red, green, blue, 1), each in -1..1.

GREY = torch.tensor([1, 1, 1, 0], dtype=torch.float64) / math.sqrt(3)  # the axis of luma
GREY_SQUARE = torch.outer(GREY, GREY)
# v -> GREY x v, which generates the rotations about GREY.
GREY_CROSS = torch.tensor(
    [[0, -1, 1, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64
) / math.sqrt(3)
RGB = torch.diag(torch.tensor([1, 1, 1, 0], dtype=torch.float64))


def colours(draws: Draws, p: float) -> Tensor:
    """Brightness, contrast, inverted luma, hue and saturation, one after another."""
    matrix = brightness(draws.normal(p, BRIGHTNESS))
    matrix = contrast(torch.exp2(draws.normal(p, CONTRAST))) @ matrix
    matrix = luma_flip(draws.below(p, 2)) @ matrix
    matrix = hue(draws.uniform(p, -math.pi, math.pi)) @ matrix
    return saturation(torch.exp2(draws.normal(p, SATURATION))) @ matrix


def brightness(shift: Tensor) -> Tensor:
    """``shift`` is added to every colour."""
    matrix = identity(len(shift), 4)
    matrix[:, :3, 3] = shift[:, None]
    return matrix


def contrast(gain: Tensor) -> Tensor:
    """Colours move away from mid-grey, 0, by ``gain``."""
    return identity(len(gain), 4) + (gain - 1)[:, None, None] * RGB


def luma_flip(flipped: Tensor) -> Tensor:
    """Luma changes sign where ``flipped`` is 1, hue and saturation stay: a reflection along the
    grey axis."""
    return identity(len(flipped), 4) - 2 * flipped[:, None, None] * GREY_SQUARE


def hue(angle: Tensor) -> Tensor:
    """Colours turn about the grey axis by ``angle``, radians (Rodrigues' formula)."""
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return identity(len(angle), 4) + sin * GREY_CROSS + (1 - cos) * (GREY_SQUARE - RGB)


def saturation(gain: Tensor) -> Tensor:
    """Colours move away from the grey axis by ``gain``."""
    return identity(len(gain), 4) + (gain - 1)[:, None, None] * (RGB - GREY_SQUARE)


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Colours through ``matrix [b 4 4]``; alpha is left alone. A grey image is the mean of what
    its three equal channels become. Where no colour changes, the very tensor that came in."""
    if torch.equal(matrix, identity(len(images), 4)):
        return images
    matrix = matrix[:, :3].to(images.device, images.dtype)
    colour, alpha = split_alpha(images)
    if colour.shape[1] == 1:
        gain, shift = matrix[:, :, :3].sum(2).mean(1), matrix[:, :, 3].mean(1)
        new = colour * gain[:, None, None, None] + shift[:, None, None, None]
    else:
        # Three products of planes rather than one of matrices keep the layout, and float32.
        new = matrix[:, :, 3, None, None]
        for i in range(3):
            new = new + matrix[:, :, i, None, None] * colour[:, i : i + 1]
    return torch.cat([new, alpha], 1)


# ------------------------------------------------------------------------------ corruption


def boxes(draws: Draws, p: float, h: int, w: int) -> Tensor:
    """Boxes ``[b 4]`` of half the side about a point anywhere: left, top, width, height, px."""
    cut = draws.coin(p)
    x, y = draws.uniform(1, 0, 1), draws.uniform(1, 0, 1)
    left, top = (x - CUTOUT / 2) * w, (y - CUTOUT / 2) * h
    return torch.stack([left, top, cut * CUTOUT * w, cut * CUTOUT * h], 1)


def cut_out(images: Tensor, boxes: Tensor) -> Tensor:
    """Every channel becomes 0 in pixels whose centre lies in the image's box: left, top, width,
    height ``[b 4]``, px; nothing in one of width 0. Alpha too becomes 0, the middle."""
    h, w = images.shape[2:]
    left, top, width, height = boxes.to(images.device).t()[:, :, None]
    x = torch.arange(w, device=images.device) + 0.5 - left
    y = torch.arange(h, device=images.device) + 0.5 - top
    inside_x, inside_y = (x >= 0) & (x < width), (y >= 0) & (y < height)
    return images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)


def add_noise(images: Tensor, deviation: Tensor, random: Numbers) -> Tensor:
    """N(0, deviation) on every colour of every pixel; ``deviation [b]``."""
    colour, alpha = split_alpha(images)
    noise = random.normal(*colour.shape).to(images.device, images.dtype)
    deviation = deviation.to(images.device, images.dtype)[:, None, None, None]
    return torch.cat([colour + deviation * noise, alpha], 1)


def split_alpha(images: Tensor) -> tuple[Tensor, Tensor]:
    """The colours ``[b 1|3 h w]`` and alpha ``[b 0|1 h w]`` of images of 1 to 4 channels."""
    colours = images.shape[1] - (images.shape[1] + 1) % 2
    return images[:, :colours], images[:, colours:]


def identity(count: int, size: int) -> Tensor:
    """``[count size size]``, float64."""
    return torch.eye(size, dtype=torch.float64).repeat(count, 1, 1)


def _rows(*rows: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
