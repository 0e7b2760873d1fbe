"""A recipe: a task with its numbers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..spec import Positive, Spec
from .tasks.generate import Generate


class Adam(Spec):
    """Kingma & Ba, "Adam", 2015. One for each network."""

    lr: Positive = 2e-4
    """Learning rate."""
    rates: dict[str, Positive] = Field(default_factory=dict[str, Positive])
    """Learning rates of networks, by name, that have another (Heusel et al., "GANs Trained by a Two
    Time-Scale Update Rule", 2017)."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay of the first and second moment."""
    eps: Positive = 1e-8
    """Added to the denominator."""

    def rate(self, network: str) -> float:
        """The learning rate of a network."""
        return self.rates.get(network, self.lr)


class Recipe(Spec):
    """Everything that decides a training's result, but the data."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    """Names the run and its weights."""
    task: Generate = Generate()
    """Networks and losses."""
    kimg: Positive = 1000
    """Length of the training, thousands of images shown to the discriminator."""
    batch: Annotated[int, Field(ge=2, le=65536)] = 64
    """Images a step."""
    optimiser: Adam = Adam()
    """The same for every network."""
    flip: bool = True
    """Mirror every other image, at random."""
    crop: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of the sides that a random window may cut off, before it is enlarged; 0: none."""
    ema_half_life: Positive = 50
    """Of the averaged generator, kimg; never longer than 5% of the images seen."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides every random number."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward passes; auto: whichever a probe at the start finds faster."""
    on_divergence: Literal["stop", "halve"] = "stop"
    """After a loss or weight that is not finite the run goes back to its last state, and stops; or
    goes on at half the learning rates."""
    log_kimg: Positive = 1
    """Distance of log lines, kimg."""
    sample_kimg: Positive = 25
    """Distance of sample grids and plots, kimg."""
    snapshot_kimg: Positive = 50
    """Distance of snapshots and training states, kimg."""

    @model_validator(mode="after")
    def _rates_are_of_networks(self) -> Self:
        networks = self.task.architectures
        for name in self.optimiser.rates:
            if name not in networks:
                raise ValueError(
                    f"optimiser.rates: no network {name!r}; there are {', '.join(networks)}"
                )
        return self
