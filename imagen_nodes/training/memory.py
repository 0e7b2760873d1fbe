"""Memory: how a training keeps what it allocates at every step, and what fits when there is too
little."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import Loop

# mallopt's parameters, as glibc's malloc.h numbers them.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_memory() -> None:
    """Ask the C library to keep what is freed for the next allocation, where it is glibc.

    As it comes, it hands every freed tensor of a few MB back to the system, so that the next one
    is new memory whose first touch costs more than filling it. Affects the whole process.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    mallopt(M_ARENA_MAX, 1)  # autograd's threads take over each other's tensors
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def fitting(loop: Loop) -> int | None:
    """The smallest ``accumulate`` above the recipe's with which a step fits into the device's
    memory; none: not even one image at a time does. Tried out; ``loop`` is of no more use then."""
    import torch

    from .loop import Loop
    from .recipe import Recipe

    recipe, world = loop.recipe, loop.processes.world
    loop.networks, loop.optimisers, loop.averages = {}, {}, []
    mine = recipe.batch // world
    for parts in range(recipe.accumulate + 1, mine + 1):
        if mine % parts:
            continue
        gc.collect()
        if loop.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = Recipe.model_validate({**dict(recipe), "accumulate": parts})
        try:
            Loop(smaller, loop.data, loop.device, loop.dtype).step()
        except torch.OutOfMemoryError:
            continue
        return parts
    return None
