"""What a training is about: networks, losses, preview. The loop knows networks by name only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Generator, Tensor, nn

from ..networks.architecture import Architecture
from ..spec import Spec


@dataclass(frozen=True)
class Batch:
    """Real images ``[b c h w]`` in -1..1 and their labels ``[b]`` (int64) or None."""

    images: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Moment:
    """When a step happens, and what is left of those before."""

    nimg: int
    """Images shown before it."""
    random: Generator
    """The step's own random numbers."""
    memory: dict[str, Tensor]
    """What losses remember from step to step: scalars by name, part of the training's state."""


@dataclass(frozen=True)
class Update:
    """One network's turn in a step. All values are float32 scalars on the device."""

    network: str
    """Its name."""
    losses: dict[str, Tensor]
    """By name; the network is stepped on their sum."""
    signals: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What else is worth a curve, by name."""


class Task(Spec):
    """One kind of problem. Subclasses add a literal ``kind``."""

    @property
    @abstractmethod
    def architectures(self) -> dict[str, Architecture]:
        """The networks by name, in the order in which they are built and initialised."""

    @property
    @abstractmethod
    def shipped(self) -> str:
        """Name of the network whose average is written as weights."""

    @property
    def period(self) -> int:
        """Steps after which what they compute comes round again: some have more losses."""
        return 1

    @abstractmethod
    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        """Yield the step's updates in order; the loop carries each out before it asks for the
        next."""

    @abstractmethod
    def latents(self, count: int, random: Generator) -> tuple[Tensor, Tensor | None]:
        """``count`` inputs of the shipped network: z ``[count z_dim]``, labels ``[count]`` or
        None, in equal numbers."""
