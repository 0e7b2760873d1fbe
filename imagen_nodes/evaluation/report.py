"""A run's report: one page that shows how the training went, and opens from disk anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import write_atomically
from .figures import ema_name, progress, remaining
from .filmstrip import Moment, column, moments, open_sheet, save_filmstrip, tile_size
from .page import Html, document, image, joined, key, row, section, table, tag
from .plots import smooth
from .records import Curve, MetricCurve, RunRecord, flat, read_run, thin
from .svg import Line, number, plot

NAME = "report.html"
LARGE, SMALL = (1080, 320), (380, 210)
# A small plot has fewer px than the 1,000 points of a large one.
FEW = 300
DOTTED = 40
ALARMS, SNAPSHOTS = 10, 12
# Px of a tile in the page's strip, which is exact up to there.
TILE = 96


def write_report(folder: Path, path: Path | None = None) -> Path:
    """Write ``report.html``, or ``path``, and ``filmstrip.png`` into the run's ``folder``; the
    page's path. Cheap enough for every sample grid of a training.

    Raises:
        UsageError: it is not the folder of a run.
        StorageError: a file cannot be written.
    """
    record = read_run(folder)
    notes = list(record.notes)
    strip = moments(record.sheets, notes.append)
    save_filmstrip(folder, strip)
    path = path or folder / NAME
    write_atomically(path, page(record, strip, notes))
    return path


def page(record: RunRecord, strip: Sequence[Moment], notes: list[str]) -> bytes:
    """The page on ``record``; ``notes`` is what it says could not be read."""
    samples = _samples(record, notes)
    return document(
        f"{record.name}: {record.plan.recipe.get('name', 'a run')}",
        _head(record),
        _alarms(record),
        samples,
        section("Film strip", *film(strip)),
        section("Quality", *_metrics(record.metric_curves())),
        section("Losses", *_losses(record.losses())),
        section("Signals", *_signals(record.signals())),
        section("Snapshots", *_snapshots(record)),
        section("Recipe", *_recipe(record)),
        section("Data set", *_data(record)),
        section("Not read", *_notes(notes)),
        _foot(record),
    )


def latest_sheet(record: RunRecord, notes: list[str]) -> tuple[int, Image.Image] | None:
    """The newest sample grid that can be read, and its kimg; ``notes`` gets what cannot."""

    def say(note: str) -> None:
        if note not in notes:
            notes.append(note)

    for sheet in reversed(record.sheets):
        picture = open_sheet(sheet, say)
        if picture is not None:
            return sheet.kimg, picture
    return None


def recipe_groups(recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fields by the part of the recipe that they belong to; its own first."""
    own = {name: value for name, value in recipe.items() if not isinstance(value, dict)}
    groups: dict[str, dict[str, Any]] = {"training": own} if own else {}
    for name, part in recipe.items():
        if isinstance(part, dict):
            inner = recipe_groups(part)
            own = inner.pop("training", {})
            groups |= {name: own} if own else {}
            groups |= {f"{name}.{group}": fields for group, fields in inner.items()}
    return groups


