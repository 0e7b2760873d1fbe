"""Pictures that are there twice: the same bytes, or nearly the same to the eye."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .pictures import on_white, shallow

Hashes = NDArray[np.uint64]
Positions = NDArray[np.intp]

BITS = 64
# Hashes that differ in at most so many bits are those of near duplicates: recompressed, resized or
# slightly recoloured copies differ in 0 to 3, different photographs in about 32.
THRESHOLD = 3
# Equal parts that so many hashes share are divided further before all pairs are compared.
CROWD = 256


def difference_hash(picture: Image.Image) -> int:
    """64 bits: which of 8 x 8 places are brighter than their left neighbour, on 9 x 8 means of the
    picture in grey (Krawetz, "Kind of Like That", 2013)."""
    small = on_white(shallow(picture)).convert("L").resize((9, 8), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def equal_groups(hashes: Hashes) -> list[Positions]:
    """The positions of equal hashes, two or more in a group."""
    order = np.argsort(hashes, kind="stable")
    return [order[start:end] for start, end in _runs(hashes[order]) if end - start > 1]


def near_groups(hashes: Hashes, threshold: int = THRESHOLD) -> list[Positions]:
    """The positions of hashes that a chain of pairs, of at most ``threshold`` differing bits,
    links; two or more in a group."""
    values, inverse = np.unique(hashes, return_inverse=True)
    found = [np.empty((2, 0), np.intp), *_near_pairs(values, np.arange(len(values)), threshold)]
    one, other = np.concatenate(found, axis=1)
    shape = (len(values), len(values))
    links = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=shape)
    _, component = connected_components(links, directed=False)
    return equal_groups(component[inverse].astype(np.uint64))


def _near_pairs(values: Hashes, which: Positions, threshold: int) -> Iterator[Positions]:
    """``[2 n]``: pairs of positions among ``which`` whose ``values``, all distinct, differ in at
    most ``threshold`` bits.

    Cut the bits into ``threshold + 1`` bands: such a pair is equal in at least one (pigeonholes),
    so only values that share a band are compared. Those of a band that many share are cut up once
    more, by the bits in which they do differ."""
    if len(which) < 2:
        return
    varying = int(np.bitwise_or.reduce(values[which] ^ values[which[0]]))
    bits = [bit for bit in range(BITS) if varying >> bit & 1]
    for band in range(threshold + 1):
        mask = np.uint64(sum(1 << bit for bit in bits[band :: threshold + 1]))
        order = which[np.argsort(values[which] & mask, kind="stable")]
        runs = _runs(values[order] & mask)
        lengths = runs[:, 1] - runs[:, 0]
        crowded = lengths > CROWD
        for start, end in runs[crowded]:
            yield from _near_pairs(values, order[start:end], threshold)
        ends = np.repeat(np.where(crowded, 0, runs[:, 1]), lengths)
        yield from _near_neighbours(values, order, ends, threshold)


def _near_neighbours(
    values: Hashes, order: Positions, ends: Positions, threshold: int
) -> Iterator[Positions]:
    """Such pairs of each ``order[i]`` with those that follow it up to ``order[ends[i]]``: all with
    the next, all with the next but one, and so on."""
    i = np.arange(len(order))
    for distance in range(1, CROWD):
        i = i[i + distance < ends[i]]
        if not len(i):
            return
        one, other = order[i], order[i + distance]
        differing = values[one] ^ values[other]
        for _ in range(threshold):
            differing &= differing - np.uint64(1)  # clears the lowest bit that is set
        near = differing == 0
        yield np.stack([one[near], other[near]])


def _runs(ordered: Hashes) -> Positions:
    """``[n 2]``: start and end of each run of equal values."""
    edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    bounds = np.concatenate([[0], edges, [len(ordered)]])
    return np.stack([bounds[:-1], bounds[1:]], axis=1)
