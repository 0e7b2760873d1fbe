"""How well a network translates pictures: against the ones they are paired with, or as a set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import fmean

import torch
from torch import Tensor, nn

from ..checkpoint import Measurement
from ..images import to_pixels
from ..networks.squeezenet import SMALLEST as FEATURES
from .evaluator import exactly
from .paired import WINDOW, lpips_network, psnr_rgb, ssim_y

PSNR, SSIM, LPIPS = "PSNR-RGB", "SSIM", "LPIPS-squeeze"
# Side of the smallest picture that all figures can be taken of, px.
SMALLEST = max(FEATURES, WINDOW)


@torch.inference_mode()
def paired_figures(
    network: nn.Module, pairs: Iterable[Iterable[Tensor]], reference: str
) -> tuple[Measurement, ...]:
    """Mean figures of results against targets; LPIPS, which allows for more than one right answer,
    first. Results are rounded to 8 bits, as they would be saved.

    Args:
        pairs: inputs and targets, ``[b 3 h w]`` in -1..1, on the network's device.
        reference: names the targets.
    """
    lpips: nn.Module | None = None
    found: dict[str, list[float]] = {}
    count = 0
    for given, target in pairs:
        lpips = lpips or lpips_network().to(given.device)
        with exactly(given.device):
            made = rounded(network(given))
            values = lpips(made, target), psnr_rgb(made, target), ssim_y(made, target)
        for name, value in zip((LPIPS, PSNR, SSIM), values, strict=True):
            found.setdefault(name, []).extend(value.tolist())
        count += len(given)
    return tuple(
        Measurement(metric=name, value=fmean(values), samples=count, reference=reference)
        for name, values in found.items()
    )


def rounded(pictures: Tensor) -> Tensor:
    """``[b c h w]`` in -1..1, as it would be after saving."""
    return to_pixels(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def translated(network: nn.Module, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
    """What the network makes of batches ``[b 3 h w]`` in -1..1, on its device: ``[b h w 3]``
    uint8."""
    for given in pictures:
        with exactly(given.device):
            yield to_pixels(network(given))
