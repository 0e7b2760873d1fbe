"""The trainer: what a step computes, what a run leaves behind, how it goes on after anything."""

from __future__ import annotations

import argparse
import base64
import copy
import errno
import io
import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.errors import (
    Cancelled,
    DataError,
    StorageError,
    TrainingError,
    UsageError,
)
from imagen_nodes.evaluation.plots import loss_plot, smooth
from imagen_nodes.networks.dcgan import (
    DCGANDiscriminator,
    DCGANDiscriminatorNetwork,
    DCGANGenerator,
)
from imagen_nodes.training import cli, precision, session
from imagen_nodes.training import run as run_module
from imagen_nodes.training.data import Dataset, Stream
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.losses import LOSSES, AdversarialLoss, LossName
from imagen_nodes.training.presets import PRESETS
from imagen_nodes.training.progress import BarDisplay, PlainDisplay, Tick
from imagen_nodes.training.randomness import torch_random
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.run import Run
from imagen_nodes.training.tasks.generate import Generate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are the same in every process, and the tests beside each other do not fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with ``pictures``: 20 of 16 px in two classes."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", 20)
    return tmp_path


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


# ---------------------------------------------------------------- what a step computes


def adam(
    parameter: Tensor, gradient: Tensor, moments: list[Tensor], step: int, recipe: Recipe
) -> Tensor:
    """Kingma & Ba 2015, algorithm 1."""
    (b1, b2), lr, eps = recipe.optimiser.betas, recipe.optimiser.lr, recipe.optimiser.eps
    moments[0] = b1 * moments[0] + (1 - b1) * gradient
    moments[1] = b2 * moments[1] + (1 - b2) * gradient**2
    mean, variance = moments[0] / (1 - b1**step), moments[1] / (1 - b2**step)
    return parameter - lr * mean / (variance.sqrt() + eps)


def entropy_losses(real: Tensor, fake: Tensor, against: Tensor) -> tuple[Tensor, Tensor]:
    entropy, one, zero = F.binary_cross_entropy_with_logits, torch.ones(8), torch.zeros(8)
    return entropy(real, one) + entropy(fake, zero), entropy(against, one)


def squared_losses(real: Tensor, fake: Tensor, against: Tensor) -> tuple[Tensor, Tensor]:
    return ((real - 1) ** 2 / 2 + fake**2 / 2).mean(), ((against - 1) ** 2 / 2).mean()


@pytest.mark.parametrize(("loss", "losses"), [("bce", entropy_losses), ("mse", squared_losses)])
@pytest.mark.parametrize("classes", [0, 2])
def test_two_steps_by_hand(loss: str, losses: Any, classes: int) -> None:
    """The loss that the recipe names, D on real and generated images, then G through the updated
    D, Adam, and the average: all written out again."""
    # With the usual eps, Adam's first steps are the signs of gradients that are 0 but for rounding.
    recipe = small(loss=loss, classes=classes, optimiser={"lr": 0.01, "eps": 1e-3})
    loop = Loop(recipe, stream(), CPU, torch.float32)
    networks: dict[str, nn.Module] = {}
    for name, architecture in recipe.task.architectures.items():
        networks[name] = architecture.build()
        networks[name].initialise(torch_random(0, 0, 0, name))  # pyright: ignore
    moments: dict[str, list[list[Tensor]]] = {
        name: [[torch.zeros_like(p), torch.zeros_like(p)] for p in network.parameters()]
        for name, network in networks.items()
    }
    average = {n: p.detach().clone() for n, p in networks["generator"].named_parameters()}

    def update(name: str, value: Tensor, step: int) -> None:
        parameters = list(networks[name].parameters())
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            for p, g, m in zip(parameters, gradients, moments[name], strict=True):
                p.copy_(adam(p, g, m, step, recipe))

    generator, discriminator = networks["generator"], networks["discriminator"]
    for step in (1, 2):
        nimg = (step - 1) * 8
        batch = stream().batch(nimg, 8)
        labels = batch.labels if classes else None
        z = torch.randn(8, 8, generator=torch_random(0, 0, nimg, "step"))
        with torch.no_grad():
            # Batch norm statistics are of the batch, so this pass changes no result.
            frozen = generator(z, labels)
        real, fake = discriminator(batch.images, labels), discriminator(frozen, labels)
        d_loss = losses(real, fake, fake)[0]
        update("discriminator", d_loss, step)
        against = discriminator(generator(z, labels), labels)
        g_loss = losses(real.detach(), fake.detach(), against)[1]
        update("generator", g_loss, step)
        half_life = min(50_000, 0.05 * step * 8)
        for name, p in generator.named_parameters():
            average[name] += (1 - 0.5 ** (8 / half_life)) * (p.detach() - average[name])
        found = loop.step().losses
        torch.testing.assert_close(found["discriminator"], d_loss.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["generator"], g_loss.detach(), rtol=1e-5, atol=1e-5)
    for name, network in networks.items():
        for key, p in network.named_parameters():
            ours = dict(loop.networks[name].named_parameters())[key]
            torch.testing.assert_close(ours, p, rtol=1e-4, atol=1e-5, msg=f"{name}.{key}")
    for key, p in loop.averages[0].network.named_parameters():
        torch.testing.assert_close(p, average[key], rtol=1e-4, atol=1e-5, msg=key)
    assert loop.nimg == 16


