"""Crop, flip, colour, cutout: what every image of a batch is changed by, each by itself.

Image i depends on ``seed + i`` alone, whatever else is in the batch. Images are IMAGE ``[b h w c]``
in 0..1; alpha moves with the picture, and keeps its values.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .. import images
from ..graph.host import Host
from ..super_resolution import refuse_broken
from ..training.ada import cut_out
from ..training.augment import jitter
from ..training.data.stream import windows, zoomed
from ..training.randomness import Numbers, torch_random
from .settings import Settings

NETWORK = (-1.0, 1.0)


def random_flip(batch: Tensor, seed: int, probability: float = 0.5) -> Tensor:
    """Each mirrored left to right with that probability."""
    mirrored = _numbers(batch, seed, "flip", 1)[:, 0] < probability
    return torch.where(mirrored[:, None, None, None].to(batch.device), batch.flip(2), batch)


def random_crop(batch: Tensor, seed: int, crop: float) -> Tensor:
    """A window at a random place, with at least ``1 - crop`` of the sides (0 to below 1), enlarged
    to the whole, bilinear."""
    if not crop:
        return batch
    kept = windows(_numbers(batch, seed, "crop", 3).numpy().astype(np.float64), crop)
    return zoomed(batch.movedim(3, 1), kept).movedim(1, 3).clamp(0, 1)


def random_colour(batch: Tensor, seed: int, strength: float) -> Tensor:
    """Brightness, saturation and contrast, each by up to ``strength``, 0 to 1: see
    ``training.augment.jitter``."""
    if not strength:
        return batch
    x = images.to_range(batch.movedim(3, 1), NETWORK)
    changed = [
        jitter(x[i : i + 1], strength, Numbers(torch_random(seed + i, 0, 0, "colour")))
        for i in range(len(x))
    ]
    return images.from_range(torch.cat(changed), NETWORK).movedim(1, 3)


def cutout(batch: Tensor, seed: int, share: float) -> Tensor:
    """A box of ``share`` of the sides, rounded, about a random pixel becomes mid-grey; it may stick
    out.

    Source: DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", 2017."""
    h, w = batch.shape[1:3]
    height, width = round(share * h), round(share * w)
    if not height or not width:
        return batch
    x, y = _numbers(batch, seed, "cutout", 2).t()
    left, top = (x * w).floor() - width // 2, (y * h).floor() - height // 2
    size = torch.ones_like(x)
    boxes = torch.stack([left, top, size * width, size * height], 1)
    kept = cut_out(torch.ones_like(batch[..., :1]).movedim(3, 1), boxes).movedim(1, 3) > 0
    # The rest keeps its values to the last bit: saving cuts what is a little below a level.
    return torch.cat([torch.where(kept, batch[..., :3], 0.5), batch[..., 3:]], 3)


def each(host: Host, batch: Tensor, seed: int, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """``change`` of each image, a batch of one, and its seed: in the memory of one image and of the
    result.

    Raises:
        DataError: the batch holds no picture, or one with NaN or infinity."""
    refuse_broken(host, batch)
    result = torch.empty_like(batch)
    for i in range(len(batch)):
        host.progress(i, len(batch))
        result[i] = change(batch[i : i + 1], seed + i)[0]
    return result


def altered(batch: Tensor, seed: int, settings: Settings) -> Tensor:
    """Through the changes that are set, one after another."""
    if settings.flip:
        batch = random_flip(batch, seed)
    batch = random_crop(batch, seed, settings.crop)
    batch = random_colour(batch, seed, settings.colour)
    return cutout(batch, seed, settings.cutout)


def _numbers(batch: Tensor, seed: int, purpose: str, count: int) -> Tensor:
    """``[b count]`` in 0..1: those of image i depend on ``seed + i``."""
    randoms = (torch_random(seed + i, 0, 0, purpose) for i in range(len(batch)))
    return torch.stack([Numbers(random).uniform(count) for random in randoms])
