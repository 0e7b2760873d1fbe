"""The verb ``augment``. Only :func:`main` imports torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..console import progress_bar
from ..errors import UsageError
from ..folders import weights_at
from ..spec import problems
from .settings import Settings

if TYPE_CHECKING:
    from .expand import Report

TABLE = ("real", "altered", "generated", "drawn", "copies", "duplicates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments on ``parser``; most are the fields of :class:`Settings`."""
    parser.add_argument(
        "data", type=Path, help="what the trainer's --data takes, with classes: a folder with a "
        "subfolder for each"
    )  # fmt: skip
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="a generator with classes: a .safetensors file, or the name of one that ships",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="the new folder"
    )
    parser.add_argument(
        "--discriminator",
        type=Path,
        metavar="FILE",
        help="judges the generated pictures; without one the realism score does",
    )
    for name, info in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        text = " ".join((info.description or "").split()).rstrip(".")
        if info.annotation is bool:
            parser.add_argument(flag, action="store_true", help=text)
        else:
            metavar = {int: "N", float: "X"}.get(info.annotation or str, "TEXT")
            parser.add_argument(
                flag, default=info.default, metavar=metavar, help=f"{text} (default: %(default)s)"
            )
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", action="store_true", help="what was done, as JSON")


def main(args: argparse.Namespace) -> int:
    """Augment as ``args`` say; the exit code.

    Raises:
        ImagenError: see ``expand.augment``."""
    settings = _settings(args)
    from ..foreign import open_model
    from ..graph.local import LocalHost
    from .expand import augment

    model = open_model(weights_at(args.weights))
    judge = open_model(weights_at(args.discriminator)) if args.discriminator else None
    notes: list[str] = []
    with progress_bar() as progress:

        def listen(event: dict[str, Any]) -> None:
            progress(event["done"], event["total"])

        host = LocalHost(device=args.device, listen=listen)
        report = augment(host, model, args.data, args.output, settings, judge, notes.append)
    if args.json:
        print(_as_json(report))
    else:
        print(_table(report))
        print(*(f"note: {note}" for note in notes), sep="\n", file=sys.stderr)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    given = {name: getattr(args, name) for name in Settings.model_fields}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        lines = problems(error).splitlines()
        flags = (f"--{line.partition(':')[0].replace('_', '-')}" for line in lines)
        texts = (line.partition(":")[2] for line in lines)
        raise UsageError("\n".join(map(":".join, zip(flags, texts, strict=True)))) from error


def _table(report: Report) -> str:
    width = max(len("class"), *(len(found.name) for found in report.classes))
    lines = ["class".ljust(width) + "".join(f"{what:>12}" for what in TABLE)]
    for found in report.classes:
        cells = "".join(f"{getattr(found, what):12,}" for what in TABLE)
        lines.append(found.name.ljust(width) + cells)
    return "\n".join([*lines, str(report)])


def _as_json(report: Report) -> str:
    """``{"folder", "classes": [{"name", "real", ...}], "notes"}``."""
    classes = [vars(found) for found in report.classes]
    found = {"folder": str(report.folder), "classes": classes, "notes": report.notes}
    return json.dumps(found)
