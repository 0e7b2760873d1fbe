"""The verb ``compare``: pictures against those that they should be. Only :func:`main` imports
torch."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from ..folders import files

if TYPE_CHECKING:
    from torch import Tensor

    from ..networks.squeezenet import LPIPSSqueezeNetwork

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
# Name, decimals.
FIGURES = {"PSNR-Y": 2, "PSNR-RGB": 2, "SSIM": 4, "LPIPS": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments on ``parser``."""
    parser.add_argument("a", type=Path, help="a picture, or a folder of them")
    parser.add_argument("b", type=Path, help="the other one, or a folder of the same names")
    parser.add_argument(
        "--crop",
        type=int,
        default=0,
        metavar="PX",
        help="border that PSNR and SSIM leave out; super-resolution: the scale (default: 0)",
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Compare as ``args`` say; the exit code.

    Raises:
        ImagenError: the pictures cannot be read or do not match."""
    if args.crop < 0:
        raise UsageError("--crop takes 0 or more")
    from .paired import EXACT, lpips_network

    found = pairs(args.a, args.b)
    network = lpips_network()
    figures = {name: figures_of(*pair, args.crop, network) for name, pair in found.items()}
    mean = {name: fmean(min(row[name], EXACT) for row in figures.values()) for name in FIGURES}
    print(as_json(figures, mean) if args.json else table(figures, mean))
    return 0


def pairs(a: Path, b: Path) -> dict[str, tuple[Path, Path]]:
    """The pictures that belong together, by name: two files, or those of two folders whose names
    are equal up to the suffix.

    Raises:
        DataError: there is nothing, or a picture without a partner.
    """
    if a.is_file() and b.is_file():
        return {a.name: (a, b)}
    if not (a.is_dir() and b.is_dir()):
        missing = [str(path) for path in (a, b) if not path.exists()]
        reason = f"no such file: {', '.join(missing)}" if missing else "one is a file, one a folder"
        raise DataError(f"{a}, {b}: {reason}. Give two pictures or two folders of them")
    ours, theirs = _by_stem(a), _by_stem(b)
    alone = [f"{a / name}" for name in sorted(ours.keys() - theirs)]
    alone += [f"{b / name}" for name in sorted(theirs.keys() - ours)]
    if alone:
        shown = ", ".join(alone[:8]) + (f" and {len(alone) - 8} more" if len(alone) > 8 else "")
        raise DataError(f"{len(alone)} pictures are in one of the two folders only: {shown}")
    if not ours:
        raise DataError(f"{a}, {b}: no pictures in them. Looked for {' '.join(sorted(SUFFIXES))}")
    return {name: (ours[name], theirs[name]) for name in ours}


def figures_of(a: Path, b: Path, crop: int, lpips: LPIPSSqueezeNetwork) -> dict[str, float]:
    """Every one of ``FIGURES`` for two pictures.

    Raises:
        DataError: one cannot be read, they differ in size, or they are too small."""
    import torch

    from ..networks.squeezenet import SMALLEST
    from .paired import WINDOW, psnr_rgb, psnr_y, ssim_y

    x, y = read_picture(a), read_picture(b)
    if x.shape != y.shape:
        sizes = [f"{t.shape[3]}x{t.shape[2]} px" for t in (x, y)]
        raise DataError(f"{a} has {sizes[0]}, {b} has {sizes[1]}: they must be of one size")
    if min(x.shape[2:]) < max(SMALLEST, WINDOW + 2 * crop):
        least = max(SMALLEST, WINDOW + 2 * crop)
        raise DataError(f"{a}: needs {least} px each way with --crop {crop}")
    with torch.inference_mode():
        values = psnr_y(x, y, crop), psnr_rgb(x, y, crop), ssim_y(x, y, crop), lpips(x, y)
    return {name: float(value) for name, value in zip(FIGURES, values, strict=True)}


def table(figures: dict[str, dict[str, float]], mean: dict[str, float]) -> str:
    """A line a picture, and their mean."""
    width = max(len("mean"), *map(len, figures))
    lines = [" " * width + "".join(f"{name:>10}" for name in FIGURES)]
    for name, row in (*figures.items(), ("mean", mean)):
        lines.append(f"{name:{width}}" + "".join(f"{row[f]:10.{d}f}" for f, d in FIGURES.items()))
    return "\n".join(lines)


def as_json(figures: dict[str, dict[str, float]], mean: dict[str, float]) -> str:
    """``{"mean": {figure: value}, "pictures": {name: {figure: value}}}``; null is infinite."""

    def finite(row: dict[str, float]) -> dict[str, float | None]:
        return {name: value if math.isfinite(value) else None for name, value in row.items()}

    pictures = {name: finite(row) for name, row in figures.items()}
    return json.dumps({"mean": finite(mean), "pictures": pictures})


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in files([folder], SUFFIXES).items():
        stem = str(Path(name).with_suffix(""))
        if stem in found:
            raise DataError(f"{folder}: {found[stem].name} and {path.name} have the same name")
        found[stem] = path
    return found


def read_picture(path: Path) -> Tensor:
    """``[1 3 h w]`` in -1..1 as the file has its pixels, transparent parts on white. (The nodes'
    decoder, which is ComfyUI's, takes some formats through a video frame, and loses a little.)

    Raises:
        DataError: it is no picture, or an animation."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    from ..images import as_rgb, to_network

    try:
        with Image.open(path) as opened:
            # A JPEG may hold a smaller picture of the same, or what makes it brighter, too.
            if getattr(opened, "n_frames", 1) > 1 and opened.format != "MPO":
                raise DataError(f"{path}: an animation; give single pictures")
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # 16 bits of grey
                picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            pixels = np.array(picture.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a picture that can be read: {error}") from error
    return to_network(as_rgb(torch.from_numpy(pixels)[None]))
