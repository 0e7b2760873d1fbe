"""Enlarging pictures."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Added, Image, Model, Widget


class Images(NamedTuple):
    image: Image


class SuperResolve(Node):
    """Enlarge pictures with a super-resolution network, or restore them with one that keeps their
    size.

    Takes what Load Checkpoint loads: our own Compact networks and residual U-Nets, and ESRGAN,
    Compact, SPAN, SwinIR and the rest that spandrel knows. Pictures of any size are run in tiles,
    whose seams do not show; each picture of a batch by itself, so that it needs no more memory
    than one. Alpha is kept, and grey pictures stay grey.
    """

    id = "ImagenSuperResolve"
    title = "Super-Resolve"
    category = "Imagen/pictures"

    model: Model
    """Network for super-resolution or restoration."""
    image: Image
    """Pictures to enlarge; with alpha, if they have it."""
    factor: Annotated[float, Field(ge=0, le=16), Widget(step=0.25)] = 0.0
    """Factor of both sides; 0: the network's own. Others are reached by resizing its result."""
    resize: Literal["lanczos", "bicubic"] = "lanczos"
    """How to reach other factors, and to enlarge alpha. Both average what they shrink; lanczos is
    sharper, bicubic rings less."""
    ensemble: Annotated[bool, Added()] = False
    """Enlarge each picture in its eight orientations and take the mean: closer to the original, and
    smoother, in eight times the time."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import super_resolution

        return Images(
            super_resolution.enlarge(
                host,
                self.model,
                self.image,
                self.factor,
                self.resize,
                ensemble=self.ensemble,
            )
        )
