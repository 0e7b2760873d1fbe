"""Adversarial losses against torch's own and against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from imagen_nodes.training.losses import LOSSES, LossName


def logits(seed: int) -> Tensor:
    return torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def test_cross_entropy_is_torchs() -> None:
    real, fake, game = logits(0), logits(1), LOSSES["bce"]
    ones, zeros = torch.ones(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    entropy = F.binary_cross_entropy_with_logits
    expected = entropy(real, ones) + entropy(fake, zeros)
    torch.testing.assert_close(game.discriminator(real, fake), expected)
    torch.testing.assert_close(game.generator(real, fake), entropy(fake, ones))


def test_cross_entropy_by_hand() -> None:
    game = LOSSES["bce"]
    # sigma(ln 3) = 3/4
    three = torch.tensor([math.log(3)])
    assert game.discriminator(three, three).item() == pytest.approx(math.log(4 / 3) + math.log(4))
    assert game.generator(three, three).item() == pytest.approx(math.log(4 / 3))
    zero = torch.zeros(2)
    assert game.discriminator(zero, zero).item() == pytest.approx(2 * math.log(2))


def test_squared_error_by_hand() -> None:
    game = LOSSES["mse"]
    real, fake = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 3.0])
    # 1/2 * mean(1, 0) + 1/2 * mean(0, 9); 1/2 * mean(1, 4)
    assert game.discriminator(real, fake).item() == pytest.approx(2.5)
    assert game.generator(real, fake).item() == pytest.approx(1.25)


# (real, fake) -> the discriminator's loss and the generator's, worked out by hand.
REAL, FAKE = [2.0, -1.0], [0.5, -3.0]
SIGMA = {x: 1 / (1 + math.exp(-x)) for x in (-3, -1.5, -1, 0.5, 1.5, 2)}
BY_HAND: dict[LossName, tuple[float, float]] = {
    "bce": (
        -math.log(SIGMA[2] * SIGMA[-1] * (1 - SIGMA[0.5]) * (1 - SIGMA[-3])) / 2,
        -math.log(SIGMA[0.5] * SIGMA[-3]) / 2,
    ),
    "bce-saturating": (
        -math.log(SIGMA[2] * SIGMA[-1] * (1 - SIGMA[0.5]) * (1 - SIGMA[-3])) / 2,
        math.log((1 - SIGMA[0.5]) * (1 - SIGMA[-3])) / 2,
    ),
    # (1 + 4)/4 + (0.25 + 9)/4; (0.25 + 16)/4
    "mse": (3.5625, 4.0625),
    # -1.25 - 0.5; 1.25
    "wasserstein": (-1.75, 1.25),
    # (0 + 2)/2 + (1.5 + 0)/2; 1.25
    "hinge": (1.75, 1.25),
    # Differences real - fake: 1.5 and 2.
    "relativistic": (
        -math.log(SIGMA[1.5] * SIGMA[2]) / 2,
        -math.log(SIGMA[-1.5] * (1 - SIGMA[2])) / 2,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_by_hand(name: LossName) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    discriminator, generator = BY_HAND[name]
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(discriminator, rel=1e-5)
    assert LOSSES[name].generator(real, fake).item() == pytest.approx(generator, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_whether_the_generator_looks_at_real_images(name: LossName) -> None:
    real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    loss = LOSSES[name].generator(real, fake)
    gradients = torch.autograd.grad(loss, [real, fake], allow_unused=True)
    assert (gradients[0] is not None) == LOSSES[name].relativistic
    # A higher logit is a lower loss, but for mse beyond 1.
    assert (gradients[1] <= 0).all() or name == "mse"


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_stay_finite(name: LossName) -> None:
    huge = torch.tensor([1e4, -1e4])
    assert LOSSES[name].discriminator(huge, -huge).isfinite()
    assert LOSSES[name].generator(huge, -huge).isfinite()


def test_gradients() -> None:
    """The generator's: -sigma(-x)/n for cross-entropy (non-saturating: it does not vanish where
    the discriminator wins), (x - 1)/n for squared error."""
    for name, derivative in (
        ("bce", lambda x: -torch.sigmoid(-x) / len(x)),
        ("mse", lambda x: (x - 1) / len(x)),
    ):
        fake = logits(1).requires_grad_()
        LOSSES[name].generator(fake, fake).backward()  # pyright: ignore
        torch.testing.assert_close(fake.grad, derivative(fake.detach()))


def test_discriminator_gradients() -> None:
    for name, of_real, of_fake in (
        ("bce", lambda x: -torch.sigmoid(-x) / len(x), lambda x: torch.sigmoid(x) / len(x)),
        ("mse", lambda x: (x - 1) / len(x), lambda x: x / len(x)),
    ):
        real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
        LOSSES[name].discriminator(real, fake).backward()  # pyright: ignore
        torch.testing.assert_close(real.grad, of_real(real.detach()))
        torch.testing.assert_close(fake.grad, of_fake(fake.detach()))
