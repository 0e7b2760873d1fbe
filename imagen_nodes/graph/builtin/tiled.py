"""Upscaling in tiles, with ComfyUI's results to the last bit: its tiles, and its way to mix them.

Tiles of one size start every ``tile - overlap`` px; the last ones are cut off at the border. Where
they overlap, results are averaged, weighted by masks that rise over the overlap from each side of a
tile, the picture's own border included. ``imagen_nodes/tiles.py`` is how our own nodes do it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...tiles import empty, is_out_of_memory, too_little_memory
from ..host import Host

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor  # pyright: ignore[reportMissingTypeStubs]

TILE, OVERLAP = 512, 32
# Out of memory, tiles are halved as long as they are not smaller than this, px.
SMALLEST = 128


def upscaled(
    host: Host, descriptor: ImageModelDescriptor[torch.nn.Module], image: Tensor
) -> Tensor:
    """IMAGE ``[b h w c]`` -> IMAGE ``[b s*h s*w 3]``, s the network's scale.

    Raises:
        ValueError: the network takes another number of channels.
        DataError: memory runs out in the smallest tiles too, or for the result.
    """
    wanted, found = descriptor.input_channels, image.shape[3]
    if wanted != found:
        raise ValueError(f"the network takes {wanted} channels, the image has {found}")
    device, tile = host.device, TILE
    pictures, (b, h, w, _) = image.movedim(3, 1), image.shape
    result = empty(b, h * descriptor.scale, w * descriptor.scale, 3)
    descriptor.to(device)

    def call(part: Tensor) -> Tensor:
        return descriptor(part.to(device)).cpu()

    try:
        while True:
            try:
                _upscaled(
                    result.movedim(3, 1), call, pictures, descriptor.scale, tile, host.progress
                )
                return result.clamp_(0, 1)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if tile // 2 < SMALLEST:
                    raise too_little_memory(tile, str(error).splitlines()[0]) from error
            tile //= 2
    finally:
        descriptor.to("cpu")


def _upscaled(
    result: Tensor,
    call: Callable[[Tensor], Tensor],
    pictures: Tensor,
    scale: int,
    tile: int,
    progress: Callable[[int, int], None],
) -> None:
    """Into ``result [b 3 s*h s*w]``."""
    b, _, h, w = pictures.shape
    corners = list(itertools.product(_positions(h, tile), _positions(w, tile)))
    for i in range(b):
        picture = pictures[i : i + 1]
        whole = h <= tile and w <= tile
        total, weights = result[i].zero_(), torch.zeros(0 if whole else h * scale, w * scale)
        for j, (y, x) in enumerate(corners, 1):
            part = call(picture[:, :, y : y + tile, x : x + tile])[0]
            if whole:
                total.copy_(part)
            else:
                _, part_h, part_w = part.shape
                mask = _mask(part_h, part_w, OVERLAP * scale)
                place = slice(y * scale, y * scale + part_h), slice(x * scale, x * scale + part_w)
                total[:, *place] += part * mask
                weights[place] += mask
            progress(i * len(corners) + j, b * len(corners))
        if not whole:
            total /= weights


def _positions(side: int, tile: int) -> list[int]:
    """Where tiles start along a side, px."""
    if side <= tile:
        return [0]
    return list(range(0, side - OVERLAP, tile - OVERLAP))


def _mask(height: int, width: int, ramp: int) -> Tensor:
    """``[h w]``: 1/n, 2/n, ... 1 from each border over n = ``ramp`` px, along sides longer than
    that."""
    mask = torch.ones(height, width)
    for rows in (mask, mask.t()):
        if ramp < len(rows):
            for i in range(ramp):
                rows[i] *= (i + 1) / ramp
                rows[-1 - i] *= (i + 1) / ramp
    return mask
