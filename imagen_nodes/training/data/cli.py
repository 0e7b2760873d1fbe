"""The command line of the survey. Only :func:`main` imports what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...console import progress_bar
from ...files import write_atomically

if TYPE_CHECKING:
    from ..recipe import Recipe
    from .survey import Range, Survey

# Names and classes that are listed one by one.
LISTED = 5
CLASSES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the survey's arguments on ``parser``."""
    parser.add_argument("path", type=Path, help="what the trainer's --data takes")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="write a contact sheet of 100 pictures"
    )
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def main(args: argparse.Namespace, presets: Mapping[str, Recipe]) -> int:
    """Survey the data as ``args`` say; the exit code.

    Raises:
        ImagenError: the pictures cannot be used, or the sheet cannot be written.
    """
    from .survey import survey

    with progress_bar() as progress:
        found, sheet = survey(args.path, presets, progress)
    if args.sheet:
        write_atomically(args.sheet, lambda file: sheet.save(file, "PNG"))
    if args.json:
        print(found.model_dump_json())
    else:
        _print(rows(found))
        if args.sheet:
            print(args.sheet)
    return 0


def rows(found: Survey) -> list[tuple[str, str]]:
    """The survey as a table: what, and how much."""
    table = [
        ("layout", found.layout),
        ("pictures", f"{found.count:,}"),
        ("formats", _counts(found.formats)),
        ("width", f"{_range(found.width)} px"),
        ("height", f"{_range(found.height)} px"),
        ("aspect", _range(found.aspect)),
        ("colours", _counts(found.colours)),
        ("alpha", f"{found.alpha:,}, transparent {found.transparent:,}" if found.alpha else "none"),
        ("bits", _counts(found.bits)),
        ("classes", _classes(found.classes)),
        ("duplicates", _groups(found.duplicates)),
        ("near duplicates", _groups(found.near_duplicates)),
        ("unreadable", _listed(found.unreadable)),
        ("presets", _presets(found.presets)),
    ]
    return table + [("note", note) for note in found.notes]


def _range(values: Range) -> str:
    return f"{values.min:g} to {values.max:g}, median {values.median:g}"


def _presets(names: Sequence[str]) -> str:
    more = f", and {len(names) - LISTED} more (--json)" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "none fits") + more


def _counts(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def _classes(classes: Mapping[str, int]) -> str:
    if not classes:
        return "no labels"
    first = dict(list(classes.items())[:CLASSES])
    more = f", and {len(classes) - CLASSES} more" if len(classes) > CLASSES else ""
    spread = f" (of {min(classes.values()):,} to {max(classes.values()):,})"
    return f"{len(classes)}{spread}: {_counts(first)}{more}"


def _groups(groups: tuple[tuple[str, ...], ...]) -> str:
    if not groups:
        return "none"
    lines = [" = ".join(group[:LISTED]) + ", ..." * (len(group) > LISTED) for group in groups]
    return f"{sum(map(len, groups)) - len(groups):,} more than needed\n" + _lines(lines)


def _listed(lines: tuple[str, ...]) -> str:
    return f"{len(lines):,}\n{_lines(list(lines))}" if lines else "none"


def _lines(lines: list[str]) -> str:
    return "\n".join(lines[:LISTED] + ["..."] * (len(lines) > LISTED))


def _print(table: list[tuple[str, str]]) -> None:
    """With rich on a terminal, where it is installed: it wraps long cells."""
    if find_spec("rich") is None or not sys.stdout.isatty():
        for name, text in table:
            print(f"{name:16}" + text.replace("\n", "\n" + 16 * " "))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, text in table:
        grid.add_row(Text(name), Text(text, overflow="fold"))
    Console(highlight=False).print(grid)
