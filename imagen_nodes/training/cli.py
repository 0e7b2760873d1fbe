"""The trainer's command line. Only :func:`main` imports torch."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import Cancelled, ImagenError, TrainingError, UsageError
from ..spec import problems

if TYPE_CHECKING:
    from .processes import Processes
    from .progress import Display
    from .recipe import Recipe
    from .run import Run
    from .session import Session

HELP = "Train a generator on a folder of pictures."
RUNS = Path("runs")
EXTRAS = ("rich", "matplotlib", "tensorboard")
NEWEST = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the trainer's arguments on ``parser``."""
    parser.add_argument(
        "preset",
        metavar="PRESET",
        nargs="?",
        help="name of a recipe (--list shows them), or a recipe's .json file",
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="a folder or archive of pictures (docs/data.md)"
    )
    parser.add_argument(
        "--run",
        "--run-folder",  # torchrun takes --run for one of its own
        type=Path,
        metavar="DIR",
        help="folder of the run (default: runs/00000-PRESET, ...)",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="RUN",
        help="go on with a run: its folder, or else the newest of PRESET",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe, such as optimiser.lr=0.0001; repeatable",
    )
    parser.add_argument(
        "--kimg",
        type=float,
        metavar="N",
        help="length of the training, and of what learning rates do until its end: the same as "
        "--set kimg=N",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: cuda if any)")
    parser.add_argument(
        "--profile", action="store_true", help="say where the time of a step goes, and end"
    )
    parser.add_argument("--list", action="store_true", help="list the presets, and end")


def main(args: argparse.Namespace) -> int:
    """Train as ``args`` say; the exit code.

    Raises:
        ImagenError: as the tree in ``errors.py`` says; Cancelled after Ctrl-C or SIGTERM.
    """
    if args.list:
        print(_table())
        return 0
    _require_extras()
    from ..memory import keep_memory
    from .processes import joined, leave

    keep_memory()
    with joined() as processes:
        try:
            code = _main(args, processes)
            # One that ends first, and not well, would make torchrun end one that still writes.
            processes.meet()
        except (ImagenError, RuntimeError) as error:
            if processes.first:
                raise
            # The first process says what all of them run into; of the rest, this one has to.
            if not isinstance(error, ImagenError):
                print(f"process {processes.rank}: {error}", file=sys.stderr)
            return getattr(error, "exit_code", 1)
    if processes.world > 1:
        leave(code)
    return code


def _main(args: argparse.Namespace, processes: Processes) -> int:
    from .progress import BarDisplay, NoDisplay, PlainDisplay

    if not processes.first:
        display = NoDisplay()
    else:
        display = BarDisplay() if sys.stdout.isatty() else PlainDisplay()
    if args.profile:
        display.note(_profile(args, display))
        return 0
    with ExitStack() as stack:
        try:
            session = stack.enter_context(_session(args, display, processes))
        except KeyboardInterrupt:
            raise Cancelled("stopped before the training began; nothing is lost") from None
        if session.loop.nimg >= session.end:
            display.note(f"{session.run.folder}: done already; --kimg N makes it longer")
            return 0
        with _signals() as stopping:
            session.train(stopping)
        display.note(f"done: {session.run.folder}")
    return 0


def _profile(args: argparse.Namespace, display: Display) -> str:
    from ..devices import open_device
    from .start import measure

    if args.resume is not None:
        run = _run_to_resume(args)
        recipe, data = _resumed_recipe(args.preset, run), args.data or Path(run.plan().data)
    else:
        recipe, data = _recipe(args.preset), args.data
    return measure(_changed(recipe, args), _required(data), open_device(args.device or ""), display)


def _required(data: Path | None) -> Path:
    if data is None:
        raise UsageError("train: needs the pictures to train on: --data PATH")
    return data


def _session(
    args: argparse.Namespace, display: Display, processes: Processes
) -> AbstractContextManager[Session]:
    from ..devices import open_device
    from .run import Run
    from .start import begin, resume

    device = open_device(args.device or "")
    if args.resume is None:
        recipe = _changed(_recipe(args.preset), args)
        data = _required(args.data)
        run = Run(args.run) if args.run else RUNS
        return begin(recipe, data, device, display, run, processes)
    run = _run_to_resume(args)
    recipe = _changed(_resumed_recipe(args.preset, run), args)
    return resume(run, recipe, args.data, device, display, processes)


