"""Style transfer beside plain colour transfer.

    python benchmarks/style_transfer.py WEIGHTS CONTENTS STYLES [--side PX] [--pairs N]

Content and style pictures are cut to squares and resized to SIDE. Each content goes with styles in
turn. The table has, as means over the pairs, the style loss of a result to its style (means and
deviations of relu1_1 to relu5_1 of the VGG-19 features that ship) and its content loss to its
content (relu4_1), lower is nearer, for

    the content as it is, the style as it is: what nothing done costs, on either side
    Reinhard: the content with the style's mean and deviation of each channel of l-alpha-beta
    the network, at full strength, at half, and with the content's colours

All are rounded to 8 bits, as saved pictures are.

Source of the baseline: Reinhard et al., "Color Transfer between Images", 2001.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from imagen_nodes import checkpoint, style_transfer
from imagen_nodes.evaluation.restoration import pictures_at
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.training.perceptual import features_network
from imagen_nodes.training.tasks.style import distances

# Reinhard et al. 2001, equations 4 and 6: RGB to LMS; logarithms of these to l-alpha-beta.
TO_LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
TO_LAB = ((3**-0.5,) * 3, (6**-0.5, 6**-0.5, -2 * 6**-0.5), (2**-0.5, -(2**-0.5), 0.0))
DARKEST = 1 / 255
SIDE = 512


def main() -> None:
    parser = argparse.ArgumentParser(description="Style transfer beside colour transfer.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("contents", type=Path)
    parser.add_argument("styles", type=Path)
    parser.add_argument("--side", type=int, default=SIDE, help="of the pictures, px")
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    model, host = checkpoint.load(args.weights), LocalHost()
    contents, styles = (
        [square(path, args.side) for path in pictures_at(folder)[: args.pairs]]
        for folder in (args.contents, args.styles)
    )
    pairs = [(contents[i % len(contents)], styles[i % len(styles)]) for i in range(args.pairs)]

    def network(**options: object) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda content, style: style_transfer.transfer(
            host,
            model,
            content,
            [(style, 1.0)],
            **options,  # pyright: ignore[reportArgumentType]
        )

    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "the content": lambda content, style: content,
        "the style": lambda content, style: style,
        "Reinhard": reinhard,
        "network": network(),
        "network, strength 0.5": network(strength=0.5),
        "network, colours matched": network(colours="matched"),
    }
    print(f"{len(pairs)} pairs of {args.side} px{'':18} style loss  content loss")
    with torch.inference_mode():
        for name, way in ways.items():
            style_loss, content_loss = losses(way, pairs)
            print(f"  {name:30} {style_loss:12.3f} {content_loss:13.3f}", flush=True)


def losses(
    way: Callable[[Tensor, Tensor], Tensor], pairs: list[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Mean style and content loss of the results."""
    features = features_network(torch.device("cpu"))
    sums = torch.zeros(2)
    for content, style in pairs:
        result = way(content, style).mul(255).round().div(255)
        of, a, b = (x.movedim(3, 1) for x in (result, content, style))
        sums += torch.stack(distances(of, a, b, features))
    first, second = (sums / len(pairs)).tolist()
    return first, second


def reinhard(content: Tensor, style: Tensor) -> Tensor:
    """``[1 h w 3]`` in 0..1: the content with the style's mean and deviation of each channel."""
    a, b = (to_lab(x) for x in (content, style))
    scale = b.std((0, 1, 2), correction=0) / a.std((0, 1, 2), correction=0).clamp(min=1e-6)
    lab = (a - a.mean((0, 1, 2))) * scale + b.mean((0, 1, 2))
    lms = 10 ** (lab @ torch.linalg.inv(torch.tensor(TO_LAB)).T)
    return (lms @ torch.linalg.inv(torch.tensor(TO_LMS)).T).clamp(0, 1)


def to_lab(pictures: Tensor) -> Tensor:
    lms = pictures.clamp(min=DARKEST) @ torch.tensor(TO_LMS).T
    return lms.log10() @ torch.tensor(TO_LAB).T


def square(path: Path, side: int) -> Tensor:
    """``[1 side side 3]`` in 0..1."""
    with Image.open(path) as opened:
        picture = ImageOps.fit(opened.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).float()[None] / 255


if __name__ == "__main__":
    main()
