"""Distances between two sets of features, ``[n d]`` and ``[m d]``."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|mu_r - mu_f|^2 + tr(S_r + S_f - 2 (S_r S_f)^(1/2)), in float64.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, equation 6. The
    trace of the root is the sum of the roots of the eigenvalues of S_r S_f, which are those of the
    symmetric S_r^(1/2) S_f S_r^(1/2): no root of an unsymmetric matrix is needed.
    """
    mean_r, cov_r = _moments(real)
    mean_f, cov_f = _moments(fake)
    values, vectors = torch.linalg.eigh(cov_r)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.t()
    cross = torch.linalg.eigvalsh(root @ cov_f @ root).clamp(min=0).sqrt().sum()
    mean = (mean_r - mean_f).square().sum()
    return float(mean + cov_r.trace() + cov_f.trace() - 2 * cross)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), torch.cov(features.t())
