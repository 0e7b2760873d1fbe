"""How well a network translates pictures: against the ones they are paired with, or as a set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from .. import images, tiles
from ..checkpoint import Measurement, Model
from ..errors import DataError
from ..images import from_network, to_network, to_pixels
from ..networks.architecture import Pictures as PicturesNeeded
from ..networks.squeezenet import SMALLEST as FEATURES
from .compare import read_picture
from .evaluator import FEWEST, Evaluator, Pictures, exactly
from .paired import EXACT, WINDOW, lpips_network, psnr_rgb, ssim_y

# Pictures ``[b 3 h w]`` in -1..1 to such.
Translate = Callable[[Tensor], Tensor]

PSNR, SSIM, LPIPS = "PSNR-RGB", "SSIM", "LPIPS-squeeze"
# Side of the smallest picture that all figures can be taken of, px.
SMALLEST = max(FEATURES, WINDOW)
# Pictures at a time.
BATCH = 4


@torch.inference_mode()
def paired_figures(
    translate: Translate, pairs: Iterable[Iterable[Tensor]], reference: str
) -> tuple[Measurement, ...]:
    """Mean figures of results against targets; LPIPS, which allows for more than one right answer,
    first. Results are rounded to 8 bits, as they would be saved.

    Args:
        pairs: inputs and targets, ``[b 3 h w]`` in -1..1, all on one device.
        reference: names the targets.
    """
    lpips: nn.Module | None = None
    found: dict[str, list[float]] = {}
    count = 0
    for given, target in pairs:
        lpips = lpips or lpips_network().to(given.device)
        with exactly(given.device):
            made = to_network(to_pixels(translate(given)))
            ratio = psnr_rgb(made, target).clamp(max=EXACT)
            values = lpips(made, target), ratio, ssim_y(made, target)
        for name, value in zip((LPIPS, PSNR, SSIM), values, strict=True):
            found.setdefault(name, []).extend(value.tolist())
        count += len(given)
    return tuple(
        Measurement(metric=name, value=round(fmean(values), 4), samples=count, reference=reference)
        for name, values in found.items()
    )


@torch.inference_mode()
def set_figures(
    translate: Translate,
    pictures: Pictures,
    evaluator: Evaluator,
    report: Callable[[int], object] = lambda count: None,
) -> tuple[Measurement, ...]:
    """What ``evaluator`` says of the results of all ``pictures``; ``report`` hears of each so
    many.

    Raises:
        DataError: there are too few."""
    device, count = evaluator.space.device, len(pictures.images)
    if count < FEWEST:
        raise DataError(
            f"{pictures.name}: {count} pictures; a set to compare takes {FEWEST} or more"
        )

    def made() -> Iterator[Tensor]:
        for i in range(0, count, BATCH):
            part = torch.from_numpy(pictures.images[i : i + BATCH]).to(device)
            with exactly(device):
                result = to_pixels(translate(to_network(part)))
            report(len(part))
            yield images.as_rgb(result)

    return evaluator.compare(evaluator.features_of(made(), count))


def by_network(model: Model, needs: PicturesNeeded, device: torch.device) -> Translate:
    """``model``, whose network is on ``device``, in float32, each picture as the node runs it."""

    call = images.through(model.network, model.card.value_range, device)

    def translate(given: Tensor) -> Tensor:
        x = from_network(given).movedim(3, 1)
        if needs.channels == 1:
            x = images.luma(x)
        y = tiles.run(call, x, sizes=needs.sizes, tiling=needs.tiling)
        return y.expand(-1, 3, -1, -1).mul(2).sub(1).to(given)

    return translate


def unchanged(given: Tensor) -> Tensor:
    """Nothing is done."""
    return given


def pairs(
    paths: Iterable[Path], side: str, report: Callable[[int], object]
) -> Iterator[list[Tensor]]:
    """Inputs and targets of pictures that hold both side by side, ``[1 3 h w]`` in -1..1;
    ``report`` hears the number of each.

    Args:
        side: of the input: ``left`` or ``right``.

    Raises:
        DataError: one cannot be read, or cannot hold two."""
    for i, path in enumerate(paths):
        report(i)
        picture = read_picture(path)
        h, w = picture.shape[2:]
        if w % 2 or min(h, w // 2) < SMALLEST:
            raise DataError(
                f"{path}: {w}x{h} px; needs two pictures of {SMALLEST} px each way, side by side. "
                "For pictures that are no pairs give --target"
            )
        halves = list(picture.chunk(2, 3))
        yield halves if side == "left" else halves[::-1]
