"""Pictures back to latents."""

from typing import Annotated, Any, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Image, Latent, Mask, Model, Seed, Widget


class Inverted(NamedTuple):
    latent: Latent
    image: Image


class Filled(NamedTuple):
    image: Image


class Search(Node):
    """What both nodes are told of the search for latents."""

    model: Model
    """Generator of pictures like these."""
    image: Image
    """Pictures to find latents of; they are resized to the generator's size."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Steps of the search."""
    rate: Annotated[float, Field(ge=0.001, le=1), Widget(step=0.001)] = 0.05
    """How far a step goes."""
    perceptual: Annotated[float, Field(ge=0, le=100), Widget(step=0.1)] = 1.0
    """Weight of how alike they look (LPIPS), beside equal pixels."""
    label: str = "0"
    """Names or numbers of the classes, in turns, where the generator has classes."""
    seed: Seed = 0
    """Of the random latents of which the best begins."""

    @property
    def search(self) -> dict[str, Any]:
        """As ``inversion`` takes it."""
        search = {name: getattr(self, name) for name in ("steps", "rate", "perceptual", "seed")}
        return {**search, "labels": self.label}


class Invert(Search):
    """Find latents whose image is a given picture, to edit it or to walk from it.

    They are searched for by optimisation, with a preview. Pictures should be like those that the
    generator was trained on; they are resized to its size. Of a generator with styles the result
    is w.
    """

    id = "ImagenInvert"
    title = "Invert"
    category = "Imagen/latents"

    mask: Mask | None = None
    """What not to look at (1), so that the generator makes it up; nothing: look at all of it."""

    def run(self, host: Host) -> Inverted:
        from imagen_nodes import generation, inversion

        latent = inversion.invert(host, self.model, self.image, self.mask, **self.search)
        return Inverted(latent, generation.generate(host, self.model, latent))


class InpaintByInversion(Search):
    """Fill in what is masked with what a generator makes of the rest.

    Works with any generator of such pictures (faces, digits, ...) and needs no training of its own;
    it is slow, and as good as the generator. Pixels outside the mask are untouched.
    """

    id = "ImagenInpaintByInversion"
    title = "Inpaint by Inversion"
    category = "Imagen/pictures"

    mask: Mask
    """What to fill in (1); one for all pictures, or one each. Resized bilinearly if its size is
    another than theirs, and that is said in the log."""

    def run(self, host: Host) -> Filled:
        from imagen_nodes import inversion

        return Filled(inversion.inpaint(host, self.model, self.image, self.mask, **self.search))