def test_a_step_uses_no_global_random_numbers() -> None:
    states: list[dict[str, Any]] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        loop = Loop(small(), stream(), CPU, torch.float32)
        loop.step()
        states.append(loop.state())
    assert_equal(*states)


def test_the_seed_decides() -> None:
    first, second = (Loop(small(seed=s), stream(), CPU, torch.float32) for s in (0, 1))
    weights = [next(loop.networks["generator"].parameters()) for loop in (first, second)]
    assert not torch.equal(*weights)


def test_a_snapshot_does_not_disturb_the_loop() -> None:
    plain, watched = (Loop(small(), stream(), CPU, torch.float32) for _ in range(2))
    for _ in range(3):
        plain.step()
        watched.step()
        watched.snapshots()
    assert_equal(plain.state(), watched.state())


def test_a_step_counts_as_a_change_of_the_weights() -> None:
    """Which layers tell stale copies by, and fused optimisers do not count."""
    loop = Loop(small(), stream(), CPU, torch.float32)
    parameters = [p for network in loop.networks.values() for p in network.parameters()]
    before = [p._version for p in parameters]
    loop.step()
    assert all(p._version > version for p, version in zip(parameters, before, strict=True))


def test_bfloat16_trains_float32_weights() -> None:
    loop = Loop(small(attention=(8,)), stream(), CPU, torch.bfloat16)
    before = next(loop.networks["generator"].parameters()).clone()
    losses = loop.step().losses
    after = next(loop.networks["generator"].parameters())
    assert after.dtype == torch.float32
    assert not torch.equal(before, after)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


# ------------------------------------------------- games, regularisers, augmentation


def game(classes: int = 0, norm: str = "batch", **fields: Any) -> Recipe:
    """The small recipe with a task of these fields."""
    recipe = small(classes=classes).model_dump()
    recipe["task"]["discriminator"]["norm"] = norm
    rates = fields.pop("rates", {})
    recipe["task"] |= fields
    recipe["optimiser"] |= {"lr": 0.01, "eps": 1e-3, "rates": rates}
    return Recipe.model_validate(recipe)


def test_a_relativistic_step_with_penalties() -> None:
    """R3GAN: the losses that the first step reports, computed again from the initial networks."""
    terms = [{"kind": "r1", "weight": 0.5}, {"kind": "r2", "weight": 0.25, "every": 2}]
    recipe = game(classes=2, norm="none", loss="relativistic", regularisers=terms)
    loop = Loop(recipe, stream(), CPU, torch.float32)
    generator, discriminator = (copy.deepcopy(network) for network in loop.networks.values())
    batch = stream().batch(0, 8)
    z = torch.randn(8, 8, generator=torch_random(0, 0, 0, "step"))
    fake = generator(z, batch.labels).detach()

    def penalty(images: Tensor) -> Tensor:
        images = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(images, batch.labels).sum(), images)
        return slope.square().sum((1, 2, 3)).mean()

    difference = discriminator(batch.images, batch.labels) - discriminator(fake, batch.labels)
    found = loop.step().losses
    torch.testing.assert_close(found["discriminator"], -F.logsigmoid(difference).mean().detach())
    torch.testing.assert_close(found["r1"], 0.25 * penalty(batch.images))
    torch.testing.assert_close(found["r2"], 0.25 * penalty(fake))
    # The generator's sees both through the updated discriminator.
    updated = loop.networks["discriminator"]
    with torch.no_grad():
        difference = updated(fake, batch.labels) - updated(batch.images, batch.labels)
    torch.testing.assert_close(found["generator"], -F.logsigmoid(difference).mean())
    assert set(loop.step().losses) == {"discriminator", "generator", "r1"}
    assert set(loop.step().losses) == {"discriminator", "generator", "r1", "r2"}


