"""Masks: 1 where something is to be filled in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..host import Host
from ..node import Node
from ..sockets import Image, Mask, Widget
from .ports import MAX_RESOLUTION, Fraction, Offset, OneImage, OneMask, Side

CHANNELS = ("red", "green", "blue", "alpha")


class MaskToImage(Node):
    """A mask as a grey image."""

    id = "MaskToImage"
    title = "Convert Mask to Image"
    category = "image/mask"

    mask: Mask
    """Masks to show."""

    def run(self, host: Host) -> OneImage:
        return OneImage(self.mask[..., None].expand(-1, -1, -1, 3))


class ImageToMask(Node):
    """One channel of an image as a mask."""

    id = "ImageToMask"
    title = "Convert Image to Mask"
    category = "image/mask"

    image: Image
    """Images to take the channel from."""
    channel: Literal["red", "green", "blue", "alpha"]
    """Which one."""

    def run(self, host: Host) -> OneMask:
        index = CHANNELS.index(self.channel)
        if index >= self.image.shape[3]:
            raise ValueError(f"channel: this image has no {self.channel} channel")
        return OneMask(self.image[..., index])


class InvertMask(Node):
    """One minus the mask."""

    id = "InvertMask"
    title = "Invert Mask"
    category = "image/mask"

    mask: Mask
    """Masks to invert."""

    def run(self, host: Host) -> OneMask:
        return OneMask(1.0 - self.mask)


class SolidMask(Node):
    """A mask of one value."""

    id = "SolidMask"
    title = "Create Solid Mask"
    category = "image/mask"

    value: Fraction = 1.0
    """The value; 1: everything is masked."""
    width: Side = 512
    """Width, px."""
    height: Side = 512
    """Height, px."""

    def run(self, host: Host) -> OneMask:
        import torch

        return OneMask(torch.full((1, self.height, self.width), self.value))


class GrowMask(Node):
    """Grow what is masked, or shrink it, pixel by pixel."""

    id = "GrowMask"
    title = "Grow Mask"
    category = "image/mask"

    mask: Mask
    """Masks to grow."""
    expand: Annotated[int, Field(ge=-MAX_RESOLUTION, le=MAX_RESOLUTION), Widget(step=1)] = 0
    """How far, px; below 0 it shrinks."""
    tapered_corners: Annotated[bool, Widget(advanced=True)] = True
    """Grow to the four sides only, so that corners become slanted; else to all eight."""

    def run(self, host: Host) -> OneMask:
        from . import pixels

        return OneMask(pixels.grown(self.mask, self.expand, diagonals=not self.tapered_corners))


class FeatherMask(Node):
    """Fade a mask out towards its borders."""

    id = "FeatherMask"
    title = "Feather Mask"
    category = "image/mask"

    mask: Mask
    """Masks to fade."""
    left: Offset = 0
    """Length of the ramp from the left, px."""
    top: Offset = 0
    """Length of the ramp from the top, px."""
    right: Offset = 0
    """Length of the ramp from the right, px."""
    bottom: Offset = 0
    """Length of the ramp from the bottom, px."""

    def run(self, host: Host) -> OneMask:
        from . import pixels

        border = pixels.Border(self.left, self.top, self.right, self.bottom)
        return OneMask(pixels.feathered(self.mask, border))


class MaskComposite(Node):
    """Combine a mask with another one laid upon it. ``and``, ``or`` and ``xor`` take values above
    one half for true; the result stays within 0..1."""

    id = "MaskComposite"
    title = "Combine Masks"
    category = "image/mask"

    destination: Mask
    """Masks below; they decide the size."""
    source: Mask
    """Masks laid on top."""
    x: Offset = 0
    """Left border of the source, px from the left."""
    y: Offset = 0
    """Upper border of the source, px from the top."""
    operation: Literal["multiply", "add", "subtract", "and", "or", "xor"]
    """What to do where they overlap."""

    def run(self, host: Host) -> OneMask:
        from . import pixels

        return OneMask(
            pixels.combined(self.destination, self.source, self.x, self.y, self.operation)
        )
