"""Masks to train inpainting on, and to measure it: strokes of a brush and boxes, as people draw
them, until a share of the picture is covered.

Source: Yu et al., "Free-Form Image Inpainting with Gated Convolution", 2019, section 4.1 (chains of
strokes with round ends); Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier
Convolutions" (LaMa), 2021, section 2.3 (large masks: thick strokes and boxes).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Self

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import Field, model_validator
from torch import Tensor

from ..spec import Spec, check_order
from .randomness import Numbers, numpy_random

Share = Annotated[float, Field(gt=0, lt=1)]

# Shares that masks to measure with take in turn.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
# A stroke's width and a straight piece's length, and a box's sides, over the picture's shorter one.
WIDTHS, LENGTHS, SIDES = (0.05, 0.2), (0.05, 0.35), (0.1, 0.45)
# Pieces of a stroke, at most, and shapes of a mask, at most.
PIECES, MOST = 8, 200
# How far off a mask's share may be before its last shape is left out.
TOLERANCE = 0.05


class Masks(Spec):
    """Random masks."""

    share: tuple[Share, Share] = (0.1, 0.5)
    """Least and greatest part of the picture that a mask covers, about; uniform between them."""
    boxes: Annotated[float, Field(ge=0, le=1)] = 0.3
    """How many of the shapes are boxes; the others are strokes."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_order(self, "share")
        return self

    def draw(self, count: int, size: tuple[int, int], random: Numbers) -> Tensor:
        """``[count 1 h w]``, 0 or 1, for pictures of ``size``: 1 is to be filled in."""
        low, high = self.share
        numbers = random.uniform(count, 2, dtype=torch.float64).tolist()
        masks = [
            mask(
                size, low + (high - low) * share, self.boxes, np.random.default_rng(int(x * 2**53))
            )
            for share, x in numbers
        ]
        return torch.stack(masks)


def mask(size: tuple[int, int], share: float, boxes: float, random: np.random.Generator) -> Tensor:
    """``[1 h w]``, 0 or 1: shapes until about ``share`` of it is 1."""
    h, w = size
    covered, found = Image.new("L", (w, h)), 0.0
    for _ in range(MOST):
        if found >= share:
            break
        canvas = covered.copy()
        shape = _box if random.random() < boxes else _stroke
        shape(ImageDraw.Draw(canvas), h, w, random)
        now = float(np.asarray(canvas).mean())
        if now <= share + TOLERANCE:
            covered, found = canvas, now
    return torch.from_numpy(np.array(covered, np.float32))[None]


def masked(share: float | None = None) -> Callable[[Tensor, int], Tensor]:
    """What gives clean pictures ``[b c h w]`` in 0..1 masks of a fixed share, or of 10, 20 .. 50%
    in turn: ``[b c+1 h w]``, the masked pixels 0 and the mask as the last channel. Masks depend on
    the first picture's number alone."""
    shares = SHARES if share is None else (share,)

    def degrade(clean: Tensor, first: int) -> Tensor:
        b, _, h, w = clean.shape
        found = torch.stack(
            [
                mask((h, w), shares[n % len(shares)], Masks().boxes, numpy_random(0, 0, n, "mask"))
                for n in range(first, first + b)
            ]
        ).to(clean)
        return torch.cat([clean * (1 - found), found], 1)

    return degrade


def _box(draw: ImageDraw.ImageDraw, h: int, w: int, random: np.random.Generator) -> None:
    sides = random.uniform(*SIDES, 2) * min(h, w)
    x, y = random.uniform(0, (w - sides[0], h - sides[1]))
    draw.rectangle((x, y, x + sides[0] - 1, y + sides[1] - 1), fill=1)


def _stroke(draw: ImageDraw.ImageDraw, h: int, w: int, random: np.random.Generator) -> None:
    """Straight pieces that turn back and forth, of one width, with round ends."""
    side = min(h, w)
    width = random.uniform(*WIDTHS) * side
    x, y = random.uniform(0, (w, h))
    angle = random.uniform(0, 2 * math.pi)
    for _ in range(random.integers(1, PIECES + 1)):
        length = random.uniform(*LENGTHS) * side
        end = (
            min(max(x + length * math.cos(angle), 0), w),
            min(max(y + length * math.sin(angle), 0), h),
        )
        draw.line((x, y, *end), fill=1, width=max(round(width), 1))
        for cx, cy in ((x, y), end):
            r = width / 2
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=1)
        (x, y), angle = end, angle + math.pi + random.uniform(-1, 1) * 2 * math.pi / 3
