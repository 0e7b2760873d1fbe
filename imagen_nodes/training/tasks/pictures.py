"""What tasks of pictures share: patches of tiles, and losses between a result and its original."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ...evaluation.paired import lpips_network
from ..randomness import Numbers

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Of a loss; 0: it is not computed."""
# Rows of pictures in a preview.
SHOWN = 16
# Tiles that are measured at most, and at a time.
MEASURED, BATCH = 100, 10


def patches(tiles: Tensor, side: int, random: Numbers, turn: bool) -> Tensor:
    """``[b c tile tile] -> [b c side side]``, each at a random place of its own, every other one
    transposed with ``turn``."""
    count, room = len(tiles), tiles.shape[3] - side
    places = (random.uniform(count, 2) * (room + 1)).long().clamp(max=room).tolist()
    turned = (random.uniform(count) < 0.5).tolist()
    found: list[Tensor] = []
    for tile, (y, x), transpose in zip(tiles, places, turned, strict=True):
        patch = tile[:, y : y + side, x : x + side]
        found.append(patch.transpose(1, 2) if transpose and turn else patch)
    return torch.stack(found).contiguous(memory_format=torch.channels_last)


def lpips(result: Tensor, original: Tensor) -> Tensor:
    """Mean LPIPS (SqueezeNet) of RGB pictures ``[b 3 h w]`` in -1..1."""
    with torch.autocast(result.device.type, enabled=False):
        return _lpips(result.device)(result, original).mean()


def matching(fake: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """Feature matching: the mean absolute difference of a discriminator's features of two
    pictures, by scale and stage but the logits; the mean over all of these.

    Source: Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional
    GANs" (pix2pixHD), 2018, section 3.3, equation 3."""
    distances = [
        F.l1_loss(a.float(), b.float())
        for of_fake, of_real in zip(fake, real, strict=True)
        for a, b in zip(of_fake[:-1], of_real[:-1], strict=True)
    ]
    return torch.stack(distances).mean()


@cache
def _lpips(device: torch.device) -> nn.Module:
    return lpips_network().to(device).requires_grad_(False)
