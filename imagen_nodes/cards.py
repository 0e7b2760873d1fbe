"""Cards for people: one as lines, those of a folder as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .checkpoint import Card, Header, Measurement, inspect
from .errors import CheckpointError
from .folders import CHECKPOINTS, files


def describe(header: Header) -> str:
    """A line a field; what a card leaves empty is left out."""
    return "\n".join(f"{name:13} {_line(value)}" for name, value in _rows(header) if value)


def overview(folder: Path) -> str:
    """A page on every weights file in ``folder``: ``weights/README.md`` is made by this.

    Raises:
        CheckpointError: there is none, or one cannot be read."""
    lines = ["# Weights", "", "Made from the files' own cards: `imagen-nodes inspect weights`.", ""]
    for name, header in headers(folder).items():
        lines += [f"## {name}", "", "| | |", "|---|---|"]
        rows = ((row, _line(value)) for row, value in _rows(header) if value)
        lines += ["| {} | {} |".format(*(x.replace("|", r"\|") for x in row)) for row in rows]
        lines.append("")
    return "\n".join(lines)


def headers(folder: Path) -> dict[str, Header]:
    """Of every weights file in ``folder``, by name.

    Raises:
        CheckpointError: there is none, or one cannot be read."""
    found = files([folder], CHECKPOINTS)
    if not found:
        raise CheckpointError(f"{folder}: no weights in it")
    return {name: inspect(path) for name, path in found.items()}


def _line(text: str) -> str:
    """A card's words in one line, without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else " " for c in text)


def value(figure: Measurement) -> str:
    """The figure, and its 95% interval where it has one: ``12.3 [12.1, 12.6]``."""
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4g}"
    return f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}]"


def _rows(header: Header) -> Iterator[tuple[str, str]]:
    card = header.card
    numbers = {key: value for key, value in card.architecture.items() if key != "kind"}
    yield "title", card.title
    yield "description", card.description
    yield "task", card.task
    yield "architecture", card.architecture["kind"]
    yield "", ", ".join(f"{key} {value}" for key, value in numbers.items())
    yield "size", f"{header.parameters:,} values in {len(header.tensors)} tensors"
    yield "classes", ", ".join(card.class_names)
    yield from _training_rows(card)
    for m in card.quality:
        yield m.metric, f"{value(m)} ({m.samples:,} samples against {m.reference})"
    yield "created", card.created
    yield "licence", card.licence


def _training_rows(card: Card) -> Iterator[tuple[str, str]]:
    training = card.training
    if training is None:
        return
    recipe = training.recipe.get("name", "a recipe of its own")
    data = f"{training.images:,} images of {training.data}"
    yield "trained", f"{recipe}, {training.nimg / 1000:,.0f} kimg, on {data}"
    yield "losses", ", ".join(f"{name} {value:.3f}" for name, value in training.losses.items())
    yield "selection", training.selection
