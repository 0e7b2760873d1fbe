"""The loop: networks by name, steps counted in images.

Everything random is drawn from (seed, nimg), so that state at any step is enough to go on exactly
as if nothing had happened. A step's batch may be computed in parts, one after another or by several
processes; gradients and values are the means over all of them, which are those of the whole batch,
but for means over masked pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from ..checkpoint import load
from ..errors import CheckpointError
from ..folders import weights_at
from ..networks.architecture import Architecture
from ..networks.styled import StyledNetwork
from .data import Stream
from .ema import EMA
from .processes import ALONE, Processes, share_statistics
from .randomness import Numbers, torch_random
from .recipe import Recipe
from .task import Batch, Moment, Update

# torch.compile's names.
COMPILE_MODES = {"yes": "default", "graphs": "reduce-overhead"}


class Values(NamedTuple):
    """What a step came to: scalars by name, on the device."""

    losses: dict[str, Tensor]
    signals: dict[str, Tensor]


class Loop:
    """Trains a recipe's networks on ``device``, where ``data`` puts its batches: those of its
    process, where there are several."""

    def __init__(
        self,
        recipe: Recipe,
        data: Stream,
        device: torch.device,
        dtype: torch.dtype,
        processes: Processes = ALONE,
        resumed: bool = False,
    ) -> None:
        """
        Args:
            resumed: a state is restored next, or else :meth:`reset` called: weights to begin with
                are not read, which need not be there any more."""
        self.recipe = recipe
        self.data = data
        self.device = device
        self.dtype = dtype
        self.processes = processes
        self.networks: dict[str, nn.Module] = {}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self._build(None if resumed else recipe.begin_with)

    def reset(self) -> None:
        """Go to the beginning."""
        self._build(self.recipe.begin_with)

    def _build(self, begin_with: str | None) -> None:
        self.nimg, self.rate_factor, recipe = 0, 1.0, self.recipe
        # Processes of the state that this goes on from.
        self.began_with = self.processes.world
        adam = recipe.optimiser
        for name, architecture in recipe.task.architectures.items():
            network = architecture.build()
            network.initialise(torch_random(recipe.seed, 0, 0, name))
            network.load_state_dict(network.state_dict() | recipe.task.pretrained(name))
            if begin_with is not None and name == recipe.task.shipped:
                network.load_state_dict(beginning(begin_with, architecture))
            network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore
            self.networks[name] = network
            self.optimisers[name] = torch.optim.Adam(
                _trained(network), adam.rate(name, 0), adam.betas_at(0), adam.eps, fused=True
            )
        shipped = self.networks[recipe.task.shipped]
        self.averages = [EMA(shipped, half_life) for half_life in recipe.ema_half_lives]
        for network in self.networks.values():
            share_statistics(network, self.processes)
            if recipe.compile != "no":
                part = network.synthesis if isinstance(network, StyledNetwork) else network
                part.compile(mode=COMPILE_MODES[recipe.compile])
        self.memory: dict[str, Tensor] = {}

    def step(self) -> Values:
        """Show one batch to the discriminator, and update every network whose turn it is."""
        recipe, parts = self.recipe, self.recipe.accumulate
        if recipe.compile == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        self._prepare()
        batch = self.data.batch(self.nimg, recipe.batch)
        moments = [self._moment(part) for part in range(parts)]
        turns = [
            self._updates(part, moment)
            for part, moment in zip(batch.split(parts), moments, strict=True)
        ]
        values = Values({}, {})
        # Every part's turn at one network, then that network's update, then on to the next.
        while updates := [update for turn in turns if (update := self._backward(turn))]:
            update = self._carry_out(updates)
            recipe.task.updated(update, self.networks, moments[0], self.memory)
            values.losses.update(update.losses)
            values.signals.update(update.signals)
        self.nimg += recipe.batch
        for average in self.averages:
            average.update(self.networks[recipe.task.shipped], self.nimg, recipe.batch)
        return values

    def _prepare(self) -> None:
        """Bring networks and optimisers to this moment."""
        task, adam, nimg = self.recipe.task, self.recipe.optimiser, self.nimg
        task.prepare([*self.networks.values(), *(a.network for a in self.averages)], nimg)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = adam.rate(name, nimg) * self.rate_factor
                group["betas"] = adam.betas_at(nimg)

    def _moment(self, part: int) -> Moment:
        recipe, parts = self.recipe, self.recipe.accumulate
        random = torch_random(recipe.seed, 0, self.nimg, "step")
        first, world = self.processes.rank * parts, self.processes.world
        numbers = Numbers(random, first + part, world * parts)
        return Moment(self.nimg, recipe.batch, numbers, self.memory, graphs=parts == 1)

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

    def _backward(self, turn: Iterator[Update]) -> Update | None:
        """Add a part's gradients to the network's; its values, without graphs."""
        update = next(turn, None)
        if update is None:
            return None
        parameters = [p for name in update.networks for p in _trained(self.networks[name])]
        loss = torch.stack(list(update.losses.values())).sum() / self.recipe.accumulate
        # Only these networks' gradients: the others' are neither wanted nor paid for.
        loss.backward(inputs=parameters)
        losses, signals = (
            {name: value.detach() for name, value in values.items()}
            for values in (update.losses, update.signals)
        )
        return Update(update.network, losses, signals, update.partners)

    def _carry_out(self, updates: list[Update]) -> Update:
        """Step networks on the gradients that the parts have left; the parts' mean values."""
        turn = updates[0]
        losses = _mean([update.losses for update in updates])
        signals = _mean([update.signals for update in updates])
        parameters = (p for name in turn.networks for p in self.networks[name].parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.processes.average([*gradients, *losses.values(), *signals.values()])
        for name in turn.networks:
            self.optimisers[name].step()
            self.optimisers[name].zero_grad()
            # Fused optimisers do not count their changes, by which layers know that what they have
            # derived from a weight is stale.
            for parameter in self.networks[name].parameters():
                increment_version(parameter)
        return Update(turn.network, losses, signals, turn.partners)

    def snapshots(self) -> list[nn.Module]:
        """The averaged networks as they ship: in evaluation mode, with statistics of their own."""
        random = torch_random(self.recipe.seed, 0, 0, "statistics")
        latents = [self.recipe.task.latents(self.recipe.batch, random) for _ in range(32)]
        pairs = [self._to_device(pair) for pair in latents if pair is not None]
        return [average.snapshot(pairs) for average in self.averages]

    def _to_device(self, latents: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Of z and labels."""
        z, labels = latents
        return z.to(self.device), None if labels is None else labels.to(self.device)

    def scale_rates(self, factor: float) -> None:
        """Multiply every learning rate from here on; it is part of the state."""
        self.rate_factor *= factor

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs: tensors and numbers only."""
        return {
            "nimg": self.nimg,
            "networks": {name: n.state_dict() for name, n in self.networks.items()},
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
            "averages": [average.network.state_dict() for average in self.averages],
            "memory": dict(self.memory),
            "rate_factor": self.rate_factor,
            "processes": self.processes.world,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.nimg = state["nimg"]
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        # States of older versions have one average, and neither memory nor a factor.
        averages = state["averages"] if "averages" in state else [state["ema"]]
        for average, weights in zip(self.averages, averages, strict=True):
            average.network.load_state_dict(weights)
        memory: dict[str, Tensor] = state.get("memory", {})
        self.memory = {name: value.to(self.device) for name, value in memory.items()}
        self.rate_factor = float(state.get("rate_factor", 1.0))
        self.began_with = int(state.get("processes", 1))


def beginning(name: str, architecture: Architecture) -> dict[str, Tensor]:
    """The tensors of weights to begin with: of a file, or of one that ships.

    Raises:
        CheckpointError: there are none of that name, or they are of another architecture."""
    path = weights_at(Path(name))
    model = load(path)
    if model.architecture != architecture:
        was, now = (a.model_dump(mode="json") for a in (model.architecture, architecture))
        fields = [
            f"{k}: {was.get(k)}, not {now.get(k)}" for k in was | now if was.get(k) != now.get(k)
        ]
        raise CheckpointError(f"begin_with: {path} is of another network ({'; '.join(fields)})")
    return model.network.state_dict()


def _trained(network: nn.Module) -> list[nn.Parameter]:
    """Its parameters but those of parts that are frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _mean(values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By name."""
    if len(values) == 1:
        return values[0]
    return {name: torch.stack([value[name] for value in values]).mean(0) for name in values[0]}
