"""The loop: networks by name, steps counted in images.

Everything random is drawn from (seed, nimg), so that state at any step is enough to go on exactly
as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .data import Stream
from .ema import EMA
from .randomness import torch_random
from .recipe import Recipe
from .task import Batch


class Loop:
    """Trains a recipe's networks on ``device``, where ``data`` puts its batches."""

    def __init__(self, recipe: Recipe, data: Stream, device: torch.device, dtype: torch.dtype):
        self.recipe = recipe
        self.data = data
        self.device = device
        self.dtype = dtype
        self.nimg = 0
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        adam = recipe.optimiser
        for name, architecture in recipe.task.architectures.items():
            network = architecture.build()
            network.initialise(torch_random(recipe.seed, 0, 0, name))
            network.to(device, memory_format=torch.channels_last)  # pyright: ignore
            self.networks[name] = network
            self.optimisers[name] = torch.optim.Adam(
                network.parameters(), adam.lr, adam.betas, adam.eps, fused=True
            )
        self.ema = EMA(self.networks[recipe.task.shipped], recipe.ema_half_life)

    def step(self) -> dict[str, Tensor]:
        """Show one batch to the discriminator, update every network once, and return the losses
        as scalars on the device."""
        recipe = self.recipe
        batch = self.data.batch(self.nimg, recipe.batch)
        random = torch_random(recipe.seed, 0, self.nimg, "step")
        values: dict[str, Tensor] = {}
        for name, losses in self._losses(batch, random):
            parameters = list(self.networks[name].parameters())
            optimiser = self.optimisers[name]
            optimiser.zero_grad()
            # Only this network's gradients: the others' are neither wanted nor paid for.
            torch.stack(list(losses.values())).sum().backward(inputs=parameters)
            optimiser.step()
            values |= {key: value.detach() for key, value in losses.items()}
        self.nimg += recipe.batch
        self.ema.update(self.networks[recipe.task.shipped], self.nimg, recipe.batch)
        return values

    def _losses(
        self, batch: Batch, random: torch.Generator
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The task's losses, its forward passes in the run's precision. Autocast must not be on
        while the loop, between two of them, updates weights that it has cast and kept."""
        pairs = self.recipe.task.losses(self.networks, batch, random)
        while True:
            enabled = self.dtype != torch.float32
            with torch.autocast(self.device.type, self.dtype, enabled=enabled):
                pair = next(pairs, None)
            if pair is None:
                return
            yield pair

    def snapshot(self) -> nn.Module:
        """The averaged network, ready to be written: on the CPU, in evaluation mode."""
        random = torch_random(self.recipe.seed, 0, 0, "statistics")
        latents = [self.recipe.task.latents(self.recipe.batch, random) for _ in range(32)]
        return self.ema.snapshot([self._latents_to_device(pair) for pair in latents]).cpu()

    def _latents_to_device(self, pair: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Any]:
        z, labels = pair
        return z.to(self.device), None if labels is None else labels.to(self.device)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs: tensors and numbers only."""
        return {
            "nimg": self.nimg,
            "networks": {name: n.state_dict() for name, n in self.networks.items()},
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
            "ema": self.ema.network.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.nimg = state["nimg"]
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        self.ema.network.load_state_dict(state["ema"])
