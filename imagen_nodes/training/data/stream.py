"""The images of a run, by number."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...images import to_network
from ..augment import jitter
from ..randomness import Numbers, numpy_random, torch_random
from ..task import Batch
from .dataset import Dataset

# A data set moves to a GPU if it takes no more than this share of what is free there.
SHARE = 0.25
# Images that are held out at most, and the smallest set of which some are.
MOST_HELD_OUT, FEW = 1000, 200


class Stream:
    """The images of a run by number: epochs without repetition, each in an order of its own.

    Args:
        flip: mirror every other image, at random.
        crop: share of the sides that may be cut off, 0 (nothing) to below 1: a window of a random
            size, at least ``1 - crop``, at a random place, is enlarged to the whole.
        held_out: share of the images that are kept for :meth:`held_out`, at most 1,000 of them;
            none of a set of fewer than 200.
        colour: strength of random changes of brightness, saturation and contrast, 0 (nothing) to
            1.
        rank, world: give the ``rank``-th of ``world`` parts of every batch: together they are the
            batch of one process.
        device: where batches go. Where a GPU has room, the images are kept on it.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        flip: bool,
        crop: float = 0.0,
        colour: float = 0.0,
        held_out: float = 0.0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
    ) -> None:
        if not 0 <= crop < 1:
            raise ValueError(f"crop is {crop}; it is a share, 0 to below 1")
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank} of {world}; ranks count from 0")
        self.dataset = dataset
        self.seed = seed
        self.flip = flip
        self.crop = crop
        self.colour = colour
        self.rank = rank
        self.world = world
        self.device = device or torch.device("cpu")
        self._images = _shared(dataset.images)
        if _has_room(self.device, self._images):
            self._images = self._images.to(self.device)
        total = len(dataset.images)
        kept = min(int(held_out * total), MOST_HELD_OUT) if total >= FEW else 0
        if kept:
            order = numpy_random(seed, 0, 0, "held out").permutation(total)
            self._held_out, self._used = np.sort(order[:kept]), np.sort(order[kept:])
        else:
            self._held_out, self._used = np.empty(0, np.int64), np.arange(total)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def batch(self, nimg: int, size: int) -> Batch:
        """This rank's part of the ``size`` images that follow the first ``nimg`` of the run.
        Images are in channels_last."""
        mine = slice(self.rank * size // self.world, (self.rank + 1) * size // self.world)
        return self._batch(self._indices(nimg, size), nimg, mine)

    def held_out(self, nimg: int, size: int) -> Batch | None:
        """``size`` images that are in no batch, at most as many as there are; None where none are
        held out. They are changed as those of a batch after ``nimg`` images."""
        size = min(size, len(self._held_out))
        if not size:
            return None
        places = np.arange(nimg, nimg + size) % len(self._held_out)
        return self._batch(self._held_out[places], nimg, slice(None))

    def _batch(self, indices: NDArray[np.int64], nimg: int, mine: slice) -> Batch:
        """The part ``mine`` of the images of ``indices``."""
        size = len(indices)
        index = torch.from_numpy(indices[mine])
        images = self._images.index_select(0, index.to(self._images.device)).to(self.device)
        if self.flip:
            mirrored = numpy_random(self.seed, 0, nimg, "flip").random(size)[mine] < 0.5
            which = torch.from_numpy(np.flatnonzero(mirrored)).to(self.device)
            images.index_copy_(0, which, images.index_select(0, which).flip(2))
        pixels = to_network(images)
        if self.crop:
            pixels = _zoomed(pixels, self._windows(nimg, size)[mine])
        if self.colour:
            random = torch_random(self.seed, 0, nimg, "colour")
            parts = 1 if mine == slice(None) else self.world
            numbers = Numbers(random, self.rank if parts > 1 else 0, parts)
            pixels = jitter(pixels, self.colour, numbers)
        labels = self.dataset.labels
        if labels is None:
            return Batch(pixels, None)
        return Batch(pixels, torch.from_numpy(labels)[index].to(self.device))

    def _windows(self, nimg: int, size: int) -> NDArray[np.float64]:
        """``[size 3]``: side, left and top of what is kept of each image, as shares of its own."""
        cut, left, top = numpy_random(self.seed, 0, nimg, "crop").random((size, 3)).T
        cut = cut * self.crop
        return np.stack([1 - cut, left * cut, top * cut], axis=1)

    def _indices(self, nimg: int, size: int) -> NDArray[np.int64]:
        parts: list[NDArray[np.int64]] = []
        while size > 0:
            epoch, start = divmod(nimg, len(self._used))
            part = self._permutation(epoch)[start : start + size]
            parts.append(part)
            nimg, size = nimg + len(part), size - len(part)
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            random = numpy_random(self.seed, 0, epoch, "order")
            self._order = (epoch, self._used[random.permutation(len(self._used))])
        return self._order[1]


def _shared(images: NDArray[np.uint8]) -> Tensor:
    """The same memory as a tensor. It is only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(images))


def _has_room(device: torch.device, images: Tensor) -> bool:
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= SHARE * free


def _zoomed(pixels: Tensor, windows: NDArray[np.float64]) -> Tensor:
    """``[b c h w]``, of each image the window ``(side, left, top)`` enlarged to the whole
    (bilinear)."""
    side, left, top = torch.from_numpy(windows).to(pixels).unbind(1)
    # In grid_sample's coordinates an image reaches from -1 to 1.
    theta = pixels.new_zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2] = side + 2 * left - 1
    theta[:, 1, 2] = side + 2 * top - 1
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    found = F.grid_sample(pixels, grid, "bilinear", "border", align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)
