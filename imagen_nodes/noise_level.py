"""How strong the noise of a picture is, told from the picture alone.

Source: Chen, Zhu and Heng, "An Efficient Statistical Method for Image Noise Level Estimation",
ICCV 2015. Small patches of a picture lie in few dimensions, those of white noise in all of them
alike: of the variances along the patches' principal axes those that noise alone is left in are the
smallest, and spread around its variance, so that their mean is their median. Axes are left out, the
longest first, until that is so.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Side of the patches, px.
SIDE = 7
# About as many patches are looked at, at most.
MOST = 1 << 14
# Patches for each of their dimensions that it takes.
FEWEST = 16
# Of patches whose mean is so many deviations from 0 and 1 hardly a value has been cut off there.
INSIDE = 1.5
# Times that patches are chosen, by the deviation that was found before; at first all are.
ROUNDS = 2


@torch.no_grad()
def noise_level(picture: Tensor) -> float:
    """The deviation of white Gaussian noise in ``[c h w]``, in the picture's values (0..1). The
    channels' noise is taken to be independent, unless they are alike: then the picture is grey. 0
    where it is too small to tell."""
    picture = picture.float()
    if torch.equal(picture, picture[:1].expand_as(picture)):
        picture = picture[:1]
    c, h, w = picture.shape
    side = SIDE
    while side > 1 and (h - side + 1) * (w - side + 1) < FEWEST * c * side**2:
        side -= 1
    size, count = c * side**2, (h - side + 1) * (w - side + 1)
    if count < FEWEST * size:
        return 0.0
    step = max(1, round((count / MOST) ** 0.5))
    views = picture.unfold(1, side, step).unfold(2, side, step)
    patches = views.permute(1, 2, 0, 3, 4).reshape(-1, size)
    # Where values are cut off at 0 and 1, noise is less than it was.
    means = patches.mean(1)
    distances, order = torch.minimum(means, 1 - means).sort(descending=True)
    patches, sigma = patches[order], 0.0
    for _ in range(ROUNDS):
        inside = int((distances >= INSIDE * sigma).sum())
        sigma = _smallest(patches[: max(inside, FEWEST * size)])
    return sigma


def with_noise_map(pictures: Tensor, noise: Tensor | float | None) -> Tensor:
    """``[b c h w]`` with one channel more: the noise's deviation, in the pictures' values, of all
    or ``[b]``; none: what :func:`noise_level` finds in each."""
    if noise is None:
        noise = torch.tensor([noise_level(picture) for picture in pictures])
    levels = torch.as_tensor(noise).to(pictures).view(-1, 1, 1, 1)
    return torch.cat([pictures, levels.expand_as(pictures[:, :1])], 1)


def _smallest(patches: Tensor) -> float:
    """The deviation along the axes that hold noise alone, of ``[n d]``."""
    variances = torch.linalg.eigvalsh(torch.cov(patches.T).double()).clamp(min=0)  # rising
    while variances.mean() > variances.quantile(0.5):
        variances = variances[:-1]
    return float(variances.mean().sqrt())
