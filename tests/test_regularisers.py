"""Regularisers against closed forms and plainly written references."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from imagen_nodes.networks.dcgan import DCGANDiscriminator
from imagen_nodes.training.randomness import Numbers
from imagen_nodes.training.regularisers import (
    R1,
    R2,
    AnyRegulariser,
    Clip,
    Drift,
    FeatureMatching,
    GradientPenalty,
    LeCam,
    Orthogonal,
    PathLength,
    Regulariser,
    Round,
    squared_gradients,
)
from imagen_nodes.training.schedule import Schedule

KINDS = (
    "r1",
    "r2",
    "gradient-penalty",
    "drift",
    "lecam",
    "orthogonal",
    "feature-matching",
    "path-length",
    "clip",
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int, count: int = 5) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=seeded(seed))


def linear(slope: Tensor) -> Callable[[Tensor], Tensor]:
    """D(x) = slope . x, whose gradient is the slope everywhere."""
    return lambda x: (x * slope).sum((1, 2, 3))


def round_of(score: Callable[[Tensor], Tensor], **fields: Any) -> Round:
    real, fake = images(1), images(2)
    values: dict[str, Any] = {
        "network": nn.Identity(),
        "score": score,
        "real": real,
        "fake": fake,
        "real_logits": score(real),
        "fake_logits": score(fake),
        "random": Numbers(seeded(3)),
        "generate": lambda z: z,
        "latents": torch.zeros(5, 2),
        "memory": {},
    }
    return Round(**{**values, **fields})


def test_gradients_of_a_linear_discriminator() -> None:
    """|grad D|^2 = |slope|^2, so R1 = R2 = gamma/2 |slope|^2 and GP = lambda (|slope| - 1)^2; and
    their own gradients by the slope are gamma slope and 2 lambda (|slope| - 1) slope/|slope|."""
    slope = images(0, 1).requires_grad_()
    square, length = slope.square().sum(), slope.norm()
    at = round_of(linear(slope))
    for term, value, gradient in (
        (R1(weight=3), 1.5 * square, 3 * slope),
        (R2(weight=3, every=4), 6 * square, 12 * slope),
        (GradientPenalty(), 10 * (length - 1) ** 2, 20 * (length - 1) * slope / length),
    ):
        loss = term.loss(at)
        torch.testing.assert_close(loss, value)
        (found,) = torch.autograd.grad(loss, slope)
        torch.testing.assert_close(found, gradient)


def test_each_penalty_looks_where_it_should() -> None:
    """D(x) = |x|^2 / 2 has the gradient x: R1 is |real|^2 / 2, R2 |fake|^2 / 2, and the penalty
    (|x| - 1)^2 at one random share of the way for each image."""

    def score(x: Tensor) -> Tensor:
        return x.square().sum((1, 2, 3)) / 2

    at = round_of(score)
    squares = [x.square().sum((1, 2, 3)) for x in (at.real, at.fake)]
    torch.testing.assert_close(R1().loss(at), squares[0].mean() / 2)
    torch.testing.assert_close(R2().loss(at), squares[1].mean() / 2)
    share = torch.rand(5, 1, 1, 1, generator=seeded(3))
    lengths = (share * at.real + (1 - share) * at.fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(GradientPenalty().loss(at), 10 * (lengths - 1).square().mean())


@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_gradients_of_a_network_by_differences(norm: Any) -> None:
    """Ours, through our own layers, against central differences; and the penalty's gradient by a
    weight against differences too."""
    network = DCGANDiscriminator(resolution=16, width=8, norm=norm).build().double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=seeded(5), dtype=p.dtype) * 0.3)

    x0 = torch.randn(2, 3, 16, 16, generator=seeded(6), dtype=torch.float64)
    direction = torch.randn(x0.shape, generator=seeded(7), dtype=torch.float64)
    x = x0.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    step = 1e-6
    with torch.no_grad():
        difference = network(x0 + step * direction) - network(x0 - step * direction)
    expected = difference / (2 * step)
    torch.testing.assert_close(
        (gradient * direction).sum((1, 2, 3)), expected, rtol=1e-4, atol=1e-6
    )
    parameter = next(network.parameters())
    (by_weight,) = torch.autograd.grad(squared_gradients(network, x0).sum(), parameter)
    towards = torch.randn(parameter.shape, generator=seeded(8), dtype=torch.float64)
    values: list[Tensor] = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter += sign * step * towards
        values.append(squared_gradients(network, x0).sum().detach())
        with torch.no_grad():
            parameter -= sign * step * towards
    expected = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((by_weight * towards).sum(), expected, rtol=1e-3, atol=1e-6)


def test_a_flat_discriminator_gives_no_nan() -> None:
    slope = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = GradientPenalty().loss(round_of(linear(slope)))
    (gradient,) = torch.autograd.grad(loss, slope)
    assert loss.item() == pytest.approx(10, rel=1e-5)
    assert gradient.isfinite().all()


def test_drift() -> None:
    at = round_of(linear(images(0, 1)), real_logits=torch.tensor([1.0, 3.0]))
    assert Drift().loss(at).item() == pytest.approx(0.001 * 5)


def test_lecam_by_hand() -> None:
    """Means of the logits are of the steps before, start at the first's and decay by 0.9; distances
    beyond the other side's mean count, squared."""
    memory: dict[str, Tensor] = {}
    term = LeCam(weight=2, decay=0.9)

    def loss(real: list[float], fake: list[float]) -> float:
        logits = {
            "real_logits": torch.tensor(real).float(),
            "fake_logits": torch.tensor(fake).float(),
        }
        found = term.loss(round_of(linear(images(0, 1)), memory=memory, **logits)).item()
        term.follow(
            memory,
            {
                "real logit": torch.tensor(real).float().mean(),
                "fake logit": torch.tensor(fake).float().mean(),
            },
        )
        return found

    # Its own means 2 and -1. real: (2-(-1))^2 twice; fake: (2-(-1))^2 twice.
    assert loss([2, 2], [-1, -1]) == pytest.approx(2 * (9 + 9))
    # Still 2 and -1: real 0 is 1 above, fake 3 is above 2: nothing.
    assert loss([0, 0], [3, 3]) == pytest.approx(2 * 1)
    # Means 0.9*2 + 0.1*0 = 1.8 and 0.9*-1 + 0.1*3 = -0.6.
    assert {name: round(float(v), 6) for name, v in memory.items()} == {
        "lecam.real": 1.8,
        "lecam.fake": -0.6,
    }


