"""The averaged generator: half-life, ramp-up, and batch norm statistics of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from imagen_nodes.networks.dcgan import DCGANGenerator
from imagen_nodes.training.ema import EMA


def constant(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, value)
    nn.init.constant_(layer.bias, value)
    return layer


def test_half_life() -> None:
    """After one half-life of steps towards a constant, half of the distance is left."""
    ema = EMA(constant(0.0), half_life=2, ramp=0.05)
    one = constant(1.0)
    for step in range(2000 // 50):
        # Far beyond the ramp: 5% of 10^6 is 50,000 images, more than the half-life.
        ema.update(one, 1_000_000 + step * 50, 50)
    assert ema.network.weight.item() == pytest.approx(0.5, abs=1e-5)  # pyright: ignore


def test_ramp() -> None:
    """At first the half-life is 5% of the images seen: a batch of 5% moves it half the way."""
    ema = EMA(constant(0.0), half_life=50)
    assert ema.half_life_at(1000) == pytest.approx(50)
    assert ema.half_life_at(10_000_000) == pytest.approx(50_000)
    ema.update(constant(1.0), 1000, 50)
    assert ema.network.weight.item() == pytest.approx(0.5)  # pyright: ignore
    ema.update(constant(1.0), 2000, 50)
    assert ema.network.weight.item() == pytest.approx(1 - 0.5 * 0.5**0.5)  # pyright: ignore


def test_a_half_life_of_nearly_nothing_follows_the_network() -> None:
    ema = EMA(constant(0.0), half_life=1e-9)
    ema.update(constant(1.0), 64, 64)
    assert ema.network.weight.item() == 1.0  # pyright: ignore


def test_the_average_is_apart_from_the_network() -> None:
    network = constant(0.0)
    ema = EMA(network, half_life=1)
    nn.init.constant_(network.weight, 7.0)
    assert ema.network.weight.item() == 0.0  # pyright: ignore
    assert not any(p.requires_grad for p in ema.network.parameters())


def test_snapshot_statistics_by_hand() -> None:
    network = DCGANGenerator(resolution=16, width=8, z_dim=8).build()
    network.initialise(torch.Generator().manual_seed(0))
    ema = EMA(network, half_life=1)
    before = copy.deepcopy(ema.network.state_dict())
    latents = [
        (torch.randn(6, 8, generator=torch.Generator().manual_seed(i)), None) for i in range(3)
    ]
    snapshot = ema.snapshot(latents)
    # The first norm sees the first layer's output: the mean over batches of the batch's own mean
    # and (unbiased) variance.
    weight = network.main[0].weight.detach()
    outputs = [nn.functional.conv_transpose2d(z[:, :, None, None], weight) for z, _ in latents]
    flat = [x.transpose(0, 1).flatten(1) for x in outputs]
    mean = torch.stack([x.mean(1) for x in flat]).mean(0)
    variance = torch.stack([x.var(1) for x in flat]).mean(0)
    statistics = snapshot.state_dict()
    torch.testing.assert_close(statistics["main.1.running_mean"], mean)
    torch.testing.assert_close(statistics["main.1.running_var"], variance)
    assert not snapshot.training
    for name, value in ema.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, parameter in snapshot.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_snapshot_without_batch_norm_is_a_copy() -> None:
    ema = EMA(constant(3.0), half_life=1)
    assert ema.snapshot([]).weight.item() == 3.0  # pyright: ignore
