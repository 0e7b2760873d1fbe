"""The run folder: the only door from a training to the disk.

    runs/00000-dcgan-cifar10/
        recipe.json                    the recipe as it runs, and the data
        stats.jsonl                    a line a tick
        metrics.jsonl                  a line a measurement
        alarms.jsonl                   a line an alarm
        events.out.tfevents.*          the same for TensorBoard, one file a session
        losses.png                     the same as a plot
        report.html, filmstrip.png     all of it as a page, and the samples over time
        samples/000025.png             64 images of the averaged network, always of the same latents
        snapshots/NAME-000050.safetensors   the averaged network: a checkpoint
        snapshots/NAME-best.safetensors     the best, where they are measured
        state-000050048.pt             everything that a resumed training needs; the last two
        lock                           held by the process that trains here

Each file is replaced whole or, where it grows, repaired on resume, so a training that is killed at
any moment can go on from its last state.
"""

from __future__ import annotations

import errno
import io
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

from .. import checkpoint
from ..checkpoint import Card
from ..errors import StorageError, TrainingError
from ..evaluation.plots import loss_plot
from ..evaluation.report import write_report
from ..files import sweep, write_atomically
from ..spec import Spec, problems
from .diagnoses import Alarm
from .measuring import Metrics
from .progress import Tick
from .recipe import Recipe

PLAN = "recipe.json"
STATS = "stats.jsonl"
METRICS = "metrics.jsonl"
ALARMS = "alarms.jsonl"
LOCK = "lock"
SNAPSHOTS = "snapshots"
BEST = "best"
RUN_NAME = re.compile(r"(\d{5,})-(.+)")
KEPT_STATES = 2

L = TypeVar("L", Tick, Metrics, Alarm)


class Plan(Spec):
    """What ``recipe.json`` holds: all that decides the run's result."""

    recipe: Recipe
    """As it runs: its precision is resolved."""
    data: str
    """Path of the data set."""
    data_name: str
    """Its name in cards."""
    images: int
    """How many it holds."""
    fingerprint: str
    """Of its decoded pixels and labels: a resumed training must see the same."""
    class_names: tuple[str, ...] = ()
    """By label; empty: none, or unused."""