def text_of(value: Any) -> str:
    """A field's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value)) or "none"
    if value is None or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _head(record: RunRecord) -> Html:
    plan, found = record.plan, progress(record)
    planned = found.get("kimg planned", 0.0)
    data = f" on {plan.data_name}" if plan.data_name else ""
    about = f"{plan.recipe.get('name', 'unknown recipe')}{data}"
    parts = [tag("h1", record.name), tag("p", about, class_="soft")]
    if planned:
        share = min(100.0, 100 * record.kimg / planned)
        bar = tag("div", tag("i", style=f"width:{share:.1f}%"), class_="bar")
        parts.append(bar)
    facts = [_fact(f"{record.kimg:,.0f}", f"of {planned:,.0f} kimg" if planned else "kimg")]
    if "img/s" in found:
        facts.append(_fact(number(found["img/s"]), "images a second"))
    if "hours" in found:
        facts.append(_fact(f"{found['hours']:.2f}", "hours of training"))
    left = remaining(record)
    if left is not None and record.ticks:
        facts.append(_fact(f"{left.total_seconds() / 3600:.2f}", "hours left"))
    facts += [
        _fact(number(float(c.curve.values[c.best])), f"best {c.metric}, {ema_name(c.ema)}")
        for c in _leaders(record.metric_curves())
    ]
    return tag("header", *parts, tag("div", *facts, class_="facts"))


def _leaders(curves: Sequence[MetricCurve]) -> list[MetricCurve]:
    """Of each of the first two metrics, the averaged network that came best."""
    groups = [list(group) for _, group in groupby(curves, key=lambda c: c.metric)]
    return [_winner(group) for group in groups[:2]]


def _winner(curves: Sequence[MetricCurve]) -> MetricCurve:
    values = [float(c.curve.values[c.best]) for c in curves]
    return curves[values.index(max(values) if curves[0].higher else min(values))]


def _fact(value: str, name: str) -> Html:
    return tag("div", tag("b", value), tag("span", name), class_="fact")


def _alarms(record: RunRecord) -> Html:
    newest = list(reversed(record.alarms))
    boxes = [
        tag(
            "div",
            tag("p", tag("b", alarm.kind), f" at {alarm.nimg / 1000:,.0f} kimg. {alarm.text}"),
            *([tag("p", alarm.advice, class_="soft")] if alarm.advice else []),
            class_="alarm",
        )
        for alarm in newest
    ]
    older = boxes[ALARMS:]
    more = [_folded(f"{len(older)} earlier alarms", *older)] if older else []
    return section("Alarms", *boxes[:ALARMS], *more)


def _folded(summary: str, *body: Html) -> Html:
    return tag("details", tag("summary", summary), *body)


def _samples(record: RunRecord, notes: list[str]) -> Html:
    found = latest_sheet(record, notes)
    if found is None:
        missing = "No sample grid yet." if not record.sheets else "No sample grid can be read."
        return section("Samples", tag("p", missing, class_="soft"))
    kimg, picture = found
    caption = f"The averaged generator after {kimg:,} kimg, always of the same latents."
    shown = image(picture, f"sample grid after {kimg} kimg")
    figure = tag("figure", tag("figcaption", caption, class_="soft"), shown, class_="sheet")
    return section("Samples", figure)


def film(strip: Sequence[Moment]) -> Iterable[Html]:
    """The strip as columns, each under its kimg."""
    if not strip:
        return
    width, height = tile_size(strip)
    side = max(width, height)
    native = max(strip, key=lambda m: m.tiles[0].width).tiles[0].size
    size = native if max(native) <= TILE else (width * TILE // side, height * TILE // side)
    yield tag("p", "The same latents, a row each, over the training (kimg).", class_="soft")
    yield tag(
        "div",
        *(
            tag(
                "figure",
                tag("figcaption", f"{moment.kimg:,}"),
                image(column(moment, size), f"samples after {moment.kimg} kimg"),
            )
            for moment in strip
        ),
        class_="strip",
    )


def _metrics(curves: Sequence[MetricCurve]) -> Iterable[Html]:
    if not curves:
        return
    half_lives = sorted({curve.ema for curve in curves})
    plots: list[Html] = []
    for metric, group in groupby(curves, key=lambda curve: curve.metric):
        of_metric = list(group)
        winner = _winner(of_metric)
        lines = [metric_line(c, half_lives.index(c.ema), marked=c is winner) for c in of_metric]
        better = "higher is better" if winner.higher else "lower is better"
        keys = [
            key(ema_name(c.ema), half_lives.index(c.ema), number(float(c.curve.values[c.best])))
            for c in of_metric
        ]
        caption = [tag("b", metric), tag("span", f" {better}", class_="soft"), Html("<br>"), *keys]
        plots.append(figure(caption, lines, SMALL, log=True))
    yield tag("p", "In the legends: the best value of each averaged network.", class_="soft")
    yield tag("div", *plots, class_="plots")


def metric_line(curve: MetricCurve, colour: int, *, marked: bool) -> Line:
    """A metric's line; ``marked``: with its best value."""
    c = curve.curve
    best = curve.best if marked else None
    return Line(c.kimg, c.values, colour, dots=len(c.values) <= DOTTED, best=best)


