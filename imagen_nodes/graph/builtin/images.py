"""Making, joining and taking apart batches of images."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

from ..host import Host
from ..node import Node
from ..sockets import Image, ImageList, Widget
from .ports import MAX_RESOLUTION, Count, Offset, OneImage, Side


class Batches(NamedTuple):
    IMAGE: ImageList


class Size(NamedTuple):
    width: int
    height: int
    batch_size: int


class EmptyImage(Node):
    """Images of one colour."""

    id = "EmptyImage"
    title = "Empty Image"
    category = "image"

    width: Side = 512
    """Width, px."""
    height: Side = 512
    """Height, px."""
    batch_size: Count = 1
    """Number of images."""
    color: Annotated[int, Field(ge=0, le=0xFFFFFF), Widget(step=1, display="color")] = 0
    """Colour as 0xRRGGBB; 0 is black."""

    def run(self, host: Host) -> OneImage:
        import torch

        rgb = [(self.color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
        return OneImage(torch.tensor(rgb).repeat(self.batch_size, self.height, self.width, 1))


class ImageInvert(Node):
    """The negative: every channel becomes one minus itself, alpha too."""

    id = "ImageInvert"
    title = "Invert Image Colors"
    category = "image/color"

    image: Image
    """Images to invert."""

    def run(self, host: Host) -> OneImage:
        return OneImage(1.0 - self.image)


class ImageBatch(Node):
    """Put the second images after the first, resized and cropped to their size."""

    id = "ImageBatch"
    title = "Batch Images (DEPRECATED)"
    category = "image/batch"

    image1: Image
    """The first images; they decide the size."""
    image2: Image
    """The images that follow."""

    def run(self, host: Host) -> OneImage:
        from . import pixels

        return OneImage(pixels.joined(self.image1, self.image2))


class RepeatImageBatch(Node):
    """The whole batch, again and again."""

    id = "RepeatImageBatch"
    title = "Repeat Image Batch"
    category = "image/batch"

    image: Image
    """Images to repeat."""
    amount: Count = 1
    """How many times; 1 changes nothing."""

    def run(self, host: Host) -> OneImage:
        return OneImage(self.image.repeat(self.amount, 1, 1, 1))


class ImageFromBatch(Node):
    """Some neighbours out of a batch."""

    id = "ImageFromBatch"
    title = "Get Image from Batch"
    category = "image/batch"

    image: Image
    """Images to choose from."""
    batch_index: Annotated[int, Field(ge=-MAX_RESOLUTION, le=MAX_RESOLUTION)] = 0
    """The first one, from 0; below 0 it counts from the end. Kept inside the batch."""
    length: Count = 1
    """How many, at most."""

    def run(self, host: Host) -> OneImage:
        count = self.image.shape[0]
        first = self.batch_index + count if self.batch_index < 0 else self.batch_index
        first = max(0, min(count - 1, first))
        return OneImage(self.image[first : first + self.length].clone())


class RebatchImages(Node):
    """Deal a list of batches out again, in batches of one size; the last may be smaller."""

    id = "RebatchImages"
    title = "Rebatch Images"
    category = "image/batch"
    takes_lists = True

    images: list[Image]
    """Batches to deal out."""
    batch_size: list[Count] = Field(default=[1])
    """Images in each new batch; the first number counts."""

    def run(self, host: Host) -> Batches:
        import torch

        size = self.batch_size[0]
        single = [image for batch in self.images for image in batch]
        batches = [single[i : i + size] for i in range(0, len(single), size)]
        for batch in batches:
            shapes = {f"{image.shape[1]}x{image.shape[0]}": image.shape for image in batch}
            if len(set(shapes.values())) > 1:
                raise ValueError(f"images: {', '.join(shapes)} px do not go into one batch")
        return Batches([torch.stack(batch) for batch in batches])


class ImageCrop(Node):
    """Cut out a rectangle; what lies outside the image is left off."""

    id = "ImageCrop"
    title = "Crop Image (DEPRECATED)"
    category = "image/transform"

    image: Image
    """Images to cut from."""
    width: Side = 512
    """Width of the rectangle, px."""
    height: Side = 512
    """Height of the rectangle, px."""
    x: Offset = 0
    """Its left border, px from the left; kept inside the image."""
    y: Offset = 0
    """Its upper border, px from the top; kept inside the image."""

    def run(self, host: Host) -> OneImage:
        _, h, w, _ = self.image.shape
        x, y = min(self.x, w - 1), min(self.y, h - 1)
        return OneImage(self.image[:, y : y + self.height, x : x + self.width])


class GetImageSize(Node):
    """How large the images are, and how many."""

    id = "GetImageSize"
    title = "Get Image Size"
    category = "image"

    image: Image
    """Images to measure."""

    def run(self, host: Host) -> Size:
        b, h, w, _ = self.image.shape
        return Size(w, h, b)
