"""What tasks of pictures share: patches of tiles, and losses between a result and its original."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ...evaluation.paired import lpips_network
from ...images import to_network
from ...networks.architecture import Architecture
from ..data.dataset import Dataset
from ..losses import LOSSES, LossName
from ..randomness import Numbers
from ..regularisers import FAKE_LOGIT, REAL_LOGIT
from ..task import Update
from ..windows import windows

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Of a loss; 0: it has no part in the training."""
# Of SqueezeNet's features, the coarsest lie 16 px apart.
SHIFT = 15
# Rows of pictures in a preview.
SHOWN = 16
# Tiles that are measured at most, and at a time.
MEASURED, BATCH = 100, 10


def with_judge(generator: Architecture, judge: Architecture | None) -> dict[str, Architecture]:
    """The networks of a task, by name: a generator, and what judges its results, if anything."""
    found = {"generator": generator}
    return found if judge is None else found | {"discriminator": judge}


def check_game(judge: Architecture | None, weight: float, loss: LossName) -> None:
    """Refuse a discriminator without weight, a weight without one, and a game that needs a penalty.

    Raises:
        ValueError: it is such a one."""
    if (judge is None) != (weight == 0):
        raise ValueError("discriminator: without one adversarial_weight is 0, with one it is more")
    if judge is not None and loss == "wasserstein":
        raise ValueError(
            "loss: wasserstein needs a penalty that this task does not have; use bce, hinge, mse "
            "or relativistic"
        )


def patches(tiles: Tensor, side: int, random: Numbers, turn: bool) -> Tensor:
    """``[b c tile tile] -> [b c side side]``, each at a random place of its own, every other one
    transposed with ``turn``."""
    (found,) = windows([tiles], side, random)
    turned = random.uniform(len(tiles)) < 0.5
    if turn:
        which = turned.nonzero().flatten().to(found.device)
        found[which] = found[which].transpose(2, 3)
    return found


def logits(discriminator: nn.Module, images: Tensor) -> Tensor:
    """All that a discriminator says of each of ``images [b c h w]`` in 0..1: ``[b n]``, float32."""
    found = discriminator(images * 2 - 1)
    parts = found if isinstance(found, list) else [found]
    return torch.cat([part.float().flatten(1) for part in parts], 1)


def judged(loss: LossName, of_real: Tensor, of_fake: Tensor) -> Update:
    """The discriminator's turn: the game at all of its logits."""
    value = LOSSES[loss].discriminator(of_real, of_fake)
    signals = {REAL_LOGIT: of_real.mean(), FAKE_LOGIT: of_fake.mean()}
    return Update("discriminator", {"discriminator": value}, signals)


def tiles_to_measure(dataset: Dataset, count: int, device: torch.device) -> Iterator[Tensor]:
    """``count`` tiles, at most ``MEASURED``, from all over the data: a few at a time,
    ``[b c h w]`` in 0..1."""
    total = len(dataset.images)
    chosen = torch.linspace(0, total - 1, min(count, total, MEASURED)).long()
    for lot in chosen.split(BATCH):
        yield to_network(torch.from_numpy(dataset.images[lot.numpy()])).to(device).add(1).div(2)


def lpips(result: Tensor, original: Tensor, random: Numbers) -> Tensor:
    """Mean LPIPS (SqueezeNet) of RGB pictures ``[b 3 h w]`` in -1..1, of 32 px or more.

    Both begin up to ``SHIFT`` px further in, at random: SqueezeNet looks at every other pixel, and
    a network that is always judged in the same phase learns a grid that it does not see."""
    down, right = (
        int(share * min(SHIFT + 1, side - 31))
        for share, side in zip(random.shared(2), result.shape[2:], strict=True)
    )
    result, original = result[:, :, down:, right:], original[:, :, down:, right:]
    with torch.autocast(result.device.type, enabled=False):
        return _lpips(result.device)(result, original).mean()


@cache
def _lpips(device: torch.device) -> nn.Module:
    return lpips_network().to(device).requires_grad_(False)
