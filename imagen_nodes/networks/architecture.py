"""What rebuilds a network: its architecture, without weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from torch import Generator, Tensor, nn

from ..spec import Spec


class Architecture(Spec):
    """A network's hyperparameters. Subclasses add a literal ``kind``, which is a file format:
    once released it never changes its meaning."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, in training mode. Pure: no I/O, no device; under
        ``torch.device("meta")`` it allocates nothing."""


class GeneratorArchitecture(Architecture):
    """A generator's hyperparameters, with what every user of a generator may ask of it."""

    resolution: int
    z_dim: int
    channels: int
    classes: int

    @abstractmethod
    def build(self) -> LatentGenerator: ...


class LatentGenerator(Protocol):
    """A built generator: ``z [b z_dim]``, ``labels [b]`` int64 or None -> ``[b c h w]``, -1..1."""

    def __call__(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...
    def initialise(self, random: Generator) -> None: ...


def powers_of_two(low: int, high: int) -> tuple[int, ...]:
    """The powers of two from ``low`` to ``high``, both included."""
    return tuple(1 << k for k in range(low.bit_length() - 1, high.bit_length()))
