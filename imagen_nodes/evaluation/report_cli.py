"""The verb ``report``: a page on a run, or one that compares several. It needs no torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import UsageError

NAME = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments on ``parser``."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="the page (default: report.html, in the run's folder, or here for several runs)",
    )
    parser.add_argument("--json", action="store_true", help="the tables' figures as JSON")


def main(args: argparse.Namespace) -> int:
    """Report as ``args`` say; the exit code.

    Raises:
        UsageError: a folder is not that of a run, or is given twice.
        StorageError: the page cannot be written.
    """
    from .comparison import as_json, write_comparison
    from .records import read_run
    from .report import write_report

    folders: list[Path] = args.runs
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("report: a run is given twice")
    if args.output is not None and args.output.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"--output {args.output}: expected a name that ends in .html")
    records = [read_run(folder) for folder in folders]
    if len(records) == 1:
        path = write_report(folders[0], args.output)
    else:
        path = write_comparison(records, args.output or Path(NAME))
    print(json.dumps({"page": str(path), **as_json(records)}) if args.json else path)
    return 0