def test_several_discriminator_steps() -> None:
    recipe = game(generator_every=3, loss="hinge")
    loop = Loop(recipe, stream(), CPU, torch.float32)
    for step in range(1, 7):
        before = {n: next(net.parameters()).clone() for n, net in loop.networks.items()}
        found = loop.step().losses
        moved = {
            n: not torch.equal(before[n], next(net.parameters()))
            for n, net in loop.networks.items()
        }
        assert moved == {"generator": step % 3 == 0, "discriminator": True}
        assert ("generator" in found) == (step % 3 == 0)


def test_lazy_terms_count_their_networks_turns() -> None:
    terms = [{"kind": "orthogonal", "every": 2}, {"kind": "drift", "every": 3}]
    loop = Loop(game(generator_every=2, regularisers=terms), stream(), CPU, torch.float32)
    found = [set(loop.step().losses) & {"orthogonal", "drift"} for _ in range(8)]
    assert [s for s, names in enumerate(found) if "orthogonal" in names] == [1, 5]
    assert [s for s, names in enumerate(found) if "drift" in names] == [0, 3, 6]
    assert loop.recipe.task.period == 12


def test_a_clipped_discriminator() -> None:
    recipe = game(loss="wasserstein", regularisers=[{"kind": "clip", "limit": 0.003}])
    loop = Loop(recipe, stream(), CPU, torch.float32)
    loop.step()
    largest = max(
        float(p.detach().abs().max()) for p in loop.networks["discriminator"].parameters()
    )
    assert largest == pytest.approx(0.003)
    assert (
        max(float(p.detach().abs().max()) for p in loop.networks["generator"].parameters()) > 0.003
    )


def test_two_learning_rates() -> None:
    """Adam's first step is the rate, but for eps, wherever the gradient is not small."""
    recipe = game(rates={"discriminator": 0.04})
    recipe = recipe.model_copy(
        update={"optimiser": recipe.optimiser.model_copy(update={"eps": 1e-12})}
    )
    loop = Loop(recipe, stream(), CPU, torch.float32)
    before = {n: copy.deepcopy(network) for n, network in loop.networks.items()}
    loop.step()
    for name, rate in (("generator", 0.01), ("discriminator", 0.04)):
        pairs = zip(before[name].parameters(), loop.networks[name].parameters(), strict=True)
        steps = torch.cat([(new - old).detach().abs().flatten() for old, new in pairs])
        assert float(steps.median()) == pytest.approx(rate, rel=1e-3)


