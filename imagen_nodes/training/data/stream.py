"""The images of a run, by number."""

from __future__ import annotations

import warnings
from itertools import pairwise

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
            none of a set of fewer than 200. Of a picture in tiles, which lie over each other, all
            are kept, or none.
        colour: strength of random changes of brightness, saturation and contrast, 0 (nothing) to
            1.
        panels: pictures side by side in each image: each is mirrored by itself, and windows are
            the same in all of them.
        domains: give images of the labels 0, 1 .. ``domains - 1`` in turn, each in epochs of its
            own; 1: of all.
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
        panels: int = 1,
        domains: int = 1,
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
        self.panels = panels
        self.rank = rank
        self.world = world
        self.device = device or torch.device("cpu")
        self._images = _shared(dataset.images)
        if _has_room(self.device, self._images):
            self._images = self._images.to(self.device)
        kinds = [np.arange(len(dataset.images))]
        if domains > 1:
            assert dataset.labels is not None
            kinds = [np.flatnonzero(dataset.labels == label) for label in range(domains)]
        # Of the picture that each image is, or is a tile of.
        numbers = np.arange(len(dataset.images))
        if len(dataset.names) == len(numbers):
            others = (a != b for a, b in pairwise(dataset.names))
            numbers[1:] = np.cumsum(np.fromiter(others, bool))
        parts = [self._parted(kind, numbers, i, held_out) for i, kind in enumerate(kinds)]
        # Of each domain: the images that are held out, those that are used, and their order in an
        # epoch.
        self._held_out = [kept for kept, _ in parts]
        self._used = [used for _, used in parts]
        self._orders = [(-1, np.empty(0, np.int64))] * domains

    def batch(self, nimg: int, size: int) -> Batch:
        """This rank's part of the ``size`` images that follow the first ``nimg`` of the run.
        Images are in channels_last."""
        mine = slice(self.rank * size // self.world, (self.rank + 1) * size // self.world)
        return self._batch(self._indices(nimg, size), nimg, mine)

    def held_out(self, nimg: int, size: int) -> Batch | None:
        """``size`` images that are in no batch, at most as many as there are; None where none are
        held out. They are changed as those of a batch after ``nimg`` images."""
        domains = len(self._held_out)
        size = min(size, min(map(len, self._held_out)) * domains)
        if not size:
            return None
        places = np.arange(nimg, nimg + size)
        indices = np.empty(size, np.int64)
        for domain, kept in enumerate(self._held_out):
            mine = places % domains == domain
            indices[mine] = kept[places[mine] // domains % len(kept)]
        return self._batch(indices, nimg, slice(None))

    def apart(self, most: int) -> Dataset | None:
        """``most`` of the images that are held out, of each domain as many, from all over them;
        None where none are held out."""
        size = min(most // len(self._held_out), *map(len, self._held_out))
        if not size:
            return None
        spread = [kept[np.linspace(0, len(kept) - 1, size, dtype=int)] for kept in self._held_out]
        indices, data = np.sort(np.concatenate(spread)), self.dataset
        labels = None if data.labels is None else data.labels[indices]
        return Dataset(f"{data.name}, held out", data.images[indices], labels, data.class_names)

    def _parted(
        self, indices: NDArray[np.int64], numbers: NDArray[np.int64], domain: int, share: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Those that are held out, and the rest; both sorted. ``numbers`` are those of the pictures
        that images are of."""
        total, numbers = len(indices), numbers[indices]
        kept = min(int(share * total), MOST_HELD_OUT) if total >= FEW else 0
        pictures, counts = np.unique(numbers, return_counts=True)
        order = numpy_random(self.seed, 0, domain, "held out").permutation(len(pictures))
        apart = np.isin(numbers, pictures[order][np.cumsum(counts[order]) <= kept])
        return indices[apart], indices[~apart]

    def _batch(self, indices: NDArray[np.int64], nimg: int, mine: slice) -> Batch:
        """The part ``mine`` of the images of ``indices``."""
        size = len(indices)
        index = torch.from_numpy(indices[mine])
        images = self._images.index_select(0, index.to(self._images.device)).to(self.device)
        if self.flip:
            mirrored = numpy_random(self.seed, 0, nimg, "flip").random(size)[mine] < 0.5
            which = torch.from_numpy(np.flatnonzero(mirrored)).to(self.device)
            panels = images.unflatten(2, (self.panels, -1))
            panels.index_copy_(0, which, panels.index_select(0, which).flip(3))
        pixels = to_network(images)
        if self.crop:
            kept = self._windows(nimg, size)[mine]
            parts = [zoomed(panel, kept) for panel in pixels.chunk(self.panels, 3)]
            pixels = torch.cat(parts, 3).contiguous(memory_format=torch.channels_last)
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
        return windows(numpy_random(self.seed, 0, nimg, "crop").random((size, 3)), self.crop)

    def _indices(self, nimg: int, size: int) -> NDArray[np.int64]:
        """Of the images ``nimg`` to ``nimg + size`` of the run; domains take turns."""
        domains = len(self._used)
        numbers = np.arange(nimg, nimg + size)
        indices = np.empty(size, np.int64)
        for domain, used in enumerate(self._used):
            places = np.flatnonzero(numbers % domains == domain)
            epochs, within = np.divmod(numbers[places] // domains, len(used))
            for epoch in np.unique(epochs):
                now = epochs == epoch
                indices[places[now]] = self._permutation(domain, int(epoch))[within[now]]
        return indices

    def _permutation(self, domain: int, epoch: int) -> NDArray[np.int64]:
        if self._orders[domain][0] != epoch:
            name = f"order {domain}" if domain else "order"
            used = self._used[domain]
            order = used[numpy_random(self.seed, 0, epoch, name).permutation(len(used))]
            self._orders[domain] = (epoch, order)
        return self._orders[domain][1]


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


def windows(numbers: NDArray[np.float64], crop: float) -> NDArray[np.float64]:
    """``numbers [b 3]`` in 0..1 -> ``[b 3]``, for :func:`zoomed`: side, left and top of a window of
    at least ``1 - crop`` of the sides, as shares of them."""
    cut, left, top = numbers.T
    cut = cut * crop
    return np.stack([1 - cut, left * cut, top * cut], axis=1)


def zoomed(pixels: Tensor, windows: NDArray[np.float64]) -> Tensor:
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
