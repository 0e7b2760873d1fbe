"""Choosing among pictures."""

from typing import Annotated, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Image, Latent, Model


class Ranked(NamedTuple):
    image: Image
    scores: str


class RankByDiscriminator(Node):
    """Keep the pictures of a batch that a discriminator takes for the most real, the best first.

    `imagen-nodes export RUN` writes the discriminator of a training, `imagen-nodes import FILE
    --network D` that of another program's file. Scores are in 0 to 1, with commas between: of a
    discriminator trained with cross-entropy the probability that the picture is real, as it sees
    it; of others only their order says something. Pictures are judged at the discriminator's size,
    and given on as they are.
    """

    id = "ImagenRankByDiscriminator"
    title = "Rank by Discriminator"
    category = "Imagen/generate"

    model: Model
    """Discriminator."""
    image: Image
    """Pictures to choose from."""
    count: Annotated[int, Field(ge=0, le=4096)] = 4
    """How many to keep; 0: all, sorted."""
    label: str = "0"
    """Names or numbers of their classes, in turns, where the discriminator judges classes."""
    latent: Latent | None = None
    """What the pictures were drawn from: their classes, in place of label."""

    def run(self, host: Host) -> Ranked:
        from imagen_nodes import ranking

        image, scores = ranking.best(
            host, self.model, self.image, self.count, self.label, self.latent
        )
        return Ranked(image, ", ".join(f"{score:.4f}" for score in scores))
