"""Measurements of a training, by the evaluator's own code, and the best of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch

from ..evaluation.records import is_higher_better
from ..spec import Spec
from .data import Stream
from .recipe import Recipe
from .task import Measure
from .tasks.pictures import MEASURED


class Metrics(Spec):
    """A line of ``metrics.jsonl``."""

    nimg: int
    """Images shown so far."""
    ema: float
    """Half-life of the measured average, at its end where it moves, kimg."""
    metrics: dict[str, float]
    """By full name, that which decides first."""

    @property
    def decisive(self) -> float:
        """The first figure, which decides which network is best, with a sign by which lower is
        better."""
        name, value = next(iter(self.metrics.items()))
        return -value if is_higher_better(name) else value


class Measuring:
    """Measures networks of a recipe against its data; the real images' features are kept."""

    def __init__(self, recipe: Recipe, data: Stream, device: torch.device) -> None:
        self.recipe = recipe
        self.data = data
        self.device = device

    @cached_property
    def measure(self) -> Measure | None:
        """Measures a network on the device, as its task has it; None: there are too few pictures.
        Real images are measured once."""
        recipe, dataset = self.recipe, self.data.dataset
        if recipe.task.measures_by_picture:
            dataset = self.data.apart(MEASURED * recipe.task.wanted.domains) or dataset
        return recipe.task.measuring(
            dataset, self.device, recipe.metric_samples, recipe.metric_reference
        )


def best_of(lines: Iterable[Metrics]) -> Metrics | None:
    """The best of all measurements, the earliest of equals; None: there is none."""
    return min(lines, key=lambda line: line.decisive, default=None)
