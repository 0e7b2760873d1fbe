"""Distances between two sets of features: real ``[n d]`` and generated ``[m d]``, both float32.

Besides the two sets there is never more than a block of pairs in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

SUBSETS, SUBSET = 100, 1000
NEIGHBOURS = 3
SPLITS = 10
# Values in a block: 128 MiB of float32.
BLOCK = 1 << 25
RESAMPLES = 1000
# Features that a kernel's expectations are taken over.
ANCHORS = 2000


@dataclass(frozen=True)
class Gaussian:
    """``mean [d]`` and ``covariance [d d]``, float64."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.t()


def gaussian(features: Tensor) -> Gaussian:
    """The one fitted to ``features``."""
    count, size = features.shape
    total = features.new_zeros(size, dtype=torch.float64)
    for part in _blocks(features, size):
        total += part.sum(0, dtype=torch.float64)
    mean = total / count
    squares = features.new_zeros(size, size, dtype=torch.float64)
    for part in _blocks(features, size):
        centred = part.double() - mean
        squares.addmm_(centred.t(), centred)
    return Gaussian(mean, squares / (count - 1))


def frechet_distance(real: Gaussian, fake: Gaussian) -> float:
    """|mu_r - mu_f|^2 + tr(S_r + S_f - 2 (S_r S_f)^(1/2)), in float64.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, section 4. The
    trace of the root is the sum of the roots of the eigenvalues of S_r S_f, which are those of the
    symmetric S_r^(1/2) S_f S_r^(1/2): no root of an unsymmetric matrix is needed.
    """
    product = real.root @ fake.covariance @ real.root
    cross = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    mean = (real.mean - fake.mean).square().sum()
    return float(mean + real.covariance.trace() + fake.covariance.trace() - 2 * cross)


def frechet_influence(real: Gaussian, fake: Gaussian, features: Tensor) -> Tensor:
    """By how much each generated image moves the Frechet distance, times their number, to first
    order: ``[m]``, of mean 0.

    The distance's derivative by mu_f is 2 (mu_f - mu_r), that by S_f is I - T, where
    T = S_r^(1/2) (S_r^(1/2) S_f S_r^(1/2))^(-1/2) S_r^(1/2) takes the one Gaussian to the other.

    Source: Rippl, Munk, Sturm, "Limit laws of the empirical Wasserstein distance: Gaussian
    distributions", 2016.
    """
    values, vectors = torch.linalg.eigh(real.root @ fake.covariance @ real.root)
    # With fewer images than features most are zero, but for rounding.
    inverse = torch.where(values > values[-1] * 1e-10, values.clamp(min=1e-300).rsqrt(), 0)
    half = real.root @ vectors
    derivative = torch.eye(len(values)).to(values) - (half * inverse) @ half.t()
    shift = 2 * (fake.mean - real.mean)
    influence = torch.empty(len(features), dtype=torch.float64)
    for part, out in zip(
        _blocks(features, len(values)), _blocks(influence, len(values)), strict=True
    ):
        centred = part.double() - fake.mean
        out.copy_(centred @ shift + ((centred @ derivative) * centred).sum(1))
    return influence - influence.mean()


