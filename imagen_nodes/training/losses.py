"""Adversarial losses: what the discriminator and the generator minimise.

``real`` and ``fake`` are the discriminator's logits ``[b]``, float32; every loss is a mean over
the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AdversarialLoss:
    """One game: ``discriminator(real, fake)`` and ``generator(fake)``, each a scalar."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigma(real) - log(1 - sigma(fake)).

    Source: Goodfellow et al., "Generative Adversarial Nets", 2014, equation 1, on logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def bce_generator(fake: Tensor) -> Tensor:
    """-log sigma(fake): the non-saturating form.

    Source: Goodfellow et al. 2014, section 3, last paragraph."""
    return F.softplus(-fake).mean()


def mse_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """1/2 (real - 1)^2 + 1/2 fake^2.

    Source: Mao et al., "Least Squares Generative Adversarial Networks", 2016, equation 9."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def mse_generator(fake: Tensor) -> Tensor:
    """1/2 (fake - 1)^2.

    Source: Mao et al. 2016, equation 9."""
    return 0.5 * (fake - 1).square().mean()


LossName = Literal["bce", "mse"]

LOSSES: dict[LossName, AdversarialLoss] = {
    "bce": AdversarialLoss(bce_discriminator, bce_generator),
    "mse": AdversarialLoss(mse_discriminator, mse_generator),
}
