"""A denoiser beside what OpenCV has: non-local means and the bilateral filter.

    pip install opencv-python-headless
    python benchmarks/denoising.py WEIGHTS PICTURES [--sigmas 15 25 50] [--most N]
        [--beside FILE ...]

Mean PSNR of RGB over the pictures, with Gaussian noise of each deviation (steps of 1/255, the same
for all ways), and the time for the pictures, one after another. OpenCV's ways are told the
deviation: the filter strength of non-local means is the best of several shares of it, by the mean
over the pictures, and so are the bilateral filter's widths; the network is told nothing, and, in a
line of its own, the deviation, if it takes that. FILES are other networks, of any format that *Load
Checkpoint* takes, as DnCNN's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from numpy.typing import NDArray

from imagen_nodes import foreign, super_resolution
from imagen_nodes.checkpoint import Model
from imagen_nodes.evaluation.compare import read_picture
from imagen_nodes.evaluation.restoration import pictures_at
from imagen_nodes.graph.local import LocalHost

Pixels = NDArray[np.uint8]
SHARES = (0.4, 0.6, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="A denoiser beside OpenCV's.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[15, 25, 50])
    parser.add_argument("--most", type=int, default=1000, help="pictures to take")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], help="other networks")
    args = parser.parse_args()
    host, models = LocalHost(), [foreign.open_model(x) for x in (args.weights, *args.beside)]

    def network(noisy: Pixels, model: Model, told: float | None = None) -> Pixels:
        image = torch.from_numpy(noisy).float()[None] / 255
        with torch.inference_mode():
            found = super_resolution.restore(host, model, image, noise=told)
        return (found[0] * 255).round().byte().numpy()

    clean = [pixels(path) for path in pictures_at(args.pictures)[: args.most]]
    for sigma in args.sigmas:
        noisy = [noise(picture, sigma, i) for i, picture in enumerate(clean)]
        print(f"sigma {sigma:g}, {len(clean)} pictures")
        report("as given", lambda x: x, noisy, clean)
        ways = {"bilateral": bilateral, "non-local means": non_local_means}
        for name, way in ways.items():
            variants = [partial(way, strength=share * sigma) for share in SHARES]
            scores = [quality(variant, noisy[:10], clean[:10]) for variant in variants]
            report(name, variants[int(np.argmax(scores))], noisy, clean)
        for model in models:
            report(model.name, partial(network, model=model), noisy, clean)
            pictures = model.architecture.pictures
            if pictures is not None and pictures.noise_map:
                told = partial(network, model=model, told=sigma / 255)
                report(f"{model.name}, told", told, noisy, clean)


def bilateral(noisy: Pixels, strength: float) -> Pixels:
    return np.asarray(cv2.bilateralFilter(noisy, 9, 3 * strength, 3), np.uint8)


def non_local_means(noisy: Pixels, strength: float) -> Pixels:
    found = cv2.fastNlMeansDenoisingColored(noisy, None, strength, strength, 7, 21)
    return np.asarray(found, np.uint8)


def pixels(path: Path) -> Pixels:
    found = read_picture(path)[0].add(1).mul(127.5).round().byte()
    return np.ascontiguousarray(found.permute(1, 2, 0).numpy())


def noise(picture: Pixels, sigma: float, seed: int) -> Pixels:
    values = picture + np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return values.clip(0, 255).round().astype(np.uint8)


def quality(way: Callable[[Pixels], Pixels], noisy: list[Pixels], clean: list[Pixels]) -> float:
    """Mean PSNR, dB."""
    errors = (np.mean((way(x).astype(float) - y) ** 2) for x, y in zip(noisy, clean, strict=True))
    return float(np.mean([10 * np.log10(255**2 / error) for error in errors]))


def report(
    name: str, way: Callable[[Pixels], Pixels], noisy: list[Pixels], clean: list[Pixels]
) -> None:
    start = time.perf_counter()
    found = quality(way, noisy, clean)
    print(f"  {name:28} {found:6.2f} dB  {time.perf_counter() - start:7.1f} s", flush=True)


if __name__ == "__main__":
    main()
