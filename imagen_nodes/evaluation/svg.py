"""Plots as inline SVG: for a page that is light or dark, without a plotting library, in a
millisecond each. Colours are the page's CSS variables ``--c0`` to ``--c7``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .page import Html, tag

COLOURS = 8
# Px around the plot's area: left, top, right, bottom.
MARGIN = (52, 10, 14, 34)
# A positive figure that spans more than this ratio is drawn on a logarithmic axis, where asked.
WIDE = 20


@dataclass(frozen=True)
class Line:
    """A line of a plot: ``x [n]``, ``y [n]``, finite, n >= 1."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: int
    faint: bool = False
    """The unsmoothed data behind a line."""
    dots: bool = False
    """Mark every point: there are few."""
    best: int | None = None
    """Index of a point that is marked with its value."""


@dataclass(frozen=True)
class Axis:
    """Maps values in ``low..high`` to px in ``start..end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        where = np.log(np.maximum(values, 1e-300)) if self.log else values
        return self.start + (where - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int) -> list[float]:
        """Round numbers on the axis, about as many as ``wanted``."""
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            rounds = [10.0**e * m for e in exponents for m in (1, 2, 5)]
            return [v for v in rounds if self.low <= v <= self.high]
        rough = (self.high - self.low) / wanted
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def plot(lines: Sequence[Line], width: int, height: int, *, log: bool = False) -> Html:
    """``lines`` over kimg, ``width`` x ``height`` px; ``log``: wide spans on a logarithmic axis."""
    left, top, right, bottom = MARGIN
    x = Axis(*_span([line.x for line in lines]), left, width - right)
    y = _y_axis(lines, height - bottom, top, log)
    parts = [
        *_grid(x, y, width, height),
        *(_line(line, x, y) for line in lines),
        *(_best(line, x, y, width) for line in lines if line.best is not None),
    ]
    return tag("svg", *parts, viewBox=f"0 0 {width} {height}", role="img")


def number(value: float) -> str:
    """A figure for people: four digits that matter, thousands apart."""
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.3g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _span(parts: Sequence[NDArray[np.float64]], margin: float = 0.0) -> tuple[float, float]:
    low, high = min(float(p.min()) for p in parts), max(float(p.max()) for p in parts)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-12):
        margin, high = 1.0, low + (abs(low) * 0.1 or 1.0)
        return low - (high - low) * margin, high
    return low - (high - low) * margin, high + (high - low) * margin


def _y_axis(lines: Sequence[Line], start: float, end: float, log: bool) -> Axis:
    """Of all clear lines, and of the faint ones what is no outlier."""
    parts = [
        np.percentile(line.y, [1, 99]) if line.faint and len(line.y) > 10 else line.y
        for line in lines
    ]
    low, high = _span(parts)
    if log and low > 0 and high / low > WIDE:
        return Axis(low / 1.15, high * 1.15, start, end, log=True)
    return Axis(*_span(parts, 0.04), start, end)


def _grid(x: Axis, y: Axis, width: int, height: int) -> list[Html]:
    left, _, right, bottom = MARGIN
    base = height - bottom
    parts: list[Html] = []
    for value in y.ticks(max(3, height // 55)):
        at = _px(y, value)
        parts.append(tag("line", x1=left, x2=width - right, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", _tick(value), x=left - 7, y=_shifted(at, 4), class_="end"))
    for value in x.ticks(max(3, width // 110)):
        at = _px(x, value)
        parts.append(tag("line", x1=at, x2=at, y1=base, y2=base + 4, class_="axis"))
        parts.append(tag("text", _tick(value), x=at, y=base + 17, class_="middle"))
    parts.append(tag("line", x1=left, x2=width - right, y1=base, y2=base, class_="axis"))
    parts.append(tag("text", "kimg", x=width - right, y=base + 30, class_="end"))
    return parts


def _line(line: Line, x: Axis, y: Axis) -> Html:
    # Outliers of the faint lines stay at the edge.
    heights = np.clip(y.place(line.y), y.end, y.start)
    points = list(zip(x.place(line.x).tolist(), heights.tolist(), strict=True))
    colour = f"stroke:var(--c{line.colour % COLOURS})"
    path = tag(
        "polyline",
        points=" ".join(f"{px:.1f},{py:.1f}" for px, py in points),
        class_="faint" if line.faint else "line",
        style=colour,
    )
    if not line.dots and len(points) > 1:
        return path
    fill = f"fill:var(--c{line.colour % COLOURS})"
    dots = (tag("circle", cx=f"{px:.1f}", cy=f"{py:.1f}", r=2.5, style=fill) for px, py in points)
    return tag("g", path, *dots)


def _best(line: Line, x: Axis, y: Axis, width: int) -> Html:
    assert line.best is not None
    value, kimg = float(line.y[line.best]), float(line.x[line.best])
    px, py = (float(axis.place(np.array([v]))[0]) for axis, v in ((x, kimg), (y, value)))
    colour = f"var(--c{line.colour % COLOURS})"
    late = px > width * 0.8
    ring = tag(
        "circle", cx=f"{px:.1f}", cy=f"{py:.1f}", r=5, class_="ring", style=f"stroke:{colour}"
    )
    text = tag(
        "text",
        number(value),
        x=f"{px + (-9 if late else 9):.1f}",
        y=f"{py - 7:.1f}",
        class_="best end" if late else "best",
        style=f"fill:{colour}",
    )
    return tag("g", tag("title", f"best: {number(value)} at {number(kimg)} kimg"), ring, text)


def _px(axis: Axis, value: float) -> str:
    return f"{float(axis.place(np.array([value]))[0]):.1f}"


def _shifted(px: str, by: float) -> str:
    return f"{float(px) + by:.1f}"


def _tick(value: float) -> str:
    # 0.30000000000000004 is 0.3, and -1e-17 is 0.
    rounded = float(f"{value:.6g}") if abs(value) > 1e-12 else 0.0
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"
