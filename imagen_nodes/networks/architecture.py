"""What rebuilds a network: its architecture, without weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from torch import Generator, Tensor, nn

from ..spec import Spec
from ..tiles import Sizes, Tiling


class Network(nn.Module):
    """A network that an architecture builds."""

    any_order: bool = True
    """Whether its maps and weights may lie in memory in any order of their axes."""

    @abstractmethod
    def initialise(self, random: Generator) -> None:
        """Draw new weights, all of them from ``random``."""


class Pictures(Spec):
    """What a network of pictures takes and gives: ``[b c h w] -> [b out scale*h scale*w]``."""

    scale: Annotated[int, Field(ge=1)] = 1
    """Sides of the result over those of the picture."""
    channels: Annotated[int, Field(ge=1)] = 3
    """Channels c of the picture, without the mask: 1 grey, 3 RGB, 4 RGBA."""
    outputs: Annotated[int, Field(ge=1)] = 3
    """Channels out of the result."""
    masked: bool = False
    """Whether it takes a mask of what to fill in, as one channel more."""
    noise_map: bool = False
    """Whether it is told how strong the noise is: its deviation, where pictures are in 0..1, at
    each pixel, as one channel more."""
    jpeg_mark: bool = False
    """Whether that channel is ``noise_level.JPEG_MARK`` where a picture has JPEG's blocks."""
    sizes: Sizes = Sizes()
    """The sizes that it takes."""
    reach: Annotated[int, Field(ge=0)] | None = None
    """How far a pixel of the result sees, px of the picture; none: not known."""
    tile: Annotated[int, Field(ge=64)] = 512
    """Longest side to run at once, px."""
    blend: Annotated[int, Field(ge=0, le=256)] = 16
    """Width of the strip in which tiles are mixed where the reach is not known, px."""

    @property
    def tiling(self) -> Tiling:
        """Tiles whose seams are exact where the reach is known, and blended where it is not."""
        if self.reach is None:
            overlap = max(64, 2 * self.blend)
            return Tiling(tile=max(self.tile, 2 * overlap + 32), overlap=overlap, blend=self.blend)
        overlap = 2 * self.reach
        return Tiling(tile=max(self.tile, 3 * self.reach + 1), overlap=overlap, blend=0)


class Growing(Network):
    """A network that is trained at rising resolutions. How far it has grown is part of its state
    dict (and no tensor that an average could blur): a checkpoint of the time before it was grown
    works as it did then. Built and initialised it is fully grown; a training that wants to grow it
    begins with ``grow(0)``."""

    @abstractmethod
    def grow(self, progress: float) -> None:
        """Work as at ``progress``: at k the network has its first k + 1 resolutions; between k - 1
        and k the last of them is faded in. From 0 to :attr:`grown`; beyond, it is held there."""

    @property
    @abstractmethod
    def grown(self) -> int:
        """The progress at which the network is complete."""

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Side of the images at the present progress, px."""

    @property
    @abstractmethod
    def share(self) -> float:
        """How far that resolution is faded in, above 0 to 1."""


Conditioning = Literal["projection", "auxiliary"]
"""How a discriminator judges classes. projection: the logit says how far the image is typical of
its label (Miyato & Koyama, "cGANs with Projection Discriminator", 2018); auxiliary: a classifier
beside the logit, which both networks want to be right (Odena et al., "Conditional Image Synthesis
With Auxiliary Classifier GANs", 2017)."""


class Architecture(Spec):
    """A network's hyperparameters. Subclasses add a literal ``kind``, which is a file format:
    once released it never changes its meaning."""

    @abstractmethod
    def build(self) -> Network:
        """The network, in training mode. Pure: no I/O, no device; under
        ``torch.device("meta")`` it allocates nothing."""

    @property
    def pictures(self) -> Pictures | None:
        """What pictures it takes and gives; none: it is no network from pictures to pictures."""
        return None


class GeneratorArchitecture(Architecture):
    """What draws images from latents. Its network takes ``z [b z_dim]`` and ``labels [b]`` (int64;
    None where there are no classes) and gives ``[b channels resolution resolution]`` in -1..1.

    Subclasses declare the fields again, with their own limits and defaults."""

    styled: ClassVar[bool] = False
    """Whether its network maps z to styles: it has ``w_plus(z, labels)`` and
    ``synthesis(w, noise, random)``, and takes ``random``, where to draw noise from."""

    resolution: int
    """Side of the square images, px; the longer one where they are not."""
    channels: int
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    z_dim: int
    """Length of the latent vector z."""
    classes: int
    """Number of classes; 0: unconditional."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.resolution, self.resolution


class DiscriminatorArchitecture(Architecture):
    """What judges images, with a ``resolution``, ``channels`` and ``classes`` as a generator's. Its
    network takes ``[b channels resolution resolution]`` in -1..1 and ``labels [b]`` (int64; None
    where there are no classes) and gives logits ``[b]``, or ``[b n]`` where it is of n parts."""

    has_features: ClassVar[bool] = False
    """Whether its network has ``features(images) -> [b ...]``, what its logits are made from."""

    @property
    def normalises_batches(self) -> bool:
        """Whether it has batch norm, past which there is no gradient of a single image."""
        return False

    @property
    def compares_images(self) -> bool:
        """Whether a logit depends on the other images of the batch."""
        return self.normalises_batches

    @property
    def spectral(self) -> bool:
        """Whether its weights are spectrally normalised."""
        return False

    @property
    def classifies(self) -> bool:
        """Whether its network has ``classify(images) -> (logits [b], class logits [b classes])``:
        an auxiliary classifier in place of labels."""
        return False


def one_of(values: Sequence[int]) -> AfterValidator:
    """Of an architecture's field: refuses all but ``values``."""

    def check(value: int) -> int:
        if value not in values:
            raise ValueError(f"must be one of {', '.join(map(str, values))}")
        return value

    return AfterValidator(check)


def check_attention(attention: Sequence[int], sides: Sequence[int], maps: str) -> None:
    """Refuse ``attention`` at a resolution, px, that is none of ``sides``, those of ``maps``.

    Raises:
        ValueError: there is such a one."""
    for side in attention:
        if side not in sides:
            raise ValueError(
                f"attention at {side} px: this network has {maps} at "
                f"{', '.join(map(str, sides))} px"
            )


def required(labels: Tensor | None, network: str) -> Tensor:
    """The labels, which a conditional network cannot do without.

    Raises:
        ValueError: there are none."""
    if labels is None:
        raise ValueError(f"a conditional {network} needs class labels")
    return labels


def powers_of_two(low: int, high: int) -> tuple[int, ...]:
    """The powers of two from ``low`` to ``high``, both included."""
    return tuple(1 << k for k in range(low.bit_length() - 1, high.bit_length()))
