"""Pictures in the style of others."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Image, Mask, Model, Widget

Weight = Annotated[float, Field(ge=0, le=10), Widget(step=0.05)]


class Images(NamedTuple):
    image: Image


class StyleTransfer(Node):
    """Draw pictures in the style of others: a photograph as van Gogh or Hokusai would have painted
    it.

    Any picture can be the content and any the style, in one pass; nothing is trained for a style.
    Several styles are mixed by their weights: connect up to four, or a batch, whose pictures share
    its weight. Pictures may have any size; of large ones, too, the style is one and seams do not
    show. Each picture of a batch, or frame of a film, is run by itself. Alpha is kept.

    Takes networks for style transfer: ours, and AdaIN decoders that `imagen-nodes import` has
    converted.
    """

    id = "ImagenStyleTransfer"
    title = "Style Transfer"
    category = "Imagen/pictures"

    model: Model
    """Network for style transfer."""
    image: Image
    """Pictures whose content is kept; with alpha, if they have it."""
    style: Image
    """What they shall look like. Of transparent pictures, on white."""
    strength: Annotated[float, Field(ge=0, le=1), Widget(step=0.05)] = 1.0
    """How far to go from the picture to the style: 0 changes nothing."""
    colours: Literal["style", "matched", "luminance"] = "style"
    """style: colours of the style; matched: the style is given the picture's colours first;
    luminance: only brightness is drawn anew, every colour stays where it is."""
    style_size: Annotated[int, Field(ge=0, le=4096), Widget(step=16)] = 512
    """Shorter side to which larger style pictures are reduced, px: with more, strokes get larger,
    beside those that the picture has; 0: as they are."""
    weight: Weight = 1.0
    """Of the first style beside the others'."""
    weight_2: Weight = 1.0
    """Of the second style, where there is one."""
    weight_3: Weight = 1.0
    """Of the third style, where there is one."""
    weight_4: Weight = 1.0
    """Of the fourth style, where there is one."""
    style_2: Image | None = None
    """A second style to mix in."""
    style_3: Image | None = None
    """A third style."""
    style_4: Image | None = None
    """A fourth style."""
    mask: Mask | None = None
    """Where to change the picture (1), and where not (0); one for all, or one each, resized to
    them; nothing: everywhere."""

    def run(self, host: Host) -> Images:
        from imagen_nodes import style_transfer

        pairs = [
            (self.style, self.weight),
            (self.style_2, self.weight_2),
            (self.style_3, self.weight_3),
            (self.style_4, self.weight_4),
        ]
        return Images(
            style_transfer.transfer(
                host,
                self.model,
                self.image,
                [(style, weight) for style, weight in pairs if style is not None],
                self.strength,
                self.colours,
                self.style_size,
                self.mask,
            )
        )
