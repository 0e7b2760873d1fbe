"""What a training is about: networks, losses, preview. The loop knows networks by name only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from ..checkpoint import Measurement
from ..networks.architecture import Architecture
from ..spec import Spec
from .data.dataset import Dataset
from .randomness import Numbers


@dataclass(frozen=True)
class Wanted:
    """The images that a task is trained on."""

    size: tuple[int, int]
    """Height and width, px."""
    channels: int
    """1 grey, 3 RGB, 4 RGBA."""
    classes: int = 0
    """Of their labels; 0: it takes none."""
    tiles: bool = False
    """Whether pictures are cut into such images as they are, and not resized to them."""
    panels: int = 1
    """Pictures side by side in each image, all of the same width: each is mirrored, and cropped
    alike, by itself."""
    roles: tuple[str, ...] = ()
    """What each kind of pictures is for, where there are several, each in a subfolder, in
    alphabetical order. Images of a batch are of the first kind, the second, the first ..., and
    their labels are these numbers, from 0."""

    @property
    def domains(self) -> int:
        """Kinds of pictures."""
        return len(self.roles) or 1


# Measures a network that is shipped: figures, that which decides first.
Measure = Callable[[nn.Module], tuple[Measurement, ...]]


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
    partners: tuple[str, ...] = ()
    """Networks whose turn it is too, on the same losses."""

    @property
    def networks(self) -> tuple[str, ...]:
        """All whose turn it is."""
        return (self.network, *self.partners)


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
    @abstractmethod
    def wanted(self) -> Wanted:
        """The images that it is trained on."""

    @property
    @abstractmethod
    def purpose(self) -> str:
        """What the shipped network is for, as cards and nodes name it."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What the shipped network is, in a few words after "A "."""

    @property
    @abstractmethod
    def row(self) -> tuple[object, object, object, str, str]:
        """For the table of presets: px, width, classes, loss, further terms."""

    @property
    def value_range(self) -> tuple[float, float]:
        """Of the image values that the shipped network takes or gives."""
        return -1.0, 1.0

    @property
    def period(self) -> int:
        """Steps after which what they compute comes round again: some have more losses."""
        return 1

    @property
    def settled(self) -> int:
        """Images from which on every step is a whole one: before, networks may be growing, or
        losses be missing."""
        return 0

    @property
    def measures_by_picture(self) -> bool:
        """Whether results are measured against the very pictures that they should be, or are made
        of: then they are of pictures that were not trained on, where some are held out."""
        return False

    @property
    def grows(self) -> bool:
        """Whether networks change their form while they are trained."""
        return False

    def pretrained(self, network: str) -> dict[str, Tensor]:
        """Tensors that the network of that name begins with in place of random ones: those of parts
        that are not trained."""
        return {}

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

    @property
    def examined(self) -> int:
        """Images of each kind that :meth:`examine` looks at; 0: it is not asked."""
        return 0

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

    def latents(self, count: int, random: Generator) -> tuple[Tensor, Tensor | None] | None:
        """``count`` inputs of a shipped network that draws: z ``[count z_dim]``, labels ``[count]``
        or None, in equal numbers; None: it takes pictures."""
        return None

    @abstractmethod
    def preview(self, network: nn.Module, count: int, random: Generator, pictures: Batch) -> Tensor:
        """IMAGE of at most ``count`` results of the shipped network, always of one size.

        Args:
            random: in the same state each time.
            pictures: real ones, the same each time, on the network's device.
        """

    @abstractmethod
    def measuring(
        self, dataset: Dataset, device: torch.device, samples: int, reference: int
    ) -> Measure | None:
        """What measures the shipped network on ``samples`` of its results, against ``reference``
        images of ``dataset``; None: these are too few."""
