"""Super-Resolve beside ComfyUI's own way of running the same network.

    python benchmarks/super_resolve.py [--weights FILE] [--side PX] [--rounds N]

The network is a Compact of 64 channels and 16 layers, x4, with random weights unless a file is
given. ComfyUI's way is that of its Upscale Image (using Model): spandrel's network in float32, in
tiles of 512 px that overlap by 32 px (our built-in node, which gives its pixels). They take turns
in one process; figures are medians over the rounds. Aim: 2.5 times ComfyUI's, and a PSNR to it of
45 dB.

First it prints what the machine's convolutions reach in each layout and precision: both ways'
rates are to be read against the best of them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from imagen_nodes import checkpoint, foreign, super_resolution
from imagen_nodes.graph.builtin import tiled
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.networks.compact import Compact

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rates() -> dict[str, float]:
    """GFLOP/s of a 3x3 convolution of 64 channels, by layout, precision and side."""
    found: dict[str, float] = {}
    for side in (128, 512):
        for dtype in (torch.float32, torch.bfloat16):
            for name, layout in LAYOUTS.items():
                conv = nn.Conv2d(64, 64, 3, 1, 1).to(dtype=dtype).to(memory_format=layout)
                x = torch.randn(1, 64, side, side).to(dtype).to(memory_format=layout)
                conv(x)
                best = min(seconds(lambda conv=conv, x=x: conv(x)) for _ in range(4))
                label = f"{side} px, {str(dtype).removeprefix('torch.')}, {name}"
                found[label] = 2 * 9 * 64 * 64 * side**2 / best / 1e9
    return found


def operations(described: Compact, pixels: int) -> float:
    """GFLOP of a Compact on that many pixels of input."""
    a = described
    products = a.channels * a.width + a.depth * a.width**2 + a.width * a.channels * a.scale**2
    return 2 * 9 * products * pixels / 1e9


def weights(folder: Path) -> Path:
    """A file with random weights of the released networks' shape."""
    described = Compact()
    network = described.build()
    network.initialise(torch.Generator().manual_seed(0))
    card = checkpoint.Card(
        title="Random", architecture=described.model_dump(), task="super-resolution",
        value_range=(0.0, 1.0),
    )  # fmt: skip
    checkpoint.save(folder / "random.safetensors", card, network)
    return folder / "random.safetensors"


def psnr(a: Tensor, b: Tensor) -> float:
    error = float((a - b).double().square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a Compact network; default: random")
    parser.add_argument("--side", type=int, default=1024, help="of the square picture, px")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    table = rates()
    for name, rate in table.items():
        print(f"  {name:32} {rate:6.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        path = args.weights or weights(Path(folder))
        model, descriptor = foreign.open_model(path), foreign.describe(path)
    host = LocalHost()
    random = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, args.side // 8, args.side // 8, generator=random)
    smooth = nn.functional.interpolate(small, (args.side, args.side), mode="bicubic")
    image = smooth.clamp(0, 1).movedim(1, 3).contiguous()
    ways: dict[str, Callable[[], Tensor]] = {
        "ComfyUI's way": lambda: tiled.upscaled(host, descriptor, image),  # pyright: ignore
        "Super-Resolve": lambda: super_resolution.enlarge(host, model, image),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Tensor] = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            results[name] = way()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best, theirs = max(table.values()), medians["ComfyUI's way"]
    for name, median in medians.items():
        line = f"{name:14} {median:7.2f} s   {theirs / median:5.2f} times"
        if isinstance(model.architecture, Compact):
            rate = operations(model.architecture, args.side**2) / median
            line += f"   {rate:5.0f} GFLOP/s, {rate / best:4.0%} of the best convolution"
        print(line)
    print(f"PSNR {psnr(*results.values()):.1f} dB")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
