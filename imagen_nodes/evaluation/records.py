"""A run's folder as it can be read, whatever its age and its condition.

``training/run.py`` writes it. Here every file may be missing, half written or of another version:
what can be read is read, and what cannot is said in :attr:`RunRecord.notes`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from ..checkpoint import Header, inspect
from ..errors import CheckpointError, UsageError
from ..spec import Spec, problems

PLAN = "recipe.json"
# What makes a folder that of a run, and what it holds.
TRACES = {
    PLAN: "the recipe and the data",
    "stats.jsonl": "a line of losses a tick",
    "samples": "sample grids",
    "snapshots": "weights",
}
# Begin the names of metrics that are better when they are higher; all others: lower.
HIGHER = ("precision", "recall", "density", "coverage", "psnr", "ssim", "ms-ssim", "is")
POINTS = 1000
# Greater values are of no network that still trains, and too great to be drawn.
LARGEST = 1e100


def is_higher_better(metric: str) -> bool:
    """Of a metric by its name."""
    return metric.lower().startswith(HIGHER)


Count = Annotated[int, Field(ge=0, le=10**15)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(Spec):
    """A Spec of what another version may have written: unknown fields are left out."""

    model_config = ConfigDict(extra="ignore")


class PlanRecord(Record):
    """``recipe.json``."""

    recipe: dict[str, Any] = Field(default_factory=dict)
    """All its fields, whatever they are."""
    data: str = ""
    """Path of the data set."""
    data_name: str = ""
    """Its name."""
    images: int = 0
    """How many it holds; 0: not known."""
    class_names: tuple[str, ...] = ()
    """By label."""


class TickRecord(Record):
    """A line of ``stats.jsonl``."""

    nimg: Count
    """Images shown so far."""
    losses: dict[str, float | None] = Field(default_factory=dict)
    """Means since the line before."""
    signals: dict[str, float | None] = Field(default_factory=dict)
    """Likewise: what tells how the training goes."""
    images_per_second: Finite = 0.0
    """0: not known."""
    seconds: Finite = 0.0
    """Of all sessions; 0: not known."""


class MetricRecord(Record):
    """A line of ``metrics.jsonl``."""

    nimg: Count
    """Images shown so far."""
    ema: float = 0.0
    """Half-life of the measured average, kimg; 0: not known."""
    metrics: dict[str, float | None] = Field(default_factory=dict)
    """By full name."""


class AlarmRecord(Record):
    """A line of ``alarms.jsonl``."""

    nimg: Count
    """Images shown so far."""
    kind: str = "alarm"
    """In two words."""
    text: str = ""
    """What was seen, a sentence."""
    advice: str = ""
    """What to do, a sentence."""


@dataclass(frozen=True)
class SampleSheet:
    """A sample grid's file."""

    kimg: int
    path: Path


@dataclass(frozen=True)
class Snapshot:
    """A weights file of the run."""

    path: Path
    size: int
    """Bytes."""
    header: Header


