"""What there is to set, said once for the command line and the node."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..graph.sockets import Seed, Widget
from ..spec import Spec

Share = Annotated[float, Field(ge=0, le=1), Widget(step=0.05)]


class Settings(Spec):
    """How a data set is expanded."""

    per_class: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Pictures to generate for each class."""
    seed: Seed = 0
    """Of the first picture; each depends on a seed of its own, which the manifest tells."""
    classes: str = "all"
    """Classes of the data to expand: names or numbers with commas between, or all. Of the others
    the real pictures are taken over."""
    oversample: Annotated[float, Field(ge=1, le=100), Widget(step=0.5)] = 2.0
    """Pictures to draw for each one that is kept: those with the best score are."""
    truncation: Annotated[float, Field(ge=0, le=10), Widget(step=0.05)] = 0.0
    """Values of z beyond this are drawn again: likelier images, less varied; BigGAN: 0.5 to 1; 0:
    none."""
    psi: Annotated[float, Field(ge=-2, le=2), Widget(step=0.05)] = 1.0
    """Of generators with styles: how far from the average, 1 (all the way) to 0, for likelier and
    less varied images."""
    copy_distance: Annotated[float, Field(ge=0, le=10), Widget(step=0.05)] = 0.5
    """Generated pictures nearer than this to a real one of their class are dropped as copies; 1 is
    the usual distance of a real one to the next; 0: none are."""
    duplicate_distance: Annotated[float, Field(ge=0, le=10), Widget(step=0.05)] = 0.25
    """Generated pictures nearer than this to a better one are dropped as duplicates; 0: none
    are."""
    size: Annotated[int, Field(ge=0, le=16384)] = 0
    """Height of all pictures that are written, px; 0: the data's where all have one size of the
    generator's shape, else the generator's."""
    only_generated: bool = False
    """Leave out the real pictures and their changed copies."""
    altered: Annotated[int, Field(ge=0, le=100)] = 1
    """Changed copies of each real picture, where there is a change: flip, crop, colour, cutout."""
    flip: bool = False
    """Change: mirror every other copy."""
    crop: Annotated[float, Field(ge=0, le=0.9), Widget(step=0.05)] = 0.0
    """Change: enlarge a window that has at least 1 - crop of the sides; 0: none."""
    colour: Share = 0.0
    """Change: brightness, saturation and contrast, by up to this; 0: none."""
    cutout: Share = 0.0
    """Change: a box of this share of the sides becomes grey; 0: none."""

    @property
    def copies(self) -> int:
        """Changed copies of each real picture."""
        changes = self.flip or self.crop or self.colour or self.cutout
        return self.altered if changes and not self.only_generated else 0
