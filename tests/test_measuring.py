"""Measurements and alarms of a training: what its folder gets of them, and what they decide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main
from imagen_nodes.checkpoint import Measurement
from imagen_nodes.training.measuring import Measuring
from imagen_nodes.training.run import Run
from imagen_nodes.training.tasks.generate import Generate

FD = "FD-MobileNetV2"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        pixels = draw.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


def begin(run: str, **fields: Any) -> int:
    """A run of 80 images, measured every 16, with 6 samples."""
    small = {"resolution": 16, "width": 8}
    made = {
        "name": "small",
        "task": {
            "generator": {"kind": "dcgan-generator", "z_dim": 8, **small},
            "discriminator": {"kind": "dcgan-discriminator", **small},
        },
        "batch": 8,
        "kimg": 0.08,
        "precision": "float32",
        "log_kimg": 0.016,
        "metric_kimg": 0.016,
        "metric_samples": 6,
        "metric_reference": 10,
        **fields,
    }
    Path("small.json").write_text(json.dumps(made))
    return main(["train", "small.json", "--data", "pictures", "--run", run])


def lines(run: str, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, name).read_text().splitlines()]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """FDs that measurements give, one after another."""
    values: list[float] = []

    def measure(self: Measuring, network: torch.nn.Module) -> tuple[Measurement, ...]:
        return (Measurement(metric=FD, value=values.pop(0), samples=6, reference="r"),)

    monkeypatch.setattr(Measuring, "measure", measure)
    return values


def test_a_measurement_is_the_evaluators(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert begin("run") == 0
    out = capsys.readouterr().out
    assert "measured after 0.0 kimg: FD-MobileNetV2" in out
    found = lines("run")
    assert [line["nimg"] for line in found] == [16, 32, 48, 64, 80]
    call = ["evaluate", "run/snapshots/small-000000.safetensors", "--data", "pictures"]
    assert main([*call, "--samples", "6", "--reference", "10", "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)["figures"]
    assert found[-1]["metrics"] == {f["metric"]: f["value"] for f in theirs}
    # The snapshot of that moment has the figures in its card, with their intervals.
    card = checkpoint.inspect(Path("run/snapshots/small-000000.safetensors")).card
    assert [m.model_dump() for m in card.quality] == theirs


def test_the_best_network_is_kept(place: Path, figures: list[float]) -> None:
    figures += [5, 3, 4, 3, 9]
    assert begin("run") == 0
    best = checkpoint.inspect(Path("run/snapshots/small-best.safetensors")).card
    assert best.training is not None
    assert best.training.nimg == 32
    assert best.training.selection == "the best FD-MobileNetV2 of the training"
    assert [m.value for m in best.quality] == [3]


def test_the_best_of_several_averages(place: Path, figures: list[float]) -> None:
    figures += [5, 6, 4, 2, 7, 7, 7, 7, 7, 7]
    assert begin("run", ema_half_life=[0.001, 0.1]) == 0
    assert [(line["nimg"], line["ema"]) for line in lines("run")[:4]] == [
        (16, 0.001),
        (16, 0.1),
        (32, 0.001),
        (32, 0.1),
    ]
    names = sorted(path.name for path in Path("run/snapshots").iterdir())
    assert names == [
        "small-best.safetensors",
        "small-ema0.001-000000.safetensors",
        "small-ema0.1-000000.safetensors",
    ]
    best = checkpoint.inspect(Path("run/snapshots/small-best.safetensors")).card
    assert [m.value for m in best.quality] == [2]


def test_it_stops_when_patience_is_out(
    place: Path, figures: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    figures += [5, 3, 4, 4]
    assert begin("run", patience_kimg=0.032) == 0
    out = capsys.readouterr().out
    assert "nothing better for 0.032 kimg: the best was after 0.0 kimg, and is kept" in out
    assert [path.name for path in Run(Path("run")).states()] == ["state-000000064.pt"]
    assert Path("run/snapshots/small-000000.safetensors").is_file()


def test_a_resumed_run_remembers_the_best(
    place: Path, figures: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures += [3, 4, 5, 6, 7]
    assert begin("run", kimg=0.032) == 0
    # What a killed session has written since is dropped.
    late = '{"nimg":48,"ema":50.0,"metrics":{"FD-MobileNetV2":1.0}}\n{"nimg":'
    with Path("run/metrics.jsonl").open("a") as file:
        file.write(late)
    assert main(["train", "--resume", "run", "--kimg", "0.08"]) == 0
    assert [line["metrics"][FD] for line in lines("run")] == [3, 4, 5, 6, 7]
    best = checkpoint.inspect(Path("run/snapshots/small-best.safetensors")).card
    assert best.training is not None
    assert best.training.nimg == 16


def test_measuring_changes_nothing(place: Path) -> None:
    begin("plain", metric_kimg=None)
    begin("measured")
    states = [
        torch.load(Path(run, "state-000000080.pt"), weights_only=True)
        for run in ("plain", "measured")
    ]
    for name, weights in states[0]["networks"].items():
        for key, value in weights.items():
            assert torch.equal(value, states[1]["networks"][name][key])


def test_patience_needs_a_metric(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert begin("run", metric_kimg=None, patience_kimg=1) == 2
    assert "patience_kimg: needs measurements to go by: set metric_kimg" in capsys.readouterr().err


# ------------------------------------------------------------------------------ alarms


def test_an_alarm_is_said_written_and_shown(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sick = {"diversity": 0.0, "saturation": 1.0}
    monkeypatch.setattr(Generate, "examine", lambda *_: sick)
    assert begin("run", metric_kimg=None, sample_kimg=0.016) == 0
    out = capsys.readouterr().out
    assert out.count("warning: dead generator: The generator draws the same image") == 1
    (alarm,) = lines("run", "alarms.jsonl")
    assert (alarm["nimg"], alarm["kind"]) == (32, "dead generator")
    assert "lower learning rate" in alarm["advice"]
    assert "dead generator" in Path("run/report.html").read_text()
    # What was found is a signal of the next line.
    found = [line["signals"].get("saturation") for line in lines("run", "stats.jsonl")]
    assert found == [None, 1, 1, 1, 1]


def test_alarms_resume_exactly(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two examinations in a row, with a session's end between."""
    sick = {"diversity": 0.0, "saturation": 1.0}
    monkeypatch.setattr(Generate, "examine", lambda *_: sick)
    assert begin("run", metric_kimg=None, sample_kimg=0.016, kimg=0.024) == 0
    assert not Path("run/alarms.jsonl").exists()
    assert main(["train", "--resume", "run", "--kimg", "0.08"]) == 0
    assert [alarm["nimg"] for alarm in lines("run", "alarms.jsonl")] == [32]
