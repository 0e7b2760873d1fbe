"""Training throughput of dcgan-cifar10, beside a plain float32 loop of the same networks.

    python benchmarks/training_throughput.py [ROUNDS]

The plain loop is the usual tutorial's: torch's own convolutions in NCHW, Adam as it comes, a
backward pass for each half of the discriminator's loss and a full one for the generator's. Ours is
``Loop.step`` as the trainer calls it, with data, EMA and the losses' bookkeeping, in each
precision; the trainer takes the faster. Each has a process of its own, since the trainer sets how
its process allocates memory, and they take turns; the figures are medians over the rounds, of
images a second. Aim: 1.5 times the plain loop.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from subprocess import PIPE, Popen

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes.memory import keep_memory
from imagen_nodes.training.data import Dataset, Stream
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.presets import PRESETS

RECIPE = PRESETS["dcgan-cifar10"]
STEPS = 6
PLAIN = "plain float32 loop"
CONTENDERS: dict[str, torch.dtype] = {
    PLAIN: torch.float32,
    "ours, float32": torch.float32,
    "ours, bfloat16": torch.bfloat16,
}


def plain_generator() -> nn.Sequential:
    """The preset's generator in torch's own layers."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(((100, 512), (512, 256), (256, 128))):
        stride, padding = (1, 0) if i == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(128, 3, 4, 2, 1), nn.Tanh())


def plain_discriminator() -> nn.Sequential:
    """The preset's discriminator in torch's own layers."""
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for inputs, outputs in ((128, 256), (256, 512)):
        layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4), nn.Flatten(0))


def plain_loop(images: Tensor) -> Callable[[], None]:
    """One step of the tutorial's loop."""
    generator, discriminator = plain_generator(), plain_discriminator()
    g_adam = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    entropy = F.binary_cross_entropy_with_logits
    one, zero = torch.ones(RECIPE.batch), torch.zeros(RECIPE.batch)

    def step() -> None:
        real = images[torch.randint(len(images), (RECIPE.batch,))].float() / 127.5 - 1
        discriminator.zero_grad()
        entropy(discriminator(real), one).backward()
        fake = generator(torch.randn(RECIPE.batch, 100, 1, 1))
        entropy(discriminator(fake.detach()), zero).backward()
        d_adam.step()
        generator.zero_grad()
        entropy(discriminator(fake), one).backward()
        g_adam.step()

    return step


def contender(name: str) -> Callable[[], object]:
    """A training's step by the name in :data:`CONTENDERS`."""
    pixels = np.random.RandomState(0).randint(0, 256, (5000, 32, 32, 3)).astype(np.uint8)
    if name == PLAIN:
        return plain_loop(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    keep_memory()
    stream = Stream(Dataset("noise", pixels), seed=0, flip=True)
    return Loop(RECIPE, stream, torch.device("cpu"), CONTENDERS[name]).step


def work(name: str) -> None:
    """Answer each line from standard input with the images a second over a few steps."""
    step = contender(name)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        print(STEPS * RECIPE.batch / (time.perf_counter() - start), flush=True)


def main(rounds: int) -> None:
    command = [sys.executable, __file__, "--contender"]
    workers = {
        name: Popen([*command, name], stdin=PIPE, stdout=PIPE, text=True) for name in CONTENDERS
    }
    speeds: dict[str, list[float]] = {name: [] for name in workers}
    for round_ in range(rounds + 1):
        for name, worker in workers.items():
            assert worker.stdin
            assert worker.stdout
            print(file=worker.stdin, flush=True)
            value = float(worker.stdout.readline())
            if round_:  # the first warms up
                speeds[name].append(value)
    for worker in workers.values():
        worker.communicate()
    plain = statistics.median(speeds[PLAIN])
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"{name:20} {median:6.1f} img/s   {median / plain:5.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contender"]:
        work(sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
