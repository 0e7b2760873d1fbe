"""Enlarging images with a network of any format that spandrel knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from ...folders import contents
from ..host import Folders
from ..node import Node
from ..sockets import Choices, Image, UpscaleModel
from .ports import OneImage


class Loaded(NamedTuple):
    UPSCALE_MODEL: UpscaleModel


class UpscaleModelLoader(Node):
    """Read an upscaling network. Files are looked for in the weights folders and in their
    `upscale_models`; of a `.pth` file the tensors alone are read, nothing of it is run."""

    id = "UpscaleModelLoader"
    title = "Load Upscale Model"
    category = "loaders"

    model_name: Annotated[str, Choices("upscale_models")]
    """Weights file."""

    @classmethod
    def fingerprint(cls, host: Folders, values: Mapping[str, Any]) -> Any:
        """What changes when another file takes its place."""
        name = values.get("model_name")
        return contents(host.upscale_model(name)) if name else math.nan

    def run(self, host: Folders) -> Loaded:
        from ...foreign import describe

        descriptor = describe(host.upscale_model(self.model_name))
        if descriptor.purpose == "Inpainting":
            raise ValueError(
                f"{self.model_name} fills in pictures and needs a mask, which no upscaling node "
                "gives it. Load it with Load Checkpoint"
            )
        return Loaded(descriptor)


class ImageUpscaleWithModel(Node):
    """Enlarge images with an upscaling network, by the network's own factor, in float32 and in
    tiles of 512 px that overlap by 32 px."""

    id = "ImageUpscaleWithModel"
    title = "Upscale Image (using Model)"
    category = "image/upscaling"

    upscale_model: UpscaleModel
    """The network."""
    image: Image
    """Images to enlarge; without alpha."""

    def run(self, host: Folders) -> OneImage:
        from . import tiled

        return OneImage(tiled.upscaled(host, self.upscale_model, self.image))
