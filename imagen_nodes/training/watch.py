"""The watch over a training: examines it now and then, and raises alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .diagnoses import DIVERSITY, MOST_DIVERSE, REMEMBERED, Alarm, diagnose
from .loop import Loop
from .progress import Tick
from .randomness import Numbers, torch_random
from .task import Moment


class Watch:
    """Looks back on the last examinations of ``loop``'s task; they are part of its state."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self._history: list[dict[str, float]] = []
        self._known: set[str] = set()
        self._most = 0.0
        self._nimg = 0

    def examine(
        self, average: nn.Module, ticks: Sequence[Tick]
    ) -> tuple[dict[str, float], list[Alarm]]:
        """What an examination finds, of the averaged network and with the signals of ``ticks``
        since the last one; and what it tells."""
        loop, nimg = self.loop, self.loop.nimg
        found = self._examined(average) if loop.recipe.task.examined else {}
        recent = [tick.signals for tick in ticks if tick.nimg > self._nimg]
        names = {name for signals in recent for name in signals}
        signals = {
            name: sum(values) / len(values)
            for name in sorted(names)
            if (values := [s[name] for s in recent if name in s])
        }
        self._most = max(self._most, min(found.get(DIVERSITY, 0.0), 1.0))
        figures = signals | found | {MOST_DIVERSE: self._most}
        self._history = [*self._history, figures][-REMEMBERED:]
        self._nimg = nimg
        return found, diagnose(self._history, self._known, nimg)

    def _examined(self, average: nn.Module) -> dict[str, float]:
        loop, nimg = self.loop, self.loop.nimg
        recipe, processes = loop.recipe, loop.processes
        size = recipe.task.examined * processes.world
        random = torch_random(recipe.seed, 0, nimg, "examination")
        numbers = Numbers(random, processes.rank, processes.world)
        return recipe.task.examine(
            loop.networks,
            average,
            loop.data.batch(max(0, nimg - size), size),
            loop.data.held_out(nimg, recipe.task.examined),
            Moment(nimg, size, numbers, loop.memory),
        )

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {
            "history": self._history,
            "known": sorted(self._known),
            "most diverse": self._most,
            "nimg": self._nimg,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._history = list(state["history"])
        self._known = set(state["known"])
        self._most = float(state["most diverse"])
        self._nimg = int(state["nimg"])
