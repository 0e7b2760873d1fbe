"""Techniques of a training: growing, discriminators at several scales, an auxiliary classifier,
numbers that move, several averages, steps in parts."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes.networks.dcgan import DCGANDiscriminator
from imagen_nodes.networks.multi_scale import MultiScaleDiscriminator
from imagen_nodes.networks.sngan import SNGANDiscriminator
from imagen_nodes.training.data import Dataset, Stream
from imagen_nodes.training.divergence import watch
from imagen_nodes.training.fitting import fitting
from imagen_nodes.training.growth import Growth, shown
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.randomness import torch_random
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.schedule import Schedule

CPU = torch.device("cpu")
PROGAN = {"resolution": 16, "width_base": 64, "width_max": 8}


pytestmark = pytest.mark.usefixtures("one_thread")


def stream(count: int = 20, side: int = 16, **options: Any) -> Stream:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, side, side, 3), np.uint8)
    options = {"seed": 0, "flip": True} | options
    return Stream(Dataset("noise", images, np.arange(count) % 2), **options)


def recipe(
    generator: dict[str, Any] | None = None,
    discriminator: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    **fields: Any,
) -> Recipe:
    """DCGAN at 16 px without batch norm in the discriminator, or what is given."""
    small = {"resolution": 16, "width": 8}
    of_generator = {"kind": "dcgan-generator", "z_dim": 8, **small}
    of_discriminator = {"kind": "dcgan-discriminator", "norm": "none", **small}
    networks = {
        name: given if "kind" in given else usual | given
        for name, usual, given in (
            ("generator", of_generator, generator or {}),
            ("discriminator", of_discriminator, discriminator or {}),
        )
    }
    numbers = {"batch": 8, "kimg": 0.16, "precision": "float32"}
    return Recipe.model_validate(
        {"name": "small", "task": networks | (task or {}), **numbers, **fields}
    )


def loop_of(made: Recipe, **options: Any) -> Loop:
    return Loop(made, stream(**options), CPU, torch.float32)


# ------------------------------------------------------------------------------ families

BIGGAN = {"width": 8, "classes": 2, "attention": [16], "spectral_norm": True}
R3GAN = {"widths": [32, 16, 16, 16], "classes": 2}
STYLEGAN2 = {"width_base": 1024, "width_max": 8, "classes": 2, "mapping_layers": 2}
STYLEGAN3 = {**STYLEGAN2, "generator": {"depth": 4}}
# What another family's discriminator judges.
JUDGES = {"stylegan3": "stylegan2"}
# Each: kind, fields of both networks, resolution.
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "sngan": ({"width": 8, "width_max": 16, "classes": 2}, 32),
    "biggan": (BIGGAN, 32),
    "biggan-deep": (BIGGAN, 32),
    "progan": (PROGAN, 16),
    "r3gan": (R3GAN, 32),
    "stylegan2": (STYLEGAN2, 16),
    "stylegan3": (STYLEGAN3, 16),
}


def family(name: str, **fields: Any) -> Recipe:
    of_both, side = FAMILIES[name]
    more = {k: of_both.get(k, {}) for k in ("generator", "discriminator")}
    shared = {k: value for k, value in of_both.items() if k not in more}
    kinds = {"generator": name, "discriminator": JUDGES.get(name, name)}
    networks = {k: {"kind": f"{kinds[k]}-{k}", **shared, **more[k]} for k in kinds}
    networks = {k: {"resolution": side} | network for k, network in networks.items()}
    return recipe(task=networks | {"loss": "hinge"}, batch=4, **fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_and_repeats(name: str) -> None:
    """Steps change the weights, and depend on the seed alone; what ships draws images."""
    made = family(name)
    side = FAMILIES[name][1]
    first, second = (Loop(made, stream(side=side), CPU, torch.float32) for _ in range(2))
    before = {n: copy.deepcopy(network.state_dict()) for n, network in first.networks.items()}
    for _ in range(2):
        ours, theirs = first.step().losses, second.step().losses
        assert ours == theirs
        assert all(math.isfinite(value) for value in ours.values())
    for n, network in first.networks.items():
        moved = [not torch.equal(p, before[n][key]) for key, p in network.named_parameters()]
        # Attention begins as the identity, what has been grown is idle, a bias may be in balance.
        assert sum(moved) > 0.7 * len(moved)
        assert all(
            torch.equal(value, second.networks[n].state_dict()[key])
            for key, value in network.state_dict().items()
        )
    (shipped,) = first.snapshots()
    drawn = [shipped(torch.ones(2, made.task.generator.z_dim), torch.tensor([0, 1])) for _ in "ab"]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (2, 3, side, side)


# ------------------------------------------------------------------------------ growing


def grown(**growth: Any) -> Recipe:
    return recipe(
        {"kind": "progan-generator", "z_dim": 8, **PROGAN},
        {"kind": "progan-discriminator", **PROGAN},
        {"growth": {"hold_kimg": 0.016, "fade_kimg": 0.032, **growth}},
    )


def test_resolutions_are_held_and_faded_in() -> None:
    """16 images of each, 32 to fade: 4 px, then to 8 px from 16 on, in full at 48, and so on."""
    growth = Growth(start=4, hold_kimg=0.016, fade_kimg=0.032)
    images = (0, 15, 16, 24, 48, 63, 80, 96)
    found = [growth.progress(nimg) for nimg in images]
    assert found == pytest.approx([0, 0, 0, 0.25, 1, 1, 1.5, 2])
    assert [growth.grown_at(side) for side in (4, 8, 16)] == [0, 48, 96]
    assert Growth(start=8, hold_kimg=1, fade_kimg=1).progress(1500) == 1.5


def test_real_images_follow() -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    at_8 = images.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(shown(images, 8, 1), at_8)
    coarse = images.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))
    doubled = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(shown(images, 8, 0.25), 0.25 * at_8 + 0.75 * doubled)
    assert shown(images, 16, 1) is images


def test_networks_and_average_grow_together() -> None:
    loop = loop_of(grown())
    seen: list[Tensor] = []
    loop.networks["discriminator"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    sides: list[int] = []
    average: Any = loop.averages[0].network
    for _ in range(14):
        seen.clear()
        loop.step()
        assert len({images.shape for images in seen}) == 1
        sides.append(seen[0].shape[3])
        assert average.resolution == sides[-1]
        (snapshot,) = loop.snapshots()
        assert snapshot(torch.zeros(1, 8)).shape[3] == sides[-1]
    # The step that begins at 16 images still shows 4 px; at 24, 8 px are being faded in.
    assert sides == [4] * 3 + [8] * 6 + [16] * 5
    assert loop.recipe.settled == 96


def test_what_fits_into_memory_is_tried_with_whole_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(Loop, "step", lambda loop: tried.append(loop.nimg))
    assert fitting(loop_of(grown())) == 2
    later = loop_of(grown())
    later.nimg = 160
    assert fitting(later) == 2
    assert tried == [96, 160]


def test_a_growing_run_goes_on_exactly() -> None:
    whole, part = loop_of(grown()), loop_of(grown())
    for _ in range(5):
        part.step()
    resumed = loop_of(grown())
    resumed.restore(copy.deepcopy(part.state()))
    for _ in range(12):
        whole.step()
    for _ in range(7):
        resumed.step()
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, resumed.networks[name].state_dict()[key]), key


# ------------------------------------------------------------------------------ several scales


@pytest.mark.parametrize("classes", [0, 2])
def test_a_stack_of_discriminators_by_hand(classes: int) -> None:
    finest = DCGANDiscriminator(resolution=32, width=8, norm="none", classes=classes)
    stack = MultiScaleDiscriminator(scales=3, finest=finest)
    network = stack.build()
    network.initialise(torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 0]) if classes else None
    logits = network(images, labels)
    assert logits.shape == (2, 3)
    scaled = images
    for k, side in enumerate((32, 16, 8)):
        plain = finest.model_copy(update={"resolution": side}).build()
        prefix = f"scales.{k}."
        weights = {
            key.removeprefix(prefix): value
            for key, value in network.state_dict().items()
            if key.startswith(prefix)
        }
        plain.load_state_dict(weights)
        torch.testing.assert_close(logits[:, k], plain(scaled, labels))
        # A mean over 3x3 px at every other pixel, of those that are there.
        inside = F.conv2d(torch.ones_like(scaled[:, :1]), torch.ones(1, 1, 3, 3), None, 2, 1)
        total = F.conv2d(scaled, torch.ones(3, 1, 3, 3), None, 2, 1, groups=3)
        scaled = total / inside
    assert (stack.resolution, stack.channels, stack.classes) == (32, 3, classes)


def test_a_stack_trains_on_the_mean_of_its_losses() -> None:
    stack = {
        "kind": "multi-scale-discriminator",
        "scales": 2,
        "finest": {
            "kind": "dcgan-discriminator",
            "resolution": 16,
            "width": 8,
            "norm": "spectral",
        },
    }
    terms = [{"kind": "r1"}]
    loop = loop_of(recipe(None, stack, {"loss": "hinge", "regularisers": terms}))
    generator, discriminator = (copy.deepcopy(network) for network in loop.networks.values())
    batch = stream().batch(0, 8)
    z = torch.randn(8, 8, generator=torch_random(0, 0, 0, "step"))
    images = torch.cat([batch.images, generator(z)])
    real, fake = discriminator(images).detach().chunk(2)
    wanted = sum((F.relu(1 - real[:, k]) + F.relu(1 + fake[:, k])).mean() / 2 for k in range(2))
    found = loop.step().losses
    assert isinstance(wanted, Tensor)
    torch.testing.assert_close(found["discriminator"], wanted)
    assert found["r1"] > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"finest": DCGANDiscriminator(resolution=16)}, "for 4 px, which is too small; use fewer"),
        ({"finest": SNGANDiscriminator(resolution=32)}, "for 16 px, which is too small"),
        (
            {"finest": DCGANDiscriminator(classes=2, conditioning="auxiliary"), "scales": 2},
            "set finest.conditioning to projection",
        ),
    ],
)
def test_stacks_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        MultiScaleDiscriminator(**fields)


# ------------------------------------------------------------------------------ classes


@pytest.mark.parametrize("family", ["dcgan", "sngan"])
def test_an_auxiliary_classifier(family: str) -> None:
    """AC-GAN: both networks minimise the cross-entropy of the classes, the discriminator of real
    and generated images, the generator of its own."""
    side = {"dcgan": 16, "sngan": 32}[family]
    discriminator = {
        "kind": f"{family}-discriminator",
        "resolution": side,
        "width": 8,
        "classes": 2,
        "conditioning": "auxiliary",
    }
    if family == "dcgan":
        discriminator["norm"] = "none"
    else:
        discriminator |= {"width_max": 8, "spectral_norm": False}
    made = recipe({"classes": 2, "resolution": side}, discriminator, {"classifier_weight": 0.5})
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (20, side, side, 3), np.uint8)
    data = Stream(Dataset("noise", pixels, np.arange(20) % 2), seed=0, flip=True)
    loop = Loop(made, data, CPU, torch.float32)
    generator, judge = (copy.deepcopy(network) for network in loop.networks.values())
    batch = data.batch(0, 8)
    assert batch.labels is not None
    z = torch.randn(8, 8, generator=torch_random(0, 0, 0, "step"))
    fake = generator(z, batch.labels).detach()
    found = loop.step().losses

    def cross_entropy(network: Any, images: Tensor) -> Tensor:
        _, classes = network.classify(images)
        assert batch.labels is not None
        chosen = classes.log_softmax(1)[torch.arange(8), batch.labels]
        return -chosen.mean().detach()

    torch.testing.assert_close(
        found["classifier"],
        0.5 * (cross_entropy(judge, batch.images) + cross_entropy(judge, fake)),
    )
    updated = loop.networks["discriminator"]
    torch.testing.assert_close(found["generator's class"], 0.5 * cross_entropy(updated, fake))
    # Without labels for the logit: it is no projection.
    torch.testing.assert_close(judge.classify(fake)[0], judge(fake))


# ------------------------------------------------------------------------------ moving numbers


def test_schedules() -> None:
    line = Schedule(start=1, end=3, kimg=2, delay=1, shape="linear")
    assert [line.at(n) for n in (0, 1000, 1500, 2000, 3000, 9000)] == [1, 1, 1.5, 2, 3, 3]
    wave = Schedule(start=1, end=0, kimg=1)
    assert wave.at(250) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    factor = Schedule(start=1, end=0.01, kimg=1, shape="exponential")
    assert factor.at(500) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="reaches no 0"):
        Schedule(start=1, end=0, kimg=1, shape="exponential")


def test_what_moves_in_a_recipe() -> None:
    line = {"end": 0.001, "kimg": 0.016, "shape": "linear"}
    made = recipe(
        task={"augment": {"kind": "diff-augment", "p": {"start": 0, "end": 1, "kimg": 0.016}}},
        optimiser={
            "lr": {"start": 0.003, **line},
            "rates": {"discriminator": {"start": 0.002, **line}},
            "betas": [0, {"start": 0.9, "end": 0.98, "kimg": 0.016, "shape": "linear"}],
        },
        ema_half_life={"start": 0.0001, "end": 0.0003, "kimg": 0.016, "shape": "linear"},
    )
    loop = loop_of(made)
    rates: list[list[Any]] = []
    for _ in range(4):
        p = float(loop.step().signals["augment p"])
        groups = [o.param_groups[0] for o in loop.optimisers.values()]
        rates.append([p, *[g["lr"] for g in groups], groups[0]["betas"][1]])
    np.testing.assert_allclose(
        rates,
        [[0, 3e-3, 2e-3, 0.9], [0.5, 2e-3, 1.5e-3, 0.94], *[[1, 1e-3, 1e-3, 0.98]] * 2],
        rtol=1e-6,
    )
    assert loop.averages[0].half_life_at(8) == pytest.approx(0.2)
    loop.scale_rates(0.5)
    loop.step()
    assert loop.optimisers["generator"].param_groups[0]["lr"] == pytest.approx(5e-4)
    other = loop_of(made)
    other.restore(loop.state())
    other.step()
    assert other.optimisers["generator"].param_groups[0]["lr"] == pytest.approx(5e-4)


def test_a_beta_that_moves_too_far() -> None:
    with pytest.raises(ValueError, match="a beta stays below 1"):
        recipe(optimiser={"betas": [0, {"start": 0.9, "end": 1, "kimg": 1}]})


def test_several_averages() -> None:
    made = recipe(ema_half_life=[0.0005, 0.02])
    several = loop_of(made)
    alone = [loop_of(recipe(ema_half_life=life)) for life in (0.0005, 0.02)]
    for loop in (several, *alone):
        for _ in range(3):
            loop.step()
    for average, other in zip(several.averages, alone, strict=True):
        pairs = zip(
            average.network.parameters(), other.averages[0].network.parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    first, second = (next(a.network.parameters()) for a in several.averages)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="all different"):
        recipe(ema_half_life=[50, 50])


# ------------------------------------------------------------------------------ parts

MOVING: dict[str, Any] = {
    "generator_every": 2,
    "loss": "relativistic",
    "regularisers": [
        {"kind": "r1", "every": 2},
        {"kind": "gradient-penalty"},
        {"kind": "lecam"},
        {"kind": "orthogonal"},
        {"kind": "path-length", "every": 2, "shrink": 1},
    ],
    "augment": {"kind": "ada-ramp", "kimg": 0.2, "start": 0.5, "noise": 1, "cutout": 1},
}
R3GAN = {"resolution": 16, "z_dim": 8, "widths": [8, 8, 8], "group": 4, "blocks": 1}


def parts(accumulate: int) -> Recipe:
    made = recipe().model_dump()
    made["task"] |= MOVING
    made["task"]["generator"] = {"kind": "r3gan-generator", **R3GAN}
    made["accumulate"] = accumulate
    made["optimiser"]["eps"] = 1e-3
    return Recipe.model_validate(made)


def test_a_step_in_parts_is_the_step() -> None:
    """Losses, signals, what is remembered, weights: to rounding."""
    whole, pieces = loop_of(parts(1)), loop_of(parts(4))
    for _ in range(4):
        one, other = whole.step(), pieces.step()
        for ours, theirs in zip(one, other, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4, msg=name)
    for name, network in whole.networks.items():
        for key, value in network.named_parameters():
            other = dict(pieces.networks[name].named_parameters())[key]
            torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-5, msg=key)
    assert whole.memory.keys() == pieces.memory.keys()


def test_parts_need_no_graph_of_the_whole() -> None:
    """No generator's graph lives while the discriminator is updated."""
    made = parts(4)
    loop = loop_of(made)
    task = made.task
    batch = stream().batch(0, 8).split(4)[0]
    update = next(task.losses(loop.networks, batch, loop._moment(0)))
    assert not any(p.grad is not None for p in loop.networks["generator"].parameters())
    (gradient, *_) = torch.autograd.grad(
        update.losses["discriminator"],
        list(loop.networks["generator"].parameters()),
        allow_unused=True,
    )
    assert gradient is None


