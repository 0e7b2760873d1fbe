"""Memorisation: the real images nearest to generated ones, and whether they look like copies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..checkpoint import Model
from ..networks.architecture import GeneratorArchitecture
from .distances import nearest, to_next, to_partners
from .evaluator import Evaluator, draw, exactly

ROWS, COLUMNS = 10, 7
# An image this near, as a share of the usual distance, is suspicious; and this many of them.
SUSPICIOUS, MANY = 0.5, 0.01


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The real images nearest to each generated one, by their features, and how near they are:
    1 is the median distance between a real image and the real one nearest to it.

    A generator that copies draws images far nearer to real ones than these are to each other. The
    test is that of Meehan et al., "A Non-Parametric Test to Detect Data-Copying in Generative
    Models", 2020, with the real images' own neighbours in place of a held-out set's.
    """

    fake: Tensor
    """``[m]``: distance of each generated image to its nearest real one."""
    real: Tensor
    """``[n]``: distance of each real image to its nearest other one."""
    indices: Tensor
    """``[m 7]``: the nearest real images, nearest first."""

    @cached_property
    def ratio(self) -> float:
        """Median over the generated images."""
        return float(self.fake.median())

    @property
    def copied(self) -> bool:
        """Whether suspiciously near images are clearly more frequent among the generated ones than
        among the real ones: by 1%, and by three standard errors."""
        fake, real = self._share(self.fake), self._share(self.real)
        m, n = len(self.fake), len(self.real)
        pooled = (fake * m + real * n) / (m + n)
        error = (pooled * (1 - pooled) * (1 / m + 1 / n)) ** 0.5
        return fake - real > max(MANY, 3 * error)

    def __str__(self) -> str:
        fake, real = self._share(self.fake), self._share(self.real)
        verdict = "this looks like copying" if self.copied else "this does not look like copying"
        return (
            f"The real image nearest to a generated one is {self.ratio:.2f} times as far away as "
            f"that nearest to a real one (medians). Nearer than half of that usual distance are "
            f"{fake:.1%} of the generated images and {real:.1%} of the real ones: {verdict}."
        )

    @staticmethod
    def _share(distances: Tensor) -> float:
        return float((distances < SUSPICIOUS).double().mean())


def find(evaluator: Evaluator, fake: Tensor) -> Neighbours:
    """The neighbours of generated images' features ``[m d]``."""
    real = evaluator.real
    with exactly(evaluator.space.device):
        found = nearest(fake, real, min(COLUMNS, len(real)))
        to_real = to_partners(fake, real, found.indices[:, 0])
        to_other = to_next(real, evaluator.around.indices)
    usual = to_other.median().clamp(min=1e-12)
    return Neighbours(to_real / usual, to_other / usual, found.indices)


def sheet(evaluator: Evaluator, model: Model, neighbours: Neighbours) -> Image.Image:
    """A row for each of the 10 generated images that are nearest to a real one: the image, then
    the real ones, nearest first."""
    architecture = model.architecture
    assert isinstance(architecture, GeneratorArchitecture)
    seeds = neighbours.fake.argsort()[:ROWS].tolist()
    drawn = torch.cat(list(draw(architecture, model.network, seeds, evaluator.space.device)))
    rows: list[Tensor] = []
    for image, seed in zip(drawn.cpu(), seeds, strict=True):
        order = evaluator.indices[neighbours.indices[seed].cpu().numpy()]
        real = torch.from_numpy(np.asarray(evaluator.pictures.images[order]))
        rows.append(torch.cat([image[None], images.as_rgb(real)]))
    pixels = torch.cat(rows).float() / 255
    return images.to_picture(images.grid(pixels, columns=len(rows[0]), gap=2, fill=1.0)[0])
