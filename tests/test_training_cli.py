"""The verb ``train``: its presets, its words, and calls that are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagen_nodes.errors import (
    DataError,
    TrainingError,
    UsageError,
)
from imagen_nodes.training import cli, start
from imagen_nodes.training.presets import PRESETS
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.run import Run
from imagen_nodes.training.schedule import Schedule

from .small_runs import begin, preset, train

pytestmark = pytest.mark.usefixtures("one_thread", "pictures")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_themselves_and_survive_json(name: str) -> None:
    recipe = PRESETS[name]
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_learning_rates_that_fall_to_the_end_do_so_in_any_length(place: Path) -> None:
    rate = {"start": 0.002, "end": 0.001, "kimg": 0.12, "delay": 0.04}
    own = {"start": 0.002, "end": 0.001, "kimg": 0.05}
    fields = {"optimiser": {"lr": rate, "rates": {"discriminator": own}}}
    for folder, words, lr in (
        ("half", ["--kimg", "0.08"], {"kimg": 0.06, "delay": 0.02}),
        ("set", ["--set", "kimg=0.08"], {"kimg": 0.06, "delay": 0.02}),
        ("told", ["--kimg", "0.08", "--set", "optimiser.lr.kimg=0.1"], {"kimg": 0.1}),
        ("same", [], {}),
    ):
        words = [preset(place, **fields), "--data", "pictures", "--run", folder, *words]
        assert train(*words) == 0
        optimiser = Run(place / folder).plan().recipe.optimiser
        assert optimiser.lr == Schedule.model_validate(rate | lr)
        assert optimiser.rates["discriminator"] == Schedule.model_validate(own)
    assert train("--resume", "half", "--kimg", "0.16") == 0
    assert Run(place / "half").plan().recipe.optimiser.lr.kimg == 0.06  # pyright: ignore


@pytest.mark.parametrize(
    ("data", "words"),
    [(".", []), ("pictures", ["--run", "pictures"]), ("pictures", ["--run", "pictures/a/b"])],
)
def test_runs_do_not_go_among_the_pictures(place: Path, data: str, words: list[str]) -> None:
    before = sorted(place.rglob("*"))
    with pytest.raises(TrainingError, match="would be taken for pictures of it"):
        train("dcgan-cifar10", "--data", data, *words)
    assert sorted(place.rglob("*")) == before


def test_the_folder_that_one_is_in_has_a_name(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = preset(place)
    monkeypatch.chdir(place / "pictures")
    assert train(file, "--data", ".", "--run", "../run", "--kimg", "0.008") == 0
    assert "data: 20 images of pictures, 2 classes" in capsys.readouterr().out


def test_the_preset_of_the_issue() -> None:
    recipe = PRESETS["dcgan-cifar10"]
    assert recipe.task.loss == "bce"
    assert (recipe.optimiser.lr, recipe.optimiser.betas) == (2e-4, (0.5, 0.999))
    assert (recipe.flip, recipe.task.generator.resolution, recipe.task.generator.z_dim) == (
        True,
        32,
        100,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a preset: one of dcgan-cifar10"),
        (["dcgan-cifar10"], "needs the pictures to train on: --data PATH"),
        (["dcgan-cifar"], "dcgan-cifar: no such preset, and not a .json file. Did you mean dcgan-"),
        (["nothing.json"], "nothing.json: cannot be read: No such file"),
        (["bad.json"], "bad.json: not JSON"),
        (["deep.json"], "deep.json: not JSON"),
        (["dcgan-64", "--set", "kimg=" + "[" * 100_000], "--set kimg: not JSON"),
        (["list.json"], "list.json: not a recipe:\nvalue: takes fields in braces"),
        (["dcgan-64", "--set", "batch"], "--set batch: expected FIELD=VALUE"),
        (["dcgan-64", "--set", "batches=3"], "no field 'batches'; there are name, task, kimg, "),
        (["dcgan-64", "--set", "task.generator.depth=3"], "no field 'depth'; there are resolution"),
        (
            ["dcgan-64", "--set", "batch.size=3"],
            "--set batch.size=3: batch is 64 and has no fields. Set it whole",
        ),
        (["dcgan-64", "--set", "batch=1"], "dcgan-64, after batch=1:\nbatch: Input should be grea"),
        (["dcgan-64", "--set", "task.loss=huber"], "task.loss: Input should be 'bce', 'bce-sa"),
        (["dcgan-64", "--set", "task.generator.resolution=32"], "generator.resolution is 32, "),
        (["dcgan-64", "--kimg", "inf"], "kimg: Input should be a finite number"),
        (["dcgan-64", "--kimg", "0"], "kimg: Input should be greater than 0"),
        (["dcgan-64", "--data", "pictures", "--device", "abacus"], "device 'abacus' cannot be use"),
    ],
)
def test_a_wrong_call(place: Path, words: list[str], message: str) -> None:
    (place / "bad.json").write_text("{")
    (place / "deep.json").write_text("[" * 100_000)
    (place / "list.json").write_text("[]")
    with pytest.raises(UsageError) as info:
        train(*words)
    assert message in str(info.value)
    assert not (place / "runs").exists()


def test_runs_that_are_not_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="no run of dcgan-64 to resume"):
        train("dcgan-64", "--resume")
    with pytest.raises(TrainingError, match=r"nowhere: no run to resume: it has no recipe\.json"):
        train("--resume", "nowhere")
    run = begin(place)
    with pytest.raises(TrainingError, match="run: holds a run already"):
        begin(place)
    # And where another process began it while this one read its data.
    (place / "run").rename(place / "other")
    load = start.load_data

    def slowly(*args: Any) -> Any:
        (place / "other").rename(place / "run")
        return load(*args)

    plan = (place / "other" / "recipe.json").read_bytes()
    monkeypatch.setattr(start, "load_data", slowly)
    with pytest.raises(TrainingError, match="holds a run already"):
        begin(place, seed=3)
    monkeypatch.setattr(start, "load_data", load)
    assert (place / "run" / "recipe.json").read_bytes() == plan
    (run.folder / "recipe.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"recipe\.json: not the recipe of a run:\nrecipe: "):
        train("--resume", "run")


def test_missing_extras(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "rich" else object())
    with pytest.raises(TrainingError, match=r"needs rich: pip install 'imagen-nodes\[train\]'"):
        train("dcgan-64", "--data", "pictures")


def test_the_command_ends_with_a_message_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "imagen_nodes.training", "dcgan-64", "--data", "none"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == DataError.exit_code
    assert result.stderr == (
        "error: none: no such folder or file. Give the pictures with --data PATH\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_declaring_arguments_does_not_import_torch() -> None:
    code = (
        "import argparse, sys; from imagen_nodes.training import cli;"
        "cli.add_arguments(argparse.ArgumentParser()); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False\n", "")


@pytest.mark.parametrize("resumed", [False, True])
def test_the_profile_of_a_recipe(
    place: Path, capsys: pytest.CaptureFixture[str], resumed: bool
) -> None:
    words = [preset(place), "--data", "pictures"]
    if resumed:
        begin(place)
        words = ["--resume", "run"]
    before = sorted(place.rglob("*"))
    assert train(*words, "--profile") == 0
    out = capsys.readouterr().out
    assert "a step of 8 images takes" in out
    assert "8 steps" in out
    assert sorted(place.rglob("*")) == before


def test_the_list_of_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["preset", "px", "width", "classes", "loss", "and", "batch", "kimg"]
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
