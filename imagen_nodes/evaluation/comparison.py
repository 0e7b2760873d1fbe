"""Runs side by side: their figures in one table, their curves over each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .figures import ema_name, figures
from .page import Html, document, image, key, row, section, table, tag
from .records import Curve, RunRecord, flat, is_higher_better
from .report import (
    FEW,
    SMALL,
    figure,
    latest_sheet,
    metric_line,
    smooth_lines,
    text_of,
)
from .svg import Line, number

MISSING = "-"


def write_comparison(records: Sequence[RunRecord], path: Path) -> Path:
    """Write the page that compares two or more runs to ``path``.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomically(path, comparison(records))
    return path


def comparison(records: Sequence[RunRecord]) -> bytes:
    """The page's content."""
    named = names(records)
    notes: list[str] = []
    sheets = _sheets(named, notes)
    said = [f"{name}: {note}" for name, record in named.items() for note in record.notes] + notes
    title = f"{len(named)} runs compared"
    legend = [key(name, i) for i, name in enumerate(named)]
    return document(
        title,
        tag("header", tag("h1", title), tag("p", *legend)),
        section("Figures", _figures(named)),
        section("Recipes: what differs", *_differences(named)),
        section("Samples", *sheets),
        section("Quality", *_metrics(named)),
        section("Losses", *_plots({n: r.losses() for n, r in named.items()})),
        section("Signals", *_plots({n: r.signals() for n, r in named.items()})),
        section("Not read", *([tag("ul", *(tag("li", s) for s in said))] if said else [])),
    )


def names(records: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """Runs by their folders' names; by their paths where two are alike."""
    short = [record.name for record in records]
    if len(set(short)) == len(short):
        return dict(zip(short, records, strict=True))
    return {str(record.folder.resolve()): record for record in records}


def differences(named: Mapping[str, RunRecord]) -> dict[str, dict[str, Any]]:
    """Recipe fields and facts on the data in which runs differ: their value by run, where it has
    one."""
    fields = {name: _fields(record) for name, record in named.items()}
    every = dict.fromkeys(field for own in fields.values() for field in own)
    found = {
        field: {name: own[field] for name, own in fields.items() if field in own} for field in every
    }
    return {
        field: values
        for field, values in found.items()
        if len(values) < len(named) or len({repr(value) for value in values.values()}) > 1
    }


def _fields(record: RunRecord) -> dict[str, Any]:
    plan = record.plan
    data = {"data": plan.data_name, "data.images": plan.images} if plan.data_name else {}
    # Its name tells nothing that the page does not say already.
    recipe = {name: value for name, value in flat(plan.recipe).items() if name != "name"}
    return recipe | data


def _figures(named: Mapping[str, RunRecord]) -> Html:
    by_run = _by_run(named)
    every = list(dict.fromkeys(figure for own in by_run.values() for figure in own))
    rows: list[Html] = []
    for figure_name in every:
        values = {name: own[figure_name] for name, own in by_run.items() if figure_name in own}
        best = _best(figure_name, values)
        cells = [
            tag(
                "td",
                number(values[name]) if name in values else MISSING,
                class_="won" if best is not None and values.get(name) == best else "",
            )
            for name in named
        ]
        rows.append(tag("tr", tag("th", figure_name), *cells))
    return table(["", *named], rows)


def _by_run(named: Mapping[str, RunRecord]) -> dict[str, dict[str, float]]:
    """The figures of each, in which a metric has one name."""
    curves = [curve for record in named.values() for curve in record.metric_curves()]
    return {name: figures(record, curves) for name, record in named.items()}


def _best(figure_name: str, values: Mapping[str, float]) -> float | None:
    """Of the metrics' last and best values; of other figures no one is better than another."""
    if not figure_name.endswith((", last", ", best")) or figure_name.startswith("loss of "):
        return None
    if len(set(values.values())) < 2:
        return None
    choose = max if is_higher_better(figure_name) else min
    return choose(values.values())


def _differences(named: Mapping[str, RunRecord]) -> Iterable[Html]:
    found = differences(named)
    if not found:
        yield tag("p", "Nothing: the recipes are the same.", class_="soft")
        return
    rows = [
        row(field, *(text_of(values[n]) if n in values else MISSING for n in named))
        for field, values in found.items()
    ]
    yield table(["", *named], rows)


def _sheets(named: Mapping[str, RunRecord], notes: list[str]) -> list[Html]:
    shown: list[Html] = []
    for i, (name, record) in enumerate(named.items()):
        own: list[str] = []
        found = latest_sheet(record, own)
        notes += [f"{name}: {note}" for note in own]
        caption = [key(name, i), f"{found[0]:,} kimg" if found else "no sample grid"]
        picture = [image(found[1], f"sample grid of {name}")] if found else []
        shown.append(tag("figure", tag("figcaption", *caption), *picture, class_="sheet"))
    return [tag("div", *shown, class_="sheets")]


def _metrics(named: Mapping[str, RunRecord]) -> Iterable[Html]:
    """A plot for each metric and averaged network: a line a run."""
    groups: dict[tuple[str, float], list[tuple[int, Line]]] = {}
    for i, record in enumerate(named.values()):
        for curve in record.metric_curves():
            line = metric_line(curve, i, marked=True)
            groups.setdefault((curve.metric, curve.ema), []).append((i, line))
    run_names = list(named)
    plots = [
        figure(
            [
                tag("b", f"{metric}, {ema_name(ema)}"),
                Html("<br>"),
                *(key(run_names[i], i, number(float(line.y[-1]))) for i, line in lines),
            ],
            [line for _, line in lines],
            SMALL,
            log=True,
        )
        for (metric, ema), lines in groups.items()
    ]
    if plots:
        yield tag("div", *plots, class_="plots")


def _plots(curves: Mapping[str, Sequence[Curve]]) -> Iterable[Html]:
    """A plot for each name of a curve: a line a run."""
    run_names = list(curves)
    every = dict.fromkeys(curve.name for own in curves.values() for curve in own)
    plots: list[Html] = []
    for name in every:
        pairs = [
            (i, smooth_lines(curve, FEW, i))
            for i, own in enumerate(curves.values())
            for curve in own
            if curve.name == name
        ]
        keys = [key(run_names[i], i, number(float(pair[1].y[-1]))) for i, pair in pairs]
        lines = [pair[layer] for layer in (0, 1) for _, pair in pairs]
        plots.append(figure([tag("b", name), Html("<br>"), *keys], lines, SMALL))
    if plots:
        yield tag("div", *plots, class_="plots")


def as_json(records: Sequence[RunRecord]) -> dict[str, Any]:
    """What the page's tables say, for programs."""
    named = names(records)
    return {
        "runs": [
            {
                "name": name,
                "folder": str(Path(record.folder)),
                # JSON has no infinity.
                "figures": {k: v if isfinite(v) else None for k, v in own.items()},
            }
            for (name, record), own in zip(named.items(), _by_run(named).values(), strict=True)
        ],
        "differences": differences(named),
    }
