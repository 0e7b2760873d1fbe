"""The exponential moving average of the generator's weights, which is the generator that ships.

Source: Karras et al., "Progressive Growing of GANs", 2018, section 4; half-life and ramp-up as in
Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020, appendix C.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..networks.normalisation import standing_statistics
from .schedule import Number, value_at


class EMA:
    """Keeps an averaged copy of ``network``. ``half_life`` in kimg, a number or a schedule; never
    longer than ``ramp`` of the images seen so far, so that the first average is not of the initial
    weights."""

    def __init__(self, network: nn.Module, half_life: Number, ramp: float = 0.05) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.half_life = half_life
        self.ramp = ramp

    def half_life_at(self, nimg: int) -> float:
        """The half-life after ``nimg`` images, in images."""
        return min(value_at(self.half_life, nimg) * 1000, nimg * self.ramp)

    @torch.no_grad()
    def update(self, network: nn.Module, nimg: int, batch: int) -> None:
        """Move towards ``network`` after ``batch`` more images, ``nimg`` seen in all."""
        beta = 0.5 ** (batch / max(self.half_life_at(nimg), 1e-8))
        mean, new = _floats(self.network), _floats(network)
        torch._foreach_lerp_(mean, new, 1 - beta)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def snapshot(self, latents: list[tuple[Tensor, Tensor | None]]) -> nn.Module:
        """A copy of the average, with batch norm statistics of its own over ``latents``, a list of
        (z, labels) batches: those averaged from the raw network's are too wide. None: those."""
        network = copy.deepcopy(self.network).eval()
        if latents:
            standing_statistics(network, latents)
        return network


def _floats(network: nn.Module) -> list[Tensor]:
    tensors = [*network.parameters(), *network.buffers()]
    return [tensor for tensor in tensors if tensor.is_floating_point()]