def test_orthogonal_by_hand() -> None:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    # W W^T has 1*3 + 2*4 = 11 twice off its diagonal.
    at = round_of(linear(images(0, 1)), network=layer)
    assert Orthogonal(weight=0.5).loss(at).item() == pytest.approx(121)
    # Transposed convolutions have their outputs second.
    transposed = nn.ConvTranspose2d(2, 2, 1, bias=False)
    transposed.weight.data = layer.weight.data.t().reshape(2, 2, 1, 1)
    at = round_of(linear(images(0, 1)), network=transposed)
    assert Orthogonal(weight=0.5).loss(at).item() == pytest.approx(121)
    orthogonal = nn.Linear(6, 4)
    nn.init.orthogonal_(orthogonal.weight, generator=seeded())
    at = round_of(linear(images(0, 1)), network=orthogonal)
    assert Orthogonal().loss(at).item() == pytest.approx(0, abs=1e-9)


def test_feature_matching_by_hand() -> None:
    """Features (x, 2x) of one-pixel images: real means 2 and 4, generated 5 and 10."""

    def features(x: Tensor) -> Tensor:
        return torch.cat([x, 2 * x], 1).flatten(1)

    real, fake = (torch.tensor(v).reshape(2, 1, 1, 1) for v in ([1.0, 3.0], [4.0, 6.0]))
    fake.requires_grad_()
    at = round_of(lambda x: x.flatten(1)[:, 0], real=real, fake=fake, features=features)
    loss = FeatureMatching(weight=0.5).loss(at)
    assert loss.item() == pytest.approx(0.5 * (9 + 36) / 2)
    loss.backward()
    assert fake.grad is not None
    assert fake.grad.abs().min() > 0


def test_path_lengths_of_a_linear_generator() -> None:
    """G(z) = A z, whose J' y is A' y for every z; a is the running mean of the lengths before."""
    linear_map = torch.randn(2 * 3 * 3, 4, generator=seeded(0)).requires_grad_()
    latents = torch.randn(6, 4, generator=seeded(1))
    memory = {"path length": torch.tensor(0.3)}
    at = round_of(
        linear(images(0, 1)),
        generate=lambda z: (z @ linear_map.t()).unflatten(1, (2, 3, 3)),
        latents=latents,
        memory=memory,
        random=Numbers(seeded(2)),
    )
    term = PathLength(weight=5, every=1, shrink=2, decay=0.9)
    loss = term.loss(at)
    y = torch.randn(3, 2, 3, 3, generator=seeded(2)).flatten(1) / 3
    lengths = (y @ linear_map).norm(dim=1)
    mean = float(lengths.detach().mean())
    torch.testing.assert_close(loss, 5 * (lengths - 0.3).square().mean())
    (ours,) = torch.autograd.grad(loss, linear_map)
    (wanted,) = torch.autograd.grad(5 * (lengths - 0.3).square().mean(), linear_map)
    torch.testing.assert_close(ours, wanted)
    term.follow(memory, at.signals)
    assert float(memory["path length"]) == pytest.approx(0.9 * 0.3 + 0.1 * mean)


def test_a_weight_that_moves() -> None:
    at = round_of(linear(images(0, 1)), real_logits=torch.tensor([1.0, 3.0]))
    term = Drift(weight=Schedule(start=2, end=1, kimg=1, shape="linear"))
    assert term.loss(at, 500).item() == pytest.approx(1.5 * 5)


def test_clip() -> None:
    layer = nn.Linear(3, 1)
    layer.weight.data = torch.tensor([[0.5, -0.5, 0.005]])
    Clip().apply(layer)
    assert layer.weight.tolist() == [pytest.approx([0.01, -0.01, 0.005])]


def test_penalties_are_float32_under_autocast() -> None:
    slope = images(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = R1().loss(round_of(linear(slope)))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, slope.square().sum() / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_files(kind: str) -> None:
    """Every kind by its name alone; and nothing is listed that is not tested."""
    adapter: TypeAdapter[Any] = TypeAdapter(AnyRegulariser)
    term = adapter.validate_python({"kind": kind})
    assert isinstance(term, Regulariser | Clip)
    assert adapter.validate_json(term.model_dump_json()) == term
    mapping = adapter.json_schema()["discriminator"]["mapping"]
    assert sorted(mapping) == sorted(KINDS), json.dumps(mapping)
