"""Restoring pictures at their own size."""

from typing import Annotated, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Image, Model, Widget


class Images(NamedTuple):
    image: Image


class Denoise(Node):
    """Take noise and JPEG artefacts out of pictures, with a network that was trained to.

    Takes what Load Checkpoint loads: ours, and DnCNN, SCUNet, FBCNN and the rest that spandrel
    knows. How strong the noise is need not be known. Pictures of any size are run in tiles, whose
    seams do not show; each picture of a batch by itself. Alpha is kept, and grey pictures stay
    grey.
    """

    id = "ImagenDenoise"
    title = "Denoise"
    category = "Imagen/pictures"

    model: Model
    """Network for restoration, of scale 1."""
    image: Image
    """Pictures to restore; with alpha, if they have it."""
    strength: Annotated[float, Field(ge=0, le=1), Widget(step=0.05)] = 1.0
    """How far to go from the picture to the network's result: 0 changes nothing; below 1 keeps some
    grain, and with it detail that the network takes for noise."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import super_resolution

        return Images(super_resolution.restore(host, self.model, self.image, self.strength))
