from __future__ import annotations

from abc import abstractmethod

from torch import Generator, nn

from ..spec import Spec


class Network(nn.Module):
    """A network that an architecture builds."""

    @abstractmethod
    def initialise(self, random: Generator) -> None:
        """Draw new weights, all of them from ``random``."""


class Growing(Network):
    """A network that is trained at rising resolutions. How far it has grown is part of its state
    dict (and no tensor that an average could blur). Built and initialised, and in every checkpoint,
    it is fully grown; a training that wants to grow it begins with ``grow(0)``."""

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


class Architecture(Spec):
    """A network's hyperparameters. Subclasses add a literal ``kind``, which is a file format:
    once released it never changes its meaning."""

    @abstractmethod
    def build(self) -> Network:
        """The network, in training mode. Pure: no I/O, no device; under
        ``torch.device("meta")`` it allocates nothing."""


class GeneratorArchitecture(Architecture):
    """What draws images from latents. Its network takes ``z [b z_dim]`` and ``labels [b]`` (int64;
    None where there are no classes) and gives ``[b channels resolution resolution]`` in -1..1.

    Subclasses declare the fields again, with their own limits and defaults."""

    resolution: int
    """Side of the square images, px."""
    channels: int
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    z_dim: int
    """Length of the latent vector z."""
    classes: int
    """Number of classes; 0: unconditional."""


def powers_of_two(low: int, high: int) -> tuple[int, ...]:
    """The powers of two from ``low`` to ``high``, both included."""
    return tuple(1 << k for k in range(low.bit_length() - 1, high.bit_length()))
