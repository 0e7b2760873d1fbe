"""How a training goes on after it was stopped, whatever stopped it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from imagen_nodes import checkpoint
from imagen_nodes.errors import (
    Cancelled,
    DataError,
    TrainingError,
)
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.run import Run

from .small_runs import (
    CPU,
    Stopper,
    assert_equal,
    assert_same_run,
    begin,
    interrupt,
    preset,
    run_stream,
    small,
    state_of,
    tick_of,
    train,
    write_pictures,
)

pytestmark = pytest.mark.usefixtures("one_thread", "pictures")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("fields", [{}, {"precision": "bfloat16", "classes": 2, "attention": (8,)}])
def test_an_interrupted_run_is_an_uninterrupted_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, fields: dict[str, Any]
) -> None:
    whole = begin(place, "whole", **fields)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    # In the middle of a log line and of an epoch.
    with monkeypatch.context() as patch:
        Stopper(patch, 72, interrupt(number))
        with pytest.raises(Cancelled) as info:
            begin(place, "run", **fields)
    assert info.value.exit_code == 130
    assert str(info.value) == (
        "stopped after 72 images; saved run/snapshots/small-000000.safetensors and "
        "run/state-000000072.pt; --resume run goes on from state-000000072.pt"
    )
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert checkpoint.inspect(place / "run/snapshots/small-000000.safetensors").card.training
    train("--resume", "run")
    assert_same_run(whole, Run(place / "run"))


def test_kill_9_at_any_moment(place: Path) -> None:
    """A process that saves after every step, killed twice where it stands, then resumed here."""
    fields = {"snapshot_kimg": 0.008, "log_kimg": 0.008, "kimg": 0.8}
    command = [sys.executable, "-m", "imagen_nodes.training", preset(place, **fields)]
    command += ["--data", "pictures", "--run", "run"]
    run = Run(place / "run")
    for more in ([], ["--resume"]):
        known = set(run.states())
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([*command, *more], env=environment, stdout=subprocess.DEVNULL)
        while not set(run.states()) - known:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.random() / 4)
        process.kill()
        process.wait()
    reached = state_of(run)["nimg"]
    assert 8 < reached < 800
    kimg = str((reached + 48) / 1000)
    assert train("--resume", "run", "--kimg", kimg) == 0
    assert not list(run.folder.rglob(".*"))
    assert train(preset(place, **fields), "--data", "pictures", "--run", "whole", "--kimg", kimg,
                 "--set", "snapshot_kimg=1") == 0  # fmt: skip
    assert_same_run(Run(place / "whole"), run)


def test_the_newest_run_of_the_preset_is_resumed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", "task.generator.width=8", "--set", "task.discriminator.width=8"]
    words += ["--set", "batch=2", "--set", "precision=float32", "--kimg", "0.002"]
    for _ in range(2):
        train("dcgan-cifar10", "--data", "pictures", *words)
    (place / "runs" / "00005-dcgan-cifar10").mkdir()  # killed before it began
    capsys.readouterr()
    assert train("dcgan-cifar10", "--resume", "--kimg", "0.004") == 0
    output = capsys.readouterr().out
    assert "resuming runs/00001-dcgan-cifar10 at 2 images" in output
    plan = Run(place / "runs/00001-dcgan-cifar10").plan()
    assert (plan.recipe.batch, plan.recipe.kimg) == (2, 0.004)


def test_a_finished_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(place)
    before = {p: p.read_bytes() for p in run.folder.rglob("*.*") if p.is_file()}
    assert train("--resume", "run") == 0
    assert "run: done already; --kimg N makes it longer" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in run.folder.rglob("*.*") if p.is_file()} == before


def test_killed_before_the_first_state(place: Path) -> None:
    whole, run = begin(place, "whole"), begin(place)
    for path in [*run.states(), run.folder / "stats.jsonl"]:
        path.unlink()
    assert train("--resume", "run") == 0
    assert_same_run(whole, run)


def test_statistics_after_the_state_are_dropped(place: Path) -> None:
    whole = begin(place, "whole", kimg=0.192)
    run = begin(place)
    statistics = run.folder / "stats.jsonl"
    lost = tick_of(nimg=168).model_dump_json()
    with statistics.open("a") as file:
        file.write(f"{lost}\n{lost[:30]}")
    (run.folder / ".state-000000192.pt.abc.partial").write_bytes(b"half")
    assert train("--resume", "run", "--kimg", "0.192") == 0
    assert_same_run(whole, run)
    assert not list(run.folder.glob(".*"))


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b""])
def test_a_damaged_newest_state(
    place: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = begin(place, "whole", snapshot_kimg=0.08)
    run = begin(place, snapshot_kimg=0.08)
    newest = run.states()[0]
    newest.write_bytes(damage(newest.read_bytes()))
    assert train("--resume", "run") == 0
    output = capsys.readouterr().out
    assert "warning: run/state-000000160.pt: cannot be read: damaged or cut off (" in output
    assert "resuming run at 80 images, from run/state-000000080.pt" in output
    assert_same_run(whole, run)


def test_no_state_can_be_read(place: Path) -> None:
    run = begin(place, snapshot_kimg=0.08)
    for path in run.states():
        path.write_bytes(b"damaged")
    with pytest.raises(
        TrainingError, match=r"(?s)none of its states can be read.*160\.pt.*080\.pt"
    ):
        train("--resume", "run")


def test_a_state_of_the_loop_alone_is_as_good(place: Path) -> None:
    whole = begin(place, "whole")
    run = begin(place, kimg=0.008)
    loop = Loop(small(), run_stream(), CPU, torch.float32)
    for _ in range(5):
        loop.step()
    torch.save(loop.state(), run.folder / "state-000000040.pt")
    train("--resume", "run", "--kimg", "0.16")
    for part in ("nimg", "networks", "optimisers", "averages"):
        assert_equal(state_of(run)[part], state_of(whole)[part])


def test_a_state_is_no_pickle(place: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(place / "ran"),)

    run = begin(place)
    torch.save({"nimg": Malicious()}, run.states()[0])
    with pytest.raises(TrainingError, match="none of its states can be read"):
        train("--resume", "run")
    assert not (place / "ran").exists()


def test_another_recipe_is_refused_by_field(place: Path) -> None:
    begin(place)
    with pytest.raises(TrainingError) as info:
        train("--resume", "run", "--set", "batch=16", "--set", "optimiser.lr=0.1", "--kimg", "9")
    assert str(info.value).splitlines() == [
        "a resumed run keeps its recipe, all but accumulate, compile, kimg, log_kimg, "
        "metric_kimg, metric_reference, metric_samples, on_divergence, patience_kimg, sample_kimg, "
        "snapshot_kimg:",
        "batch: was 8, now 16",
        "optimiser.lr: was 0.0002, now 0.1",
    ]
    with pytest.raises(TrainingError, match=r"task\.loss: was bce, now mse"):
        train(preset(place, loss="mse"), "--resume", "run")
    assert train(preset(place, precision="auto", log_kimg=1), "--resume", "run") == 0


def test_other_data_is_refused(place: Path) -> None:
    begin(place)
    write_pictures(place / "more", 21)
    with pytest.raises(TrainingError, match=r"more: not the pictures that run began with \(20 of"):
        train("--resume", "run", "--data", "more")
    (place / "pictures").rename(place / "moved")
    with pytest.raises(DataError, match="no such folder"):
        train("--resume", "run")
    assert train("--resume", "run", "--data", "moved") == 0
