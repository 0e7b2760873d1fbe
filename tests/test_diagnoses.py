"""Illnesses of a training: the figures they are told by, deliberately broken recipes, and healthy
ones, which raise no alarm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imagen_nodes.training import examination
from imagen_nodes.training.data import Dataset, Stream
from imagen_nodes.training.diagnoses import ILLNESSES, diagnose
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.progress import Tick
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.watch import Watch

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------ figures


def flat(*values: float) -> Tensor:
    """Images of one value each."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 16, 16).clone()


def test_diversity_is_a_ratio_of_deviations() -> None:
    real = flat(-0.5, 0.5, -0.5, 0.5)
    assert examination.diversity(flat(-0.1, 0.1, -0.1, 0.1), real) == pytest.approx(0.2)
    # Noise that differs from pixel to pixel is no diversity.
    noise = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    assert examination.diversity(noise, flat(-0.5, 0.5)) < 0.1


def test_saturation() -> None:
    assert examination.saturation(flat(-1, 0, 0.99, 0.9)) == pytest.approx(0.5)


def test_the_held_out_gap() -> None:
    """Seen at 2, generated at -2: held out at 1 is a quarter of the way."""
    seen, drawn = torch.tensor([1.9, 2.1]), torch.tensor([-1.9, -2.1])
    assert examination.gap(seen, torch.tensor([1.0]), drawn) == pytest.approx(0.25)
    # A discriminator that cannot tell them apart knows nothing by heart.
    assert examination.gap(torch.tensor([1.0, -1.0]), torch.tensor([5.0]), drawn * 0) == 0


def test_the_leak() -> None:
    random = torch.Generator().manual_seed(0)
    real = torch.randn(256, 3, 16, 16, generator=random) * 0.1
    real[:, :, :8] += 0.5  # bright above
    turned = real.flip(2)
    assert examination.leak(real, real, turned) == pytest.approx(0)
    assert examination.leak(turned, real, turned) == pytest.approx(1)
    half = torch.cat([real[:128], turned[128:]])
    assert examination.leak(half, real, turned) == pytest.approx(0.5, abs=0.05)
    # An augmentation that shows nowhere leaks nothing.
    other = torch.randn(256, 3, 16, 16, generator=random) * 0.1
    other[:, :, :8] += 0.5
    assert examination.leak(turned, real, other) == 0


# ------------------------------------------------------------------------------ the rules

WELL = {
    "diversity": 0.9,
    "most diverse": 0.95,
    "saturation": 0.01,
    "held-out gap": 0.1,
    "leak": 0.05,
    "accuracy": 0.7,
    "margin": 0.5,
}
SIGNS: dict[str, tuple[int, dict[str, float]]] = {
    "dead generator": (2, {"saturation": 0.95, "diversity": 0.01}),
    "mode collapse": (2, {"diversity": 0.4}),
    "discriminator overfits": (2, {"held-out gap": 0.7}),
    "discriminator has won": (4, {"accuracy": 0.99}),
    "discriminator lags behind": (3, {"accuracy": 0.3, "margin": -0.2}),
    "augmentation leaks": (3, {"leak": 0.4}),
}


def test_every_illness_is_tested() -> None:
    assert set(SIGNS) == {illness.kind for illness in ILLNESSES}


@pytest.mark.parametrize("kind", SIGNS)
def test_signs_that_last_are_told_once(kind: str) -> None:
    count, signs = SIGNS[kind]
    known: set[str] = set()
    history = [WELL]
    for i in range(count + 3):
        history = [*history, WELL | signs]
        kinds = [alarm.kind for alarm in diagnose(history, known, 1000)]
        assert kinds == [kind] * (i == count - 1)
    assert diagnose([*history, WELL], known, 1000) == []
    assert not known
    (alarm,) = diagnose(history, known, 2000)
    assert alarm.nimg == 2000
    assert alarm.text.endswith(".")
    assert alarm.advice.endswith(".")


