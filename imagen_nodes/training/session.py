"""A session: what one process adds to a run, from its last state to its end or to a signal."""

from __future__ import annotations

import base64
import io
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoint import Card, Training
from ..errors import Cancelled, DataError, StorageError, TrainingError
from ..images import from_network, grid, to_pictures
from .data import Dataset, Stream, open_data
from .loop import Loop
from .precision import DTYPES, probe
from .progress import Display, Tick
from .randomness import torch_random
from .recipe import Recipe
from .run import Events, Plan, Run, new_run

# What a resumed run may change: none of it has a part in any step.
CHANGEABLE = frozenset({"kimg", "log_kimg", "sample_kimg", "snapshot_kimg"})
SAMPLES = 64
THUMBNAIL_SAMPLES = 16
THUMBNAIL_SIDE = 128
NAMED = 5


class Session:
    """Steps a loop, and leaves in the run's folder what each moment owes it."""

    def __init__(self, run: Run, plan: Plan, loop: Loop, display: Display) -> None:
        self.run = run
        self.plan = plan
        self.loop = loop
        self.display = display
        self.end = max(1, round(plan.recipe.kimg * 1000))
        self._ticks: list[Tick] = []
        # Losses of the steps since the last tick, still on the device: reading one waits for it.
        self._window: dict[str, list[Tensor]] = {}
        self._seconds = 0.0
        self._begun = self._since = time.monotonic()
        self._since_nimg = 0

    def resume(self) -> None:
        """Go to the run's last state; to its beginning where there is none yet."""
        path = self.run.restore(self._restore, self.display.note)
        self._ticks = self.run.repair(self.loop.nimg)
        where = f"from {path}" if path else "from the beginning: it has no state yet"
        self.display.note(f"resuming {self.run.folder} at {self.loop.nimg} images, {where}")

    def train(self, stopping: Callable[[], bool]) -> None:
        """Step to the end, or until ``stopping()``, which is asked after every step.

        Raises:
            Cancelled: it was stopped; everything is saved.
            TrainingError: a loss or a weight is not finite any more; nothing of that is saved.
            StorageError: a file cannot be written; the last state is as it was.
        """
        self._begun = self._since = time.monotonic()
        self._since_nimg = self.loop.nimg
        try:
            running = self.display.running(self.loop.nimg, self.end)
            with self.run.events(self.loop.nimg) as events, running:
                while self.loop.nimg < self.end:
                    self._step(events)
                    if stopping() and self.loop.nimg < self.end:
                        self._stop()
        except StorageError as error:
            raise StorageError(f"{error}. Free some space; {self._way_on()}") from error

    def _step(self, events: Events) -> None:
        for name, value in self.loop.step().items():
            self._window.setdefault(name, []).append(value)
        self.display.step(self.loop.nimg)
        recipe = self.plan.recipe
        if self._due(recipe.log_kimg):
            self._log(events)
        samples, save = self._due(recipe.sample_kimg), self._due(recipe.snapshot_kimg)
        if samples or save:
            with self._paused():
                self._keep(events, samples, save)

    def _due(self, kimg: float) -> bool:
        """Whether the last step passed a multiple of ``kimg``, or was the run's last."""
        nimg, interval = self.loop.nimg, max(1, round(kimg * 1000))
        before = nimg - self.plan.recipe.batch
        return nimg >= self.end or nimg // interval > before // interval

    def _log(self, events: Events) -> None:
        self._check_losses()
        nimg, now = self.loop.nimg, time.monotonic()
        tick = Tick(
            nimg=nimg,
            kimg=nimg / 1000,
            losses={name: float(torch.stack(v).mean()) for name, v in self._window.items()},
            images_per_second=round((nimg - self._since_nimg) / max(now - self._since, 1e-9), 2),
            seconds=round(self._elapsed(), 2),
            ema_half_life=self.loop.ema.half_life_at(nimg) / 1000,
        )
        self._window = {}
        self._since, self._since_nimg = time.monotonic(), nimg
        self._ticks.append(tick)
        self.run.append(tick)
        events.tick(tick)
        self.display.tick(tick)

    def _keep(self, events: Events, samples: bool, save: bool) -> None:
        self._check_losses()
        network = self.loop.snapshot()
        images = self._images(network)
        if samples:
            picture = to_pictures(grid(images))[0]
            self.run.write_samples(picture, self.loop.nimg)
            events.samples(picture, self.loop.nimg)
            if self._ticks:
                self.run.write_plot(self._ticks)
        if save:
            self._save(network, images)

    def _save(self, network: nn.Module, images: Tensor) -> tuple[Path, Path]:
        """Write snapshot and state; the state last, since it is what a resume goes by."""
        self._check_weights()
        nimg, name = self.loop.nimg, self.plan.recipe.name
        snapshot = self.run.write_snapshot(name, self._card(images), network, nimg)
        return snapshot, self.run.write_state(self._state(), nimg)

    def _stop(self) -> None:
        self._check_losses()
        network = self.loop.snapshot()
        snapshot, state = self._save(network, self._images(network))
        raise Cancelled(
            f"stopped after {self.loop.nimg} images; saved {snapshot} and {state}; {self._way_on()}"
        )

    @torch.inference_mode()
    def _images(self, network: nn.Module) -> Tensor:
        """IMAGE of the run's samples, always of the same latents."""
        recipe = self.plan.recipe
        random = torch_random(recipe.seed, 0, 0, "samples")
        z, labels = recipe.task.latents(SAMPLES, random)
        return from_network(network(z, labels))

    def _card(self, images: Tensor) -> Card:
        recipe, plan, nimg = self.plan.recipe, self.plan, self.loop.nimg
        architecture = recipe.task.architectures[recipe.task.shipped].model_dump(mode="json")
        return Card(
            title=recipe.name,
            description=f"A {architecture['kind']} for {architecture['resolution']} px images, "
            f"trained on {plan.images} images of {plan.data_name} for {nimg / 1000:.1f} kimg.",
            architecture=architecture,
            task=recipe.task.kind,
            class_names=plan.class_names,
            training=Training(
                recipe=recipe.model_dump(mode="json"),
                data=plan.data_name,
                images=plan.images,
                nimg=nimg,
                losses=self._ticks[-1].losses if self._ticks else {},
            ),
            thumbnail=thumbnail(to_pictures(grid(images[:THUMBNAIL_SAMPLES]))[0]),
        )

    def _state(self) -> dict[str, Any]:
        window = {name: torch.stack(values) for name, values in self._window.items()}
        return {**self.loop.state(), "seconds": self._elapsed(), "window": window}

    def _restore(self, state: dict[str, Any]) -> None:
        self.loop.restore(state)
        # A state that Loop.state() alone made has neither; it is as good.
        window: dict[str, Tensor] = state.get("window", {})
        self._window = {n: list(v.to(self.loop.device).unbind()) for n, v in window.items()}
        self._seconds = float(state.get("seconds", 0.0))

    def _elapsed(self) -> float:
        """Seconds of all sessions."""
        return self._seconds + time.monotonic() - self._begun

    @contextmanager
    def _paused(self) -> Generator[None]:
        """What happens inside does not count against the speed."""
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def _check_losses(self) -> None:
        """
        Raises:
            TrainingError: a loss since the last tick is not finite.
        """
        found: list[tuple[int, str, float]] = []
        for name, values in self._window.items():
            bad = torch.stack(values).isfinite().logical_not().nonzero()
            if len(bad):
                step = int(bad[0])
                nimg = self.loop.nimg - (len(values) - 1 - step) * self.plan.recipe.batch
                found.append((nimg, name, float(values[step])))
        if found:
            nimg, name, value = min(found, key=lambda entry: entry[0])
            raise TrainingError(
                f"the {name} loss became {value} at {nimg} images: the training has diverged. "
                + self._after_divergence()
            )

    def _check_weights(self) -> None:
        """
        Raises:
            TrainingError: a weight is not finite; the next loss will tell, but a state before that
                would be worth nothing.
        """
        for name, network in self.loop.networks.items():
            if not all(bool(tensor.isfinite().all()) for tensor in network.parameters()):
                raise TrainingError(
                    f"the {name} has weights that are not finite after {self.loop.nimg} images: "
                    "the training has diverged. " + self._after_divergence()
                )

    def _after_divergence(self) -> str:
        states = self.run.states()
        good = f"The last good state is {states[0]}" if states else "It had no state yet"
        return (
            f"{good}, but from there it would do the same: start again with another "
            "optimiser.lr or seed, or use an earlier snapshot"
        )

    def _way_on(self) -> str:
        states = self.run.states()
        start = f"from {states[0].name}" if states else "from the beginning"
        return f"--resume {self.run.folder} goes on {start}"


