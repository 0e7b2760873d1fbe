"""Resizing, pasting, mixing and blurring images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..host import Host
from ..node import Node
from ..sockets import Image, Mask, Widget
from .ports import MAX_RESOLUTION, Fraction, ImageAndMask, Method, Offset, OneImage

Border = Annotated[int, Field(ge=0, le=MAX_RESOLUTION), Widget(step=8)]
"""Width of a border, px."""


class ImageScale(Node):
    """Resize to a width and height."""

    id = "ImageScale"
    title = "Upscale Image"
    category = "image/upscaling"

    image: Image
    """Images to resize."""
    upscale_method: Method
    """How; area and lanczos are the ones to shrink with."""
    width: Offset = 512
    """New width, px; 0: whatever keeps the proportions."""
    height: Offset = 512
    """New height, px; 0: whatever keeps the proportions."""
    crop: Literal["disabled", "center"]
    """center: cut to the new proportions first; disabled: distort."""

    def run(self, host: Host) -> OneImage:
        from . import pixels

        _, h, w, _ = self.image.shape
        width, height = self.width, self.height
        if width == height == 0:
            return OneImage(self.image)
        width = width or max(1, round(w * height / h))
        height = height or max(1, round(h * width / w))
        image = pixels.cropped(self.image, width, height) if self.crop == "center" else self.image
        return OneImage(pixels.resized(image, width, height, self.upscale_method))


class ImageScaleBy(Node):
    """Resize by a factor."""

    id = "ImageScaleBy"
    title = "Upscale Image By"
    category = "image/upscaling"

    image: Image
    """Images to resize."""
    upscale_method: Method
    """How; area and lanczos are the ones to shrink with."""
    scale_by: Annotated[float, Field(ge=0.01, le=8.0), Widget(step=0.01)] = 1.0
    """Factor for both sides; 1 keeps the size."""

    def run(self, host: Host) -> OneImage:
        from . import pixels

        _, h, w, _ = self.image.shape
        width, height = round(w * self.scale_by), round(h * self.scale_by)
        return OneImage(pixels.resized(self.image, width, height, self.upscale_method))


class ImageCompositeMasked(Node):
    """Paste an image onto another, through a mask if there is one."""

    id = "ImageCompositeMasked"
    title = "Image Composite Masked"
    category = "image/compositing"

    destination: Image
    """Images to paste onto; they decide the size and the number."""
    source: Image
    """Images to paste; repeated as often as needed."""
    x: Offset = 0
    """Left border of what is pasted, px from the left."""
    y: Offset = 0
    """Upper border of what is pasted, px from the top."""
    resize_source: bool = False
    """Stretch the source to the destination's size first."""
    mask: Mask | None = None
    """Where to paste, stretched to the source: 1 takes the source, 0 keeps the destination."""

    def run(self, host: Host) -> OneImage:
        from . import pixels

        source = pixels.with_channels(self.source, self.destination.shape[3])
        if self.resize_source:
            _, h, w, _ = self.destination.shape
            source = pixels.resized(source, w, h, "bilinear")
        return OneImage(pixels.pasted(self.destination, source, self.x, self.y, self.mask))


class ImagePadForOutpaint(Node):
    """Add grey borders, and a mask of what is to be filled in. The mask fades into the image
    beside each border, if the image is large enough for it."""

    id = "ImagePadForOutpaint"
    title = "Pad Image for Outpainting"
    category = "image/transform"

    image: Image
    """Images to extend."""
    left: Border = 0
    """Border on the left, px."""
    top: Border = 0
    """Border above, px."""
    right: Border = 0
    """Border on the right, px."""
    bottom: Border = 0
    """Border below, px."""
    feathering: Annotated[int, Field(ge=0, le=MAX_RESOLUTION), Widget(step=1, advanced=True)] = 40
    """How far the mask fades into the image, px; 0: a hard edge."""

    def run(self, host: Host) -> ImageAndMask:
        from . import pixels

        border = pixels.Border(self.left, self.top, self.right, self.bottom)
        return ImageAndMask(
            pixels.padded(self.image, border),
            pixels.outpaint_mask(self.image, border, self.feathering),
        )


class ImageBlend(Node):
    """Mix two images; the second is resized and cropped to the first."""

    id = "ImageBlend"
    title = "Blend Images"
    category = "image/filters"

    image1: Image
    """The images below."""
    image2: Image
    """The images on top."""
    blend_factor: Fraction = 0.5
    """0 keeps the first image, 1 takes the blended one."""
    blend_mode: Literal["normal", "multiply", "screen", "overlay", "soft_light", "difference"]
    """How to blend."""

    def run(self, host: Host) -> OneImage:
        from . import pixels

        below = self.image1
        top = pixels.with_channels(self.image2, below.shape[3])
        return OneImage(pixels.blended(below, top, self.blend_mode, self.blend_factor))


class ImageBlur(Node):
    """Soften with a Gaussian."""

    id = "ImageBlur"
    title = "Blur Image"
    category = "image/filters"

    image: Image
    """Images to blur."""
    blur_radius: Annotated[int, Field(ge=1, le=31), Widget(step=1)] = 1
    """How far the blur reaches, px."""
    sigma: Annotated[float, Field(ge=0.1, le=10.0), Widget(step=0.1)] = 1.0
    """Width of the Gaussian, in radii; the larger, the flatter."""

    def run(self, host: Host) -> OneImage:
        from . import pixels

        return OneImage(pixels.blurred(self.image, self.blur_radius, self.sigma))
