"""How strong the noise of a picture is, and whether it has been through JPEG, told from the picture
alone.

Sources: Chen, Zhu and Heng, "An Efficient Statistical Method for Image Noise Level Estimation",
ICCV 2015. Small patches of a picture lie in few dimensions, those of white noise in all of them
alike: of the variances along the patches' principal axes those that noise alone is left in are the
smallest, and spread around its variance, so that their mean is their median. Axes are left out, the
longest first, until that is so. Liu, Tanaka and Okutomi, "Single-Image Noise Level Estimation for
Blind Denoising", IEEE Transactions on Image Processing 2013: of patches only those are looked at
that have hardly any texture beside noise as strong as was found before. Wang, Sheikh and Bovik,
"No-Reference Perceptual Quality Assessment of JPEG Compressed Images", ICIP 2002: the steps between
blocks.
"""

from __future__ import annotations

import math

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
# Of noise of 50/255 before JPEG of quality 10 to 75, up to 3/255 are found after it in photographs
# whose blocks can still be told.
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
# Of patches whose mean is so many deviations from 0 and 1 not many values have been cut off there.
INSIDE = 1.5
# Patches whose neighbouring values differ by more than so many times what noise alone makes of them
# (squares; those of noise spread by an eighth) have a texture, whose variance passes for noise's.
CALM = 1.6
# Steps to the deviation before values were cut off.
SOLVING = 4
# Deviations beyond which noise does not reach.
FAR = 10.0
# As much is left of a deviation of 150/255. Where less would be, all values are near 0 and 1, as of
# a dithered picture, and not noise's.
LEAST = 2 / 3
# A picture is toned grey, as sepia is, where its grey's noise is so many times what its colours
# differ from those that the same grey has elsewhere. Photographs, whose finest textures have hardly
# any colour, reached 3; toned ones with noise of 10/255, or of 25/255 before JPEG, 7 or more.
TONED = 5.0
# Colours that differ by more are no toned picture's, whatever its noise.
COLOURED = 10 / 255
# Times that patches are chosen, by the deviation that was found before; at first all are.
ROUNDS = 3


@torch.no_grad()
def noise_level(picture: Tensor) -> float:
    """The deviation of white Gaussian noise in ``[c h w]``, in the picture's values (0..1). The
    channels' noise is taken to be independent, unless the picture is grey, or toned grey: then it
    is that of their mean. 0 where it is too small to tell."""
    picture = picture.float()
    if torch.equal(picture, picture[:1].expand_as(picture)):
        return _level(picture[:1])
    colour = _colour(picture)
    if colour < COLOURED:
        level = _level(picture.mean(0, keepdim=True))
        if level > TONED * colour:
            return level
    return _level(picture)


def _colour(picture: Tensor) -> float:
    """How far colours of ``[c h w]`` are from the mean colour of their grey, root of mean squares:
    0 where each channel is a function of the grey."""
    values = picture.flatten(1)
    values = values[:, :: -(-values.shape[1] // SEEN)]
    grey = values.mean(0).mul(255).round().clamp(0, 255).long()
    counts = torch.bincount(grey, minlength=256).clamp(min=1)
    means = [torch.bincount(grey, channel, 256) / counts for channel in values]
    return float((values - torch.stack(means)[:, grey]).square().mean().sqrt())


def _level(picture: Tensor) -> float:
    """Of channels whose noise is independent."""
    c, h, w = picture.shape
    high, wide = min(SIDE, h), min(SIDE, w)
    while True:
        size, count = c * high * wide, (h - high + 1) * (w - wide + 1)
        if high * wide == 1:  # of lone pixels nothing tells noise from the picture
            return 0.0
        if count >= FEWEST * size:
            break
        high, wide = (high - 1, wide) if high >= wide else (high, wide - 1)
    step = max(1, round((count / MOST) ** 0.5))
    views = picture.unfold(1, high, step).unfold(2, wide, step)
    patches = views.permute(1, 2, 0, 3, 4).reshape(-1, c, high, wide)
    differences = torch.cat([patches.diff(dim=dim).flatten(1) for dim in (2, 3)], 1)
    # What noise's variance is, where there is nothing else.
    steps = differences.square().mean(1) / 2
    # What is all of one tone was put there after the noise: bars, a ground, a page's margin.
    noisy = steps > 0
    if int(noisy.sum()) >= FEWEST * size:
        patches, steps = patches[noisy], steps[noisy]
    patches = patches.flatten(1)
    means = patches.mean(1)
    distances = torch.minimum(means, 1 - means)
    cut_off = bool(picture.min() >= 0 and picture.max() <= 1)
    sigma = _smallest(patches)
    for _ in range(ROUNDS):
        inside = _greatest(distances, INSIDE * sigma, FEWEST * size)
        calm = inside[_greatest(-steps[inside], -CALM * sigma**2, FEWEST * size)]
        sigma = _smallest(patches[calm])
        if cut_off:
            sigma = _before(sigma, means[calm])
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
    """The deviation along the axes that hold noise alone, of ``[n d]``. The fewer the patches, the
    wider noise's own variances spread, and the more of them are left out as too long: that takes
    ``d / n`` of the deviation, found with white noise."""
    covariance = torch.atleast_2d(torch.cov(patches.T))  # of a single value, too
    variances = torch.linalg.eigvalsh(covariance.double()).clamp(min=0)  # rising
    counts = torch.arange(1, len(variances) + 1, device=variances.device)
    means = variances.cumsum(0) / counts
    medians = (variances[(counts - 1) // 2] + variances[counts // 2]) / 2
    return float(means[means <= medians][-1].sqrt()) * (1 + patches.shape[1] / len(patches))


def _greatest(values: Tensor, limit: float, least: int) -> Tensor:
    """Indices of those that reach the limit, or of the ``least`` greatest, ``[n]``."""
    order = values.argsort(descending=True)
    return order[: max(least, int((values >= limit).sum()))]


def _before(sigma: float, means: Tensor) -> float:
    """Noise's deviation before values were cut off at 0 and 1, which left ``sigma`` where they had
    these ``means [n]``."""
    found = sigma
    for _ in range(SOLVING if sigma else 0):
        below, above = ((x / found).clamp(max=FAR) for x in (means, 1 - means))
        found = sigma / max(float(_left(below, above).mean().sqrt()), LEAST)
    return found


def _left(below: Tensor, above: Tensor) -> Tensor:
    """The variance of standard Gaussian noise that is cut off at ``-below`` and ``above`` (Foi,
    "Clipped Noisy Images", Signal Processing 2009, section 3)."""
    low, high = torch.special.ndtr(-below), torch.special.ndtr(-above)
    at_low, at_high = (torch.exp(-x.square() / 2) / (2 * math.pi) ** 0.5 for x in (below, above))
    mean = at_low - at_high - below * low + above * high
    inner = 1 - low - high - below * at_low - above * at_high
    return inner + below.square() * low + above.square() * high - mean.square()