def test_unequal_parts() -> None:
    with pytest.raises(ValueError, match="batch of 8 does not split into 3 equal parts"):
        recipe(accumulate=3)


# ------------------------------------------------------------------------------ compiled networks


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.compile without the C++ compiler; what was asked for."""
    asked: list[str] = []

    def compile_(self: nn.Module, mode: str) -> None:
        asked.append(mode)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_)
    return asked


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own
def test_compiled_networks_take_the_same_steps(quick_compiler: list[str]) -> None:
    """With penalties, whose second derivatives no compiled network has."""
    terms = [{"kind": "r1", "every": 2}, {"kind": "gradient-penalty"}]
    task = {"loss": "hinge", "regularisers": terms}
    plain, compiled = (loop_of(recipe(task=task, compile=how)) for how in ("no", "yes"))
    assert quick_compiler == ["default", "default"]
    for _ in range(3):
        one, other = plain.step().losses, compiled.step().losses
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
    # Its layers are seen when a divergence is looked for, and its state is the plain one's.
    with watch(compiled.networks) as found:
        next(compiled.networks["generator"].parameters()).data.fill_(float("nan"))
        compiled.step()
    assert found[0].startswith("generator.main.0")
    plain.restore(compiled.state())


def test_growing_networks_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="networks that grow would be compiled anew"):
        Recipe.model_validate(grown().model_dump() | {"compile": "yes"})


# ------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"growth": {}}, "a dcgan-generator does not grow; use a progan-generator"),
        ({"regularisers": [{"kind": "path-length"}]}, "dcgan-generator's batch norm mixes"),
    ],
)
def test_what_does_not_fit(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe(task=task)


def test_feature_matching_needs_features() -> None:
    networks = (
        {"kind": "progan-generator", "z_dim": 8, **PROGAN},
        {"kind": "progan-discriminator", **PROGAN},
    )
    with pytest.raises(ValueError, match="which a progan-discriminator does not give"):
        recipe(*networks, {"regularisers": [{"kind": "feature-matching"}]})


def test_growth_starts_within_the_networks() -> None:
    with pytest.raises(ValueError, match=r"growth\.start is 32 px, more than the networks' 16"):
        grown(start=32)


def test_feature_matching_trains_the_generator() -> None:
    loop = loop_of(recipe(task={"regularisers": [{"kind": "feature-matching"}]}))
    batch = stream().batch(0, 8)
    generator = copy.deepcopy(loop.networks["generator"])
    found = loop.step().losses
    judge: Any = loop.networks["discriminator"]
    z = torch.randn(8, 8, generator=torch_random(0, 0, 0, "step"))
    with torch.no_grad():
        real, fake = (judge.features(x).mean(0) for x in (batch.images, generator(z)))
    torch.testing.assert_close(found["feature-matching"], (real - fake).square().mean())


def test_colour_of_the_data() -> None:
    plain, changed = stream().batch(0, 8).images, stream(colour=0.5).batch(0, 8).images
    assert not torch.equal(plain, changed)
    assert changed.abs().max() <= 1
    halves = [stream(colour=0.5, rank=r, world=2).batch(0, 8).images for r in range(2)]
    assert torch.equal(torch.cat(halves), changed)
