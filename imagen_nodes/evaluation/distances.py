"""Distances between two sets of features: real ``[n d]`` and generated ``[m d]``."""

from __future__ import annotations

import torch
from torch import Tensor

SUBSETS, SUBSET = 100, 1000
NEIGHBOURS = 3


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|mu_r - mu_f|^2 + tr(S_r + S_f - 2 (S_r S_f)^(1/2)), in float64.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, section 4. The
    trace of the root is the sum of the roots of the eigenvalues of S_r S_f, which are those of the
    symmetric S_r^(1/2) S_f S_r^(1/2): no root of an unsymmetric matrix is needed.
    """
    (mean_r, cov_r), (mean_f, cov_f) = _moments(real), _moments(fake)
    values, vectors = torch.linalg.eigh(cov_r)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.t()
    cross = torch.linalg.eigvalsh(root @ cov_f @ root).clamp(min=0).sqrt().sum()
    mean = (mean_r - mean_f).square().sum()
    return float(mean + cov_r.trace() + cov_f.trace() - 2 * cross)


def kernel_distance(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """The unbiased squared maximum mean discrepancy for k(x, y) = (x.y / d + 1)^3, a mean over 100
    pairs of subsets of 1,000 (or all, where there are fewer).

    Source: Binkowski et al., "Demystifying MMD GANs", 2018, section 3 and equation 4.
    """
    random = torch.Generator().manual_seed(seed)
    size = min(SUBSET, len(real), len(fake))
    total = 0.0
    for _ in range(SUBSETS):
        x, y = (
            features[torch.randperm(len(features), generator=random)[:size]].double()
            for features in (real, fake)
        )
        within = sum(
            (k.sum() - k.trace()) / (size * (size - 1)) for k in (_kernel(x, x), _kernel(y, y))
        )
        total += float(within - 2 * _kernel(x, y).mean())
    return total / SUBSETS


def precision_recall(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """The share of generated images that lie within a real one's third-neighbour distance of it,
    and the other way round.

    Source: Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative
    Models", 2019, equations 1 to 3, k = 3.
    """
    return _covered(fake, real), _covered(real, fake)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), torch.cov(features.t())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.t() / x.shape[1] + 1) ** 3


def _covered(points: Tensor, manifold: Tensor) -> float:
    """The share of ``points`` inside a ball around any point of ``manifold``."""
    radii = torch.cat(
        [
            # The nearest of all is the point itself.
            torch.cdist(part, manifold).kthvalue(NEIGHBOURS + 1, dim=1).values
            for part in manifold.split(1000)
        ]
    )
    inside = [(torch.cdist(part, manifold) <= radii).any(1) for part in points.split(1000)]
    return float(torch.cat(inside).float().mean())
