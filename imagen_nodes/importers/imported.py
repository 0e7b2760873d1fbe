"""What an importer makes of a candidate, and helps it along."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..networks.architecture import Architecture
from .values import Tensor as Stored

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Imported:
    """A network of ours, ready to be saved."""

    architecture: Architecture
    state: dict[str, Tensor]
    task: str = "generate"
    value_range: tuple[float, float] = (-1.0, 1.0)
    notes: tuple[str, ...] = field(default=())
    """What the user should know."""


class Names:
    """A file's tensors, each of which is to be used once: what nobody has asked for in the end
    shows that the file is of another kind than it seemed."""

    def __init__(self, tensors: dict[str, Stored]) -> None:
        self.stored = tensors
        self._left = set(tensors)

    def take(self, name: str) -> Tensor:
        """The tensor, in float32 where it is of a smaller type.

        Raises:
            Other: there is none of that name."""
        if name not in self.stored:
            raise Other(f"no {name}")
        self._left.discard(name)
        tensor = self.stored[name].tensor()
        return tensor.float() if tensor.is_floating_point() else tensor

    def count(self, pattern: str) -> int:
        """How many names match, whose numbers, the pattern's first group, count from 0.

        Raises:
            Other: one of them is left out; they are the file's, and as large as it likes."""
        found = (re.fullmatch(pattern, name) for name in self.stored)
        numbers = sorted(int(match[1]) for match in found if match)
        if numbers != list(range(len(numbers))):
            raise Other("layers that are not counted from 0 on")
        return len(numbers)

    def folded(self, name: str) -> Tensor:
        """``name.weight``; where it is spectrally normalised (weight_orig, weight_u, weight_v),
        divided by its spectral norm, as the network uses it."""
        if f"{name}.weight_orig" not in self.stored:
            return self.take(f"{name}.weight")
        weight = self.take(f"{name}.weight_orig")
        u, v = self.take(f"{name}.weight_u"), self.take(f"{name}.weight_v")
        return weight / (u @ weight.flatten(1) @ v)

    def iterated(self, name: str, u: str) -> Tensor:
        """``name.weight``; where there is ``name.u [1 out]``, over its spectral norm after one step
        of the power iteration, as BigGAN-PyTorch and mimicry compute it in evaluation: v = u W,
        s = |v W'|."""
        from torch.nn import functional as F

        weight = self.take(f"{name}.weight")
        if not self.has(f"{name}.{u}"):
            return weight
        matrix = weight.flatten(1)
        v = F.normalize(self.take(f"{name}.{u}") @ matrix, eps=1e-12)
        u_next = F.normalize(v @ matrix.t(), eps=1e-12)
        return weight / (v @ matrix.t() @ u_next.t()).squeeze()

    def has(self, name: str) -> bool:
        return name in self.stored

    def ignore(self, *names: str) -> None:
        """Of no use: counters, constant filters."""
        self._left -= set(names)

    def ignore_all(self, suffix: str) -> None:
        self._left -= {name for name in self._left if name.endswith(suffix)}

    def finish(self) -> None:
        """
        Raises:
            Other: there are tensors that nobody has taken."""
        if self._left:
            raise Other(f"no use for {', '.join(sorted(self._left)[:4])}")

    def shape(self, name: str) -> tuple[int, ...]:
        """
        Raises:
            Other: there is none of that name."""
        if name not in self.stored:
            raise Other(f"no {name}")
        return tuple(self.stored[name].shape)


class Other(Exception):
    """A candidate is not of the format that an importer looks for: why."""
