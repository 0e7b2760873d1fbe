"""Filling in what a mask covers."""

from typing import Annotated, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Image, Mask, Model


class Images(NamedTuple):
    image: Image


class Inpaint(Node):
    """Fill in what is masked so that it fits what is around it.

    Takes what Load Checkpoint loads: ours, LaMa, and, where the package spandrel_extra_arches is
    installed, MAT. Pictures of any size are run in tiles, of which only those with something to
    fill in cost time; each picture of a batch by itself. Pixels outside the mask, as grow and blur
    have left it, and alpha, are untouched. An empty mask gives the picture back.
    """

    id = "ImagenInpaint"
    title = "Inpaint"
    category = "Imagen/pictures"

    model: Model
    """Network for inpainting."""
    image: Image
    """Pictures to fill in; with alpha, if they have it."""
    mask: Mask
    """What to fill in (1); one for all pictures, or one each. Resized bilinearly if its size is
    another than theirs, and that is said in the log."""
    grow: Annotated[int, Field(ge=-1024, le=1024)] = 0
    """Px to add around what is masked; 4 or so where the mask was drawn by hand, which is often a
    little too small; negative: to take off."""
    blur: Annotated[int, Field(ge=0, le=1024)] = 0
    """Px around that over which the filling fades into the picture; 0: a hard edge."""
    invert: bool = False
    """Keep what is masked, and fill in the rest."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import inpainting

        return Images(
            inpainting.inpaint(
                host, self.model, self.image, self.mask, self.grow, self.blur, self.invert
            )
        )