@dataclass(frozen=True)
class Run:
    """A run's folder."""

    folder: Path

    @property
    def started(self) -> bool:
        """Whether there is a run in the folder."""
        return (self.folder / PLAN).is_file()

    @contextmanager
    def locked(self) -> Generator[None]:
        """While it is entered, no other process trains in the folder.

        Raises:
            TrainingError: one does.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / LOCK, timeout=0)
        with _storage(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                raise TrainingError(
                    f"{self.folder}: another process is training in it; stop that one first"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def plan(self) -> Plan:
        """The run's plan.

        Raises:
            TrainingError: there is no run in the folder, or its plan is not valid.
        """
        path = self.folder / PLAN
        try:
            return Plan.model_validate_json(path.read_bytes())
        except OSError as error:
            raise TrainingError(f"{self.folder}: no run to resume: it has no {PLAN}") from error
        except ValidationError as error:
            raise TrainingError(f"{path}: not the recipe of a run:\n{problems(error)}") from error

    def write_plan(self, plan: Plan) -> None:
        """Begin the run, or change its plan."""
        write_atomically(self.folder / PLAN, plan.model_dump_json(indent=2).encode() + b"\n")

    def repair(self, nimg: int) -> tuple[list[Tick], list[Metrics]]:
        """Drop what a killed session left after image ``nimg``; the ticks and metrics up to
        there."""
        sweep(self.folder)
        self._repair(ALARMS, Alarm, nimg)
        return self._repair(STATS, Tick, nimg), self._repair(METRICS, Metrics, nimg)

    def _repair(self, name: str, kind: type[L], nimg: int) -> list[L]:
        path = self.folder / name
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        kept: list[L] = []
        for line in lines:
            try:
                kept.append(kind.model_validate_json(line))
            except ValidationError:  # half a line
                break
        kept = [entry for entry in kept if entry.nimg <= nimg]
        if lines:
            write_atomically(path, b"".join(_line(entry) for entry in kept))
        return kept

    def append(self, tick: Tick) -> None:
        """Add a line to the statistics."""
        self._append(STATS, tick)

    def append_metrics(self, metrics: Metrics) -> None:
        """Add a measurement."""
        self._append(METRICS, metrics)

    def append_alarm(self, alarm: Alarm) -> None:
        """Add an alarm."""
        self._append(ALARMS, alarm)

    def _append(self, name: str, entry: Spec) -> None:
        with _storage(self.folder / name) as path, path.open("ab", buffering=0) as file:
            _append(file, _line(entry))

    def write_report(self) -> None:
        """Write the run's page and film strip."""
        write_report(self.folder)

    def write_plot(self, ticks: list[Tick]) -> None:
        """Draw the losses of ``ticks``, at least one."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for tick in ticks:
            for name, value in tick.losses.items():
                curves.setdefault(name, []).append((tick.kimg, value))
        plot = loss_plot(self.folder.name, curves)
        write_atomically(self.folder / "losses.png", plot)

    def write_samples(self, picture: Image.Image, nimg: int) -> None:
        """Keep the sample grid of this moment."""
        path = self.folder / "samples" / f"{nimg // 1000:06d}.png"
        write_atomically(path, lambda file: picture.save(file, "PNG"))

    def write_snapshot(self, name: str, card: Card, network: nn.Module, nimg: int | None) -> Path:
        """Keep the weights of this moment; ``nimg`` None: as the best ones."""
        moment = BEST if nimg is None else f"{nimg // 1000:06d}"
        path = self.folder / SNAPSHOTS / f"{name}-{moment}.safetensors"
        checkpoint.save(path, card, network)
        return path

    def states(self) -> list[Path]:
        """The training states, newest first."""
        return sorted(self.folder.glob("state-*.pt"), reverse=True)

    def write_state(self, state: Mapping[str, Any], nimg: int) -> Path:
        """Keep a training state, and only the last two."""
        path = self.folder / f"state-{nimg:09d}.pt"
        # In memory first: torch turns the file's OSError, a full disk, into a RuntimeError.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))
        for old in self.states()[KEPT_STATES:]:
            old.unlink(missing_ok=True)
        return path

    def restore(
        self, restore: Callable[[dict[str, Any]], None], say: Callable[[str], None]
    ) -> Path | None:
        """Hand the newest state that can be read to ``restore``; its path, or None where there is
        none yet. ``say`` hears of those that cannot.

        Raises:
            TrainingError: there are states, but none can be read.
        """
        failures: list[str] = []
        for path in self.states():
            try:
                restore(torch.load(path, map_location="cpu", weights_only=True))
            except Exception as error:  # a damaged file makes torch raise anything
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                if not isinstance(error, OSError) or error.errno == errno.EINVAL:
                    reason = f"damaged or cut off ({reason})"
                failures.append(f"{path}: cannot be read: {reason}")
                say(f"warning: {failures[-1]}")
            else:
                return path
        if failures:
            text = "\n".join(failures)
            raise TrainingError(f"{self.folder}: none of its states can be read:\n{text}")
        return None

    def events(self, nimg: int) -> Events:
        """A new event file; TensorBoard forgets what older ones say of images after ``nimg``."""
        return Events(self.folder, nimg)


class Events:
    """TensorBoard's event file of one session, closed on leaving.

    torch's SummaryWriter writes from a thread of its own, which answers a full disk with a
    traceback on the terminal; this writes the same records at once."""

    def __init__(self, folder: Path, nimg: int) -> None:
        # Generated code, which type checkers cannot see into.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        proto: Any = event_pb2
        self._event = proto.Event
        self._path = folder / f"events.out.tfevents.{time.time():.6f}"
        with _storage(self._path):
            self._file = self._path.open("wb", buffering=0)
        self._writer = RecordWriter
        start = proto.SessionLog(status=proto.SessionLog.START)
        self._write(file_version="brain.Event:2", step=nimg + 1)
        self._write(session_log=start, step=nimg + 1)

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        with _storage(self._path):
            self._file.close()

    def tick(self, tick: Tick) -> None:
        """Losses and speed."""
        from torch.utils.tensorboard.summary import scalar

        values = {f"loss/{name}": value for name, value in tick.losses.items()}
        values |= {f"signal/{name}": value for name, value in tick.signals.items()}
        values["speed/images per second"] = tick.images_per_second
        values["ema/half-life, kimg"] = tick.ema_half_life
        for name, value in values.items():
            self._write(summary=scalar(name, value), step=tick.nimg)

    def metrics(self, metrics: Metrics, several: bool) -> None:
        """Measurements; of which average, where there are several."""
        from torch.utils.tensorboard.summary import scalar

        average = f", average of {metrics.ema:g} kimg" if several else ""
        for name, value in metrics.metrics.items():
            self._write(summary=scalar(f"metric/{name}{average}", value), step=metrics.nimg)

    def samples(self, picture: Image.Image, nimg: int) -> None:
        """A sample grid."""
        from tensorboard.compat.proto import summary_pb2

        proto: Any = summary_pb2
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        image = proto.Summary.Image(
            height=picture.height,
            width=picture.width,
            colorspace=len(picture.getbands()),
            encoded_image_string=buffer.getvalue(),
        )
        value = proto.Summary.Value(tag="samples", image=image)
        self._write(summary=proto.Summary(value=[value]), step=nimg)

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        record = io.BytesIO()
        self._writer(record).write(event.SerializeToString())
        with _storage(self._path):
            _append(self._file, record.getvalue())


class Elsewhere(Run):
    """The run as a process sees it that trains along and leaves the folder to the first one."""

    @contextmanager
    def locked(self) -> Generator[None]:
        yield

    def write_plan(self, plan: Plan) -> None:
        pass

    def repair(self, nimg: int) -> tuple[list[Tick], list[Metrics]]:
        return [], []

    def _append(self, name: str, entry: Spec) -> None:
        pass

    def write_report(self) -> None:
        pass

    def write_plot(self, ticks: list[Tick]) -> None:
        pass

    def write_samples(self, picture: Image.Image, nimg: int) -> None:
        pass

    def write_snapshot(self, name: str, card: Card, network: nn.Module, nimg: int | None) -> Path:
        return self.folder

    def write_state(self, state: Mapping[str, Any], nimg: int) -> Path:
        return self.folder

    def restore(
        self, restore: Callable[[dict[str, Any]], None], say: Callable[[str], None]
    ) -> Path | None:
        return None

    def events(self, nimg: int) -> Events:
        return NoEvents()


class NoEvents(Events):
    """Nothing is written."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def tick(self, tick: Tick) -> None:
        pass

    def metrics(self, metrics: Metrics, several: bool) -> None:
        pass

    def samples(self, picture: Image.Image, nimg: int) -> None:
        pass


