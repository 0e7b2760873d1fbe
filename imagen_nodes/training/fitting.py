"""What of a step fits into memory when there is too little for all of it."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop import Loop


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
        if mine % (parts * recipe.task.wanted.domains):
            continue
        gc.collect()
        if loop.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = Recipe.model_validate({**dict(recipe), "accumulate": parts})
        try:
            tried = Loop(smaller, loop.data, loop.device, loop.dtype)
            # Not a first step, which may be a smaller one.
            tried.nimg = max(loop.nimg, smaller.settled)
            tried.step()
        except torch.OutOfMemoryError:
            continue
        return parts
    return None
