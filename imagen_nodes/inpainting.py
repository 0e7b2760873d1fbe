"""Filling in what a mask covers, with a network that was trained to: any picture, any mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy import ndimage
from torch import Tensor

from . import images, tiles
from .checkpoint import Model
from .errors import CheckpointError, DataError
from .graph.host import Host
from .networks.architecture import Pictures
from .super_resolution import refuse_broken, reporting, run

# Rows in which distances are looked for, or pictures mixed, at a time.
STRIP = 256


def inpaint(
    host: Host,
    model: Model,
    image: Tensor,
    mask: Tensor,
    grow: int = 0,
    blur: int = 0,
    invert: bool = False,
) -> Tensor:
    """IMAGE ``[b h w c]`` and MASK -> IMAGE of the same size, filled in where the mask is 1, and in
    part where it is between 0 and 1. Other pixels, and alpha, are returned as they came.

    Each picture is run by itself, in tiles of which only those with something to fill in are run.

    Args:
        mask: one for all pictures, or one each; resized bilinearly where it is of another size.
        grow: px to add around what is masked; negative: to take off.
        blur: px over which, around that, the filling fades into the picture.
        invert: fill in where the mask is 0.

    Raises:
        CheckpointError: ``model`` does not fill in masks.
        DataError: pictures or masks hold NaN or infinity, their numbers do not fit each other, or
            memory runs out.
    """
    pictures = _pictures(model)
    if not len(image):
        raise DataError("the batch holds no picture")
    refuse_broken(host, image)
    if not torch.isfinite(mask).all():
        raise DataError("the mask holds NaN or infinity. Look at the node that made it")
    b, h, w, _ = image.shape
    image = image.float().cpu()
    # One for all is looked at once.
    masks = images.fitted_mask(mask, b, (h, w))[: len(mask)]
    masks = 1 - masks if invert else masks
    if not masks.any():
        return image
    weight = torch.empty(0)
    result = tiles.empty(*image.shape)
    with host.running(model) as running:
        for i in range(b):
            if i < len(masks):
                weight = faded(masks[i], grow, blur, lambda i=i: host.progress(i, b))
            if not weight.any():
                result[i] = image[i]
                continue
            with reporting(host, running.network, i, b) as progress:
                colour = image[i : i + 1, ..., :3]
                drawn = run(running, model, pictures, colour, progress, weight > 0)[0]
            result[i] = image[i]  # not before, so that its memory is not taken while tiles run
            # Some rows at a time: all at once, two more pictures would be in memory.
            rows = (x.split(STRIP) for x in (result[i, ..., :3], drawn, weight[..., None]))
            for part, made, share in zip(*rows, strict=True):
                part.copy_(torch.where(share > 0, torch.lerp(part, made, share), part))
    return result


def faded(
    mask: Tensor, grow: int, blur: int, report: Callable[[], object] = lambda: None
) -> Tensor:
    """How much of the filling to take at each pixel, ``[h w]`` in 0..1: the mask, grown by ``grow``
    px, or shrunk where that is negative, and falling from 1 to 0 along a cosine over the ``blur``
    px around that. Distances are from what is masked by half or more. ``report`` is called now and
    then."""
    if not grow and not blur:
        return mask
    solid = mask >= 0.5
    if grow < 0:
        # What lies beyond the picture is no border of the mask.
        kept = _distance(~solid, -grow + 1, report) > -grow
        mask, solid = torch.where(kept, mask, 0.0), kept
    beyond = (_distance(solid, max(grow, 0) + blur + 1, report) - max(grow, 0)).clamp(min=0)
    if not blur:
        return torch.maximum(mask, (beyond == 0).float())
    share = (beyond / (blur + 1)).clamp(max=1)
    fall = torch.cos(share * torch.pi).add(1).div(2)
    return torch.maximum(mask, torch.where(share < 1, fall, 0.0))


def _distance(solid: Tensor, reach: int, report: Callable[[], object]) -> Tensor:
    """How far the nearest solid pixel is, ``[h w]``, px; at most ``reach``."""
    found = torch.full(solid.shape, float(reach))
    for start in range(0, len(solid), STRIP):
        above = max(start - reach, 0)
        rows = solid[above : start + STRIP + reach]
        if rows.any():
            away = ndimage.distance_transform_edt(~rows.numpy())
            part = found[start : start + STRIP]
            part.copy_(torch.from_numpy(away)[start - above :][: len(part)].clamp(max=reach))
        report()
    return found


def _pictures(model: Model) -> Pictures:
    pictures = model.architecture.pictures
    if pictures is None or not pictures.masked or pictures.channels not in (1, 3):
        kind = model.card.architecture["kind"]
        raise CheckpointError(
            f"{model.name} holds a {kind} for {model.card.task}, which takes no mask: load a "
            "network for inpainting"
        )
    return pictures