def test_augmented_images_are_what_the_discriminator_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real and generated ones, and the generator learns through the change."""
    seen: list[Tensor] = []
    recipe = game(augment={"kind": "diff-augment", "policy": ["cutout"]})
    loop = Loop(recipe, stream(), CPU, torch.float32)
    loop.networks["discriminator"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    values = loop.step()
    assert len(seen) == 3
    for images in seen:  # a hole of half the side or less in each, all channels 0
        holes = (images == 0).all(1).sum((1, 2))
        assert ((holes >= 16) & (holes <= 64)).all()
    assert not torch.equal(seen[1], seen[2])
    assert seen[2].requires_grad
    assert float(values.signals["augment p"]) == 1


def test_adaptive_augmentation_follows_the_discriminator() -> None:
    """p moves every fourth step by 4 batches / kimg, down where the signs are below the target; it
    is part of the state."""
    augment = {"kind": "ada", "target": 1.0, "kimg": 0.16, "start": 0.5}
    recipe = game(augment=augment, rates={"discriminator": 1e-9})
    loop = Loop(recipe, stream(), CPU, torch.float32)
    p = [float(loop.step().signals["augment p"]) for _ in range(9)]
    assert p == pytest.approx([0.5] * 4 + [0.3] * 4 + [0.1])
    other = Loop(recipe, stream(), CPU, torch.float32)
    other.restore(copy.deepcopy(loop.state()))
    assert_equal(loop.step()._asdict(), other.step()._asdict())
    assert_equal(loop.state(), other.state())


EVERYTHING = {
    "generator_every": 2,
    "norm": "spectral",
    "regularisers": [
        {"kind": "r1", "every": 3},
        {"kind": "lecam"},
        {"kind": "drift"},
        {"kind": "orthogonal"},
    ],
    "augment": {"kind": "ada", "target": 0, "kimg": 0.2},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_with_all_that_moves_resumes_exactly(place: Path, loss: LossName) -> None:
    fields = {"task": game(loss=loss, **EVERYTHING).task}
    whole = begin(place, "whole", **fields)
    with pytest.MonkeyPatch.context() as patch:
        Stopper(patch, 88, interrupt(signal.SIGINT))
        with pytest.raises(Cancelled):
            begin(place, **fields)
    assert train("--resume", "run") == 0
    assert_same_run(Run(place / "run"), whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regularisers": [{"kind": "r1"}]}, "discriminator's batch norm mixes the images"),
        ({"regularisers": [{"kind": "gradient-penalty"}]}, "Set discriminator.norm to spectral or"),
        ({"regularisers": [{"kind": "clip"}]}, "clip keeps a wasserstein discriminator smooth"),
        ({"loss": "wasserstein"}, "wasserstein needs a discriminator that is kept smooth"),
        ({"regularisers": [{"kind": "drift"}] * 2}, "drift twice"),
        ({"regularisers": [{"kind": "r3"}]}, "'r1', 'r2', 'gradient-penalty'"),
        ({"rates": {"critic": 1}}, "no network 'critic'; there are generator, discriminator"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        game(**fields)


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_penalties_fit_without_batch_norm(norm: str) -> None:
    terms = [{"kind": "gradient-penalty"}, {"kind": "r1"}]
    assert game(norm=norm, loss="wasserstein", regularisers=terms).task.regularisers


FAMILIES = {
    "sngan": {"resolution": 32, "width": 8, "width_max": 8},
    "progan": {"resolution": 16, "width_base": 64, "width_max": 8},
    "r3gan": {"resolution": 16, "widths": (8, 8, 8), "group": 4},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_train(family: str) -> None:
    networks = {
        name: {"kind": f"{family}-{name}", "classes": 2, **FAMILIES[family]}
        for name in ("generator", "discriminator")
    }
    task = {**networks, "loss": "hinge", "regularisers": [{"kind": "r1"}]}
    recipe = Recipe.model_validate({"name": "other", "task": task, "batch": 8})
    side = FAMILIES[family]["resolution"]
    images = np.random.default_rng(0).integers(0, 256, (20, side, side, 3), np.uint8)
    data = Stream(Dataset("noise", images, np.arange(20) % 2), seed=0, flip=True)
    loop = Loop(recipe, data, CPU, torch.float32)
    before = next(loop.networks["generator"].parameters()).clone()
    values = [loop.step() for _ in range(2)]
    assert all(value.isfinite() for step in values for value in step.losses.values())
    assert not torch.equal(before, next(loop.networks["generator"].parameters()))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_themselves_and_survive_json(name: str) -> None:
    recipe = PRESETS[name]
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_preset_of_the_issue() -> None:
    recipe = PRESETS["dcgan-cifar10"]
    assert recipe.task.loss == "bce"
    assert (recipe.optimiser.lr, recipe.optimiser.betas) == (2e-4, (0.5, 0.999))
    assert (recipe.flip, recipe.task.generator.resolution, recipe.task.generator.z_dim) == (
        True,
        32,
        100,
    )


# ---------------------------------------------------------------- what a run leaves


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
        tick = Tick.model_validate_json(line)
        for name, mean in tick.losses.items():
            steps = [float(value[name]) for value in values[4 * i : 4 * i + 4]]
            assert mean == pytest.approx(sum(steps) / 4, rel=1e-5)


def run_stream() -> Stream:
    from imagen_nodes.training.data import open_data

    return Stream(open_data(Path("pictures"), 16, 3), seed=0, flip=True)


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
        events.tick(tick(nimg=192))
    train(preset(place), "--resume", "run", "--kimg", "0.224")
    found = EventAccumulator(str(run.folder))
    found.Reload()
    steps = [event.step for event in found.Scalars("loss/generator")]
    assert steps == [32, 64, 96, 128, 160, 192, 224]
    assert found.Scalars("loss/generator")[-2].value != 0.5
    assert [event.step for event in found.Images("samples")] == [160, 224]


def tick(**fields: Any) -> Tick:
    numbers = {"nimg": 1000, "kimg": 1.0, "images_per_second": 10.0, "seconds": 1.0}
    losses = {"discriminator": 1.25, "generator": 0.5}
    return Tick.model_validate({**numbers, "losses": losses, "ema_half_life": 1.0, **fields})


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


# ---------------------------------------------------------------- going on


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
    lost = tick(nimg=168).model_dump_json()
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
    assert "warning: run/state-000000160.pt: cannot be read: " in output
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


# ---------------------------------------------------------------- what may go wrong


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a preset: one of dcgan-cifar10"),
        (["dcgan-cifar10"], "needs the pictures to train on: --data PATH"),
        (["dcgan-cifar"], "dcgan-cifar: no such preset, and not a .json file. Did you mean dcgan-"),
        (["nothing.json"], "nothing.json: cannot be read: No such file"),
        (["bad.json"], "bad.json: not JSON"),
        (["list.json"], "list.json: not a recipe:\nvalue: Input should be a valid dictionary"),
        (["dcgan-64", "--set", "batch"], "--set batch: expected FIELD=VALUE"),
        (["dcgan-64", "--set", "batches=3"], "no field 'batches'; there are name, task, kimg, "),
        (["dcgan-64", "--set", "task.generator.depth=3"], "no field 'depth'; there are resolution"),
        (["dcgan-64", "--set", "batch.size=3"], "--set batch.size=3: batch has no fields"),
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
    (place / "list.json").write_text("[]")
    with pytest.raises(UsageError) as info:
        train(*words)
    assert message in str(info.value)
    assert not (place / "runs").exists()


def test_runs_that_are_not_there(place: Path) -> None:
    with pytest.raises(TrainingError, match="no run of dcgan-64 to resume"):
        train("dcgan-64", "--resume")
    with pytest.raises(TrainingError, match=r"nowhere: no run to resume: it has no recipe\.json"):
        train("--resume", "nowhere")
    run = begin(place)
    with pytest.raises(TrainingError, match="run: holds a run already"):
        begin(place)
    (run.folder / "recipe.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"recipe\.json: not the recipe of a run:\nrecipe: "):
        train("--resume", "run")


def test_missing_extras(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "rich" else object())
    with pytest.raises(TrainingError, match=r"needs rich: pip install 'imagen-nodes\[train\]'"):
        train("dcgan-64", "--data", "pictures")


def test_interrupted_while_it_reads(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("imagen_nodes.training.start.open_data", stop)
    with pytest.raises(Cancelled, match="stopped before the training began"):
        train(preset(place), "--data", "pictures")


def test_the_command_ends_with_a_message_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "imagen_nodes.training", "dcgan-64", "--data", "none"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == DataError.exit_code
    assert result.stderr == (
        "error: none: no such folder or file. Give the pictures with --data PATH\n"
    )
    assert not list(tmp_path.iterdir())


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


def test_a_period_has_every_lazy_term_equally_often() -> None:
    assert small().task.period == 1
    terms = [{"kind": "r1", "every": 4}, {"kind": "drift", "every": 6}]
    assert game(norm="none", regularisers=terms, generator_every=5).task.period == 60


def test_the_list_of_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["preset", "px", "width", "classes", "loss", "and", "batch", "kimg"]
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)


# ---------------------------------------------------------------- precision, progress, plot


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
        display.tick(tick())
    assert capsys.readouterr().out == (
        "1.0/61 kimg  10 img/s  discriminator 1.250  generator 0.500  1:40:00 left\n"
    )


def test_the_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    display = BarDisplay()
    with display.running(0, 2000):
        display.step(1000)
        display.tick(tick())
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
