"""Random numbers that depend on (seed, rank, nimg, purpose) alone.

Nothing is drawn from a stream that goes on, so a resumed run draws what the uninterrupted one
would have drawn.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def torch_random(seed: int, rank: int, nimg: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose at one moment of one run."""
    return torch.Generator().manual_seed(_entropy(seed, rank, nimg, purpose))


def numpy_random(seed: int, rank: int, nimg: int, purpose: str) -> np.random.Generator:
    """The same for numpy."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, rank, nimg, purpose)))


def _entropy(seed: int, rank: int, nimg: int, purpose: str) -> int:
    words = [seed, rank, nimg, zlib.crc32(purpose.encode())]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
