"""Adversarial losses: what the discriminator and the generator minimise.

``real`` and ``fake`` are the discriminator's logits ``[b]``, float32; every loss is a mean over
the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AdversarialLoss:
    """One game: ``discriminator(real, fake)`` and ``generator(real, fake)``, each a scalar."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    relativistic: bool = False
    """Whether the generator's loss looks at ``real``; else it may be anything."""


def bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigma(real) - log(1 - sigma(fake)).

    Source: Goodfellow et al., "Generative Adversarial Nets", 2014, equation 1, on logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def bce_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigma(fake): the non-saturating form.

    Source: Goodfellow et al. 2014, section 3, last paragraph."""
    return F.softplus(-fake).mean()


def saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """log(1 - sigma(fake)): what the discriminator's loss has of the generator, its sign turned. It
    is flat where the discriminator wins.

    Source: Goodfellow et al. 2014, equation 1."""
    return -F.softplus(fake).mean()


def mse_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """1/2 (real - 1)^2 + 1/2 fake^2.

    Source: Mao et al., "Least Squares Generative Adversarial Networks", 2016, equation 9."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def mse_generator(real: Tensor, fake: Tensor) -> Tensor:
    """1/2 (fake - 1)^2.

    Source: Mao et al. 2016, equation 9."""
    return 0.5 * (fake - 1).square().mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """fake - real. Only a discriminator that is kept smooth makes this a distance.

    Source: Arjovsky, Chintala, Bottou, "Wasserstein GAN", 2017, equation 3."""
    return fake.mean() - real.mean()


def wasserstein_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-fake.

    Source: Arjovsky et al. 2017, algorithm 1. It is hinge's too (Lim & Ye 2017)."""
    return -fake.mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake).

    Source: Lim & Ye, "Geometric GAN", 2017, section 3; Miyato et al., "Spectral Normalization for
    GANs", 2018, equation 16."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigma(real - fake), image by image.

    Source: Jolicoeur-Martineau, "The relativistic discriminator", 2018, section 4 (paired); Huang
    et al., "The GAN is dead; long live the GAN!" (R3GAN), 2024, equation 2."""
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigma(fake - real), image by image.

    Source: as the discriminator's."""
    return F.softplus(real - fake).mean()


# ---- Of pictures from pictures ------------------------------------------------------------------

Maps = list[list[Tensor]]
"""Feature maps by scale and stage, the last of each the logits."""


def feature_matching(real: Maps, fake: Maps) -> Tensor:
    """Mean absolute difference of a discriminator's feature maps of real and generated pictures,
    the sum over its stages without the logits, the mean over its scales. ``real`` is constant.

    Source: Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional
    GANs" (pix2pixHD), 2018, equation 4; the mean over scales is the authors' code."""
    found = [
        F.l1_loss(of_fake.float(), of_real.detach().float())
        for ours, theirs in zip(fake, real, strict=True)
        for of_fake, of_real in zip(ours[:-1], theirs[:-1], strict=True)
    ]
    return sum(found, real[0][0].new_zeros(())) / len(real)


def patch_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of telling, among n places of the same picture, the one that a query is of:
    ``[b n d]`` each, vectors of length 1; query i belongs to key i. ``keys`` are constant.

    Source: Park et al., "Contrastive Learning for Unpaired Image-to-Image Translation" (CUT), 2020,
    equations 2 and 3."""
    # In float32 also under autocast: a small temperature makes much of rounding.
    with torch.autocast(queries.device.type, enabled=False):
        similar = queries @ keys.detach().transpose(1, 2) / temperature  # [b query key]
    places = torch.arange(similar.shape[1], device=similar.device).expand(len(similar), -1)
    return F.cross_entropy(similar.flatten(0, 1), places.flatten())


# ---- The table ----------------------------------------------------------------------------------

LossName = Literal["bce", "bce-saturating", "mse", "wasserstein", "hinge", "relativistic"]

LOSSES: dict[LossName, AdversarialLoss] = {
    "bce": AdversarialLoss(bce_discriminator, bce_generator),
    "bce-saturating": AdversarialLoss(bce_discriminator, saturating_generator),
    "mse": AdversarialLoss(mse_discriminator, mse_generator),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, wasserstein_generator),
    "hinge": AdversarialLoss(hinge_discriminator, wasserstein_generator),
    "relativistic": AdversarialLoss(
        relativistic_discriminator, relativistic_generator, relativistic=True
    ),
}
