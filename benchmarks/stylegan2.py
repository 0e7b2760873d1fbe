"""StyleGAN2's speed beside the published formulation: a kernel for each image, grouped.

    python benchmarks/stylegan2.py [ROUNDS] [--batch 8] [--sides 64 256] [--train]

Both are the same generator of random weights, channel base 16384, in evaluation mode, with constant
noise. The published formulation modulates the weights of every layer for each image and convolves
the batch in groups, in float32, and resamples by an explicit filter over every channel; ours scales
what goes in and what comes out of one convolution for all (``networks/modulation.py``), in float32
and in bfloat16. They take turns in one process; figures are medians over the rounds. ``--train``
also times a training step at 64 px with either generator and our discriminator, without
regularisers. Aims: batch 8 at 64 px 5.5 times, at 256 px 4 times, batch 1 twice, a training step
twice; equal outputs, to 1e-5 in float32 and 1e-2 in bfloat16, relative; 70% of the machine's rate
in bfloat16 convolutions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from imagen_nodes.networks.equalised import HE_GAIN
from imagen_nodes.networks.modulation import StyledConv2d, ToImage
from imagen_nodes.networks.resampling import TAPS
from imagen_nodes.networks.stylegan2 import (
    DoublingBlock,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleGAN2GeneratorNetwork,
    SynthesisNetwork,
)
from imagen_nodes.training.arithmetic import CountProducts, convolution


def published(network: StyleGAN2GeneratorNetwork, z: Tensor) -> Tensor:
    """The generator on the same weights, in the published formulation."""
    w = network.w_plus(z)
    assert isinstance(network.synthesis, SynthesisNetwork)
    x = network.synthesis.constant.expand(len(z), -1, -1, -1)
    image, layer = None, 0
    for block in network.synthesis.blocks.values():
        assert isinstance(block, DoublingBlock)
        assert block.to_image is not None
        for conv in (block.conv0, block.conv1):
            if conv is not None:
                x = _styled(conv, x, w[:, layer])
                layer += 1
        own = _to_image(block.to_image, x, w[:, layer])
        image = own if image is None else _filtered(_spread(image), 2, 1, 4.0) + own
    assert image is not None
    return image


def _styled(layer: StyledConv2d, x: Tensor, w: Tensor) -> Tensor:
    b, c, h, side = x.shape
    kernel = layer.weight * layer.style(w)[:, None, :, None, None]
    kernel = kernel * (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, b * c, h, side)
    if layer.up:
        x = F.conv_transpose2d(x, kernel.transpose(1, 2).flatten(0, 1), stride=2, groups=b)
        x = _filtered(x.view(b, -1, *x.shape[2:]), 1, 1, 4.0)
    else:
        x = F.conv2d(x, kernel.flatten(0, 1), padding=1, groups=b).view(b, -1, h, side)
    x = x + layer.noise * layer.noise_strength + layer.bias[:, None, None]
    return F.leaky_relu(x, 0.2) * HE_GAIN


def _to_image(layer: ToImage, x: Tensor, w: Tensor) -> Tensor:
    b, c, h, side = x.shape
    kernel = layer.weight * (layer.style(w) * layer.scale)[:, None, :, None, None]
    y = F.conv2d(x.reshape(1, b * c, h, side), kernel.flatten(0, 1), groups=b)
    return y.view(b, -1, h, side) + layer.bias[:, None, None]


def _spread(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y = x.new_zeros(b, c, h, 2, w, 2)
    y[:, :, :, 0, :, 0] = x
    return y.view(b, c, 2 * h, 2 * w)


def _filtered(x: Tensor, before: int, after: int, gain: float) -> Tensor:
    taps = x.new_tensor(TAPS)
    kernel = (taps[:, None] * taps * gain / sum(TAPS) ** 2).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (before, after, before, after)), kernel, groups=x.shape[1])


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if round_:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def generate(side: int, batch: int, rounds: int) -> None:
    network = StyleGAN2Generator(resolution=side, width_base=16384, width_max=512).build()
    assert isinstance(network, StyleGAN2GeneratorNetwork)
    network.initialise(torch.Generator().manual_seed(0))
    network.eval().requires_grad_(False)
    fast = StyleGAN2Generator(resolution=side, width_base=16384, width_max=512).build()
    fast.load_state_dict(network.state_dict())
    fast.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore
    z = torch.randn(batch, 512, generator=torch.Generator().manual_seed(1))

    def ours(dtype: torch.dtype) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return fast(z)

    with torch.inference_mode():
        wanted = published(network, z)
        for dtype in (torch.float32, torch.bfloat16):
            difference = (ours(dtype) - wanted).norm() / wanted.norm()
            print(f"  {str(dtype)[6:]}: differs by {float(difference):.1e}, relative")
        found = in_turns(
            {
                "published, float32": lambda: published(network, z),
                "ours, float32": lambda: ours(torch.float32),
                "ours, bfloat16": lambda: ours(torch.bfloat16),
            },
            rounds,
        )
        # Measured right after: it is shared with whatever else the machine does.
        run, flops = convolution(torch.device("cpu"), torch.bfloat16)
        rate = flops / in_turns({"": run}, 3 * rounds)[""]
    with torch.no_grad(), CountProducts() as products:  # which sees nothing in inference mode
        ours(torch.float32)
    report(found, batch)
    share = sum(products.flops.values()) / found["ours, bfloat16"] / rate
    print(f"  {share:.0%} of {rate / 1e9:,.0f} GFLOP/s, this machine's in bfloat16 convolutions")


def train(rounds: int) -> None:
    side, batch = 64, 8
    fields = {"resolution": side, "width_base": 16384, "width_max": 512}

    def stepper(kind: str) -> Callable[[], object]:
        published_too, half = kind.startswith("published"), kind.endswith("bfloat16")
        g = StyleGAN2Generator.model_validate(fields).build()
        d = StyleGAN2Discriminator.model_validate(fields).build()
        assert isinstance(g, StyleGAN2GeneratorNetwork)
        for network in (g, d):
            network.initialise(torch.Generator().manual_seed(0))
            if not published_too:
                network.to(memory_format=torch.channels_last)  # pyright: ignore
        adams = [torch.optim.Adam(n.parameters(), 2.5e-3, (0.0, 0.99)) for n in (g, d)]
        real = torch.rand(batch, 3, side, side) * 2 - 1
        draw = (lambda z: published(g, z)) if published_too else g

        def step() -> None:
            z = torch.randn(batch, 512)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                fake = draw(z)
                loss = F.softplus(-d(real)).mean() + F.softplus(d(fake.detach())).mean()
            adams[1].zero_grad()
            loss.backward()
            adams[1].step()
            d.requires_grad_(False)
            adams[0].zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = F.softplus(-d(fake)).mean()
            loss.backward()
            adams[0].step()
            d.requires_grad_(True)

        return step

    kinds = ("published, float32", "ours, float32", "ours, bfloat16")
    found = in_turns({kind: stepper(kind) for kind in kinds}, rounds)
    report(found, batch)


def report(seconds: dict[str, float], batch: int) -> None:
    first = next(iter(seconds.values()))
    for name, value in seconds.items():
        print(
            f"  {name:20} {value * 1e3:8.1f} ms  {batch / value:7.1f} img/s  {first / value:5.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="StyleGAN2 beside the published formulation.")
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    for side in args.sides:
        for batch in args.batch:
            print(f"{side} px, batch {batch}")
            generate(side, batch, args.rounds)
    if args.train:
        print("a training step at 64 px, batch 8")
        train(args.rounds)


if __name__ == "__main__":
    main()
