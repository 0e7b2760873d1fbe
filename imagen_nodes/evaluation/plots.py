"""Plots, as PNG files in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def loss_plot(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Every loss against the images seen: the raw curve, faint, and a smooth one. A PNG.

    Args:
        curves: by a loss's name its points (thousands of images, value), at least one, kimg
            ascending.
    """
    from matplotlib.figure import Figure

    # A Figure of its own draws with Agg and, unlike pyplot's, needs no display and no clean-up.
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        kimg, values = zip(*points, strict=True)
        # A dot while there are too few points for a line to show.
        colour, marker = f"C{number}", "o" if len(points) == 1 else ""
        axes.plot(kimg, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(kimg, smooth(values), color=colour, marker=marker, label=name)
    axes.set(title=title, xlabel="kimg (thousands of images seen)", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def smooth(values: Sequence[float], span: float = 0.02) -> NDArray[np.float64]:
    """Running mean with exponential weights over about ``span`` of the points, corrected for
    starting at zero as in Kingma & Ba, "Adam", 2015, section 3."""
    beta = 1 - 1 / max(len(values) * span, 1)
    mean, total = 0.0, 0.0
    result = np.empty(len(values))
    for i, value in enumerate(values):
        mean = beta * mean + (1 - beta) * value
        total = beta * total + (1 - beta)
        result[i] = mean / total
    return result
