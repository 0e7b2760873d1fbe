"""Figures by which a training's illnesses are told: of a few hundred images, generated and real."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Px of the images in which diversity is looked for: detail does not count.
COARSE = 8
# Px of those in which an augmentation is: it shows in means and deviations by place and colour.
PLACES = 4
# Values in -1..1 beyond which are black or white.
EXTREME = 0.98


def diversity(drawn: Tensor, real: Tensor) -> float:
    """How far generated images ``[b c h w]`` lie apart, as a share of how far real ones do: the
    ratio of the mean deviations over the batch, of images reduced to 8 px."""
    spread = [_coarse(images, COARSE).std(0).mean() for images in (drawn, real)]
    return float(spread[0] / spread[1].clamp(min=1e-6))


def saturation(drawn: Tensor) -> float:
    """The share of values that are black or white."""
    return float((drawn.abs() > EXTREME).float().mean())


def gap(seen: Tensor, held_out: Tensor, drawn: Tensor) -> float:
    """Where the logits of real images that were not trained on lie: 0 with those of real images
    that were, 1 with those of generated ones; 0 too where these two are not clearly apart.

    Source: Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020,
    section 3.1 (r_v)."""
    span = seen.mean() - drawn.mean()
    if span < 0.25 * torch.cat([seen, drawn]).std():
        return 0.0
    return float(((seen.mean() - held_out.mean()) / span).clamp(-1, 2))


def leak(drawn: Tensor, real: Tensor, augmented: Tensor) -> float:
    """How far generated images lie on the way from real ones to augmented ones: 0 none, 1 all of
    it, by means and deviations at each place and colour; 0 too where the augmentation does not
    show in these."""
    half = len(real) // 2
    scale = _signature(real)
    towards = _signature(augmented) - scale
    # What two halves of the real images differ by is no augmentation: theirs is twice as noisy a
    # difference as that of two whole sets.
    noise = (_signature(real[:half]) - _signature(real[half:])).square().sum() / 2
    if towards.square().sum() < 4 * noise:
        return 0.0
    return float((_signature(drawn) - scale).dot(towards) / towards.square().sum())


def _signature(images: Tensor) -> Tensor:
    coarse = _coarse(images, PLACES)
    detail = [images.diff(dim=axis).abs().mean((0, 2, 3)) for axis in (2, 3)]
    parts = [coarse.mean(0).flatten(), coarse.std(0).flatten(), *detail]
    return torch.cat([part.double().cpu() for part in parts])


def _coarse(images: Tensor, side: int) -> Tensor:
    images = images.float()
    return F.adaptive_avg_pool2d(images, min(side, *images.shape[2:]))