def test_generators_begin_alike() -> None:
    """It is no collapse before there was any diversity, but if it lasts."""
    begun = WELL | {"diversity": 0.2, "most diverse": 0.2}
    known: set[str] = set()
    assert diagnose([begun] * 5, known, 1000) == []
    (alarm,) = diagnose([begun] * 6, known, 1000)
    assert alarm.kind == "mode collapse"


def test_losses_without_a_zero_have_no_accuracy() -> None:
    figures = {k: v for k, v in WELL.items() if k not in ("accuracy", "margin", "leak")}
    assert diagnose([figures] * 6, set(), 1000) == []


# ------------------------------------------------------------------------------ whole trainings

SMALL: dict[str, Any] = {"resolution": 16, "width": 16}
R1 = [{"kind": "r1", "weight": 0.1, "every": 4}]
GROWN = {"kind": "progan-generator", "z_dim": 16, "resolution": 16, "width_base": 128}


def pictures(count: int, side: int = 16) -> np.ndarray[Any, Any]:
    """A bright sky above a dark ground, and a disc of any colour somewhere."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / (side - 1)
    images = np.empty((count, side, side, 3), np.uint8)
    for image in images:
        sky, ground = draw.uniform(120, 255, 3), draw.uniform(0, 120, 3)
        middle, radius = draw.uniform(0.2, 0.8, 2), draw.uniform(0.1, 0.3)
        disc = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2
        scene = sky * (1 - y[..., None]) + ground * y[..., None]
        image[:] = np.where(disc[..., None], draw.uniform(0, 255, 3), scene)
    return images


def recipe(
    lr: float | tuple[float, float] = 4e-4,
    betas: tuple[float, float] = (0.0, 0.99),
    generator: dict[str, Any] | None = None,
    discriminator: dict[str, Any] | None = None,
    held_out: float = 0.25,
    **task: Any,
) -> Recipe:
    """``lr``: of both networks, or of generator and discriminator."""
    rates = lr if isinstance(lr, tuple) else (lr, lr)
    usual = {"kind": "dcgan-generator", "z_dim": 16, **SMALL}
    judge = {"kind": "dcgan-discriminator", "norm": "none", **SMALL}
    optimiser = {"betas": betas, "rates": {"generator": rates[0], "discriminator": rates[1]}}
    networks = {"generator": generator or usual, "discriminator": judge | (discriminator or {})}
    numbers = {"batch": 32, "precision": "float32", "ema_half_life": 0.5}
    return Recipe.model_validate(
        {
            "name": "suite",
            "task": networks | task,
            "optimiser": optimiser,
            "held_out": held_out,
            **numbers,
        }
    )


def alarms_of(made: Recipe, images: int, kimg: int, until: str = "") -> list[str]:
    """Kinds of the alarms of a training that is examined every 4 kimg, up to the one named."""
    data = Stream(Dataset("p", pictures(images)), seed=0, flip=True, held_out=made.held_out)
    loop = Loop(made, data, CPU, torch.float32)
    watch, ticks, signals, kinds = Watch(loop), list[Tick](), list[dict[str, Tensor]](), list[str]()
    numbers = {"losses": {}, "images_per_second": 1, "seconds": 1, "ema_half_life": 1}
    while loop.nimg < kimg * 1000 and until not in kinds:
        signals.append(loop.step().signals)
        if loop.nimg % 4000 < made.batch:
            means = {k: float(torch.stack([s[k] for s in signals]).mean()) for k in signals[0]}
            entry = {"nimg": loop.nimg, "kimg": loop.nimg / 1000, "signals": means}
            ticks.append(Tick.model_validate(numbers | entry))
            signals.clear()
            _, alarms = watch.examine(loop.snapshots()[0], ticks)
            kinds += [alarm.kind for alarm in alarms]
    return kinds


TO_THE_FULL = {"kind": "ada-ramp", "start": 1, "end": 1}
BROKEN: dict[str, tuple[Recipe, int, int]] = {
    "dead generator": (recipe((1.0, 4e-4)), 2000, 12),
    "mode collapse": (recipe((2e-3, 1e-5), (0.5, 0.99), GROWN | {"width_max": 16}), 2000, 32),
    "discriminator overfits": (
        recipe(betas=(0.5, 0.99), discriminator={"width": 64}, held_out=0.5), 200, 60
    ),
    "discriminator has won": (recipe((1e-6, 2e-3)), 2000, 20),
    "discriminator lags behind": (recipe((4e-4, 1e-9)), 2000, 16),
    "augmentation leaks": (recipe(1e-3, augment=TO_THE_FULL, regularisers=R1), 2000, 40),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_recipe_is_found_out(kind: str) -> None:
    made, images, kimg = BROKEN[kind]
    assert kind in alarms_of(made, images, kimg, until=kind)


HEALTHY = {
    "dcgan": recipe(2e-4, (0.5, 0.999), discriminator={"norm": "batch"}),
    "r1": recipe(regularisers=R1),
    "augmented": recipe(
        regularisers=R1,
        augment={"kind": "diff-augment", "policy": ["translation", "cutout"]},
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_recipe_raises_no_alarm(name: str) -> None:
    assert alarms_of(HEALTHY[name], images=6000, kimg=32) == []


def test_an_examination_changes_nothing() -> None:
    made = recipe(discriminator={"norm": "batch"}, augment={"kind": "ada", "start": 0.5})
    data = Stream(Dataset("p", pictures(300)), seed=0, flip=True, held_out=0.25)
    plain, watched = (Loop(made, data, CPU, torch.float32) for _ in range(2))
    watch = Watch(watched)
    for _ in range(3):
        plain.step()
        watched.step()
        found, _ = watch.examine(watched.snapshots()[0], [])
        assert set(found) == {"diversity", "saturation", "leak", "held-out gap"}
    for name, network in plain.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, watched.networks[name].state_dict()[key]), key


def test_of_pictures_in_tiles_whole_ones_are_held_out() -> None:
    images = np.arange(400, dtype=np.uint16).view(np.uint8).reshape(400, 1, 1, 2)
    names = tuple(f"{i // 9}.png" for i in range(400))
    data = Stream(Dataset("n", images, names=names), seed=0, flip=False, held_out=0.1)
    kept, used = (set(x.tolist()) for x in (data._held_out[0], data._used[0]))
    assert 32 <= len(kept) <= 40, "as many whole ones as 10% of the tiles hold"
    assert kept | used == set(range(400))
    assert not {i // 9 for i in kept} & {i // 9 for i in used}
    apart = data.apart(10)
    assert apart is not None
    assert (apart.name, len(apart.images)) == ("n, held out", 10)
    assert {int(x) for x in apart.images.view(np.uint16).flatten()} < kept
    larger = Dataset("n", images, names=("one.png",) * 400)
    assert Stream(larger, seed=0, flip=False, held_out=0.1).apart(10) is None


def test_held_out_images_are_in_no_batch() -> None:
    images = np.arange(400, dtype=np.uint16).view(np.uint8).reshape(400, 1, 1, 2)
    data = Stream(Dataset("n", images), seed=0, flip=False, held_out=0.25)

    def numbers(batch: Any) -> set[int]:
        pixels = ((batch.images + 1) * 127.5).round().long()[:, :, 0, 0]
        return set((pixels[:, 0] + 256 * pixels[:, 1]).tolist())

    held_out = data.held_out(7, 1000)
    assert held_out is not None
    assert len(numbers(held_out)) == 100
    assert len(numbers(data.batch(0, 300))) == 300
    assert not numbers(held_out) & numbers(data.batch(0, 300))
    assert (
        Stream(Dataset("n", images[:199]), seed=0, flip=False, held_out=0.5).held_out(0, 9) is None
    )
