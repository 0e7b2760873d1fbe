"""What a training's step computes: its losses, penalties, averages and random numbers."""

from __future__ import annotations

import copy
import random
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes.errors import (
    Cancelled,
)
from imagen_nodes.training.data import Dataset, Stream
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.losses import LOSSES, LossName
from imagen_nodes.training.presets import PRESETS
from imagen_nodes.training.randomness import torch_random
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.run import Run
from imagen_nodes.training.tasks.generate import Generate

from .small_runs import (
    CPU,
    Stopper,
    assert_equal,
    assert_same_run,
    begin,
    game,
    interrupt,
    small,
    stream,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread", "pictures")


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
    more = dict(EVERYTHING)
    if loss in ("wasserstein", "relativistic"):
        more["augment"] = {"kind": "ada-ramp", "kimg": 0.2}
    fields = {"task": game(loss=loss, **more).task}
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
        (
            {"loss": "relativistic", "augment": {"kind": "ada"}},
            "of which relativistic says nothing. Use ada-ramp or diff-augment",
        ),
        ({"regularisers": [{"kind": "r3"}]}, "'r1', 'r2', 'gradient-penalty'"),
        ({"rates": {"critic": 1}}, "no network 'critic'; there are generator, discriminator"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        game(**fields)


def test_orthogonal_of_both_networks_and_of_none() -> None:
    both = [{"kind": "orthogonal"}, {"kind": "orthogonal", "of": "discriminator"}]
    assert len(game(regularisers=both).task.regularisers) == 2
    task = PRESETS["progressive-cifar10"].task.model_dump()
    with pytest.raises(ValueError, match="a progan-generator has none"):
        Generate.model_validate(task | {"regularisers": [*task["regularisers"], both[0]]})


def test_the_sign_that_augmentation_goes_by_is_about_the_losses_own_boundary() -> None:
    for loss, boundary in (("bce", 0.0), ("mse", 0.5)):
        recipe = game(loss=loss)
        loop = Loop(recipe, stream(), CPU, torch.float32)
        judge, seen = loop.networks["discriminator"], list[Tensor]()
        judge.register_forward_hook(lambda *x, seen=seen: seen.append(x[2].detach()))
        found = loop.step()
        real = seen[0][:8] if len(seen[0]) > 8 else seen[0]
        wanted = (real - boundary).sign().mean()
        assert float(found.signals["real sign"]) == pytest.approx(float(wanted), abs=1e-6)


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


def test_a_period_has_every_lazy_term_equally_often() -> None:
    assert small().task.period == 1
    terms = [{"kind": "r1", "every": 4}, {"kind": "drift", "every": 6}]
    assert game(norm="none", regularisers=terms, generator_every=5).task.period == 60
