"""What a training is about: networks, losses, preview. The loop knows networks by name only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from ..networks.architecture import Architecture
from ..spec import Spec


@dataclass(frozen=True)
class Batch:
    """Real images ``[b c h w]`` in -1..1 and their labels ``[b]`` (int64) or None."""

    images: Tensor
    labels: Tensor | None


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

    @abstractmethod
    def losses(
        self, networks: dict[str, nn.Module], batch: Batch, random: Generator
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield (network, its named losses) in update order; the loop steps that network on the
        sum before it asks for the next. Losses are float32 scalars."""

    @abstractmethod
    def latents(self, count: int, random: Generator) -> tuple[Tensor, Tensor | None]:
        """``count`` inputs of the shipped network: z ``[count z_dim]``, labels ``[count]`` or
        None, in equal numbers."""
