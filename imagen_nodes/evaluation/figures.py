"""The figures of a run: what its report tells, and what runs are compared by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from ..console import duration
from .plots import smooth
from .records import MetricCurve, RunRecord, thin


def progress(record: RunRecord) -> dict[str, float]:
    """How far a run is and how fast; what is not known is left out.

    Keys: ``kimg``, ``kimg planned``, ``img/s`` (of all sessions), ``hours``."""
    planned = record.plan.recipe.get("kimg")
    found = {"kimg": record.kimg}
    if isinstance(planned, int | float):
        found["kimg planned"] = float(planned)
    if speed := speed_of(record):
        found["img/s"] = speed
    if record.ticks and record.ticks[-1].seconds:
        found["hours"] = record.ticks[-1].seconds / 3600
    return found


def speed_of(record: RunRecord) -> float:
    """Images a second, the median of the ticks, which pauses do not move; 0: not known."""
    known = sorted(t.images_per_second for t in record.ticks if t.images_per_second > 0)
    return known[len(known) // 2] if known else 0.0


def remaining(record: RunRecord) -> timedelta | None:
    """Time to the planned end at the median speed; None: not known, or over."""
    found = progress(record)
    left = (found.get("kimg planned", 0.0) - record.kimg) * 1000
    return duration(left / found["img/s"]) if left > 0 and "img/s" in found else None


def final_losses(record: RunRecord) -> dict[str, float]:
    """Each loss at the end, as the plots' smooth lines have it."""
    return {curve.name: float(smooth(thin(curve).values.tolist())[-1]) for curve in record.losses()}


def metric_name(curve: MetricCurve, among: Iterable[MetricCurve]) -> str:
    """A metric's name; with the half-life where there are several."""
    several = len({other.ema for other in among}) > 1
    return f"{curve.metric} ({ema_name(curve.ema)})" if several else curve.metric


def ema_name(half_life: float) -> str:
    """An averaged network's name."""
    return f"EMA {half_life:g} kimg" if half_life else "EMA"


def figures(record: RunRecord, among: Sequence[MetricCurve] = ()) -> dict[str, float]:
    """All of a run's figures by name, those of :func:`progress` first; then for each metric its
    last and its best value, and where the best is; then the last losses. ``among``: the curves of
    all runs that it stands beside, in which a metric should have one name."""
    found = progress(record)
    curves = record.metric_curves()
    for curve in curves:
        name, best = metric_name(curve, among or curves), curve.best
        found[f"{name}, last"] = float(curve.curve.values[-1])
        found[f"{name}, best"] = float(curve.curve.values[best])
        found[f"{name}, best at kimg"] = float(curve.curve.kimg[best])
    found |= {f"loss of {name}, last": value for name, value in final_losses(record).items()}
    return found