def begin(
    recipe: Recipe, data: Path, device: torch.device, display: Display, run: Run | Path
) -> Session:
    """A session that starts a run, in ``run``, or in a new folder in the folder ``run``. The disk
    is not touched before everything about recipe and data is known to be right.

    Raises:
        DataError: the data cannot be used for ``recipe``.
        TrainingError: there is a run in the folder.
        StorageError: the folder cannot be written.
    """
    if isinstance(run, Run) and run.started:
        raise TrainingError(
            f"{run.folder}: holds a run already. --resume {run.folder} goes on with it; or give "
            "another folder"
        )
    dataset = load_data(recipe, data, display)
    if recipe.precision == "auto":
        dtype = probe(recipe, _stream(recipe, dataset), device, display.note)
        name = next(name for name in DTYPES if DTYPES[name] == dtype)
        recipe = Recipe.model_validate({**recipe.model_dump(), "precision": name})
    plan = Plan(
        recipe=recipe,
        data=str(data.resolve()),
        data_name=dataset.name,
        images=len(dataset.images),
        fingerprint=fingerprint(dataset),
        class_names=dataset.class_names if recipe.task.generator.classes else (),
    )
    run = run if isinstance(run, Run) else new_run(run, recipe.name)
    run.write_plan(plan)
    display.note(f"training in {run.folder}")
    return Session(run, plan, _loop(plan, dataset, device), display)


