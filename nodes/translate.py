"""Translating pictures."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Image, Model, Widget


class Images(NamedTuple):
    image: Image


class Translate(Node):
    """Turn pictures into others of the same content: labels into photographs, photographs into
    paintings or drawings.

    Takes what Load Checkpoint loads: networks trained with the presets for translation, and those
    of pix2pix, CycleGAN, CUT, pix2pixHD and AnimeGANv2 once `imagen-nodes import` has made
    checkpoints of them. Pictures may be of any size and shape; each of a batch is run by itself,
    and alpha is kept. Most of these networks look at the whole picture at once: one that is too
    large for that, with more than about a thousand px a side for the full networks, is run in
    tiles, each as if it were a picture of its own, that fade into each other.
    """

    id = "ImagenTranslate"
    title = "Translate"
    category = "Imagen/pictures"

    model: Model
    """Network for translation."""
    image: Image
    """Pictures to translate; with alpha, if they have it."""
    size: Literal["as it is", "as trained", "as given"] = "as it is"
    """At what size the network sees a picture. as it is: the picture's own, with all its detail; as
    trained: its shorter side is that of the training, at which strokes and windows are as large as
    the network knows them; as given: it is side. The result always has the picture's own size."""
    side: Annotated[int, Field(ge=16, le=8192), Widget(step=16)] = 256
    """Shorter side that the network sees, px, with the size as given; else without effect."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import translation

        side = {"as it is": 0, "as trained": -1, "as given": self.side}[self.size]
        return Images(translation.translate(host, self.model, self.image, side))
