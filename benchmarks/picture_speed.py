"""What running a picture through a network costs, beside what this computer's convolutions reach.

    python benchmarks/picture_speed.py [WEIGHTS ...] [--side PX] [--rounds N] [--published]

WEIGHTS: files; none: all that ship and take pictures. ``--published`` adds translators in the
sizes that their authors published. A network runs as the nodes run it: in bfloat16 where this
computer is faster so, and keeping its memory, as `imagen-nodes run` does; style transfer with a
content and a style of that size. Pictures are of 512 px, or of SIDE; for a network that enlarges,
that is its result.

Printed are the network's values and work, the median time, and two shares, each the median over
rounds in which both sides of it are taken one right after the other, since machines' rates change:

    best: of the rate of a 3x3 convolution of 128 channels at 64 px, in memory that is in the caches
    own: of the rate of the network's own convolutions, run by torch one by one and nothing else

What is missing to the first is in small channel counts, which no convolution is fast with; what is
missing to the second is in all that is not a convolution: norms, activations, borders, memory. It
is over 100% where convolutions take less than torch's, as with weights packed beforehand.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from imagen_nodes import foreign
from imagen_nodes.devices import autocast
from imagen_nodes.folders import shipped
from imagen_nodes.memory import keep_memory
from imagen_nodes.networks.adain import StyleArchitecture
from imagen_nodes.networks.animegan import AnimeGANGenerator
from imagen_nodes.networks.architecture import Architecture
from imagen_nodes.networks.resnet_generator import ResNetGenerator
from imagen_nodes.networks.unet_generator import UNetGenerator

PUBLISHED: dict[str, Architecture] = {
    "pix2pix": UNetGenerator(norm="instance", affine=True),
    "CycleGAN": ResNetGenerator(),
    "CUT": ResNetGenerator(down="blurred", up="blurred"),
    "AnimeGANv2": AnimeGANGenerator(),
}
CPU = torch.device("cpu")
# Channels and side of the convolution that the best rate is taken from.
CHANNELS, SIDE = 128, 64

Size = tuple[int, ...]
# Of a convolution: of its map, of its weight; stride, padding, dilation, whether it is transposed,
# output padding, groups.
Shape = tuple[Size, Size, Size, Size, Size, bool, Size, int]


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Shape] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, dilation, transposed, more, groups = args
            sizes = tuple(stride), tuple(padding), tuple(dilation)
            self.found[x.shape, weight.shape, *sizes, transposed, tuple(more), groups] += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description="What running a picture costs.")
    parser.add_argument("weights", type=Path, nargs="*")
    parser.add_argument("--side", type=int, default=512, help="of the picture, px")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--published", action="store_true", help="networks as published, too")
    args = parser.parse_args()
    keep_memory()
    networks = dict(opened(args.weights or sorted(shipped("weights").glob("*.safetensors"))))
    if args.published:
        for name, architecture in PUBLISHED.items():
            network = architecture.build()
            network.initialise(torch.Generator().manual_seed(0))
            networks[name] = architecture, network
    heads = f"{'ms':>7} {'GFLOP/s':>8} {'best':>6} {'of it':>6} {'of own':>7}"
    print(f"{torch.get_num_threads()} threads, {args.side} px")
    print(f"{'':20} {'values':>7} {'GFLOP':>7} {heads}")
    for name, (architecture, network) in networks.items():
        measure(name, architecture, network.eval(), args.side, args.rounds)


def opened(paths: Sequence[Path]) -> list[tuple[str, tuple[Architecture, nn.Module]]]:
    """The networks among them that take pictures."""
    models = [(path.stem, foreign.open_model(path)) for path in paths]
    return [
        (name, (model.architecture, model.network))
        for name, model in models
        if model.architecture.pictures is not None
        or isinstance(model.architecture, StyleArchitecture)
    ]


@torch.no_grad()
def measure(
    name: str, architecture: Architecture, network: nn.Module, side: int, rounds: int
) -> None:
    """One line."""
    network.to(memory_format=torch.channels_last)  # pyright: ignore
    inputs = pictures_for(architecture, side)
    with autocast(CPU):
        conv = convolution((1, CHANNELS, SIDE, SIDE), (CHANNELS, CHANNELS, 3, 3), padding=(1, 1))
        # As torch runs them, one by one.
        as_torch = mock.patch("imagen_nodes.networks.fused._available", return_value=False)
        flops = FlopCounterMode(display=False)
        with as_torch, flops, Convolutions() as counted:
            network(*inputs)
        own = [(convolution(*shape), count) for shape, count in counted.found.items()]
        ways = {
            "best": lambda: [conv() for _ in range(4)],
            "own": lambda: [run() for run, count in own for _ in range(count)],
            "network": lambda: network(*inputs),
        }
        for call in ways.values():
            call()
        times = [{way: taken(call) for way, call in ways.items()} for _ in range(rounds)]
    work = flops.get_total_flops() / 1e9
    best = 4 * 2 * 9 * CHANNELS**2 * SIDE**2 / 1e9
    rates = [best / one["best"] for one in times]
    seconds = statistics.median(one["network"] for one in times)
    of_best = statistics.median(
        work / one["network"] / rate for one, rate in zip(times, rates, strict=True)
    )
    of_own = statistics.median(one["own"] / one["network"] for one in times)
    values = sum(p.numel() for p in network.parameters()) / 1e6
    print(
        f"{name:20} {values:6.2f}M {work:7.1f} {seconds * 1e3:7.1f} {work / seconds:8.0f} "
        f"{statistics.median(rates):6.0f} {of_best:6.0%} {of_own:7.0%}",
        flush=True,
    )


def pictures_for(architecture: Architecture, side: int) -> list[Tensor]:
    """Of noise."""
    random = torch.Generator().manual_seed(0)
    if isinstance(architecture, StyleArchitecture):
        return [torch.rand(1, 3, side, side, generator=random) for _ in range(2)]
    pictures = architecture.pictures
    assert pictures is not None
    side = pictures.sizes.fit(side // pictures.scale)
    more = pictures.masked or pictures.noise_map
    x = torch.rand(1, pictures.channels + more, side, side, generator=random)
    if pictures.masked:
        x[:, -1] = x[:, -1].round()
    return [x.contiguous(memory_format=torch.channels_last)]


def convolution(
    map_size: Size,
    weight_size: Size,
    stride: Size = (1, 1),
    padding: Size = (0, 0),
    dilation: Size = (1, 1),
    transposed: bool = False,
    output_padding: Size = (0, 0),
    groups: int = 1,
) -> Callable[[], Tensor]:
    """torch's, in the precision of autocast."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    x, weight = (
        torch.randn(size).to(dtype).contiguous(memory_format=torch.channels_last)
        for size in (map_size, weight_size)
    )
    steps = stride, padding, dilation, transposed, output_padding, groups
    return lambda: torch.convolution(x, weight, None, *steps)


def taken(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
