"""How well a network restores pictures: clean ones are degraded, restored, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from .. import images, tiles
from ..checkpoint import Measurement, Model
from ..errors import DataError
from ..folders import files
from ..networks.architecture import Pictures
from ..networks.squeezenet import SMALLEST
from ..noise_level import noise_map
from .compare import SUFFIXES, read_picture
from .paired import EXACT, WINDOW, lpips_network, psnr_rgb, psnr_y, ssim_y

# Pictures ``[b 3 h w]`` in 0..1 to such; a degradation also takes the first one's number, which its
# random numbers depend on.
Restore = Callable[[Tensor], Tensor]
Degrade = Callable[[Tensor, int], Tensor]

PSNR_Y, PSNR_RGB, SSIM, LPIPS = "PSNR-Y", "PSNR-RGB", "SSIM", "LPIPS-squeeze"


def border(scale: int) -> int:
    """What is left out of figures at each side, px: as much as the factor, as papers do; nothing
    where nothing is enlarged."""
    return scale if scale > 1 else 0


def smallest(crop: int) -> int:
    """Side of the smallest picture that all figures can be taken of, px."""
    return max(SMALLEST, WINDOW + 2 * crop)


@torch.inference_mode()
def figures(
    restore: Restore, degrade: Degrade, pictures: Iterable[Tensor], crop: int, reference: str
) -> tuple[Measurement, ...]:
    """Mean figures over ``pictures``, batches ``[b 3 h w]`` in 0..1: PSNR and SSIM of the luma and
    PSNR of RGB without a border of ``crop`` px, each of a picture's PSNRs at most ``EXACT``, and
    LPIPS. Results are rounded to 8 bits, as they would be saved.

    Args:
        reference: names the pictures.
    """
    network: nn.Module | None = None
    found: dict[str, list[float]] = {}
    count = 0
    for clean in pictures:
        network = network or lpips_network().to(clean.device)
        restored = restore(degrade(clean, count)).clamp(0, 1).mul(255).round().div(255)
        x, y = restored * 2 - 1, clean * 2 - 1
        ratios = (psnr(x, y, crop).clamp(max=EXACT) for psnr in (psnr_y, psnr_rgb))
        values = *ratios, ssim_y(x, y, crop), network(x, y)
        for name, value in zip((PSNR_Y, PSNR_RGB, SSIM, LPIPS), values, strict=True):
            found.setdefault(name, []).extend(value.tolist())
        count += len(clean)
    return tuple(
        Measurement(metric=name, value=fmean(values), samples=count, reference=reference)
        for name, values in found.items()
    )


def by_network(
    model: Model,
    needs: Pictures,
    device: torch.device,
    noise: float | None = None,
    clamped: bool = True,
    ensemble: bool = False,
) -> Restore:
    """``model``, whose network is on ``device``, in float32, in tiles. One that fills in takes the
    mask as the last channel of pictures.

    Args:
        noise: what a network is told that wants to know how strong the noise is, the deviation
            where pictures are in 0..1; none: it is estimated, in each picture.
        clamped: whether pictures are brought to 0..1 before.
        ensemble: the mean over a picture's eight orientations, of one that fills in nothing.
    """
    joined = needs.masked or needs.noise_map
    call = images.through(model.network, model.card.value_range, device, joined, clamped)
    call = tiles.ensemble(call) if ensemble else call
    grey = needs.channels == 1  # one picture a channel

    def restore(seen: Tensor) -> Tensor:
        picture, mask = (seen[:, :-1], seen[:, -1:]) if needs.masked else (seen, None)
        x, more = (picture.transpose(0, 1) if grey else picture).cpu(), None
        if mask is not None:
            more = mask.cpu().expand(len(x), -1, -1, -1)
        elif needs.noise_map:
            more = noise_map(x, noise, needs.jpeg_mark)
        y = tiles.run(call, x, scale=needs.scale, sizes=needs.sizes, tiling=needs.tiling, more=more)
        y = (y.transpose(0, 1) if grey else y).to(seen)
        return y if mask is None else torch.where(mask > 0, y, picture)

    return restore


def by_bicubic(scale: int) -> Restore:
    """Nothing but bicubic interpolation to the size of the result."""

    def restore(seen: Tensor) -> Tensor:
        if scale == 1:
            return seen
        # Antialiasing changes nothing where it enlarges, but has the kernel of Matlab and Pillow.
        return F.interpolate(seen, scale_factor=scale, mode="bicubic", antialias=True)

    return restore


def by_nearest(seen: Tensor) -> Tensor:
    """Each masked pixel is the nearest one that is not; grey, where all are."""
    picture, mask = seen[:, :-1], seen[:, -1] > 0
    found = torch.full_like(picture, 0.5)
    for i in range(len(picture)):
        if not mask[i].all():
            holes = mask[i].cpu().numpy()
            places = ndimage.distance_transform_edt(
                holes, return_distances=False, return_indices=True
            )
            y, x = torch.from_numpy(np.asarray(places))
            found[i] = picture[i][:, y.long(), x.long()]
    return found


def pictures_at(path: Path) -> list[Path]:
    """A picture, or those of a folder.

    Raises:
        DataError: there are none."""
    found = [path] if path.is_file() else list(files([path], SUFFIXES).values())
    if not found:
        raise DataError(f"{path}: no pictures there. Looked for {' '.join(sorted(SUFFIXES))}")
    return found


def read(
    paths: Iterable[Path], scale: int, least: int, report: Callable[[int], object]
) -> Iterator[Tensor]:
    """Pictures ``[1 3 h w]`` in 0..1, cut at the right and below to multiples of ``scale``;
    ``report`` hears the number of each.

    Raises:
        DataError: one cannot be read, or has a side below ``least`` px."""
    for i, path in enumerate(paths):
        report(i)
        picture = read_picture(path).add(1).div(2)
        h, w = (side // scale * scale for side in picture.shape[2:])
        if min(h, w) < least:
            raise DataError(f"{path}: {w}x{h} px; needs {least} px each way")
        yield picture[:, :, :h, :w]
