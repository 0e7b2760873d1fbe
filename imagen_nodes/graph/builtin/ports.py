"""The inputs and outputs that many built-in nodes share. Outputs bear ComfyUI's names."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from ..sockets import Image, Mask, Widget

MAX_RESOLUTION = 16384
"""px; the longest side that ComfyUI's widgets take."""
MAX_BATCH = 4096
"""Images; the longest batch that ComfyUI's widgets take."""

Side = Annotated[int, Field(ge=1, le=MAX_RESOLUTION), Widget(step=1)]
"""Length of a side, px."""
Offset = Annotated[int, Field(ge=0, le=MAX_RESOLUTION), Widget(step=1)]
"""Distance from a border, px."""
Count = Annotated[int, Field(ge=1, le=MAX_BATCH)]
"""Number of images."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0), Widget(step=0.01)]
"""A part of the whole, 0..1."""

Method = Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
"""How to resize. Only ``area`` and ``lanczos`` average what they shrink."""


class OneImage(NamedTuple):
    IMAGE: Image


class OneMask(NamedTuple):
    MASK: Mask


class ImageAndMask(NamedTuple):
    IMAGE: Image
    MASK: Mask
