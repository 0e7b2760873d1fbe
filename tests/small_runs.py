"""Trainings that take a second, and what they leave, for the trainer's tests."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imagen_nodes import checkpoint
from imagen_nodes.networks.dcgan import (
    DCGANDiscriminator,
    DCGANGenerator,
)
from imagen_nodes.training import cli
from imagen_nodes.training.data import Dataset, Stream
from imagen_nodes.training.progress import PlainDisplay, Tick
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.run import Run
from imagen_nodes.training.tasks.generate import Generate

CPU = torch.device("cpu")


def write_pictures(folder: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def small(**fields: Any) -> Recipe:
    """A recipe that takes milliseconds a step: 16 px, width 8, batches of 8, 160 images."""
    conditions = {"classes": fields.pop("classes", 0), "attention": fields.pop("attention", ())}
    task = Generate(
        generator=DCGANGenerator(resolution=16, width=8, z_dim=8, **conditions),
        discriminator=DCGANDiscriminator(resolution=16, width=8, **conditions),
        loss=fields.pop("loss", "bce"),
    )
    numbers = {"batch": 8, "kimg": 0.16, "precision": "float32", "log_kimg": 0.032}
    return Recipe.model_validate({"name": "small", "task": task, **numbers, **fields})


def stream(count: int = 20) -> Stream:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 16, 16, 3), np.uint8)
    return Stream(Dataset("noise", images, np.arange(count) % 2), seed=0, flip=True)


def train(*words: str) -> int:
    """The command line, in this process."""
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args(words))


def preset(place: Path, **fields: Any) -> str:
    path = place / "small.json"
    path.write_text(small(**fields).model_dump_json())
    return str(path)


def begin(place: Path, folder: str = "run", **fields: Any) -> Run:
    """A whole run of ``small``."""
    assert train(preset(place, **fields), "--data", "pictures", "--run", folder) == 0
    return Run(place / folder)


def lines_of(run: Run) -> list[str]:
    return (run.folder / "stats.jsonl").read_text().splitlines()


def state_of(run: Run) -> dict[str, Any]:
    return torch.load(run.states()[0], weights_only=True)


def assert_equal(one: Any, other: Any, where: str = "state") -> None:
    """Bit for bit, through dicts and lists."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key != "seconds":
                assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_equal(left, right, f"{where}[{i}]")
    else:
        assert one == other, where


def assert_same_run(one: Run, other: Run) -> None:
    """Last state, statistics, last samples and last weights; all but times."""
    assert_equal(state_of(one), state_of(other))

    def timeless(run: Run) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run.folder / "stats.jsonl").read_text().splitlines()]
        kept = ("nimg", "kimg", "losses", "signals", "ema_half_life")
        return [{k: line[k] for k in kept} for line in lines]

    assert timeless(one) == timeless(other)
    left, right = (sorted(run.folder.glob("samples/*"))[-1] for run in (one, other))
    assert left.read_bytes() == right.read_bytes()
    left, right = (sorted(run.folder.glob("snapshots/*"))[-1] for run in (one, other))
    weights = [checkpoint.load(path).network.state_dict() for path in (left, right)]
    assert_equal(*weights)


class Stopper:
    """Calls ``action`` when ``nimg`` images were shown, from inside the training."""

    def __init__(self, patch: pytest.MonkeyPatch, nimg: int, action: Callable[[], object]) -> None:
        def step(_: PlainDisplay, shown: int) -> None:
            if shown == nimg:
                action()

        patch.setattr(PlainDisplay, "step", step)


def interrupt(number: int) -> Callable[[], object]:
    return lambda: os.kill(os.getpid(), number)


def game(classes: int = 0, norm: str = "batch", **fields: Any) -> Recipe:
    """The small recipe with a task of these fields."""
    recipe = small(classes=classes).model_dump()
    recipe["task"]["discriminator"]["norm"] = norm
    rates = fields.pop("rates", {})
    recipe["task"] |= fields
    recipe["optimiser"] |= {"lr": 0.01, "eps": 1e-3, "rates": rates}
    return Recipe.model_validate(recipe)


def tick_of(**fields: Any) -> Tick:
    numbers = {"nimg": 1000, "kimg": 1.0, "images_per_second": 10.0, "seconds": 1.0}
    losses = {"discriminator": 1.25, "generator": 0.5}
    return Tick.model_validate({**numbers, "losses": losses, "ema_half_life": 1.0, **fields})


def run_stream() -> Stream:
    from imagen_nodes.training.data import open_data

    return Stream(open_data(Path("pictures"), 16, 3), seed=0, flip=True)
