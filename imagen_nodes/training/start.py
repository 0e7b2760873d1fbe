"""How a session starts: with a new run, or with one that goes on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..console import progress_bar
from ..errors import DataError, TrainingError
from .data import Dataset, Stream, open_data
from .loop import Loop
from .precision import DTYPES, probe
from .processes import ALONE, Processes
from .profile import profile, render
from .progress import Display
from .recipe import Recipe
from .run import Elsewhere, Plan, Run, new_run
from .session import Session

# What a resumed run may change: none of it has a part in what a step computes, rounding apart, and
# what ``accumulate`` is not exact for.
CHANGEABLE = frozenset(
    {
        "accumulate",
        "compile",
        "kimg",
        "log_kimg",
        "metric_kimg",
        "metric_reference",
        "metric_samples",
        "on_divergence",
        "patience_kimg",
        "sample_kimg",
        "snapshot_kimg",
    }
)
# Skipped pictures that are named one by one.
NAMED = 5
# Steps that --profile takes about, and the longest period that it takes whole.
PROFILED, LONGEST = 8, 64


@contextmanager
def begin(
    recipe: Recipe,
    data: Path,
    device: torch.device,
    display: Display,
    run: Run | Path,
    processes: Processes = ALONE,
) -> Generator[Session]:
    """A session that starts a run, in ``run``, or in a new folder in the folder ``run``. The disk
    is not touched before everything about recipe and data is known to be right.

    Raises:
        DataError: the data cannot be used for ``recipe``.
        TrainingError: there is a run in the folder, or it lies in the data.
        StorageError: the folder cannot be written.
    """
    given = run
    _refuse_taken(given)
    place = run.folder if isinstance(run, Run) else run
    if data.is_dir() and place.resolve().is_relative_to(data.resolve()):
        raise TrainingError(
            f"{place}: lies in {data}, and what a run writes would be taken for pictures of it. "
            "Give a folder elsewhere with --run"
        )
    _check_parts(recipe, processes)
    with processes.in_turn():
        dataset = load_data(recipe, data, display)
    recipe = _with_precision(recipe, dataset, device, display, processes)
    plan = Plan(
        recipe=recipe,
        data=str(data.resolve()),
        data_name=dataset.name,
        images=len(dataset.images),
        fingerprint=dataset.fingerprint,
        class_names=dataset.class_names if recipe.task.wanted.classes else (),
    )
    if not processes.first:
        run = Elsewhere(run.folder if isinstance(run, Run) else run)
    elif not isinstance(run, Run):
        run = new_run(run, recipe.name)
    with run.locked():
        if processes.first:  # another training may have begun here while this one read the data
            _refuse_taken(given)
        run.write_plan(plan)
        display.note(f"training in {run.folder}")
        yield Session(run, plan, _loop(plan, dataset, device, processes), display)


def _refuse_taken(run: Run | Path) -> None:
    """
    Raises:
        TrainingError: there is a run in the folder that was named for this one."""
    if isinstance(run, Run) and run.started:
        raise TrainingError(
            f"{run.folder}: holds a run already. --resume {run.folder} goes on with it; or give "
            "another folder"
        )


@contextmanager
def resume(
    run: Run,
    recipe: Recipe,
    data: Path | None,
    device: torch.device,
    display: Display,
    processes: Processes = ALONE,
) -> Generator[Session]:
    """A session that goes on with a run, towards what ``recipe`` asks for.

    Raises:
        TrainingError: there is no run, or no state that can be read; or ``recipe`` or the data
            differ from those that the run began with.
        DataError: the data cannot be used.
    """
    plan = run.plan()
    recipe = same(plan.recipe, recipe)
    _check_parts(recipe, processes)
    path = data or Path(plan.data)
    with processes.in_turn():
        dataset = load_data(recipe, path, display)
    if dataset.fingerprint != plan.fingerprint:
        raise TrainingError(
            f"{path}: not the pictures that {run.folder} began with ({plan.images} of "
            f"{plan.data_name}); its training cannot go on with others"
            + "; or it is of an older version, which fitted both of a pair as one picture"
            * (recipe.task.wanted.panels > 1)
        )
    plan = Plan.model_validate({**dict(plan), "recipe": recipe, "data": str(path.resolve())})
    run = run if processes.first else Elsewhere(run.folder)
    with run.locked():
        loop = _loop(plan, dataset, device, processes, resumed=True)
        session = Session(run, plan, loop, display)
        session.resume()
        run.write_plan(plan)
        yield session


def measure(recipe: Recipe, data: Path, device: torch.device, display: Display) -> str:
    """Where the time of a step goes, as text; nothing is written.

    Raises:
        DataError: the data cannot be used for ``recipe``.
    """
    _check_parts(recipe, ALONE)
    dataset = load_data(recipe, data, display)
    recipe = _with_precision(recipe, dataset, device, display)
    stream = _stream(recipe, dataset, device)
    period = recipe.task.period
    # Whole periods, since a lazy penalty falls on one step of each; few, where they are long.
    steps = period * max(1, PROFILED // period) if period <= LONGEST else PROFILED
    loop = Loop(recipe, stream, device, DTYPES[recipe.precision])
    loop.nimg = recipe.settled
    return render(profile(loop, steps))


def _check_parts(recipe: Recipe, processes: Processes) -> None:
    parts = processes.world * recipe.accumulate
    domains = recipe.task.wanted.domains
    if recipe.batch % (parts * domains):
        raise TrainingError(
            f"batch: {recipe.batch} images do not split equally over {processes.world} processes "
            f"with {recipe.accumulate} parts each"
            + f" and {domains} kinds of pictures" * (domains > 1)
            + f"; use a multiple of {parts * domains}"
        )


def _with_precision(
    recipe: Recipe,
    dataset: Dataset,
    device: torch.device,
    display: Display,
    processes: Processes = ALONE,
) -> Recipe:
    """``recipe`` with its precision resolved: what the first process finds faster."""
    if recipe.precision != "auto":
        return recipe
    stream = _stream(recipe, dataset, device, processes)
    found = probe(recipe, stream, device, display.note) if processes.first else None
    dtype = processes.share(found)
    name = next(name for name in DTYPES if DTYPES[name] == dtype)
    return Recipe.model_validate({**recipe.model_dump(), "precision": name})


def same(was: Recipe, now: Recipe) -> Recipe:
    """``now`` in the precision of ``was``.

    Raises:
        TrainingError: they differ in more than a resumed run may change.
    """
    if now.precision == "auto":
        now = Recipe.model_validate({**dict(now), "precision": was.precision})
    old, new = dict(_flat(was.model_dump(mode="json"))), dict(_flat(now.model_dump(mode="json")))
    lines = [
        f"{field}: was {old.get(field)}, now {new.get(field)}"
        for field in old | new
        if field not in CHANGEABLE and old.get(field) != new.get(field)
    ]
    if lines:
        raise TrainingError(
            "a resumed run keeps its recipe, all but "
            + ", ".join(sorted(CHANGEABLE))
            + ":\n"
            # The indented list reads as one message.
            + "\n".join(lines)
        )
    return now


def load_data(recipe: Recipe, path: Path, display: Display) -> Dataset:
    """The pictures at ``path``, if ``recipe`` can be trained on them; ``display`` hears of those
    that were skipped.

    Raises:
        DataError: it cannot, or there are none.
    """
    wanted = recipe.task.wanted
    with progress_bar() as progress:
        dataset = open_data(
            path,
            wanted.size,
            wanted.channels,
            display.note,
            progress,
            tiles=wanted.tiles,
            panels=wanted.panels,
        )
    count, classes = len(dataset.images), len(dataset.class_names)
    if dataset.skipped:
        total = count + len(dataset.skipped)
        lines = [f"warning: {path}: skipped {len(dataset.skipped)} of {total} pictures:"]
        lines += [f"  {line}" for line in dataset.skipped[:NAMED]]
        lines += ["  ..."] * (len(dataset.skipped) > NAMED)
        display.note("\n".join(lines))
    if count < 2:
        raise DataError(f"{path}: one picture is no data set; give two or more")
    if wanted.classes and dataset.labels is None:
        raise DataError(
            f"{path}: has no labels, but {recipe.name} is a conditional recipe with "
            f"{wanted.classes} classes. Put the pictures into a subfolder for each class"
        )
    if wanted.classes and classes != wanted.classes:
        raise DataError(
            f"{path}: has {classes} classes, but {recipe.name} is a recipe for "
            f"{wanted.classes}. Set task.generator.classes and task.discriminator.classes"
        )
    if wanted.domains > 1 and (dataset.labels is None or classes != wanted.domains):
        found = f"has {classes} subfolders" if classes else "has no subfolders for them"
        raise DataError(
            f"{path}: {recipe.name} takes {wanted.domains} kinds of pictures, but this {found}. "
            f"Put each kind into a subfolder, {wanted.domains} in all; their alphabetical order "
            "counts"
        )
    kinds = f", {classes} classes" if classes else ""
    if wanted.roles and dataset.labels is not None:
        counts = np.bincount(dataset.labels, minlength=classes).tolist()
        roles = list(zip(dataset.class_names, counts, wanted.roles, strict=True))
        for name, images, _ in roles:
            if not images:
                raise DataError(f"{path}: none of the pictures in {name} can be read")
        kinds = ": " + "; ".join(f"{name} ({images}), {role}" for name, images, role in roles)
    display.note(f"data: {count} images of {dataset.name}{kinds}")
    if count < recipe.batch:
        display.note(f"note: fewer than a batch of {recipe.batch}; a batch repeats them")
    return dataset


def _loop(
    plan: Plan,
    dataset: Dataset,
    device: torch.device,
    processes: Processes,
    resumed: bool = False,
) -> Loop:
    recipe = plan.recipe
    stream = _stream(recipe, dataset, device, processes)
    return Loop(recipe, stream, device, DTYPES[recipe.precision], processes, resumed)


def _stream(
    recipe: Recipe, dataset: Dataset, device: torch.device, processes: Processes = ALONE
) -> Stream:
    return Stream(
        dataset,
        seed=recipe.seed,
        flip=recipe.flip,
        crop=recipe.crop,
        colour=recipe.colour,
        held_out=recipe.held_out,
        panels=recipe.task.wanted.panels,
        domains=recipe.task.wanted.domains,
        rank=processes.rank,
        world=processes.world,
        device=device,
    )


def _flat(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
