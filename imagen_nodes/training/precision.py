"""Which precision a training runs in: measured, since no table of processors says."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from .data import Stream
from .loop import Loop
from .recipe import Recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# bfloat16 costs accuracy, so it has to be worth it.
GAIN = 1.05
# Seconds of steps that are timed, the warm-up apart.
BUDGET = 2.0
ROUNDS = 20


def probe(
    recipe: Recipe, data: Stream, device: torch.device, say: Callable[[str], None]
) -> torch.dtype:
    """The faster of float32 and bfloat16 for ``recipe`` on ``device``, timed over a few steps of
    throw-away networks; ``say`` gets the figures."""
    loops = {dtype: Loop(recipe, data, device, dtype) for dtype in DTYPES.values()}
    for loop in loops.values():
        loop.nimg = recipe.settled
        _timed_step(loop)  # the first step allocates, and chooses kernels
    best = dict.fromkeys(loops, float("inf"))
    start = time.perf_counter()
    for _ in range(ROUNDS):
        for dtype, loop in loops.items():
            best[dtype] = min(best[dtype], _timed_step(loop))
        if time.perf_counter() - start > BUDGET / 2:
            break
    faster = best[torch.float32] > GAIN * best[torch.bfloat16]
    chosen = "bfloat16" if faster else "float32"
    speeds = ", ".join(f"{n} {recipe.batch / best[DTYPES[n]]:.0f} img/s" for n in DTYPES)
    say(f"precision: {chosen} ({speeds})")
    return DTYPES[chosen]


def _timed_step(loop: Loop) -> float:
    """Seconds."""
    start = time.perf_counter()
    loop.step()
    # Reading a value of what a step writes last waits for the device.
    next(loop.averages[0].network.parameters()).sum().item()
    return time.perf_counter() - start
