"""A session: what one process adds to a run, from its last state to its end or to a signal."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoint import Card, Training
from ..errors import Cancelled, StorageError, TrainingError
from ..images import from_network, grid, to_pictures
from .divergence import Divergence, watch
from .loop import Loop
from .progress import Display, Tick
from .randomness import torch_random
from .run import Events, Plan, Run

SAMPLES = 64
THUMBNAIL_SAMPLES = 16
THUMBNAIL_SIDE = 128
# Times that the learning rates are halved from one state before it is given up.
MOST_HALVINGS = 4


Window = dict[str, dict[int, Tensor]]


class Session:
    """Steps a loop, and leaves in the run's folder what each moment owes it."""

    def __init__(self, run: Run, plan: Plan, loop: Loop, display: Display) -> None:
        self.run = run
        self.plan = plan
        self.loop = loop
        self.display = display
        self.end = max(1, round(plan.recipe.kimg * 1000))
        self._ticks: list[Tick] = []
        # Of the steps since the last tick, by name and nimg, still on the device: reading one waits
        # for it. Not every step has every loss.
        self._losses: Window = {}
        self._signals: Window = {}
        # How often the learning rates were halved from the state that was gone back to last.
        self._halvings = 0
        self._halved_at: Path | None = None
        self._seconds = 0.0
        self._begun = self._since = time.monotonic()
        self._since_nimg = 0

    def resume(self) -> None:
        """Go to the run's last state; to its beginning where there is none yet."""
        path = self._go_back()
        where = f"from {path}" if path else "from the beginning: it has no state yet"
        self.display.note(f"resuming {self.run.folder} at {self.loop.nimg} images, {where}")

    def train(self, stopping: Callable[[], bool]) -> None:
        """Step to the end, or until ``stopping()``, which is asked after every step.

        Raises:
            Cancelled: it was stopped; everything is saved.
            TrainingError: a loss or a weight is not finite any more, and the recipe wants to stop
                or halving the learning rates did not help; nothing of that is saved.
            StorageError: a file cannot be written; the last state is as it was.
        """
        try:
            while self.loop.nimg < self.end:
                try:
                    self._train(stopping)
                except Divergence as divergence:
                    self._recover(divergence, stopping)
        except StorageError as error:
            raise StorageError(f"{error}. Free some space; {self._way_on()}") from error

    def _train(self, stopping: Callable[[], bool]) -> None:
        self._begun = self._since = time.monotonic()
        self._since_nimg = self.loop.nimg
        running = self.display.running(self.loop.nimg, self.end)
        with self.run.events(self.loop.nimg) as events, running:
            while self.loop.nimg < self.end:
                self._step(events)
                if stopping() and self.loop.nimg < self.end:
                    self._stop()

    def _recover(self, divergence: Divergence, stopping: Callable[[], bool]) -> None:
        """Go back to the last state, and on from there at half the learning rates.

        Raises:
            TrainingError: the recipe wants to stop, or that did not help.
        """
        layer = self._first_layer(divergence, stopping)
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

    def _first_layer(self, divergence: Divergence, stopping: Callable[[], bool]) -> str | None:
        """The layer in which it began: the steps since the last state once more, watched."""
        self.display.note(f"{divergence.text}; going over the last steps to find the layer")
        self._go_back()
        with watch(self.loop.networks) as found:
            while self.loop.nimg <= divergence.nimg and not found and not stopping():
                self.loop.step()
        return found[0] if found else None

    def _go_back(self) -> Path | None:
        """To the last state, whose path it is; to the beginning where there is none yet."""
        path = self.run.restore(self._restore, self.display.note)
        if path is None:
            self.loop.reset()
            self._losses, self._signals = {}, {}
        self._ticks = self.run.repair(self.loop.nimg)
        return path

    def _step(self, events: Events) -> None:
        values = self.loop.step()
        for window, of_step in ((self._losses, values.losses), (self._signals, values.signals)):
            for name, value in of_step.items():
                window.setdefault(name, {})[self.loop.nimg] = value
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
            losses=_means(self._losses),
            signals=_means(self._signals),
            images_per_second=round((nimg - self._since_nimg) / max(now - self._since, 1e-9), 2),
            seconds=round(self._elapsed(), 2),
            ema_half_life=self.loop.ema.half_life_at(nimg) / 1000,
        )
        self._losses, self._signals = {}, {}
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
        return {
            **self.loop.state(),
            "seconds": self._elapsed(),
            "losses": self._losses,
            "signals": self._signals,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.loop.restore(state)
        # A state that Loop.state() alone made has none of these; it is as good.
        self._losses, self._signals = (
            {name: {n: v.to(self.loop.device) for n, v in values.items()} for name, values in w}
            for w in (state.get(key, {}).items() for key in ("losses", "signals"))
        )
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

    def _way_on(self) -> str:
        states = self.run.states()
        start = f"from {states[0].name}" if states else "from the beginning"
        return f"--resume {self.run.folder} goes on {start}"


def _means(window: Window) -> dict[str, float]:
    return {name: float(_stacked(values).mean()) for name, values in window.items()}


def _stacked(values: dict[int, Tensor]) -> Tensor:
    """``[n]``, on the CPU: the one moment at which a tick waits for the device."""
    return torch.stack(list(values.values())).cpu()


def thumbnail(picture: Image.Image) -> str:
    """A data URL of ``picture``, at most 128 px on a side; JPEG, without alpha."""
    picture = picture.convert("RGB")
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
