"""Random numbers that depend on (seed, rank, nimg, purpose) alone.

Nothing is drawn from a stream that goes on, so a resumed run draws what the uninterrupted one
would have drawn; and whoever computes a part of a batch draws the numbers of the whole one.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Generator, Tensor


class Numbers:
    """Random numbers for the images of a batch of which only the ``part``-th of ``parts`` equal
    parts is here: drawn for all of them, so that the parts together draw what one alone would."""

    def __init__(self, random: Generator, part: int = 0, parts: int = 1) -> None:
        self.random = random
        self.part = part
        self.parts = parts

    def normal(self, count: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``[count *shape]`` ~ N(0, 1) for the ``count`` images that are here; on the CPU."""
        drawn = torch.randn(count * self.parts, *shape, generator=self.random, dtype=dtype)
        return self._mine(drawn, count)

    def uniform(self, count: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same in 0..1."""
        drawn = torch.rand(count * self.parts, *shape, generator=self.random, dtype=dtype)
        return self._mine(drawn, count)

    def shared(self, count: int) -> list[float]:
        """``count`` numbers in 0..1, the same for every part."""
        return torch.rand(count, generator=self.random).tolist()

    def _mine(self, drawn: Tensor, count: int) -> Tensor:
        return drawn[self.part * count : (self.part + 1) * count]


def torch_random(seed: int, rank: int, nimg: int, purpose: str) -> Generator:
    """A CPU generator for one purpose at one moment of one run."""
    return Generator().manual_seed(_entropy(seed, rank, nimg, purpose))


def numpy_random(seed: int, rank: int, nimg: int, purpose: str) -> np.random.Generator:
    """The same for numpy."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, rank, nimg, purpose)))


def _entropy(seed: int, rank: int, nimg: int, purpose: str) -> int:
    words = [seed, rank, nimg, zlib.crc32(purpose.encode())]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
