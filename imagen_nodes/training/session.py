"""A session: what one process adds to a run, from its last state to its end or to a signal."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..checkpoint import Card, Measurement
from ..errors import Cancelled, StorageError, TrainingError
from ..images import grid, to_picture
from .card import card
from .divergence import Divergence, watch
from .fitting import fitting
from .loop import Loop
from .measuring import Measuring, Metrics, best_of
from .progress import Display, Tick
from .randomness import torch_random
from .recipe import half_life_name
from .run import Events, Plan, Run
from .watch import Watch

SAMPLES = 64
# Seconds between two tries to write to a disk that is full.
PATIENCE = 5
# Times that the learning rates are halved from one state before it is given up.
MOST_HALVINGS = 4


Window = dict[str, dict[int, Tensor]]
T = TypeVar("T")


class Session:
    """Steps a loop, and leaves in the run's folder what each moment owes it."""

    def __init__(self, run: Run, plan: Plan, loop: Loop, display: Display) -> None:
        self.run = run
        self.plan = plan
        self.loop = loop
        self.display = display
        self.watch = Watch(loop)
        self.measuring = Measuring(plan.recipe, loop.data, loop.device)
        self.end = max(1, round(plan.recipe.kimg * 1000))
        self._ticks: list[Tick] = []
        self._metrics: list[Metrics] = []
        # Of the steps since the last tick, by name and nimg, still on the device: reading one waits
        # for it. Not every step has every loss.
        self._losses: Window = {}
        self._signals: Window = {}
        # How often the learning rates were halved from the state that was gone back to last.
        self._halvings = 0
        self._halved_at: Path | None = None
        self._stopping: Callable[[], bool] = lambda: False
        self._seconds = 0.0
        self._begun = self._since = time.monotonic()
        self._since_nimg = 0

    def resume(self) -> None:
        """Go to the run's last state; to its beginning where there is none yet."""
        path = self._go_back()
        where = f"from {path}" if path else "from the beginning: it has no state yet"
        self.display.note(f"resuming {self.run.folder} at {self.loop.nimg} images, {where}")
        before, world = self.loop.began_with, self.loop.processes.world
        if before != world:
            self.display.note(
                f"note: trained by {before} processes so far, now by {world}: the same steps, but "
                "for rounding and for what compares the images of a process (minibatch standard "
                "deviation)"
            )

    def train(self, stopping: Callable[[], bool]) -> None:
        """Step to the end, or until ``stopping()``, which is asked after every step.

        Raises:
            Cancelled: it was stopped; everything is saved.
            TrainingError: a loss or a weight is not finite any more, and the recipe wants to stop
                or halving the learning rates did not help; nothing of that is saved.
            StorageError: a file cannot be written, and not for want of space, or it was stopped
                while it waited for some; the last state is as it was.
        """
        self._stopping = stopping
        try:
            while self.loop.nimg < self.end:
                try:
                    self._train()
                except Divergence as divergence:
                    self._recover(divergence)
        except torch.OutOfMemoryError as error:
            raise TrainingError(self._about_memory()) from error
        except RuntimeError as error:
            # By its name: the module takes a second to import.
            if not type(error).__module__.startswith("torch._dynamo"):
                raise
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"the networks cannot be compiled here: {reason}. {self._way_on()}; --set "
                "compile=no does without"
            ) from error
        except StorageError as error:
            raise StorageError(f"{error}. Free some space; {self._way_on()}") from error

    def _train(self) -> None:
        self._begun = self._since = time.monotonic()
        self._since_nimg = self.loop.nimg
        running = self.display.running(self.loop.nimg, self.end)
        with self.run.events(self.loop.nimg) as events, running:
            while self.loop.nimg < self.end:
                ticked = self._step(events)
                if self._asked_to_stop(ticked) and self.loop.nimg < self.end:
                    self._stop()

    def _asked_to_stop(self, ticked: bool) -> bool:
        """In any process; several of them agree on it at a tick, which waits for them anyhow."""
        processes = self.loop.processes
        if processes.world > 1 and not ticked:
            return False
        return processes.any(self._stopping(), self.loop.device)

    def _recover(self, divergence: Divergence) -> None:
        """Go back to the last state, and on from there at half the learning rates.

        Raises:
            TrainingError: the recipe wants to stop, or that did not help.
        """
        layer = self._first_layer(divergence)
        text = f"{divergence.text}, first at the output of {layer}" if layer else divergence.text
        state = self._go_back()
        if state != self._halved_at:
            self._halvings, self._halved_at = 0, state
        if self.plan.recipe.on_divergence == "stop" or self._halvings >= MOST_HALVINGS:
            raise TrainingError(f"{text}: the training has diverged. {self._after_divergence()}")
        self._halvings += 1
        self.loop.scale_rates(0.5**self._halvings)
        where = state.name if state else "the beginning"
        self.display.note(
            f"warning: {text}. Back to {where}, on at {0.5**self._halvings:g} of its learning rates"
        )

    def _first_layer(self, divergence: Divergence) -> str | None:
        """The layer in which it began: the steps since the last state once more, watched."""
        self.display.note(f"{divergence.text}; going over the last steps to find the layer")
        self._go_back()
        with watch(self.loop.networks) as found:
            while self.loop.nimg <= divergence.nimg and not self._found(found):
                self.loop.step()
        return found[0] if found else None

    def _found(self, layers: list[str]) -> bool:
        """Whether any process has found one, or is to stop."""
        return self.loop.processes.any(bool(layers) or self._stopping(), self.loop.device)

    def _go_back(self) -> Path | None:
        """To the last state, whose path it is; to the beginning where there is none yet."""
        processes = self.loop.processes
        path = self.run.restore(self._restore, self.display.note)
        path, state = processes.share((path, self._state() if path else None))
        if state is None:
            self.loop.reset()
            self._losses, self._signals = {}, {}
            self.watch.reset()
        elif not processes.first:
            self._restore(state)
        # Of all that was measured every process has to draw the same conclusions.
        self._ticks, self._metrics = processes.share(self.run.repair(self.loop.nimg))
        return path

    def _step(self, events: Events) -> bool:
        """One step and all that it owes; whether it was logged."""
        values = self.loop.step()
        for window, of_step in ((self._losses, values.losses), (self._signals, values.signals)):
            for name, value in of_step.items():
                window.setdefault(name, {})[self.loop.nimg] = value
        self.display.step(self.loop.nimg)
        recipe = self.plan.recipe
        if ticked := self._due(recipe.log_kimg):
            self._log(events)
        samples, save = self._due(recipe.sample_kimg), self._due(recipe.snapshot_kimg)
        measure = recipe.metric_kimg is not None and self._due(recipe.metric_kimg)
        if samples or save or measure:
            with self._paused():
                self._keep(events, samples, save, measure)
        return ticked

    def _due(self, kimg: float) -> bool:
        """Whether the last step passed a multiple of ``kimg``, or was the run's last."""
        return self.loop.nimg >= self.end or self._passed(kimg)

    def _passed(self, kimg: float) -> bool:
        """Whether the last step passed a multiple of ``kimg``. What becomes part of the state goes
        by this, since the end may be moved."""
        nimg, interval = self.loop.nimg, max(1, round(kimg * 1000))
        return nimg // interval > (nimg - self.plan.recipe.batch) // interval

    def _log(self, events: Events) -> None:
        self._check_losses()
        nimg, now = self.loop.nimg, time.monotonic()
        tick = Tick(
            nimg=nimg,
            kimg=nimg / 1000,
            losses=_means(self._losses),
            signals=_means(self._signals),
            images_per_second=round((nimg - self._since_nimg) / max(now - self._since, 1e-9), 2),
            seconds=round(self._elapsed(), 2),
            ema_half_life=self.loop.averages[0].half_life_at(nimg) / 1000,
        )
        self._losses, self._signals = {}, {}
        self._since, self._since_nimg = time.monotonic(), nimg
        self._ticks.append(tick)
        self._written(lambda: self.run.append(tick))
        self._written(lambda: events.tick(tick))
        self.display.tick(tick)

    def _keep(self, events: Events, samples: bool, save: bool, measure: bool) -> None:
        self._check_losses()
        networks, nimg, recipe = self.loop.snapshots(), self.loop.nimg, self.plan.recipe
        if samples:
            picture = to_picture(grid(self._images(networks[0]))[0])
            self._written(lambda: self.run.write_samples(picture, nimg))
            self._written(lambda: events.samples(picture, nimg))
            if self._ticks:
                self._written(lambda: self.run.write_plot(self._ticks))
            if self._passed(recipe.sample_kimg):
                self._examine(networks[0])
        quality = self._measure(events, networks) if measure else [()] * len(networks)
        if save or nimg >= self.end:
            self._save(networks, quality)
        if samples or measure:
            self._written(self.run.write_report)

    def _examine(self, average: nn.Module) -> None:
        """Note what an examination finds, as signals of this step, and raise the alarms."""
        found, alarms = self.watch.examine(average, self._ticks)
        for name, value in found.items():
            tensor = torch.tensor(value, device=self.loop.device)
            self._signals.setdefault(name, {})[self.loop.nimg] = tensor
        for alarm in alarms:
            self._written(partial(self.run.append_alarm, alarm))
            self.display.note(f"warning: {alarm.kind}: {alarm.text} {alarm.advice}")

    def _measure(self, events: Events, networks: list[nn.Module]) -> list[tuple[Measurement, ...]]:
        """Measure the averages; keep the best network of all measurements, and end the training if
        there was none for long enough."""
        if (measurement := self.measuring.measure) is None:
            return [()] * len(networks)
        recipe, nimg = self.plan.recipe, self.loop.nimg
        processes = self.loop.processes
        found = [
            processes.share(measurement(network) if processes.first else None)
            for network in networks
        ]
        for life, network, quality in zip(recipe.ema_half_lives, networks, found, strict=True):
            figures = {figure.metric: figure.value for figure in quality}
            line = Metrics(nimg=nimg, ema=float(half_life_name(life)), metrics=figures)
            self._metrics.append(line)
            self._written(partial(self.run.append_metrics, line))
            self._written(partial(events.metrics, line, len(networks) > 1))
            if best_of(self._metrics) is line:
                about = self._card(
                    network, quality, f"the best {quality[0].metric} of the training"
                )
                self._written(partial(self.run.write_snapshot, recipe.name, about, network, None))
            self.display.note(_measured(line, len(networks) > 1))
        best = best_of(self._metrics)
        if best and recipe.patience_kimg and nimg - best.nimg >= recipe.patience_kimg * 1000:
            self.end = nimg
            self.display.note(
                f"nothing better for {recipe.patience_kimg:g} kimg: the best was after "
                f"{best.nimg / 1000:.1f} kimg, and is kept"
            )
        return found

    def _save(
        self, networks: list[nn.Module], quality: list[tuple[Measurement, ...]] | None = None
    ) -> tuple[Path, Path]:
        """Write snapshots and state; the state last, since it is what a resume goes by. The first
        snapshot, and the state."""
        self._check_weights()
        quality = quality or [()] * len(networks)
        paths: list[Path] = []
        for name, network, figures in zip(self._names(), networks, quality, strict=True):
            about = self._card(network, figures)
            write = partial(self.run.write_snapshot, name, about, network, self.loop.nimg)
            paths.append(self._written(write))
        return paths[0], self._written(lambda: self.run.write_state(self._state(), self.loop.nimg))

    def _card(
        self, network: nn.Module, quality: tuple[Measurement, ...] = (), selection: str = ""
    ) -> Card:
        losses = self._ticks[-1].losses if self._ticks else {}
        return card(self.plan, self.loop.nimg, losses, self._images(network), quality, selection)

    def _names(self) -> list[str]:
        """Of the averages' files."""
        recipe = self.plan.recipe
        if len(recipe.ema_half_lives) == 1:
            return [recipe.name]
        return [f"{recipe.name}-ema{half_life_name(life)}" for life in recipe.ema_half_lives]

    def _written(self, write: Callable[[], T]) -> T:
        """What ``write`` gives; while the disk is full, wait for space.

        Raises:
            StorageError: it cannot be written, or the wait was ended.
        """
        waiting = False
        while True:
            try:
                written = write()
            except StorageError as error:
                if not error.full or self._stopping():
                    raise
                if not waiting:
                    self.display.note(
                        f"paused: {error}. The training goes on as soon as there is space; Ctrl-C "
                        "ends it"
                    )
                waiting = True
                time.sleep(PATIENCE)
            else:
                if waiting:
                    self.display.note("on again: there is space")
                return written

    def _stop(self) -> None:
        self._check_losses()
        snapshot, state = self._save(self.loop.snapshots())
        raise Cancelled(
            f"stopped after {self.loop.nimg} images; saved {snapshot} and {state}; {self._way_on()}"
        )

    @torch.inference_mode()
    def _images(self, network: nn.Module) -> Tensor:
        """IMAGE of the run's samples, always of the same latents or pictures."""
        recipe, data = self.plan.recipe, self.loop.data
        random = torch_random(recipe.seed, 0, 0, "samples")
        pictures = data.held_out(0, SAMPLES) or data.batch(0, SAMPLES * self.loop.processes.world)
        return recipe.task.preview(network, SAMPLES, random, pictures)

    def _state(self) -> dict[str, Any]:
        return {
            **self.loop.state(),
            "seconds": self._elapsed(),
            "losses": self._losses,
            "signals": self._signals,
            "watch": self.watch.state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.loop.restore(state)
        # A state that Loop.state() alone made has none of these; it is as good.
        self._losses, self._signals = (
            {name: {n: v.to(self.loop.device) for n, v in values.items()} for name, values in w}
            for w in (state.get(key, {}).items() for key in ("losses", "signals"))
        )
        if "watch" in state:
            self.watch.restore(state["watch"])
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
            Divergence: a loss since the last tick is not finite.
        """
        found: list[tuple[int, str, float]] = []
        for name, values in self._losses.items():
            numbers = _stacked(values)
            bad = numbers.isfinite().logical_not().nonzero()
            if len(bad):
                found.append((list(values)[int(bad[0])], name, float(numbers[bad[0]])))
        if found:
            nimg, name, value = min(found, key=lambda entry: entry[0])
            raise Divergence(f"the {name} loss became {value} at {nimg} images", nimg)

    def _check_weights(self) -> None:
        """
        Raises:
            Divergence: a weight is not finite; the next loss will tell, but a state before that
                would be worth nothing.
        """
        for name, network in self.loop.networks.items():
            for key, tensor in network.named_parameters():
                if not tensor.isfinite().all():
                    text = f"{name}.{key} is not finite after {self.loop.nimg} images"
                    raise Divergence(text, self.loop.nimg)

    def _after_divergence(self) -> str:
        states = self.run.states()
        good = f"The last good state is {states[0]}" if states else "It had no state yet"
        return (
            f"{good}, but from there it would do the same: start again with a lower optimiser.lr, "
            "another seed or on_divergence=halve, or use an earlier snapshot"
        )

    def _about_memory(self) -> str:
        """After the device's memory ran out: what would fit."""
        recipe, world = self.plan.recipe, self.loop.processes.world
        parts = fitting(self.loop)
        text = (
            f"{self.loop.device}: out of memory with {recipe.batch // recipe.accumulate // world} "
            f"images at a time; {self._way_on()}"
        )
        if parts is None:
            return f"{text}. Not even one would fit: smaller networks or a lower resolution would"
        return (
            f"{text}. {recipe.batch // parts // world} at a time fit: --set accumulate={parts} "
            "takes the same steps in as many parts"
        )

    def _way_on(self) -> str:
        states = self.run.states()
        start = f"from {states[0].name}" if states else "from the beginning"
        return f"--resume {self.run.folder} goes on {start}"


def _measured(line: Metrics, several: bool) -> str:
    average = f", average of {line.ema:g} kimg" if several else ""
    names = {name.partition(" (")[0]: value for name, value in line.metrics.items()}
    figures = "  ".join(f"{name} {value:.4g}" for name, value in names.items())
    return f"measured after {line.nimg / 1000:.1f} kimg{average}: {figures}"


def _means(window: Window) -> dict[str, float]:
    return {name: float(_stacked(values).mean()) for name, values in window.items()}


def _stacked(values: dict[int, Tensor]) -> Tensor:
    """``[n]``, on the CPU: the one moment at which a tick waits for the device."""
    return torch.stack(list(values.values())).cpu()
