"""Drawing and changing latents."""

from typing import Annotated, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Latent, Model, Seed


class Sampled(NamedTuple):
    latent: Latent


class SampleNoise(Node):
    """Draw latent vectors z ~ N(0, I) for a generator.

    A seed means the same latent as in the StyleGAN tools. Image i of the batch is that of
    seed + i, whatever the batch size: to see more of a series, raise the count; to draw one image
    of it again, use its own seed with a count of 1. For a generator with classes, the classes take
    turns.
    """

    id = "ImagenSampleNoise"
    title = "Sample Noise"
    category = "Imagen/latents"

    model: Model
    """Generator to draw for."""
    seed: Seed = 0
    """Of the first image; image i depends on seed + i alone."""
    count: Annotated[int, Field(ge=1, le=4096)] = 1
    """Number of latents."""

    def run(self, host: Host) -> Sampled:
        from imagen_nodes import generation

        return Sampled(generation.sample(self.model, self.seed, self.count))
