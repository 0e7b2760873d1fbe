"""Measurements of a training, by the evaluator's own code, and the best of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import nn

from ..checkpoint import Measurement
from ..evaluation.evaluator import FEWEST, Evaluator
from ..evaluation.features import mobilenet
from ..spec import Spec
from .data import Dataset
from .recipe import Recipe


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
        """The figure that decides which network is best: lower is better."""
        return next(iter(self.metrics.values()))


class Measuring:
    """Measures networks of a recipe against its data; the real images' features are kept."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: torch.device) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.device = device

    @property
    def able(self) -> bool:
        """Whether there are pictures enough."""
        return len(self.dataset.images) >= FEWEST

    def measure(self, network: nn.Module) -> tuple[Measurement, ...]:
        """FD and its companions of a generator on the device."""
        architecture = self.recipe.task.generator
        return self._evaluator.figures(architecture, network, self.recipe.metric_samples)

    @cached_property
    def _evaluator(self) -> Evaluator:
        count = min(self.recipe.metric_reference, len(self.dataset.images))
        return Evaluator(mobilenet(self.device), self.dataset, count)


def best_of(lines: Iterable[Metrics]) -> Metrics | None:
    """The best of all measurements, the earliest of equals; None: there is none."""
    return min(lines, key=lambda line: line.decisive, default=None)
