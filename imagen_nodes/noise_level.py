"""How strong the noise of a picture is, and whether it has been through JPEG, told from the picture
alone.

Sources: Chen, Zhu and Heng, "An Efficient Statistical Method for Image Noise Level Estimation",
ICCV 2015. Small patches of a picture lie in few dimensions, those of white noise in all of them
alike: of the variances along the patches' principal axes those that noise alone is left in are the
smallest, and spread around its variance, so that their mean is their median. Axes are left out, the
longest first, until that is so. Wang, Sheikh and Bovik, "No-Reference Perceptual Quality Assessment
of JPEG Compressed Images", ICIP 2002: the steps between blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What a noise map holds where a picture has JPEG's blocks, for a network that is told of them.
JPEG_MARK = -25 / 255
# Side of JPEG's blocks, px.
BLOCK = 8
# Borders of blocks that a side has at least.
FEWEST_BORDERS = 4
# Pixels that are looked at for blocks, each way, at most.
SEEN = 1 << 20
# Of noise of 50/255 before JPEG of quality 10 to 75, up to 3/255 are found after it in photographs.
LEFT = 4 / 255
# Steps of values that are greater are edges.
EDGE = 0.1
# Deviations of the mean of chance from which on steps between blocks are not by chance. White noise
# reached 3 on 100 photographs.
SURE = 4.0
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


@torch.no_grad()
def has_blocks(picture: Tensor) -> bool:
    """Whether ``[c h w]`` in 0..1 has JPEG's blocks of 8x8 px, which may begin anywhere: from each
    eighth column, and row, to the next, values differ by more than beside it. Noise that was added
    later can hide them, and a quality over 80 leaves few. False with a side below 35 px."""
    grey = picture.float().mean(0)
    return all(_stepped(x) > SURE for x in (grey, grey.T))


def _stepped(x: Tensor) -> float:
    """By how many deviations of chance every eighth step along the rows of ``[h w]`` is greater
    than its neighbours and than the others are than theirs."""
    x = x[:: -(-x.numel() // SEEN)]
    steps = x.diff(dim=1).abs()
    excess = steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2
    excess = excess.clamp(-EDGE, EDGE).mean(0).double()
    count = len(excess) // BLOCK
    if count < FEWEST_BORDERS:
        return 0.0
    phases = excess[: count * BLOCK].view(count, BLOCK)
    means = phases.mean(0)
    others = phases[:, torch.arange(BLOCK, device=x.device) != means.argmax()]
    chance = others.std() / count**0.5
    return float((means.max() - others.mean()) / chance.clamp(min=1e-9))


def noise_map(pictures: Tensor, noise: Tensor | float | None, jpeg_mark: bool = False) -> Tensor:
    """``[b 1 h w]`` for pictures ``[b c h w]``: the noise's deviation, in the pictures' values, one
    value a picture, whose memory its pixels share.

    Args:
        noise: of all, or ``[b]``; none: what :func:`noise_level` finds in each.
        jpeg_mark: in place of what it finds, ``JPEG_MARK`` where :func:`has_blocks`, unless the
            noise is stronger than what JPEG leaves of any: then it came later, and matters more.
    """
    if noise is None:
        found = torch.tensor([noise_level(picture) for picture in pictures])
        for i, picture in enumerate(pictures if jpeg_mark else ()):
            if found[i] < LEFT and has_blocks(picture):
                found[i] = JPEG_MARK
        noise = found
    levels = torch.as_tensor(noise).to(pictures).view(-1, 1, 1, 1)
    return levels.expand_as(pictures[:, :1])


def _smallest(patches: Tensor) -> float:
    """The deviation along the axes that hold noise alone, of ``[n d]``."""
    variances = torch.linalg.eigvalsh(torch.cov(patches.T).double()).clamp(min=0)  # rising
    while variances.mean() > variances.quantile(0.5):
        variances = variances[:-1]
    return float(variances.mean().sqrt())
