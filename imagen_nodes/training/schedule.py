"""Numbers that move with the images shown."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..spec import Positive, Spec

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Schedule(Spec):
    """From one value to another, held before and after."""

    start: NonNegative
    """The value at the beginning."""
    end: NonNegative
    """The value at the end."""
    kimg: Positive
    """Thousands of images from the one to the other."""
    delay: NonNegative = 0
    """Thousands of images before it begins to move."""
    shape: Literal["linear", "cosine", "exponential"] = "cosine"
    """Its course: cosine is half a wave, slow at both ends; exponential changes by equal
    factors."""

    @model_validator(mode="after")
    def _factors_are_finite(self) -> Self:
        if self.shape == "exponential" and not (self.start and self.end):
            raise ValueError("an exponential schedule reaches no 0; use linear or cosine")
        return self

    def at(self, nimg: int) -> float:
        """Its value after ``nimg`` images."""
        done = min(max(nimg / 1000 - self.delay, 0) / self.kimg, 1)
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** done
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


Number = Positive | Schedule
"""A number above 0, or how it moves."""


def value_at(number: float | Schedule, nimg: int) -> float:
    """The value of ``number`` after ``nimg`` images."""
    return number.at(nimg) if isinstance(number, Schedule) else number