def new_run(parent: Path, name: str) -> Run:
    """Make the next folder ``parent/00000-name``.

    Raises:
        StorageError: it cannot be made.
    """
    numbers = [int(match[1]) for match, _ in _runs(parent)]
    number = max(numbers, default=-1) + 1
    while True:
        # Another training may just have taken it.
        with _storage(parent / f"{number:05d}-{name}") as folder, suppress(FileExistsError):
            folder.mkdir(parents=True)
            return Run(folder)
        number += 1


def newest_run(parent: Path, name: str) -> Run | None:
    """The run of that name with the highest number."""
    found = [
        (int(match[1]), run) for match, run in _runs(parent) if match[2] == name and run.started
    ]
    return max(found, key=lambda pair: pair[0], default=(0, None))[1]


def _runs(parent: Path) -> Iterator[tuple[re.Match[str], Run]]:
    for folder in parent.iterdir() if parent.is_dir() else ():
        match = RUN_NAME.fullmatch(folder.name)
        if match and folder.is_dir():
            yield match, Run(folder)


def _line(entry: Spec) -> bytes:
    return entry.model_dump_json().encode() + b"\n"


def _append(file: io.FileIO, content: bytes) -> None:
    """All of it or nothing: a disk that is full may take half of it first."""
    end = file.seek(0, io.SEEK_END)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with suppress(OSError):  # a device has no length
            file.truncate(end)
        raise


@contextmanager
def _storage(path: Path) -> Generator[Path]:
    try:
        yield path
    except OSError as error:
        raise StorageError.at(path, error) from error
