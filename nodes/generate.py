"""Latents to images, and images to a sheet."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Added, Image, Latent, Model


class Images(NamedTuple):
    image: Image


class Generate(Node):
    """Turn latents into images with a generator.

    The same file, seed and device give the same pixels, in ComfyUI and headless, and whatever else
    is in the batch. Pictures saved in the same run carry the latents, for Load Latents.
    """

    id = "ImagenGenerate"
    title = "Generate"
    category = "Imagen/generate"
    carries = True

    model: Model
    """Generator."""
    latent: Latent
    """Latents, drawn for this generator."""
    noise: Annotated[Literal["constant", "random", "none"], Added()] = "constant"
    """What a generator with styles adds for fine detail: the same for all images; other noise for
    each image of the batch, always the same for its number; nothing."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import generation, latents

        image = generation.generate(host, self.model, self.latent, self.noise)
        latents.carry(host, self.latent)
        return Images(image)


class ImageGrid(Node):
    """Lay the images of a batch out on one sheet, row by row."""

    id = "ImagenImageGrid"
    title = "Image Grid"
    category = "Imagen/generate"

    image: Image
    """Batch of images."""
    columns: Annotated[int, Field(ge=0, le=1024)] = 0
    """Images a row; 0: as square a sheet as possible."""
    gap: Annotated[int, Field(ge=0, le=256)] = 2
    """Space between images, px."""
    background: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Grey value of gaps and empty cells: 0 black, 1 white."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import images
        from imagen_nodes.errors import DataError

        if not len(self.image):
            raise DataError("the batch holds no picture")
        return Images(images.grid(self.image, self.columns, self.gap, self.background))
