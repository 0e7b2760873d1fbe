"""What may go wrong in a training, and what is said of it."""

from __future__ import annotations

import errno
import io
import itertools
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from imagen_nodes.errors import (
    Cancelled,
    DataError,
    StorageError,
    TrainingError,
)
from imagen_nodes.networks.dcgan import (
    DCGANDiscriminatorNetwork,
)
from imagen_nodes.training import run as run_module
from imagen_nodes.training import session
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.losses import LOSSES, AdversarialLoss
from imagen_nodes.training.run import Run

from .small_runs import assert_same_run, begin, lines_of, preset, state_of, train

pytestmark = pytest.mark.usefixtures("one_thread", "pictures")


def test_a_full_disk(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run waits, says so once, and goes on as if nothing had been."""
    whole = begin(place, "whole", snapshot_kimg=0.08)
    synced, tries = os.fsync, list[str]()

    def full(handle: int) -> None:
        name = str(Path(f"/proc/self/fd/{handle}").readlink())
        if "state-000000080" in name and len(tries) < 3:
            tries.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    monkeypatch.setattr(session, "PATIENCE", 0.01)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        run = begin(place, snapshot_kimg=0.08)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "space" in line] == [
        "paused: run/state-000000080.pt: cannot be written: No space left on device. The training "
        "goes on as soon as there is space; Ctrl-C ends it",
        "on again: there is space",
    ]
    assert len(tries) == 3
    assert not list(run.folder.rglob(".*"))
    assert_same_run(whole, run)


def test_a_full_disk_that_stays_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the wait; the run goes on from its last state."""
    whole = begin(place, "whole", snapshot_kimg=0.08)
    synced = os.fsync

    def full(handle: int) -> None:
        if "state-000000160" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(StorageError) as info:
            begin(place, snapshot_kimg=0.08)
    assert str(info.value) == (
        "run/state-000000160.pt: cannot be written: No space left on device. "
        "Free some space; --resume run goes on from state-000000080.pt"
    )
    run = Run(place / "run")
    assert not list(run.folder.rglob(".*"))
    assert train("--resume", "run") == 0
    assert_same_run(whole, run)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_while_logging(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "run").mkdir()
    (place / "run" / "stats.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(StorageError, match=r"run/stats\.jsonl: cannot be written: No space left"):
        begin(place)


def test_no_permission_is_no_reason_to_wait(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(handle: int) -> None:
        if "state-" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(StorageError, match=r"state-000000160\.pt: cannot be written: Permission"):
        begin(place)


@pytest.mark.parametrize("written", [0, 5])
def test_half_a_line_is_taken_back(tmp_path: Path, written: int) -> None:
    class Filling(io.FileIO):
        def write(self, content: Any) -> int:
            if self.tell() > 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content[:written]) if written else super().write(content)

    path = tmp_path / "file"
    path.write_bytes(b"1234" if written else b"123456")
    with Filling(path, "ab") as file, pytest.raises(OSError, match="No space"):
        run_module._append(file, b"56789abc")
    assert path.read_bytes() == (b"1234" if written else b"123456")


def test_out_of_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would fit is tried out, and the option named; the last state is as it was."""
    whole = begin(place, "whole")
    compute = DCGANDiscriminatorNetwork.forward

    def limited(self: Any, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute(self, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(DCGANDiscriminatorNetwork, "forward", limited)
        with pytest.raises(TrainingError) as info:
            begin(place)
    assert str(info.value) == (
        "cpu: out of memory with 8 images at a time; --resume run goes on from the beginning. 2 at "
        "a time fit: --set accumulate=4 takes the same steps in as many parts"
    )
    assert train("--resume", "run") == 0
    assert_same_run(whole, Run(place / "run"))


def test_a_loss_that_is_not_finite(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count(1)
    entropy = LOSSES["bce"]

    def poisoned(real: Tensor, fake: Tensor) -> Tensor:
        # Batches of 8: the twelfth step is the one that shows image 96.
        return entropy.generator(real, fake) * (math.nan if next(count) == 12 else 1)

    monkeypatch.setitem(LOSSES, "bce", AdversarialLoss(entropy.discriminator, poisoned))
    with pytest.raises(TrainingError) as info:
        begin(place, snapshot_kimg=0.048, log_kimg=0.064)
    # Image 96 is where a state is due, and image 128 where a line would be.
    assert str(info.value).startswith("the generator loss became nan at 96 images: ")
    assert "The last good state is run/state-000000048.pt" in str(info.value)
    run = Run(place / "run")
    assert [path.name for path in run.states()] == ["state-000000048.pt"]
    assert all(p.isfinite().all() for p in state_of(run)["networks"]["generator"].values())


def test_divergence(place: Path) -> None:
    """Weights overflow before a loss tells."""
    with pytest.raises(TrainingError, match="the training has diverged"):
        begin(place, optimiser={"lr": 1e38}, snapshot_kimg=0.008)
    for path in (place / "run").glob("state-*.pt"):
        state = torch.load(path, weights_only=True)
        for weights in state["networks"].values():
            assert all(tensor.isfinite().all() for tensor in weights.values())


class Overflow:
    """Makes a layer of the generator overflow at one step, wherever the run is resumed; only while
    the learning rate is above ``limit``."""

    def __init__(self, patch: pytest.MonkeyPatch, nimg: int, limit: float = 0) -> None:
        step = Loop.step

        def poisoned(loop: Loop) -> Any:
            def overflow(_: nn.Module, args: Any, output: Tensor) -> Tensor:
                return output * math.inf

            rate = loop.optimisers["generator"].param_groups[0]["lr"]
            layer = loop.networks["generator"].get_submodule("main.3")
            if loop.nimg != nimg or rate <= limit:
                return step(loop)
            handle = layer.register_forward_hook(overflow, prepend=True)
            try:
                return step(loop)
            finally:
                handle.remove()

        patch.setattr(Loop, "step", poisoned)


def test_the_layer_is_named_and_the_run_goes_back(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Overflow(monkeypatch, 96)
    with pytest.raises(TrainingError) as info:
        begin(place, snapshot_kimg=0.048)
    assert "first at the output of generator.main.3 (DoublingConv2d)" in str(info.value)
    assert "The last good state is run/state-000000096.pt" in str(info.value)
    run = Run(place / "run")
    assert [json.loads(line)["nimg"] for line in lines_of(run)] == [32, 64, 96]
    # And so it stands: without the cause, it goes on as if nothing had been.
    monkeypatch.undo()
    monkeypatch.chdir(place)
    whole = begin(place, "whole", snapshot_kimg=0.048)
    assert train("--resume", "run") == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize("first_state", [0.048, 1])  # before the step in question; never
def test_on_at_half_the_learning_rate(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first_state: float,
) -> None:
    Overflow(monkeypatch, 72, limit=6e-5)
    run = begin(place, snapshot_kimg=first_state, on_divergence="halve")
    where = "state-000000048.pt" if first_state < 1 else "the beginning"
    out = capsys.readouterr().out
    assert f"Back to {where}, on at 0.5 of its learning rates" in out
    assert f"Back to {where}, on at 0.25 of its learning rates" in out
    rates = [group["lr"] for group in state_of(run)["optimisers"]["generator"]["param_groups"]]
    assert rates == [pytest.approx(5e-5)]
    ticks = [json.loads(line)["nimg"] for line in lines_of(run)]
    assert ticks == [32, 64, 96, 128, 160]


def test_halving_that_does_not_help(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Overflow(monkeypatch, 72)
    with pytest.raises(TrainingError, match="the training has diverged"):
        begin(place, on_divergence="halve")


def test_two_processes_do_not_train_in_one_folder(place: Path) -> None:
    run = begin(place, kimg=0.08)
    before = lines_of(run)
    with run.locked(), pytest.raises(TrainingError, match="run: another process is training in it"):
        train("--resume", "run", "--kimg", "0.16")
    assert lines_of(run) == before
    assert train("--resume", "run", "--kimg", "0.16") == 0


def test_skipped_pictures_are_counted_and_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(7):
        (place / "pictures" / "a" / f"x{i}.png").write_bytes(b"damaged")
    begin(place, kimg=0.008)
    output = capsys.readouterr().out
    assert "warning: pictures: skipped 7 of 27 pictures:\n  a/x0.png: not a picture" in output
    assert "  a/x4.png: not a picture, or damaged\n  ...\n" in output
    assert "data: 20 images of pictures, 2 classes" in output


def test_fewer_pictures_than_a_batch(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(place, batch=32, kimg=0.064)
    assert "note: fewer than a batch of 32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "classes", "message"),
    [
        (["a/1.png"], 0, "one picture is no data set"),
        (["1.png", "2.png"], 2, r"has no labels, but small is a conditional recipe with 2 classes"),
        (["a/1.png", "b/2.png", "c/3.png"], 2, r"has 3 classes, but small is a recipe for 2"),
        ([], 0, "no pictures in it"),
    ],
)
def test_data_that_does_not_fit(place: Path, files: list[str], classes: int, message: str) -> None:
    (place / "set").mkdir()
    for name in files:
        path = place / "set" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    with pytest.raises(DataError, match=f"set: {message}"):
        train(preset(place, classes=classes), "--data", "set")
    assert not (place / "runs").exists()


def test_interrupted_while_it_reads(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("imagen_nodes.training.start.open_data", stop)
    with pytest.raises(Cancelled, match="stopped before the training began"):
        train(preset(place), "--data", "pictures")
