"""What a training leaves behind and shows on its way."""

from __future__ import annotations

import base64
import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes import checkpoint
from imagen_nodes.evaluation.plots import loss_plot, smooth
from imagen_nodes.training import precision
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.progress import BarDisplay, PlainDisplay, Tick
from imagen_nodes.training.randomness import torch_random
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.run import Run

from .small_runs import (
    CPU,
    assert_same_run,
    begin,
    lines_of,
    preset,
    run_stream,
    small,
    state_of,
    stream,
    tick_of,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread", "pictures")


def test_the_run_folder(place: Path) -> None:
    words = ["--set", "sample_kimg=0.08", "--set", "snapshot_kimg=0.08"]
    assert train(preset(place, classes=2), "--data", "pictures", *words) == 0
    folder = place / "runs" / "00000-small"
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    events = files.pop(0)
    assert events.startswith("events.out.tfevents.")
    assert files == [
        "filmstrip.png",
        "lock",
        "losses.png",
        "recipe.json",
        "report.html",
        "samples/000000.png",
        "snapshots/small-000000.safetensors",
        "state-000000080.pt",
        "state-000000160.pt",
        "stats.jsonl",
    ]
    plan = Run(folder).plan()
    assert plan.recipe == small(classes=2, sample_kimg=0.08, snapshot_kimg=0.08)
    assert (plan.data, plan.images) == (str(place / "pictures"), 20)
    assert (plan.data_name, plan.class_names) == ("pictures", ("a", "b"))
    ticks = [
        Tick.model_validate_json(line) for line in (folder / "stats.jsonl").read_text().splitlines()
    ]
    assert [tick.nimg for tick in ticks] == [32, 64, 96, 128, 160]
    assert [tick.kimg for tick in ticks] == [0.032, 0.064, 0.096, 0.128, 0.16]
    for before, after in itertools.pairwise(ticks):
        assert after.seconds > before.seconds
    for tick in ticks:
        assert tick.losses.keys() == {"discriminator", "generator"}
        assert all(math.isfinite(value) for value in tick.losses.values())
        assert tick.images_per_second > 0
        assert tick.ema_half_life == pytest.approx(tick.kimg * 0.05)
    with Image.open(folder / "samples/000000.png") as picture:
        assert picture.size == (128, 128)
        picture.load()
    with Image.open(folder / "losses.png") as picture:
        picture.load()


def test_ticks_are_means_of_the_steps_between(place: Path) -> None:
    run = begin(place)
    loop = Loop(small(), run_stream(), CPU, torch.float32)
    values = [loop.step().losses for _ in range(20)]
    for i, line in enumerate((run.folder / "stats.jsonl").read_text().splitlines()):
        for name, mean in Tick.model_validate_json(line).losses.items():
            steps = [float(value[name]) for value in values[4 * i : 4 * i + 4]]
            assert mean == pytest.approx(sum(steps) / 4, rel=1e-5)


def test_the_snapshot_is_the_average_and_its_card_says_all(place: Path) -> None:
    run = begin(place, classes=2)
    model = checkpoint.load(run.folder / "snapshots/small-000000.safetensors")
    card = model.card
    assert (card.title, card.task) == ("small", "generate")
    assert card.class_names == ("a", "b")
    assert card.architecture == small(classes=2).task.generator.model_dump(mode="json")
    assert "16 px" in card.description
    assert "20 images of pictures" in card.description
    assert card.training is not None
    assert Recipe.model_validate(card.training.recipe) == small(classes=2)
    assert (card.training.data, card.training.images) == ("pictures", 20)
    assert card.training.nimg == 160
    last = Tick.model_validate_json(lines_of(run)[-1])
    assert card.training.losses == last.losses
    kind, _, data = card.thumbnail.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as thumbnail:
        assert thumbnail.size == (64, 64)
    weights, average = model.network.state_dict(), state_of(run)["averages"][0]
    for name, _ in model.network.named_parameters():
        assert torch.equal(weights[name], average[name])
    # The grid is what the file gives, for the latents that never change.
    z, labels = small(classes=2).task.latents(64, torch_random(0, 0, 0, "samples"))
    with torch.inference_mode():
        images = model.network(z, labels)
    first = (images[0].add(1).div(2).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    with Image.open(run.folder / "samples/000000.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture)[:16, :16], first)


def test_tensorboard_events(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = begin(place)
    # A line that a killed session left after its last state, and then lost.
    with run.events(160) as events:
        events.tick(tick_of(nimg=192))
    train(preset(place), "--resume", "run", "--kimg", "0.224")
    found = EventAccumulator(str(run.folder))
    found.Reload()
    steps = [event.step for event in found.Scalars("loss/generator")]
    assert steps == [32, 64, 96, 128, 160, 192, 224]
    assert found.Scalars("loss/generator")[-2].value != 0.5
    assert [event.step for event in found.Images("samples")] == [160, 224]


def test_runs_are_numbered(place: Path) -> None:
    for _ in range(2):
        train(preset(place, kimg=0.008), "--data", "pictures")
    (place / "runs" / "00007-other").mkdir()
    train(preset(place, kimg=0.008), "--data", "pictures")
    names = sorted(p.name for p in (place / "runs").iterdir())
    assert names == ["00000-small", "00001-small", "00007-other", "00008-small"]


def test_only_two_states_are_kept(place: Path) -> None:
    run = begin(place, snapshot_kimg=0.032)
    assert [p.name for p in run.states()] == ["state-000000160.pt", "state-000000128.pt"]


@pytest.mark.parametrize(
    ("seconds", "expected"), [((1.0, 0.5), torch.bfloat16), ((1.0, 0.97), torch.float32)]
)
def test_the_probe_takes_what_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], expected: torch.dtype
) -> None:
    def timed(loop: Loop) -> float:
        return seconds[loop.dtype == torch.bfloat16]

    monkeypatch.setattr(precision, "_timed_step", timed)
    said: list[str] = []
    assert precision.probe(small(), stream(), CPU, said.append) == expected
    name = str(expected).removeprefix("torch.")
    assert said == [f"precision: {name} (float32 8 img/s, bfloat16 {8 / seconds[1]:.0f} img/s)"]


def test_the_probe_is_recorded_and_not_repeated(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "ROUNDS", 1)
    run = begin(place, precision="auto")
    assert "precision: " in capsys.readouterr().out
    assert run.plan().recipe.precision in ("float32", "bfloat16")
    # The probe trained copies: the run is that of the precision that it chose.
    other = begin(place, "other", precision=run.plan().recipe.precision)
    assert_same_run(run, other)
    capsys.readouterr()
    train(preset(place, precision="auto", kimg=0.2), "--resume", "run")
    assert "precision: " not in capsys.readouterr().out


def test_plain_progress(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay()
    with display.running(0, 61_000):
        display.step(1000)
        display.tick(tick_of())
    assert capsys.readouterr().out == (
        "1.0/61 kimg  10 img/s  discriminator 1.250  generator 0.500  1:40:00 left\n"
    )


def test_the_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    display = BarDisplay()
    with display.running(0, 2000):
        display.step(1000)
        display.tick(tick_of())
        display.note("[a] note")
    output = capsys.readouterr().out
    assert "[a] note" in output
    assert "1.0/2 kimg" in output
    assert "10 img/s  discriminator 1.250  generator 0.500" in output


def test_a_smooth_curve() -> None:
    assert smooth([3.0] * 500).tolist() == pytest.approx([3.0] * 500)
    assert smooth([1.0, 2.0]).tolist() == [1.0, 2.0]
    noisy = [(-1.0) ** i for i in range(1000)]
    assert abs(smooth(noisy)[-1]) < 0.1


@pytest.mark.parametrize("count", [1, 300])
def test_the_plot_is_a_picture(count: int) -> None:
    curve = [(float(i), float(-i)) for i in range(count)]
    # Not every tick has every loss.
    png = loss_plot("a run", {"generator": curve, "r1": curve[:1]})
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.size == (800, 450)
