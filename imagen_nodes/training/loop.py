"""The loop: networks by name, steps counted in images.

Everything random is drawn from (seed, nimg), so that state at any step is enough to go on exactly
as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .data import Stream
from .ema import EMA
from .randomness import torch_random
from .recipe import Recipe
from .task import Batch, Moment, Update


class Values(NamedTuple):
    """What a step came to: scalars by name, on the device."""

    losses: dict[str, Tensor]
    signals: dict[str, Tensor]


class Loop:
    """Trains a recipe's networks on ``device``, where ``data`` puts its batches."""

    def __init__(self, recipe: Recipe, data: Stream, device: torch.device, dtype: torch.dtype):
        self.recipe = recipe
        self.data = data
        self.device = device
        self.dtype = dtype
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.reset()

    def reset(self) -> None:
        """Go to the beginning."""
        self.nimg, recipe = 0, self.recipe
        adam = recipe.optimiser
        for name, architecture in recipe.task.architectures.items():
            network = architecture.build()
            network.initialise(torch_random(recipe.seed, 0, 0, name))
            network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore
            self.networks[name] = network
            self.optimisers[name] = torch.optim.Adam(
                network.parameters(), adam.rate(name), adam.betas, adam.eps, fused=True
            )
        self.ema = EMA(self.networks[recipe.task.shipped], recipe.ema_half_life)
        self.memory: dict[str, Tensor] = {}

    def step(self) -> Values:
        """Show one batch to the discriminator, and update every network whose turn it is."""
        recipe = self.recipe
        batch = self.data.batch(self.nimg, recipe.batch)
        random = torch_random(recipe.seed, 0, self.nimg, "step")
        values = Values({}, {})
        for update in self._updates(batch, Moment(self.nimg, random, self.memory)):
            parameters = list(self.networks[update.network].parameters())
            optimiser = self.optimisers[update.network]
            optimiser.zero_grad()
            # Only this network's gradients: the others' are neither wanted nor paid for.
            torch.stack(list(update.losses.values())).sum().backward(inputs=parameters)
            optimiser.step()
            values.losses.update((k, v.detach()) for k, v in update.losses.items())
            values.signals.update((k, v.detach()) for k, v in update.signals.items())
        self.nimg += recipe.batch
        self.ema.update(self.networks[recipe.task.shipped], self.nimg, recipe.batch)
        return values

    def _updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        """The task's updates, its forward passes in the run's precision. Autocast must not be on
        while the loop, between two of them, updates weights that it has cast and kept."""
        updates = self.recipe.task.losses(self.networks, batch, moment)
        while True:
            enabled = self.dtype != torch.float32
            with torch.autocast(self.device.type, self.dtype, enabled=enabled):
                update = next(updates, None)
            if update is None:
                return
            yield update

    def snapshot(self) -> nn.Module:
        """The averaged network, ready to be written: on the CPU, in evaluation mode."""
        random = torch_random(self.recipe.seed, 0, 0, "statistics")
        latents = [self.recipe.task.latents(self.recipe.batch, random) for _ in range(32)]
        return self.ema.snapshot([self._latents_to_device(pair) for pair in latents]).cpu()

    def _latents_to_device(self, pair: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Any]:
        z, labels = pair
        return z.to(self.device), None if labels is None else labels.to(self.device)

    def scale_rates(self, factor: float) -> None:
        """Multiply every learning rate from here on; it is part of the state."""
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] *= factor

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs: tensors and numbers only."""
        return {
            "nimg": self.nimg,
            "networks": {name: n.state_dict() for name, n in self.networks.items()},
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
            "ema": self.ema.network.state_dict(),
            "memory": dict(self.memory),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.nimg = state["nimg"]
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        self.ema.network.load_state_dict(state["ema"])
        # States of older versions have none.
        memory: dict[str, Tensor] = state.get("memory", {})
        self.memory = {name: value.to(self.device) for name, value in memory.items()}
