"""What the built-in nodes compute, with ComfyUI's results to the last bit.

Images are IMAGE ``[b h w c]`` and masks MASK ``[b h w]``, float32 in 0..1. Nothing changes its
arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...images import to_pictures


class Border(NamedTuple):
    """Lengths at the four sides, px."""

    left: int
    top: int
    right: int
    bottom: int


# ---- batches and channels -----------------------------------------------------------------------


def joined(first: Tensor, second: Tensor) -> Tensor:
    """One batch of both. Opaque alpha is added where only one has alpha, and ``second`` takes the
    size of ``first``."""
    channels = max(first.shape[3], second.shape[3])
    first, second = with_channels(first, channels), with_channels(second, channels)
    if first.shape[1:] != second.shape[1:]:
        _, h, w, _ = first.shape
        second = resized(cropped(second, w, h), w, h, "bilinear")
    return torch.cat((first, second))


def with_channels(image: Tensor, channels: int) -> Tensor:
    """``image`` with that many channels: cut off, or one opaque alpha added."""
    if image.shape[3] < channels:
        return F.pad(image, (0, 1), value=1.0)
    return image[..., :channels]


def repeated(batch: Tensor, count: int) -> Tensor:
    """``count`` images: the batch cut off, or again from its start."""
    times = math.ceil(count / batch.shape[0])
    return batch.repeat(times, 1, 1, 1)[:count] if times > 1 else batch[:count]


# ---- sizes --------------------------------------------------------------------------------------


def cropped(image: Tensor, width: int, height: int) -> Tensor:
    """The largest part in the middle with the proportions of ``width`` to ``height``."""
    _, h, w, _ = image.shape
    old, new = w / h, width / height
    x = round((w - w * (new / old)) / 2) if old > new else 0
    y = round((h - h * (old / new)) / 2) if old < new else 0
    return image[:, y : h - y, x : w - x]


def resized(image: Tensor, width: int, height: int, method: str) -> Tensor:
    """``image`` at a new size, px. ``lanczos`` is Pillow's, on 8 bits; the others are torch's,
    which do not average what they shrink, ``area`` excepted.

    Raises:
        ValueError: the old size or the new one is 0.
    """
    _, h, w, _ = image.shape
    if 0 in (h, w, height, width):
        raise ValueError(f"cannot resize {w}x{h} to {width}x{height}: a side would be 0 px")
    if method != "lanczos":
        scaled = F.interpolate(image.movedim(3, 1), size=(height, width), mode=method)
        return scaled.movedim(1, 3)
    from PIL.Image import Resampling

    result = torch.empty(len(image), height, width, image.shape[3], device=image.device)
    for picture, scaled in zip(to_pictures(image), result, strict=True):
        small = picture.resize((width, height), Resampling.LANCZOS)
        scaled.copy_(torch.as_tensor(np.array(small, np.float32) / 255.0).view_as(scaled))
    return result


def padded(image: Tensor, border: Border) -> Tensor:
    """``image`` within grey borders."""
    left, top, right, bottom = border
    return F.pad(image, (0, 0, left, right, top, bottom), value=0.5)


def outpaint_mask(image: Tensor, border: Border, feathering: int) -> Tensor:
    """``[1 h w]``, the size of :func:`padded`: 1 on the borders, 0 within the image. A mask fades
    as ((f - d) / f)^2, d px from a border that is there, where the image is more than twice
    ``feathering`` f wide and high."""
    _, h, w, _ = image.shape
    left, top, right, bottom = border
    inner = torch.zeros(h, w)
    if 0 < feathering * 2 < min(h, w):
        y, x = torch.arange(h)[:, None], torch.arange(w)[None]
        distance = torch.full((h, w), feathering)
        for d in (y if top else None, h - y if bottom else None,
                  x if left else None, w - x if right else None):  # fmt: skip
            if d is not None:
                distance = torch.minimum(distance, d)
        inner = ((feathering - distance).double() / feathering).square().float()
    return F.pad(inner, (left, right, top, bottom), value=1.0)[None]


# ---- mixing -------------------------------------------------------------------------------------


def pasted(below: Tensor, source: Tensor, x: int, y: int, mask: Tensor | None) -> Tensor:
    """``source`` with its upper left corner at ``x``, ``y`` of ``below``; what sticks out is left
    off. ``mask`` is stretched to ``source``."""
    result = below.clone()
    b = below.shape[0]
    target = result[:, y : y + source.shape[1], x : x + source.shape[2]]
    _, visible_h, visible_w, _ = target.shape
    part = repeated(source.to(below.device), b)[:, :visible_h, :visible_w]
    if mask is not None:
        alpha = F.interpolate(mask.to(below.device)[:, None], source.shape[1:3], mode="bilinear")
        alpha = repeated(alpha.movedim(1, 3), b)[:, :visible_h, :visible_w]
        part = alpha * part + (1.0 - alpha) * target
    target.copy_(part)
    return result


def _soft_light(below: Tensor, top: Tensor) -> Tensor:
    curve = torch.where(below <= 0.25, ((16 * below - 12) * below + 4) * below, below.sqrt())
    return torch.where(
        top <= 0.5,
        below - (1 - 2 * top) * below * (1 - below),
        below + (2 * top - 1) * (curve - below),
    )


def _overlay(below: Tensor, top: Tensor) -> Tensor:
    return torch.where(below <= 0.5, 2 * below * top, 1 - 2 * (1 - below) * (1 - top))


# W3C Compositing and Blending Level 1, section 9.1, the image below being the backdrop; but
# ComfyUI's difference keeps its sign, so that it is black where the top is lighter.
BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda below, top: top,
    "multiply": lambda below, top: below * top,
    "screen": lambda below, top: 1 - (1 - below) * (1 - top),
    "overlay": _overlay,
    "soft_light": _soft_light,
    "difference": lambda below, top: below - top,
}


def blended(below: Tensor, top: Tensor, mode: str, factor: float) -> Tensor:
    """``top`` blended onto ``below``, as far as ``factor``; ``top`` takes the size of ``below``."""
    top = top.to(below.device)
    if below.shape != top.shape:
        _, h, w, _ = below.shape
        top = resized(cropped(top, w, h), w, h, "bicubic")
    if top.shape[0] not in (1, below.shape[0]) and below.shape[0] != 1:
        raise ValueError(f"cannot blend {below.shape[0]} images with {top.shape[0]}")
    blend = BLENDS[mode](below, top)
    return (below * (1 - factor) + blend * factor).clamp(0, 1)


def blurred(image: Tensor, radius: int, sigma: float) -> Tensor:
    """A Gaussian over ``2 radius + 1`` px, of ``sigma`` radii; borders are mirrored.

    Raises:
        ValueError: the image is no larger than the radius.
    """
    _, h, w, c = image.shape
    if radius >= min(h, w):
        raise ValueError(f"blur_radius: {radius} px is too much for an image of {w}x{h} px")
    size = 2 * radius + 1
    axis = torch.linspace(-1, 1, size, device=image.device)
    distance = (axis[:, None] * axis[:, None] + axis * axis).sqrt()
    kernel = torch.exp(-(distance * distance) / (2.0 * sigma * sigma))
    kernel = (kernel / kernel.sum()).to(image.dtype).repeat(c, 1, 1)[:, None]
    mirrored = F.pad(image.permute(0, 3, 1, 2), (radius,) * 4, "reflect")
    return F.conv2d(mirrored, kernel, groups=c).permute(0, 2, 3, 1)


# ---- masks --------------------------------------------------------------------------------------


def grown(mask: Tensor, expand: int, *, diagonals: bool) -> Tensor:
    """The largest value within ``expand`` steps, to eight neighbours or to four; below 0 the
    smallest."""
    sign = -1 if expand < 0 else 1
    grey = sign * mask[:, None]
    for _ in range(abs(expand)):
        if diagonals:
            larger = F.max_pool2d(grey, 3, 1, 1)
        else:
            across = F.max_pool2d(grey, (1, 3), 1, (0, 1))
            larger = torch.maximum(across, F.max_pool2d(grey, (3, 1), 1, (1, 0)))
        if torch.equal(larger, grey):
            break
        grey = larger
    return sign * grey[:, 0]


def feathered(mask: Tensor, border: Border) -> Tensor:
    """``mask`` times a ramp 1/n, 2/n, ... 1 from each side, n its length or the side's."""
    result = mask.clone()
    _, h, w = mask.shape
    columns, rows = result, result.transpose(1, 2)
    for view, side, length, backwards in (
        (columns, w, border.left, False),
        (columns, w, border.right, True),
        (rows, h, border.top, False),
        (rows, h, border.bottom, True),
    ):
        if n := min(length, side):
            ramp = (torch.arange(1, n + 1, dtype=torch.float64) / n).to(mask)
            part = view[..., -n:] if backwards else view[..., :n]
            part *= ramp.flip(0) if backwards else ramp
    return result


def _truth(mask: Tensor) -> Tensor:
    return mask.round().bool()


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "multiply": lambda below, top: below * top,
    "add": lambda below, top: below + top,
    "subtract": lambda below, top: below - top,
    "and": lambda below, top: (_truth(below) & _truth(top)).float(),
    "or": lambda below, top: (_truth(below) | _truth(top)).float(),
    "xor": lambda below, top: (_truth(below) ^ _truth(top)).float(),
}


def combined(below: Tensor, source: Tensor, x: int, y: int, operation: str) -> Tensor:
    """``source`` with its upper left corner at ``x``, ``y`` of ``below``, combined where they
    overlap; the result is clamped.

    Raises:
        ValueError: there are several of both, but not equally many.
    """
    if source.shape[0] not in (1, below.shape[0]):
        raise ValueError(f"cannot combine {below.shape[0]} masks with {source.shape[0]}")
    result = below.clone()
    target = result[:, y : y + source.shape[1], x : x + source.shape[2]]
    _, visible_h, visible_w = target.shape
    target.copy_(OPERATIONS[operation](target, source[:, :visible_h, :visible_w].to(below.device)))
    return result.clamp(0.0, 1.0)