def kernel_distance(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """The unbiased squared maximum mean discrepancy for k(x, y) = (x.y / d + 1)^3, a mean over 100
    pairs of subsets of 1,000 (or all, where there are fewer).

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, section 3 and equation 4.
    """
    random = torch.Generator().manual_seed(seed)
    size = min(SUBSET, len(real), len(fake))
    total = 0.0
    for _ in range(SUBSETS):
        x, y = (_subset(features, size, random).double() for features in (real, fake))
        within = sum(
            (k.sum() - k.trace()) / (size * (size - 1)) for k in (_kernel(x, x), _kernel(y, y))
        )
        total += float(within - 2 * _kernel(x, y).mean())
    return total / SUBSETS


def kernel_influence(real: Tensor, fake: Tensor, seed: int = 0) -> Tensor:
    """By how much each generated image moves the kernel distance, times their number, to first
    order: ``[m]``, of mean 0. That is twice the witness function, E k(y, y') - E k(y, x), here
    with expectations over 2,000 images.

    Source: Gretton et al., "A Kernel Two-Sample Test", 2012, section 2.3 (the witness function).
    """
    random = torch.Generator().manual_seed(seed)
    anchors = [_subset(x, min(ANCHORS, len(x)), random).double() for x in (real, fake)]
    influence = torch.empty(len(fake), dtype=torch.float64)
    for part, out in zip(_blocks(fake, ANCHORS), _blocks(influence, ANCHORS), strict=True):
        to_real, to_fake = (_kernel(part.double(), anchor).mean(1) for anchor in anchors)
        out.copy_(2 * (to_fake - to_real))
    return influence - influence.mean()


def interval(value: float, influence: Tensor, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of ``value`` over 1,000 bootstrap resamples of the generated
    images, to first order: a resample's figure is ``value`` plus its mean of ``influence [m]``.

    Unlike figures computed anew on each resample, which cost minutes, these are not biased:
    repeated images make a Frechet distance larger, often by more than the interval is wide.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, sections 13.3 (percentile
    intervals) and 22.
    """
    random = torch.Generator().manual_seed(seed)
    count = len(influence)
    means = torch.stack(
        [
            influence[torch.randint(count, (count,), generator=random)].mean()
            for _ in range(RESAMPLES)
        ]
    )
    low, high = torch.quantile(means, means.new_tensor([0.025, 0.975])).tolist()
    return value + low, value + high


class Nearest(NamedTuple):
    """``squares [n k]``: squared distances, ascending; ``indices [n k]``."""

    squares: Tensor
    indices: Tensor


def nearest(points: Tensor, others: Tensor, k: int) -> Nearest:
    """The ``k`` nearest of ``others`` for each of ``points``; where those are the same, the first
    is the point itself."""
    squares, indices = zip(
        *(
            torch.topk(block, k, dim=1, largest=False)
            for _, block in squared_distances(points, others)
        ),
        strict=True,
    )
    return Nearest(torch.cat(squares).clamp_(min=0), torch.cat(indices))


def to_partners(points: Tensor, others: Tensor, partners: Tensor) -> Tensor:
    """``[n]``: from each of ``points`` to its partner among ``others``, by index. By subtraction:
    differences of large squares are no measure of small distances."""
    parts = [
        (part - others[index]).square().sum(1).sqrt()
        for part, index in zip(points.split(4096), partners.split(4096), strict=True)
    ]
    return torch.cat(parts)


def to_next(points: Tensor, around: Tensor) -> Tensor:
    """``[n]``: from each of ``points`` to the nearest other one; ``around [n k]``, k of 2 or more,
    are the indices of their :func:`nearest`, themselves included."""
    first, second = around[:, :2].unbind(1)
    itself = first == torch.arange(len(points), device=points.device)
    return to_partners(points, points, torch.where(itself, second, first))


def radii(points: Tensor) -> Tensor:
    """``[n]``: the squared distance of each point to its third neighbour."""
    return nearest(points, points, NEIGHBOURS + 1).squares[:, NEIGHBOURS]


def precision_recall(
    real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor
) -> tuple[float, float]:
    """The share of generated images that lie within a real one's third-neighbour distance of it,
    and the other way round. Takes the :func:`radii` of both.

    Source: Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative
    Models", 2019, equations 1 to 3, k = 3.
    """
    precise = 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, block in squared_distances(fake, real):
        precise += int((block <= real_radii).any(1).sum())
        recalled |= (block <= fake_radii[rows, None]).any(0)
    return precise / len(fake), float(recalled.float().mean())


def inception_score(features: Tensor, classes: Tensor) -> float:
    """exp(E KL(p(y|x) || p(y))), a mean over 10 equal parts of the images in their order.

    Args:
        classes: ``[classes d]``, logits from features, without a bias as the authors' code has it.

    Source: Salimans et al., "Improved Techniques for Training GANs", 2016, section 4.
    """
    scores: list[Tensor] = []
    for part in torch.tensor_split(features, min(SPLITS, len(features))):
        logs = (part @ classes.t()).double().log_softmax(1)
        marginal = logs.logsumexp(0) - torch.tensor(float(len(part))).log()
        scores.append((logs.exp() * (logs - marginal)).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.t() / x.shape[1] + 1) ** 3


def _subset(features: Tensor, size: int, random: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=random)[:size].to(features.device)]


def _blocks(rows: Tensor, width: int) -> Iterator[Tensor]:
    """``rows`` in parts whose float64 rows of ``width`` values fill half a block."""
    return iter(rows.split(max(1, BLOCK // (4 * width))))


def squared_distances(points: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """``|x - y|^2 = |x|^2 + |y|^2 - 2 x.y`` of all pairs, by blocks of ``points``."""
    norms = others.square().sum(1)
    step = max(1, BLOCK // len(others))
    for start in range(0, len(points), step):
        part = points[start : start + step]
        block = torch.addmm(norms[None], part, others.t(), alpha=-2)
        block += part.square().sum(1, keepdim=True)
        yield slice(start, start + len(part)), block
