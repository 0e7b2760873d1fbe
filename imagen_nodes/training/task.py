"""What a training is about: networks, losses, preview. The loop knows networks by name only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Generator, Tensor, nn

from ..networks.architecture import Architecture
from ..spec import Spec
from .randomness import Numbers


@dataclass(frozen=True)
class Batch:
    """Real images ``[b c h w]`` in -1..1 and their labels ``[b]`` (int64) or None."""

    images: Tensor
    labels: Tensor | None

    def split(self, parts: int) -> list[Batch]:
        """``parts`` equal ones in its order."""
        labels = [None] * parts if self.labels is None else self.labels.chunk(parts)
        pairs = zip(self.images.chunk(parts), labels, strict=True)
        return [Batch(images, part) for images, part in pairs]


@dataclass(frozen=True)
class Moment:
    """When a step happens, and what is left of those before."""

    nimg: int
    """Images shown before it."""
    batch: int
    """Images of the whole step, of which a part may be at hand."""
    random: Numbers
    """The step's own random numbers."""
    memory: Mapping[str, Tensor]
    """What losses remember from the steps before: scalars by name, part of the training's state."""
    graphs: bool = True
    """Whether a graph may live from one update to the next; where a step goes in parts, those of
    all its parts would be alive together."""

    @property
    def step(self) -> int:
        """Steps before this one."""
        return self.nimg // self.batch


@dataclass(frozen=True)
class Update:
    """One network's turn in a step. All values are float32 scalars on the device."""

    network: str
    """Its name."""
    losses: dict[str, Tensor]
    """By name; the network is stepped on their sum."""
    signals: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What else is worth a curve, or is remembered, by name: means over images."""


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

    @property
    def settled(self) -> int:
        """Images from which on every step is a whole one: before, networks may be growing."""
        return 0

    def prepare(self, networks: Iterable[nn.Module], nimg: int) -> None:
        """Bring ``networks``, the trained ones and averages of them, to the form that they have
        after ``nimg`` images."""

    @abstractmethod
    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, moment: Moment
    ) -> Iterator[Update]:
        """Yield the step's updates in order; the loop carries each out before it asks for the
        next."""

    def updated(
        self,
        update: Update,
        networks: dict[str, nn.Module],
        moment: Moment,
        memory: dict[str, Tensor],
    ) -> None:
        """``update`` was carried out; its losses and signals are means over the whole batch by now.
        Whatever is to be remembered goes into ``memory``."""

    def examine(
        self,
        networks: Mapping[str, nn.Module],
        average: nn.Module,
        seen: Batch,
        held_out: Batch | None,
        moment: Moment,
    ) -> dict[str, float]:
        """What tells an illness, by the names of ``diagnoses.py``. Changes nothing.

        Args:
            average: of the shipped network, in evaluation mode, on the networks' device.
            seen: images that were just trained on.
            held_out: images that never are; None: there are none.
        """
        return {}

    @abstractmethod
    def latents(self, count: int, random: Generator) -> tuple[Tensor, Tensor | None]:
        """``count`` inputs of the shipped network: z ``[count z_dim]``, labels ``[count]`` or
        None, in equal numbers."""
