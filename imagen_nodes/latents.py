"""Latents: what generators turn into images, as links carry it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Latents:
    """``z [b z_dim]`` float32 on the CPU, and ``labels [b]`` int64 or None."""

    z: Tensor
    labels: Tensor | None = None


def sample(count: int, z_dim: int, seed: int, classes: int = 0) -> Latents:
    """Draw ``count`` latents z ~ N(0, I); number i depends on ``seed + i`` alone.

    They are those of the StyleGAN tools' ``--seeds``: ``RandomState(seed).randn(1, z_dim)``. Seeds
    go round at 2^32. With ``classes``, number i is of class ``(seed + i) mod classes``.
    """
    seeds = [(seed + i) % 2**32 for i in range(count)]
    rows = [np.random.RandomState(s).randn(1, z_dim) for s in seeds]
    z = torch.from_numpy(np.concatenate(rows)).float()
    labels = torch.tensor([s % classes for s in seeds]) if classes else None
    return Latents(z, labels)
