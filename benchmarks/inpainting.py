"""An inpainting network beside what OpenCV has: Telea's fast marching and Navier-Stokes.

    pip install opencv-python-headless
    python benchmarks/inpainting.py WEIGHTS PICTURES [--shares 0.1 0.3 0.5] [--most N]

Every picture gets a mask of strokes and boxes of each share of its area, always the same. Figures
are means over the pictures: PSNR of RGB and LPIPS, and the distance of the features of all results
from those of all originals (FD-MobileNetV2, at 128 px); and the time for the pictures, one after
another. ``--sheet FILE`` draws the first pictures: masked, Telea, Navier-Stokes, network, original.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imagen_nodes import foreign, inpainting
from imagen_nodes.evaluation.compare import read_picture
from imagen_nodes.evaluation.distances import frechet_distance, gaussian
from imagen_nodes.evaluation.features import mobilenet
from imagen_nodes.evaluation.paired import lpips_network, psnr_rgb
from imagen_nodes.evaluation.restoration import pictures_at
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.images import to_network
from imagen_nodes.training.masks import masked

Pixels = NDArray[np.uint8]
Way = Callable[[Pixels, Pixels], Pixels]
# How far OpenCV's ways look, px; its own samples' radius.
RADIUS = 3
SHOWN = 6


def main() -> None:
    parser = argparse.ArgumentParser(description="An inpainting network beside OpenCV's ways.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--most", type=int, default=1000, help="pictures to take")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    host, model = LocalHost(), foreign.open_model(args.weights)

    def network(picture: Pixels, mask: Pixels) -> Pixels:
        image = torch.from_numpy(picture).float()[None] / 255
        holes = torch.from_numpy(mask).float()[None]
        with torch.inference_mode():
            found = inpainting.inpaint(host, model, image, holes)[0]
        return (found * 255).round().byte().numpy()

    ways: dict[str, Way] = {
        "Telea": lambda x, m: np.asarray(cv2.inpaint(x, m, RADIUS, cv2.INPAINT_TELEA), np.uint8),
        "Navier-Stokes": lambda x, m: np.asarray(
            cv2.inpaint(x, m, RADIUS, cv2.INPAINT_NS), np.uint8
        ),
        "network": network,
    }
    clean = [pixels(path) for path in pictures_at(args.pictures)[: args.most]]
    rows: list[list[Pixels]] = [[] for _ in clean[:SHOWN]]
    for share in args.shares:
        masks = [mask_of(picture, share, i) for i, picture in enumerate(clean)]
        print(f"{share:.0%} of the area, {len(clean)} pictures")
        found = [report(name, way, clean, masks) for name, way in ways.items()]
        if share == args.shares[len(args.shares) // 2]:
            for i, row in enumerate(rows):
                white = np.where(masks[i][..., None] > 0, np.uint8(255), clean[i])
                row += [white, *(results[i] for results in found), clean[i]]
    if args.sheet:
        h, w = (max(x.shape[axis] for row in rows for x in row) for axis in (0, 1))
        padded = [
            [np.pad(x, ((0, h - x.shape[0]), (0, w - x.shape[1]), (0, 0))) for x in row]
            for row in rows
        ]
        Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in padded])).save(args.sheet)


def pixels(path: Path) -> Pixels:
    found = read_picture(path)[0].add(1).mul(127.5).round().byte()
    return np.ascontiguousarray(found.permute(1, 2, 0).numpy())


def mask_of(picture: Pixels, share: float, number: int) -> Pixels:
    h, w = picture.shape[:2]
    return masked(share)(torch.zeros(1, 1, h, w), number)[0, 1].byte().numpy()


def report(name: str, way: Way, clean: list[Pixels], masks: list[Pixels]) -> list[Pixels]:
    start = time.perf_counter()
    found = [way(picture, mask) for picture, mask in zip(clean, masks, strict=True)]
    seconds = time.perf_counter() - start
    judge = lpips_network()
    psnr, lpips = [], []
    with torch.inference_mode():
        for result, picture in zip(found, clean, strict=True):
            x, y = (to_network(torch.from_numpy(image)[None]) for image in (result, picture))
            psnr.append(float(psnr_rgb(x, y, 0)))
            lpips.append(float(judge(x, y)))
    distance = frechet_distance(*(gaussian(features(images)) for images in (clean, found)))
    print(
        f"  {name:14} PSNR {np.mean(psnr):6.2f} dB  LPIPS {np.mean(lpips):.4f}  "
        f"FD-MobileNetV2 {distance:7.2f}  {seconds:6.1f} s",
        flush=True,
    )
    return found


def features(images: list[Pixels]) -> torch.Tensor:
    """``[n 1280]``."""
    space = mobilenet(torch.device("cpu"))
    with torch.inference_mode():
        return torch.cat([space.extract(torch.from_numpy(image)[None]) for image in images])


if __name__ == "__main__":
    main()
