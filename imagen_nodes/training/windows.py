"""Windows of pictures: pix2pix's random jitter reads pictures a little larger than it trains on."""

from __future__ import annotations

import torch
from torch import Tensor

from .randomness import Numbers


def windows(pictures: list[Tensor], side: int, random: Numbers | None) -> list[Tensor]:
    """``[b c h w]`` each -> ``[b c side side]``, channels_last: of each image a window at a place
    of its own, the same in all ``pictures``; in the middle without ``random``."""
    count, _, h, w = pictures[0].shape
    places = torch.full((count, 2), 0.5) if random is None else random.uniform(count, 2)
    room = torch.tensor([h - side, w - side])
    corners = (places * (room + 1)).long().minimum(room).tolist()
    return [
        torch.stack(
            [
                x[:, top : top + side, left : left + side]
                for x, (top, left) in zip(of, corners, strict=True)
            ]
        ).contiguous(memory_format=torch.channels_last)
        for of in pictures
    ]