@dataclass(frozen=True)
class Curve:
    """A figure over a training: ``kimg [n]`` ascending, ``values [n]`` finite, n >= 1."""

    name: str
    kimg: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class MetricCurve:
    """A metric of one averaged network."""

    metric: str
    ema: float
    """Half-life, kimg."""
    curve: Curve

    @property
    def higher(self) -> bool:
        """Whether higher is better."""
        return is_higher_better(self.metric)

    @property
    def best(self) -> int:
        """Index of the best value."""
        return int(np.argmax(self.curve.values) if self.higher else np.argmin(self.curve.values))


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder holds, in order of images seen."""

    folder: Path
    plan: PlanRecord
    ticks: tuple[TickRecord, ...]
    metrics: tuple[MetricRecord, ...]
    alarms: tuple[AlarmRecord, ...]
    sheets: tuple[SampleSheet, ...]
    snapshots: tuple[Snapshot, ...]
    notes: tuple[str, ...]
    """What could not be read, and why."""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.resolve().name

    @property
    def kimg(self) -> float:
        """Thousands of images seen at the last tick."""
        return self.ticks[-1].nimg / 1000 if self.ticks else 0.0

    def losses(self) -> list[Curve]:
        """A curve a loss."""
        return _curves((tick.nimg, tick.losses) for tick in self.ticks)

    def signals(self) -> list[Curve]:
        """A curve a signal."""
        return _curves((tick.nimg, tick.signals) for tick in self.ticks)

    def metric_curves(self) -> list[MetricCurve]:
        """A curve a metric and averaged network; those of one metric stand together."""
        found = [
            MetricCurve(curve.name, ema, curve)
            for ema in sorted({line.ema for line in self.metrics})
            for curve in _curves((m.nimg, m.metrics) for m in self.metrics if m.ema == ema)
        ]
        order = list(dict.fromkeys(curve.metric for curve in found))
        return sorted(found, key=lambda curve: order.index(curve.metric))


def read_run(folder: Path) -> RunRecord:
    """Read what there is in ``folder``.

    Raises:
        UsageError: it is not the folder of a run.
    """
    if not any((folder / name).exists() for name in TRACES):
        raise UsageError(_no_run(folder))
    notes: list[str] = []
    return RunRecord(
        folder=folder,
        plan=_plan(folder / PLAN, notes.append),
        # A resumed run may have written a moment twice: the later line counts.
        ticks=_sorted(_lines(folder / "stats.jsonl", TickRecord, notes.append)),
        metrics=tuple(
            sorted(
                _lines(folder / "metrics.jsonl", MetricRecord, notes.append), key=lambda m: m.nimg
            )
        ),
        alarms=tuple(_lines(folder / "alarms.jsonl", AlarmRecord, notes.append)),
        sheets=_sheets(folder / "samples"),
        snapshots=tuple(_snapshots(folder / "snapshots", notes.append)),
        notes=tuple(notes),
    )


def thin(curve: Curve, points: int = POINTS) -> Curve:
    """At most ``points`` points: the means of as many equal parts, for both axes."""
    if len(curve.values) <= points:
        return curve
    edges = np.linspace(0, len(curve.values), points + 1).astype(int)
    counts = np.diff(edges)
    kimg, values = (
        np.add.reduceat(axis, edges[:-1]) / counts for axis in (curve.kimg, curve.values)
    )
    return Curve(curve.name, kimg, values)


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by their dotted names, in their order."""
    result: dict[str, Any] = {}
    for name, value in fields.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        result |= inner or {prefix + name: value}
    return result


def _no_run(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder; expected that of a run"
    wanted = ", ".join(f"{name} ({what})" for name, what in TRACES.items())
    inside = sorted(path.parent.name for path in folder.glob(f"*/{PLAN}"))
    hint = f". There are runs in it: {', '.join(inside[:5])}" if inside else ""
    return f"{folder}: not the folder of a run. Looked for {wanted}, and found none{hint}"


def _plan(path: Path, note: Callable[[str], object]) -> PlanRecord:
    try:
        return PlanRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        note(f"{path.name}: cannot be read: {error.strerror or error}")
    except ValidationError as error:
        note(f"{path.name}: not the recipe of a run: {problems(error)}")
    return PlanRecord()


Line = TypeVar("Line", bound=Record)


def _lines(path: Path, kind: type[Line], note: Callable[[str], object]) -> list[Line]:
    """The valid lines of a file; none where there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        note(f"{path.name}: cannot be read: {error.strerror or error}")
        return []
    found: list[Line] = []
    bad: list[int] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError:
            bad.append(number)
    if bad == [len(lines)]:
        note(f"{path.name}: its last line is not whole, and is left out")
    elif bad:
        note(f"{path.name}: {len(bad)} lines are not valid, and are left out; the first: {bad[0]}")
    return found


def _sorted(ticks: list[TickRecord]) -> tuple[TickRecord, ...]:
    return tuple(tick for _, tick in sorted({tick.nimg: tick for tick in ticks}.items()))


def _curves(moments: Iterable[tuple[int, dict[str, float | None]]]) -> list[Curve]:
    """A curve a name over the moments that have it; a later value of one moment counts, and values
    that are not finite are left out."""
    points: dict[str, dict[int, float]] = {}
    for nimg, values in moments:
        for name, value in values.items():
            if value is not None and abs(value) < LARGEST:
                points.setdefault(name, {})[nimg] = value
    return [
        Curve(name, np.array(list(found), float) / 1000, np.array(list(found.values()), float))
        for name, found in points.items()
    ]


def _sheets(folder: Path) -> tuple[SampleSheet, ...]:
    found = (SampleSheet(int(p.stem), p) for p in folder.glob("*.png") if _number(p.stem))
    return tuple(sorted(found, key=lambda sheet: sheet.kimg))


def _number(stem: str) -> bool:
    return re.fullmatch(r"[0-9]+", stem) is not None


def _snapshots(folder: Path, note: Callable[[str], object]) -> Iterable[Snapshot]:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            yield Snapshot(path, path.stat().st_size, inspect(path))
        except (CheckpointError, OSError) as error:
            note(str(error).replace(str(folder.parent / ""), "", 1))
