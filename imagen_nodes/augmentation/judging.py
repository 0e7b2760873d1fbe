"""Which generated pictures are kept: the best of those that are neither copies of real ones nor of
each other. All of it is told by features ``[n d]``, float32, of pictures of one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import images
from ..checkpoint import Model, Running
from ..errors import CheckpointError
from ..evaluation.distances import NEIGHBOURS, nearest, squared_distances, to_next, to_partners
from ..networks.architecture import DiscriminatorArchitecture, GeneratorArchitecture
from ..ranking import judge

# Real pictures of a class: each needs third neighbours.
FEWEST = NEIGHBOURS + 1
# Generated pictures that are compared with each other at a time.
PART = 256


@dataclass(frozen=True, eq=False)
class Real:
    """The real pictures of a class."""

    features: Tensor
    """``[n d]``."""
    radii: Tensor
    """``[n]``: distance of each to its third neighbour."""
    usual: float
    """Median distance of one to the nearest other: what distances are given in."""

    @classmethod
    def of(cls, features: Tensor) -> Real:
        """Of ``features [n d]``, n at least :data:`FEWEST`."""
        around = nearest(features, features, FEWEST)
        usual = float(to_next(features, around.indices).median())
        return cls(features, around.squares[:, NEIGHBOURS].sqrt(), max(usual, 1e-12))

    def realism(self, fake: Tensor) -> Tensor:
        """``[m]``, of the generated pictures' features ``[m d]``: 1 or more where one lies among
        the real ones, and the more so, the nearer to one of them.

        Source: Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative
        Models", 2019, section 5, equation 4: the largest ratio of a real picture's radius to its
        distance, over the half of the real pictures that have the smaller radii."""
        kept = self.radii <= self.radii.median()
        radii, real = self.radii[kept], self.features[kept]
        scores = fake.new_empty(len(fake))
        for rows, squares in squared_distances(fake, real):
            # Of a difference of large squares, less than this is rounding.
            distances = squares.clamp(min=1e-6).sqrt()
            scores[rows] = (radii / distances).amax(1)
        return scores

    def nearest(self, fake: Tensor) -> tuple[Tensor, Tensor]:
        """``[m]`` distances to the nearest real picture, 1 being the usual one, and its index."""
        index = nearest(fake, self.features, 1).indices[:, 0]
        return to_partners(fake, self.features, index) / self.usual, index


@dataclass(frozen=True, eq=False)
class Picked:
    """What is kept of generated pictures."""

    indices: list[int]
    """The best first."""
    copies: int
    """Dropped: too near to a real one."""
    duplicates: int
    """Dropped: too near to a better one."""


def pick(
    features: Tensor,
    scores: Tensor,
    distances: Tensor,
    wanted: int,
    copy_distance: float,
    duplicate_distance: float,
) -> Picked:
    """The ``wanted`` best, or fewer.

    Args:
        features: ``[m d]``, in units of the usual distance.
        scores: ``[m]``, the higher the better.
        distances: ``[m]``, to the nearest real picture, in that unit.
        copy_distance, duplicate_distance: see ``Settings``."""
    order = scores.argsort(descending=True, stable=True)
    copied = (distances < copy_distance).tolist()
    indices: list[int] = []
    copies = duplicates = 0
    for part in order.split(PART):
        near = _near(features[part], features[indices], duplicate_distance)
        taken: list[int] = []
        for place, i in enumerate(part.tolist()):
            if len(indices) == wanted:
                return Picked(indices, copies, duplicates)
            if copied[i]:
                copies += 1
            elif near.kept[place] or near.each[place, taken].any():
                duplicates += 1
            else:
                taken.append(place)
                indices.append(i)
    return Picked(indices, copies, duplicates)


class _Near(NamedTuple):
    """Which pictures are nearer than a distance: ``kept [m]`` to any of those kept before, ``each
    [m m]`` to each other."""

    kept: Tensor
    each: Tensor


def _near(part: Tensor, kept: Tensor, distance: float) -> _Near:
    each = torch.cdist(part, part) < distance
    if not len(kept):
        return _Near(torch.zeros(len(part), dtype=torch.bool), each)
    return _Near(nearest(part, kept, 1).squares[:, 0] < distance**2, each)


def check_discriminator(discriminator: Model, generator: GeneratorArchitecture) -> None:
    """Whether it can judge the generator's images.

    Raises:
        CheckpointError: it cannot."""
    a = discriminator.architecture
    if not isinstance(a, DiscriminatorArchitecture):
        kind = discriminator.card.architecture["kind"]
        raise CheckpointError(
            f"{discriminator.name} holds a {kind}, which does not judge images: give a "
            "discriminator, or none"
        )
    for what in ("resolution", "channels", "classes"):
        # Every discriminator has them, some as fields, some as properties.
        found, wanted = getattr(a, what), getattr(generator, what)
        if found != wanted and not (what == "classes" and found == 0):
            raise CheckpointError(
                f"{discriminator.name} judges images of {what} {found}, the generator's have "
                f"{wanted}: give the discriminator that it was trained with"
            )


def discriminator_scores(
    discriminator: Model, running: Running, drawn: Tensor, labels: Tensor
) -> Tensor:
    """``[b]``: how real a discriminator finds generated images (IMAGE ``[b h w c]``, the
    generator's channels) of the classes ``labels [b]``: see :func:`.ranking.judge`."""
    a = discriminator.architecture
    assert isinstance(a, DiscriminatorArchitecture)
    x = images.to_range(drawn.movedim(3, 1), discriminator.card.value_range)
    return judge(running, a, x, labels if getattr(a, "classes", 0) else None)
