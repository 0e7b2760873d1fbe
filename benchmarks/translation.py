"""What translating a picture costs.

    python benchmarks/translation.py [WEIGHTS ...] [--side 256] [--runs 10]

For the generators of the presets, for those as published, and for any weights: values, work, time
for one picture as the node runs it (in bfloat16 where this computer is faster so), and which share
of this computer's convolution rate that is. The rate is that of a 3x3 convolution of 128 channels
at 64 px in the same precision, the best of as many runs, of which norms and small channel counts
cost a part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from imagen_nodes import foreign
from imagen_nodes.devices import autocast
from imagen_nodes.networks.animegan import AnimeGANGenerator
from imagen_nodes.networks.architecture import Architecture
from imagen_nodes.networks.resnet_generator import ResNetGenerator
from imagen_nodes.networks.unet_generator import UNetGenerator
from imagen_nodes.training.presets import PRESETS

PUBLISHED: dict[str, Architecture] = {
    "pix2pix": UNetGenerator(norm="instance", affine=True),
    "CycleGAN": ResNetGenerator(),
    "CUT": ResNetGenerator(down="blurred", up="blurred"),
    "AnimeGANv2": AnimeGANGenerator(),
}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description="What translating a picture costs.")
    parser.add_argument("weights", type=Path, nargs="*")
    parser.add_argument("--side", type=int, default=256, help="of the picture, px")
    parser.add_argument("--runs", type=int, default=10, help="the best of so many")
    args = parser.parse_args()
    networks: dict[str, nn.Module] = {
        path.stem: foreign.open_model(path).network for path in args.weights
    }
    random = torch.Generator().manual_seed(0)
    presets = {
        name: recipe.task.architectures["generator"]
        for name, recipe in PRESETS.items()
        if recipe.task.purpose == "translation"
    }
    for name, architecture in (presets | PUBLISHED).items():
        network = architecture.build()
        network.initialise(random)
        networks[name] = network
    rate = convolution_rate(args.runs)
    print(f"{torch.get_num_threads()} threads, {2 * rate / 1e9:.0f} GFLOP/s in convolutions")
    print(f"{'':16} {'values':>8} {'GFLOP':>7} {'ms':>7}  share   at {args.side} px")
    x = torch.randn(1, 3, args.side, args.side, generator=random)
    for name, network in networks.items():
        network.eval().to(memory_format=torch.channels_last)  # pyright: ignore
        values = sum(p.numel() for p in network.parameters())
        macs = work(network, x)
        seconds = best(lambda network=network: network(x), args.runs)
        share = macs / seconds / rate
        print(
            f"{name:16} {values / 1e6:7.2f}M {2 * macs / 1e9:7.1f} {seconds * 1e3:7.0f} "
            f"{share:6.0%}",
            flush=True,
        )


@torch.inference_mode()
def best(call: Callable[[], Tensor], runs: int) -> float:
    """The shortest time, s."""
    times: list[float] = []
    with autocast(CPU):
        for _ in range(runs + 1):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return min(times[1:])


def convolution_rate(runs: int) -> float:
    """Multiplications a second."""
    conv = nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)  # pyright: ignore
    x = torch.randn(1, 128, 64, 64).to(memory_format=torch.channels_last)
    return 128 * 128 * 9 * 64 * 64 / best(lambda: conv(x), 3 * runs)


@torch.inference_mode()
def work(network: nn.Module, x: Tensor) -> float:
    """Multiplications of its convolutions for ``x``."""
    total = 0.0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.ConvTranspose2d):
            positions = inputs[0].shape[2] * inputs[0].shape[3]
            total += module.weight.numel() * positions
        elif isinstance(module, nn.Conv2d):
            total += module.weight.numel() * output.shape[2] * output.shape[3]

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    network(x)
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    main()
