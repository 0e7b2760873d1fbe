"""What rebuilds a network: its architecture, without weights."""

from __future__ import annotations

from abc import abstractmethod

from torch import Generator, nn

from ..spec import Spec


class Network(nn.Module):
    """A network that an architecture builds."""

    @abstractmethod
    def initialise(self, random: Generator) -> None:
        """Draw new weights, all of them from ``random``."""


class Architecture(Spec):
    """A network's hyperparameters. Subclasses add a literal ``kind``, which is a file format:
    once released it never changes its meaning."""

    @abstractmethod
    def build(self) -> Network:
        """The network, in training mode. Pure: no I/O, no device; under
        ``torch.device("meta")`` it allocates nothing."""


def powers_of_two(low: int, high: int) -> tuple[int, ...]:
    """The powers of two from ``low`` to ``high``, both included."""
    return tuple(1 << k for k in range(low.bit_length() - 1, high.bit_length()))
