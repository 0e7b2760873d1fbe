"""What a training shows of itself while it goes: a bar for people, plain lines for files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

from pydantic import Field

from ..console import duration
from ..spec import Spec


class Tick(Spec):
    """One line of ``stats.jsonl``: what happened since the one before."""

    nimg: int
    """Images shown so far."""
    kimg: float
    """The same in thousands."""
    losses: dict[str, float]
    """Means since the last tick."""
    signals: dict[str, float] = Field(default_factory=dict[str, float])
    """Means of what else tells how a training goes: logits, the augmentation's p."""
    images_per_second: float
    """Speed since the last tick; grids, plots and snapshots do not count."""
    seconds: float
    """Time spent so far, in all sessions."""
    ema_half_life: float
    """Of the averaged network at this moment, kimg."""


class Display(ABC):
    """Where a training shows itself."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Say one thing."""

    @abstractmethod
    def running(self, nimg: int, total: int) -> AbstractContextManager[None]:
        """Shows progress while it is entered, from ``nimg`` of ``total`` images on."""

    @abstractmethod
    def step(self, nimg: int) -> None:
        """``nimg`` images were shown."""

    @abstractmethod
    def tick(self, tick: Tick) -> None:
        """The means since the last tick are known."""


class NoDisplay(Display):
    """Of a process that leaves the talking to another."""

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def running(self, nimg: int, total: int) -> Generator[None]:
        yield

    def step(self, nimg: int) -> None:
        pass

    def tick(self, tick: Tick) -> None:
        pass


class PlainDisplay(Display):
    """One line a tick."""

    def __init__(self) -> None:
        self._total = 0

    def note(self, text: str) -> None:
        print(text, flush=True)

    @contextmanager
    def running(self, nimg: int, total: int) -> Generator[None]:
        self._total = total
        yield

    def step(self, nimg: int) -> None:
        pass

    def tick(self, tick: Tick) -> None:
        seconds = (self._total - tick.nimg) / max(tick.images_per_second, 1e-9)
        left = duration(seconds)
        self.note(f"{_done(tick.nimg, self._total)}  {_figures(tick)}  {left} left")


class BarDisplay(Display):
    """A bar that moves at every step; for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            # Steps are seconds apart on a CPU, and pauses for snapshots are to even out.
            speed_estimate_period=300,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False, figures="")
        self._total = 0

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def running(self, nimg: int, total: int) -> Generator[None]:
        self._total = total
        self._progress.update(self._task, total=total, visible=True)
        self.step(nimg)
        with self._progress:
            yield

    def step(self, nimg: int) -> None:
        text = _done(nimg, self._total)
        self._progress.update(self._task, completed=nimg, description=text)

    def tick(self, tick: Tick) -> None:
        self._progress.update(self._task, figures=_figures(tick))


def _done(nimg: int, total: int) -> str:
    return f"{nimg / 1000:.1f}/{total / 1000:g} kimg"


def _figures(tick: Tick) -> str:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in tick.losses.items())
    return f"{tick.images_per_second:.0f} img/s  {losses}"
