"""Several processes that train together: the same result as one, and who writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

STEPS = 6
BATCH = 8


def recipe(family: str, **fields: Any) -> dict[str, Any]:
    """DCGAN with class-conditional batch norm and everything random; or without batch norm."""
    side = {"resolution": 16, "width": 8, "classes": 2}
    made: dict[str, Any] = {
        "name": "small",
        "task": {
            "generator": {
                "kind": "dcgan-generator",
                "z_dim": 8,
                "conditioning": "batch-norm",
                **side,
            },
            "discriminator": {"kind": "dcgan-discriminator", "norm": "batch", **side},
            "augment": {"kind": "ada", "target": 0, "kimg": 0.2, "start": 0.5},
        },
        "batch": BATCH,
        "kimg": STEPS * BATCH / 1000,
        "crop": 0.2,
        "colour": 0.2,
        "log_kimg": 0.016,
        "sample_kimg": 0.024,
        "snapshot_kimg": 0.024,
        "precision": "float32",
        "optimiser": {"eps": 1e-3},
        **fields,
    }
    if family == "penalties":
        made["task"]["discriminator"]["norm"] = "none"
        made["task"] |= {
            "loss": "wasserstein",
            "augment": {"kind": "ada-ramp", "kimg": 0.2, "start": 0.5},
            "generator_every": 2,
            "regularisers": [{"kind": "gradient-penalty"}, {"kind": "lecam"}, {"kind": "drift"}],
        }
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            pixels = draw.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, as README has it, with so many processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launch if processes > 1 else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": "cache"}
    return subprocess.run(
        [*command, "-m", "imagen_nodes", "train", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def begin(processes: int, run: str, made: dict[str, Any], *more: str) -> str:
    Path("recipe.json").write_text(json.dumps(made))
    words = ("recipe.json", "--data", "pictures", "--run-folder", run, *more)
    done = train(processes, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def state_of(run: str) -> dict[str, Any]:
    (newest, *_) = sorted(Path(run).glob("state-*.pt"), reverse=True)
    return torch.load(newest, weights_only=True)


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Weights, what is remembered and the averages."""
    assert one["nimg"] == other["nimg"]
    for name, weights in one["networks"].items():
        for key, value in weights.items():
            theirs = other["networks"][name][key]
            torch.testing.assert_close(theirs, value, rtol=1e-3, atol=2e-5, msg=f"{name}.{key}")
    for key, value in one["memory"].items():
        torch.testing.assert_close(other["memory"][key], value, rtol=1e-3, atol=1e-4, msg=key)
    for key, value in one["averages"][0].items():
        torch.testing.assert_close(other["averages"][0][key], value, rtol=1e-3, atol=2e-5, msg=key)


def losses_of(run: str) -> list[dict[str, float]]:
    return [
        json.loads(line)["losses"] for line in Path(run, "stats.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize("family", ["batch norm", "penalties"])
def test_two_processes_are_one(place: Path, family: str) -> None:
    begin(1, "one", recipe(family))
    said = begin(2, "two", recipe(family))
    assert_close(state_of("one"), state_of("two"))
    for ours, theirs in zip(losses_of("one"), losses_of("two"), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-4)
    # Each thing is said and written once.
    assert said.count("training in two") == said.count("done: two") == 1
    names = {p.relative_to("two").parts[0] for p in Path("two").rglob("*")}
    events = {name for name in names if name.startswith("events.")}
    assert len(events) == 1
    assert names - events == {
        "filmstrip.png", "lock", "losses.png", "recipe.json", "report.html", "samples", "snapshots",
        "state-000000024.pt", "state-000000048.pt", "stats.jsonl",
    }  # fmt: skip


def test_resumed_by_as_many_processes_and_by_others(place: Path) -> None:
    """Exactly by as many; to rounding, and with a note, by others."""
    made = recipe("penalties")
    begin(2, "whole", made)
    for run in ("same", "fewer"):
        begin(2, run, made, "--kimg", "0.024")
    same = train(2, "--resume", "same", "--kimg", "0.048")
    assert same.returncode == 0, same.stderr
    assert "processes" not in same.stdout
    for part in ("networks", "optimisers", "averages", "memory"):
        ours, theirs = _flat(state_of("same")[part]), _flat(state_of("whole")[part])
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    fewer = train(1, "--resume", "fewer", "--kimg", "0.048")
    assert fewer.returncode == 0, fewer.stderr
    assert (
        "note: trained by 2 processes so far, now by 1: the same steps, but for rounding"
        in fewer.stdout
    )
    assert_close(state_of("whole"), state_of("fewer"))


def test_all_processes_know_what_was_measured_before(place: Path) -> None:
    """And so end together, where nothing better comes."""
    fields = {"metric_kimg": 0.024, "patience_kimg": 0.024, "metric_samples": 4}
    made = recipe("penalties") | fields | {"metric_reference": 4}
    begin(2, "run", made, "--kimg", "0.024")
    (line,) = Path("run/metrics.jsonl").read_text().splitlines()
    first = json.loads(line)
    first["metrics"] = dict.fromkeys(first["metrics"], 0.0)
    Path("run/metrics.jsonl").write_text(json.dumps(first) + "\n")
    resumed = train(2, "--resume", "run", "--kimg", "0.12")
    assert resumed.returncode == 0, resumed.stderr
    assert "nothing better for 0.024 kimg" in resumed.stdout
    assert state_of("run")["nimg"] == 48


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    found: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found |= _flat(value, f"{prefix}.{key}")
    return found


def test_a_wrong_call_is_answered_once(place: Path) -> None:
    Path("recipe.json").write_text(json.dumps(recipe("penalties", batch=9)))
    done = train(2, "recipe.json", "--data", "pictures", "--run-folder", "run")
    assert done.returncode != 0
    assert done.stderr.count("batch: 9 images do not split equally over 2 processes") == 1
    assert done.stderr.startswith("error: batch: 9 images")  # torchrun's own report follows
    assert not Path("run").exists()
