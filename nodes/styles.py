"""Styles: latents w of generators that have them, and directions to move latents along."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Directions, Latent, Model, Widget

Layer = Annotated[int, Field(ge=0, le=63)]
# A 1024 px StyleGAN2 has 18.
LAST = 63


class Styled(NamedTuple):
    latent: Latent


class Found(NamedTuple):
    directions: Directions


class Truncate(Node):
    """Move latents towards the average of all, for likelier and less varied images.

    For generators with styles (StyleGAN2 and 3); what it gives is w.
    """

    id = "ImagenTruncate"
    title = "Truncate"
    category = "Imagen/latents"

    model: Model
    """Generator with styles."""
    latent: Latent
    """Latents z or w."""
    psi: Annotated[float, Field(ge=-2, le=2), Widget(step=0.05)] = 0.7
    """1 changes nothing, 0 gives the average, below 0 its opposite, over 1 exaggerates."""
    cutoff: Annotated[int, Field(ge=0, le=64)] = 0
    """Layers, from the coarsest, that are truncated; 0: all."""

    def run(self, host: Host) -> Styled:
        from imagen_nodes import styles

        return Styled(styles.truncate(host, self.model, self.latent, self.psi, self.cutoff))


class MixStyles(Node):
    """Take the styles of one latent, but some layers' from another.

    The first layers decide pose and shape, the last ones colours and texture.
    """

    id = "ImagenMixStyles"
    title = "Mix Styles"
    category = "Imagen/latents"

    model: Model
    """Generator with styles."""
    first: Latent
    """Latents to begin with."""
    second: Latent
    """Latents whose styles come in."""
    first_layer: Layer = 4
    """First layer that takes the second's styles, counted from 0, the coarsest."""
    last_layer: Layer = LAST
    """Last layer that does."""
    arrange: Literal["pairs", "every"] = "pairs"
    """pairs: the first with the first, ...; every: each of the first with each of the second, a row
    of a sheet for each of the first."""

    def run(self, host: Host) -> Styled:
        from imagen_nodes import styles

        every = self.arrange == "every"
        layers = self.first_layer, self.last_layer
        return Styled(styles.mix(host, self.model, self.first, self.second, *layers, every))


class FindDirections(Node):
    """Find directions in which a generator's latents can be moved to change one thing at a time.

    Nothing is trained: sefa reads them off the weights, pca off 10,000 draws.
    """

    id = "ImagenFindDirections"
    title = "Find Directions"
    category = "Imagen/latents"

    model: Model
    """Generator."""
    method: Literal["sefa", "pca"] = "sefa"
    """sefa: what changes the layers most (any generator); pca: where styles vary most."""
    count: Annotated[int, Field(ge=1, le=512)] = 16
    """Number of directions, the strongest first."""

    def run(self, host: Host) -> Found:
        from imagen_nodes import styles

        return Found(styles.find_directions(host, self.model, self.method, self.count))


class EditLatents(Node):
    """Move latents along a direction."""

    id = "ImagenEditLatents"
    title = "Edit Latents"
    category = "Imagen/latents"

    model: Model
    """Generator that the latents and directions are of."""
    latent: Latent
    """Latents z or w."""
    directions: Directions
    """From Find Directions."""
    number: Annotated[int, Field(ge=0, le=511)] = 0
    """Which of them, counted from 0, the strongest."""
    strength: Annotated[float, Field(ge=-100, le=100), Widget(step=0.25)] = 2.0
    """How far; below 0 the other way."""
    first_layer: Layer = 0
    """First layer whose style is moved, counted from 0, the coarsest; generators with styles."""
    last_layer: Layer = LAST
    """Last layer whose style is moved."""

    def run(self, host: Host) -> Styled:
        from imagen_nodes import styles

        return Styled(
            styles.edit(
                host,
                self.model,
                self.latent,
                self.directions,
                self.number,
                self.strength,
                self.first_layer,
                self.last_layer,
            )
        )
