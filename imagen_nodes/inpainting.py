"""Filling in what a mask covers, with a network that was trained to: any picture, any mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from scipy import ndimage
from torch import Tensor

from . import images, tiles
from .checkpoint import Model
from .errors import CheckpointError
from .graph.host import Host
from .networks.architecture import Pictures
from .super_resolution import is_grey, refuse_broken, reporting, run

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
    refuse_broken(host, image)
    b, h, w, _ = image.shape
    image = image.float().cpu()
    # One for all is looked at once.
    masks = images.fitted_mask(mask, b, (h, w))[: len(mask)]
    masks = 1 - masks if invert else masks
    if not masks.any():
        return image
    weight = torch.empty(0)
    result = tiles.empty(*image.shape) if b > 1 else None
    with host.running(model) as running:
        for i in range(b):
            if i < len(masks):
                weight = faded(masks[i], grow, blur, lambda i=i: host.progress(i, b))
            if not weight.any():
                if result is None:
                    return image
                result[i] = image[i]
                continue
            with reporting(host, running.network, i, b) as progress:
                colour = image[i : i + 1, ..., :3]
                holes = weight > 0
                # What is under the mask may be of any colour: scratches that were painted over.
                grey = is_grey(colour, ~holes[None])
                drawn = run(running, model, pictures, colour, progress, holes, grey=grey)[0]
            # Of one picture not before, so that it takes memory that the tiles have left.
            result = tiles.empty(*image.shape) if result is None else result
            result[i] = image[i]
            # Some rows at a time: all at once, two more pictures would be in memory.
            rows = (x.split(STRIP) for x in (result[i, ..., :3], drawn, weight[..., None]))
            for part, made, share in zip(*rows, strict=True):
                part.copy_(torch.where(share > 0, torch.lerp(part, made, share), part))
    assert result is not None
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
        kept = torch.empty_like(solid)
        for rows, away in _distances(~solid, -grow + 1, report):
            kept[rows] = away > -grow
        mask, solid = torch.where(kept, mask, 0.0), kept
    result, grown = torch.empty_like(mask), max(grow, 0)
    for rows, away in _distances(solid, grown + blur + 1, report):
        beyond = (away - grown).clamp(min=0)
        if blur:
            share = (beyond / (blur + 1)).clamp(max=1)
            added = torch.where(share < 1, torch.cos(share * torch.pi).add(1).div(2), 0.0)
        else:
            added = (beyond == 0).float()
        result[rows] = torch.maximum(mask[rows], added)
    return result


def _distances(
    solid: Tensor, reach: int, report: Callable[[], object]
) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of ``solid [h w]`` at a time, so that little memory is taken: which, and how far
    the nearest solid pixel is from each of theirs ``[rows w]``, px; at most ``reach``."""
    for start in range(0, len(solid), STRIP):
        strip, above = slice(start, min(start + STRIP, len(solid))), max(start - reach, 0)
        seen = solid[above : strip.stop + reach]
        if seen.any():
            away = torch.from_numpy(ndimage.distance_transform_edt(~seen.numpy()))
            yield strip, away[start - above :][: strip.stop - start].float().clamp(max=reach)
        else:
            yield strip, torch.full((strip.stop - start, solid.shape[1]), float(reach))
        report()


def _pictures(model: Model) -> Pictures:
    pictures = model.architecture.pictures
    if pictures is None or not pictures.masked or pictures.channels not in (1, 3):
        kind = model.card.architecture["kind"]
        raise CheckpointError(
            f"{model.name} holds a {kind} for {model.card.task}, which takes no mask: load a "
            "network for inpainting"
        )
    return pictures