def _run_to_resume(args: argparse.Namespace) -> Run:
    from .run import Run, newest_run

    named = args.resume or args.run
    if named:
        return Run(Path(named))
    name = _recipe(args.preset).name
    run = newest_run(RUNS, name)
    if run is None:
        raise TrainingError(f"{RUNS}: no run of {name} to resume; start one without --resume")
    return run


def _resumed_recipe(preset: str | None, run: Run) -> Recipe:
    """The run's own, where ``preset`` is its name or absent; then a change that the run was begun
    with need not be repeated."""
    was = run.plan().recipe
    return was if preset in (None, was.name) else _recipe(preset)


def _recipe(preset: str | None) -> Recipe:
    from .presets import PRESETS

    if preset is None:
        raise UsageError(f"train: needs a preset: one of {', '.join(PRESETS)}, or a .json file")
    if preset in PRESETS:
        return PRESETS[preset]
    if preset.endswith(".json"):
        return _recipe_file(Path(preset))
    near = get_close_matches(preset, PRESETS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(PRESETS)}"
    raise UsageError(f"{preset}: no such preset, and not a .json file. {hint}")


def _recipe_file(path: Path) -> Recipe:
    """A recipe in a file of its own, or a run's ``recipe.json``."""
    from .recipe import Recipe

    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if isinstance(content, dict) and "recipe" in content:
        content = content["recipe"]
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: not a recipe:\n{problems(error, content)}") from error


def _changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """``recipe`` with what --set and --kimg say. In a new run learning rates that move over the
    whole training, to its end, go on to do so, whatever its length becomes."""
    from .recipe import Recipe

    fields = recipe.model_dump(mode="json")
    changes = [*args.set, *([f"kimg={args.kimg}"] if args.kimg is not None else [])]
    for change in changes:
        _set(fields, change)
    try:
        changed = Recipe.model_validate(fields)
    except ValidationError as error:
        what = problems(error, fields)
        raise UsageError(f"{recipe.name}, after {' '.join(changes)}:\n{what}") from error
    return changed if args.resume is not None else _stretched(changed, recipe)


def _stretched(recipe: Recipe, before: Recipe) -> Recipe:
    """``recipe``, whose length may have changed, with the schedules of learning rates that reached
    to the end of ``before`` reaching to its own."""
    from .schedule import Schedule

    def stretched(rate: float | Schedule, was: float | Schedule | None) -> float | Schedule:
        if not isinstance(rate, Schedule) or rate != was or rate.delay + rate.kimg != before.kimg:
            return rate
        longer = recipe.kimg / before.kimg
        return rate.model_copy(update={"delay": rate.delay * longer, "kimg": rate.kimg * longer})

    optimiser, old = recipe.optimiser, before.optimiser
    rates = {name: stretched(rate, old.rates.get(name)) for name, rate in optimiser.rates.items()}
    update = {"lr": stretched(optimiser.lr, old.lr), "rates": rates}
    return recipe.model_copy(update={"optimiser": optimiser.model_copy(update=update)})


def _set(fields: dict[str, Any], change: str) -> None:
    """Carry out one ``field.of.field=value`` on a recipe's dump."""
    name, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"--set {change}: expected FIELD=VALUE")
    *parents, last = name.strip().split(".")
    for part in parents:
        _known(fields, part, change)
        if not isinstance(fields[part], dict):
            raise UsageError(
                f"--set {change}: {part} is {json.dumps(fields[part])} and has no fields. Set it "
                "whole, with its fields in braces: '{\"kind\": ...}'"
            )
        fields = fields[part]
    _known(fields, last, change)
    try:
        fields[last] = json.loads(text)
    except ValueError:  # a word
        fields[last] = text
    except RecursionError as error:
        raise UsageError(f"--set {name}: not JSON: {error}") from error


def _known(fields: dict[str, Any], part: str, change: str) -> None:
    if part not in fields:
        raise UsageError(f"--set {change}: no field {part!r}; there are {', '.join(fields)}")


def _require_extras() -> None:
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"training needs {', '.join(missing)}: pip install 'imagen-nodes[train]'"
        )


def _table() -> str:
    from .presets import PRESETS

    rows: list[tuple[str, ...]] = [
        ("preset", "px", "width", "classes", "loss", "and", "batch", "kimg")
    ]
    for name, recipe in PRESETS.items():
        side, width, classes, loss, terms = recipe.task.row
        cells = (side, width, classes, loss, terms or "-", recipe.batch)
        rows.append((name, *map(str, cells), f"{recipe.kimg:g}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


@contextmanager
def _signals() -> Generator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM set what the callable tells, and do nothing else, while it is entered."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            signal.signal(number, lambda number, _: caught.append(number))
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