def smooth_lines(curve: Curve, points: int, colour: int) -> tuple[Line, Line]:
    """A curve, thinned: raw and faint, and smooth."""
    thinned = thin(curve, points)
    values = smooth(thinned.values.tolist())
    return (
        Line(thinned.kimg, thinned.values, colour, faint=True),
        Line(thinned.kimg, values, colour),
    )


def figure(
    caption: Sequence[Html], lines: Sequence[Line], size: tuple[int, int], *, log: bool = False
) -> Html:
    """A plot with its caption; the lines in front are the later ones."""
    return tag("figure", tag("figcaption", *caption), plot(lines, *size, log=log))


def _losses(curves: Sequence[Curve]) -> Iterable[Html]:
    if not curves:
        yield tag("p", "No line in stats.jsonl yet.", class_="soft")
        return
    yield _smoothed("", curves, LARGE, 1000)


def _signals(curves: Sequence[Curve]) -> Iterable[Html]:
    """A plot for each group: the part of the name before the last slash."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        group, slash, _ = curve.name.rpartition("/")
        groups.setdefault(group if slash else curve.name, []).append(curve)
    plots = [_smoothed(name, group, SMALL, FEW) for name, group in groups.items()]
    if plots:
        yield tag("div", *plots, class_="plots")


def _smoothed(title: str, curves: Sequence[Curve], size: tuple[int, int], points: int) -> Html:
    pairs = [smooth_lines(curve, points, i) for i, curve in enumerate(curves)]
    keys = [
        key(curve.name.removeprefix(f"{title}/"), i, number(float(pair[1].y[-1])))
        for i, (curve, pair) in enumerate(zip(curves, pairs, strict=True))
    ]
    heading = [tag("b", title), Html("<br>")] if title and title != curves[0].name else []
    lines = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    return figure([*heading, *keys], lines, size)


def _snapshots(record: RunRecord) -> Iterable[Html]:
    if not record.snapshots:
        yield tag("p", "No snapshot yet.", class_="soft")
        return
    cards = [snapshot.header.card for snapshot in record.snapshots]
    # Of one metric there may be figures on several sets of pictures.
    metrics = list(dict.fromkeys((m.metric, m.reference) for card in cards for m in card.quality))
    names = [metric for metric, _ in metrics]
    rows: list[Html] = []
    for snapshot, card in zip(record.snapshots, cards, strict=True):
        quality = {
            (m.metric, m.reference): f"{number(m.value)} ({m.samples:,} samples)"
            for m in card.quality
        }
        rows.append(
            row(
                tag("code", snapshot.path.name),
                f"{card.training.nimg / 1000:,.0f}" if card.training else "",
                f"{snapshot.size / 1e6:.1f} MB",
                f"{snapshot.header.parameters:,}",
                *(quality.get(metric, "") for metric in metrics),
            )
        )
    titles = (x if names.count(x) == 1 else f"{x}, {reference}" for x, reference in metrics)
    head = ["snapshot", "kimg", "size", "values", *titles]
    rows.reverse()
    yield table(head, rows[:SNAPSHOTS])
    if older := rows[SNAPSHOTS:]:
        yield _folded(f"{len(older)} earlier snapshots", table(head, older))


def _recipe(record: RunRecord) -> Iterable[Html]:
    groups = [
        tag(
            "div",
            tag("h3", name),
            table([], [row(field, text_of(value)) for field, value in flat(fields).items()]),
            class_="group",
        )
        for name, fields in recipe_groups(record.plan.recipe).items()
    ]
    if groups:
        yield tag("div", *groups, class_="groups")


def _data(record: RunRecord) -> Iterable[Html]:
    plan = record.plan
    rows = {
        "name": plan.data_name,
        "images": f"{plan.images:,}" if plan.images else "",
        "classes": ", ".join(plan.class_names),
        "path": plan.data,
    }
    shown = [row(name, value) for name, value in rows.items() if value]
    if shown:
        yield table([], shown)


def _notes(notes: Sequence[str]) -> Iterable[Html]:
    if notes:
        yield tag("ul", *(tag("li", note) for note in notes))


def _foot(record: RunRecord) -> Html:
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    hint = joined(["Live: ", tag("code", f"tensorboard --logdir {record.folder}"), "."])
    return section("More", tag("p", hint), tag("p", f"Written {written}.", class_="soft"))
