"""How many times as fast as dcgan-cifar10 trains here its images are loaded.

    python benchmarks/data_loading.py [--data PATH] [--rounds N]

The loader is ``Stream.batch`` on a memory-mapped cache: 50,000 pictures of 32 px as in CIFAR-10,
generated, or those of PATH; with flip, and with flip and crop. The trainer is ``Loop.step`` in the
faster precision, its own loading included. They take turns in one process; the figures are medians
over the rounds, of images a second. Aim: the loader with flip 10 times the trainer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from imagen_nodes.training.data import Dataset, Stream, open_data
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.presets import PRESETS

RECIPE = PRESETS["dcgan-cifar10"]
COUNT = 50_000
STEPS = 6
BATCHES = 200


def cached(path: Path | None, folder: Path) -> Dataset:
    """The pictures at ``path``, or generated ones, decoded into a cache in ``folder``."""
    if path is None:
        path = folder / "noise.npz"
        draw = np.random.default_rng(0)
        np.savez(path, images=draw.integers(0, 256, (COUNT, 32, 32, 3), np.uint8))
    os.environ["IMAGEN_CACHE"] = str(folder)
    side = RECIPE.task.wanted.size[0]
    start = time.perf_counter()
    dataset = open_data(path, side, 3, print)
    print(f"decoded or found in {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    dataset = open_data(path, side, 3)
    print(f"opened again in {time.perf_counter() - start:.2f} s")
    return dataset


def speed(take: Callable[[int], object], count: int) -> float:
    """Images a second over ``count`` batches."""
    start = time.perf_counter()
    for i in range(count):
        take(i)
    return count * RECIPE.batch / (time.perf_counter() - start)


def main(data: Path | None, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = cached(data, Path(folder))
        plain = Stream(dataset, seed=0, flip=True)
        crop = Stream(dataset, seed=0, flip=True, crop=0.2)
        loops = {
            f"dcgan-cifar10, {name}": Loop(RECIPE, plain, torch.device("cpu"), dtype)
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        }
        speeds: dict[str, list[float]] = {}
        for round_ in range(rounds + 1):
            found = {
                name: speed(lambda _, loop=loop: loop.step(), STEPS) for name, loop in loops.items()
            }
            for name, stream in (("loader, flip", plain), ("loader, flip and crop", crop)):
                # Far apart, so that no batch is the one before.
                found[name] = speed(lambda i, s=stream: s.batch(i * 6400, RECIPE.batch), BATCHES)
            for name, value in found.items() if round_ else ():  # the first round warms up
                speeds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    trainer = max(medians[name] for name in loops)
    for name, median in medians.items():
        print(f"{name:24} {median:9.0f} img/s   {median / trainer:7.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="PATH")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    args = parser.parse_args()
    main(args.data, args.rounds)