def resume(
    run: Run, recipe: Recipe, data: Path | None, device: torch.device, display: Display
) -> Session:
    """A session that goes on with a run, towards what ``recipe`` asks for.

    Raises:
        TrainingError: there is no run, or no state that can be read; or ``recipe`` or the data
            differ from those that the run began with.
        DataError: the data cannot be used.
    """
    plan = run.plan()
    recipe = same(plan.recipe, recipe)
    path = data or Path(plan.data)
    dataset = load_data(recipe, path, display)
    if fingerprint(dataset) != plan.fingerprint:
        raise TrainingError(
            f"{path}: not the pictures that {run.folder} began with ({plan.images} of "
            f"{plan.data_name}); its training cannot go on with others"
        )
    plan = Plan.model_validate({**dict(plan), "recipe": recipe, "data": str(path.resolve())})
    session = Session(run, plan, _loop(plan, dataset, device), display)
    session.resume()
    run.write_plan(plan)
    return session


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
    generator = recipe.task.generator
    dataset = open_data(path, generator.resolution, generator.channels)
    count, classes = len(dataset.images), len(dataset.class_names)
    if dataset.skipped:
        total = count + len(dataset.skipped)
        lines = [f"warning: {path}: skipped {len(dataset.skipped)} of {total} pictures:"]
        lines += [f"  {line}" for line in dataset.skipped[:NAMED]]
        lines += ["  ..."] * (len(dataset.skipped) > NAMED)
        display.note("\n".join(lines))
    if count < 2:
        raise DataError(f"{path}: one picture is no data set; give two or more")
    if generator.classes and dataset.labels is None:
        raise DataError(
            f"{path}: has no labels, but {recipe.name} is a conditional recipe with "
            f"{generator.classes} classes. Put the pictures into a subfolder for each class"
        )
    if generator.classes and classes != generator.classes:
        raise DataError(
            f"{path}: has {classes} classes, but {recipe.name} is a recipe for "
            f"{generator.classes}. Set task.generator.classes and task.discriminator.classes"
        )
    display.note(f"data: {count} images of {dataset.name}" + f", {classes} classes" * bool(classes))
    if count < recipe.batch:
        display.note(f"note: fewer than a batch of {recipe.batch}; a batch repeats them")
    return dataset


def fingerprint(dataset: Dataset) -> str:
    """Of the decoded pixels and labels, in their order: 8 hexadecimal digits."""
    code = zlib.crc32(np.ascontiguousarray(dataset.images).data)
    if dataset.labels is not None:
        code = zlib.crc32(np.ascontiguousarray(dataset.labels).data, code)
    return f"{code:08x}"


def thumbnail(picture: Image.Image) -> str:
    """A data URL of ``picture``, at most 128 px on a side; JPEG, without alpha."""
    picture = picture.convert("RGB")
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _loop(plan: Plan, dataset: Dataset, device: torch.device) -> Loop:
    recipe = plan.recipe
    return Loop(recipe, _stream(recipe, dataset), device, DTYPES[recipe.precision])


def _stream(recipe: Recipe, dataset: Dataset) -> Stream:
    return Stream(dataset, seed=recipe.seed, flip=recipe.flip)


def _flat(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
