"""The conversions between pictures, links and networks. Nothing else rescales pixels.

IMAGE    float32 ``[b h w c]`` in 0..1, sRGB, c = 3 (4 with alpha, 1 grey inside the library)
MASK     float32 ``[b h w]`` in 0..1; 1 = fill this in
network  float ``[b c h w]`` in -1..1
picture  PIL, 8 bits
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .errors import DataError

LOG = logging.getLogger(__name__)

# PIL modes by number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def from_network(images: Tensor) -> Tensor:
    """``[b c h w]`` in -1..1 -> IMAGE on the CPU, clamped."""
    return images.float().add(1).div(2).clamp(0, 1).permute(0, 2, 3, 1).contiguous().cpu()


def to_network(pixels: Tensor) -> Tensor:
    """``[b h w c]`` uint8 -> ``[b c h w]`` in -1..1, which is channels_last."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_range(images: Tensor, value_range: tuple[float, float], clamped: bool = True) -> Tensor:
    """Values in 0..1 -> a network's ``value_range``, clamped to it."""
    low, high = value_range
    images = images.clamp(0, 1) if clamped else images
    return images if value_range == (0, 1) else images * (high - low) + low


def from_range(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """A network's values -> float32 in 0..1, clamped: undoes :func:`to_range`."""
    low, high = value_range
    images = images.float()
    return (images if value_range == (0, 1) else (images - low) / (high - low)).clamp(0, 1)


def for_network(images: Tensor, channels: int) -> Tensor:
    """IMAGE -> ``[b channels h w]`` in -1..1: grey is the mean of the colours, colours of grey are
    all alike, and where alpha is wanted and there is none, it is 1."""
    x = to_range(images.movedim(3, 1), (-1.0, 1.0))
    if channels == 1:
        return x[:, :3].mean(1, keepdim=True)
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    if channels == 4 and x.shape[1] == 3:
        return torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return x[:, :channels]


def through(
    network: Callable[[Tensor], Tensor],
    value_range: tuple[float, float],
    device: torch.device,
    more: bool = False,
    clamped: bool = True,
) -> Callable[[Tensor], Tensor]:
    """What runs pictures ``[b c h w]`` in 0..1 through a network of pictures, whose values are in
    ``value_range``, on the ``device``: float32 in 0..1, clamped.

    Args:
        more: the last channel is none of the picture's but a mask or a noise map, which the
            network takes as it is.
        clamped: whether what goes in is, too.
    """

    def run(x: Tensor) -> Tensor:
        x = x.to(device)
        values = to_range(x[:, :-1] if more else x, value_range, clamped)
        values = torch.cat([values, x[:, -1:].to(values)], 1) if more else values
        return from_range(network(values), value_range)

    return run


def resized(
    images: Tensor, size: tuple[int, int], method: str, rows: tuple[float, float] | None = None
) -> Tensor:
    """IMAGE at a ``size`` (h, w), px, averaged where that is smaller, clamped: Pillow's
    ``lanczos`` or ``bicubic``, in float32.

    Args:
        rows: those to take, from and to, px, parts of them too; what is beyond still counts at
            their border. None: all.
    """
    b, h, w, c = images.shape
    top, bottom = rows or (0, h)
    if top == int(top) and (bottom - top, w) == size:
        return _clamped(images[:, int(top) : int(bottom)])
    result = torch.empty(b, c, *size)
    for picture, places in zip(images, result, strict=True):
        for i, place in enumerate(places):
            plane = Image.fromarray(picture[..., i].contiguous().numpy())
            way = Image.Resampling[method.upper()]
            small = plane.resize((size[1], size[0]), way, box=(0, top, w, bottom))
            place.copy_(torch.from_numpy(np.array(small)))
    return result.clamp_(0, 1).movedim(1, 3)


def fitted_mask(mask: Tensor, count: int, size: tuple[int, int], said: bool = True) -> Tensor:
    """MASK for ``count`` pictures of ``size`` (h, w), px, ``[count h w]`` in 0..1: one for all,
    or one each; resized bilinearly, as ComfyUI does.

    Args:
        said: in the log, that it is resized, unless it is empty; where pictures are, too, it is no
            news.

    Raises:
        DataError: their numbers do not fit, or they hold NaN or infinity."""
    if not is_finite(mask):
        raise DataError("the mask holds NaN or infinity. Look at the node that made it")
    if 0 in mask.shape[1:]:
        raise DataError(f"the mask is of {mask.shape[2]}x{mask.shape[1]} px: it holds nothing")
    if len(mask) not in (1, count):
        raise DataError(f"{len(mask)} masks for {count} pictures: give one, or one each")
    mask = mask.float().cpu()[:, None]
    if mask.shape[2:] != size:
        # ComfyUI's LoadImage gives an empty one of 64x64 px where there is no alpha.
        if said and mask.any():
            (h, w), (height, width) = mask.shape[2:], size
            LOG.warning("a mask of %dx%d px, resized to the picture's %dx%d", w, h, width, height)
        mask = F.interpolate(mask, size, mode="bilinear")
    return _clamped(mask[:, 0]).expand(count, -1, -1)


def _clamped(x: Tensor) -> Tensor:
    """In 0..1; not a copy where it is already."""
    if not x.numel() or (x.amin() >= 0 and x.amax() <= 1):
        return x
    return x.clamp(0, 1)


def is_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinity. The sum is the faster question, and takes no memory; it
    is infinite too where large values overflow it."""
    return bool(x.sum().isfinite()) or bool(torch.isfinite(x).all())


def luma(images: Tensor) -> Tensor:
    """``[b 3 h w]`` in 0..1 -> ``[b 1 h w]``: ITU-R BT.601, as Pillow makes grey."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def to_pixels(images: Tensor) -> Tensor:
    """``[b c h w]`` in -1..1 -> ``[b h w c]`` uint8, clamped and rounded: undoes
    :func:`to_network`."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)


def as_rgb(pixels: Tensor) -> Tensor:
    """``[b h w c]`` uint8 with c of 1, 3 or 4 -> ``[b h w 3]`` uint8: grey three times, alpha on
    white."""
    if pixels.shape[3] == 4:
        alpha = pixels[..., 3:].float() / 255
        return pixels[..., :3].float().sub(255).mul(alpha).add(255).round().byte()
    return pixels.expand(-1, -1, -1, 3)


def to_pictures(images: Iterable[Tensor]) -> Iterator[Image.Image]:
    """IMAGE, or its pictures, -> pictures, one after another. Values are truncated to 8 bits, as
    ComfyUI does, not rounded."""
    return map(to_picture, images)


def to_picture(image: Tensor) -> Image.Image:
    """``[h w c]`` of an IMAGE: see :func:`to_pictures`."""
    pixels = np.clip(image.cpu().numpy() * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def grid(images: Tensor, columns: int = 0, gap: int = 0, fill: float = 0.0) -> Tensor:
    """IMAGE of a batch -> IMAGE of one picture, row by row; cells left over hold ``fill``.

    Args:
        columns: pictures a row; 0: as square as possible, never higher than wide.
        gap: px between pictures.
        fill: value of gaps and empty cells, 0..1.
    """
    b, h, w, c = images.shape
    columns = min(columns, b) if columns else math.ceil(math.sqrt(b))
    rows = math.ceil(b / columns)
    sheet = images.new_full((rows * (h + gap) - gap, columns * (w + gap) - gap, c), fill)
    for i, image in enumerate(images):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[top : top + h, left : left + w] = image
    return sheet[None]
