"""Restoring pictures at their own size."""

from typing import Annotated, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Added, Image, Model, Widget


class Images(NamedTuple):
    image: Image


class Denoise(Node):
    """Take noise and JPEG artefacts out of pictures, with a network that was trained to.

    Takes what Load Checkpoint loads: ours, and DnCNN, SCUNet, FBCNN and the rest that spandrel
    knows. How strong the noise is need not be known: it is estimated in each picture, or the
    network sees it. The estimate takes noise to be independent from pixel to pixel and, but in grey
    and toned pictures, from channel to channel, as a sensor's is; say it yourself for coarser
    grain. Where a picture has JPEG's
    blocks, and no noise on top of them, ours is told that instead, and takes out the blocks and
    what JPEG has left of noise. Pictures of any size are run in tiles, whose seams do not show;
    each picture of a batch by itself. Alpha is kept, and grey pictures stay grey.
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
    noise: Annotated[float, Field(ge=0, le=100), Widget(step=1.0), Added()] = 0.0
    """How strong the noise is, its deviation in steps of 1/255, for a network that is told, as ours
    is; 0: estimated, or JPEG's blocks are found. More than that smooths more."""
    ensemble: Annotated[bool, Added()] = False
    """Restore each picture in its eight orientations and take the mean: closer to the original, by
    a tenth of a decibel with ours, in eight times the time."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import super_resolution

        noise = self.noise / 255 if self.noise else None
        return Images(
            super_resolution.restore(
                host, self.model, self.image, self.strength, noise, self.ensemble
            )
        )
