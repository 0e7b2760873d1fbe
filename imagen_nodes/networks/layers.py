"""Layers that several families share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import minimal_filtering
from .fused import FusedConvTranspose2d, convolve
from .normalisation import spectral_norm


class SelfAttention(nn.Module):
    """Self-attention over all positions of a feature map.

    1x1 convolutions give queries, keys and values of c/8 channels, a fourth brings the attended
    values back to c; the result is added to the input, scaled by ``gamma``, which starts at 0 so
    that the block begins as the identity.

    With ``pool``, keys and values are the largest of each 2x2, and values have c/2 channels: so it
    is in the authors' code and in BigGAN. ``spectral`` normalises the four weights.

    Shapes: ``[b c h w] -> [b c h w]``; c is a multiple of 8, h and w are even with ``pool``.

    Source: Zhang et al., "Self-Attention Generative Adversarial Networks", 2018, section 3.
    """

    def __init__(self, channels: int, *, pool: bool = False, spectral: bool = False) -> None:
        super().__init__()
        self.pool = pool
        inner, values = channels // 8, channels // (2 if pool else 8)
        self.query = spectral_norm(nn.Conv2d(channels, inner, 1, bias=False), spectral)
        self.key = spectral_norm(nn.Conv2d(channels, inner, 1, bias=False), spectral)
        self.value = spectral_norm(nn.Conv2d(channels, values, 1, bias=False), spectral)
        self.out = spectral_norm(nn.Conv2d(values, channels, 1, bias=False), spectral)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.pool:
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        query, key, value = query.flatten(2), key.flatten(2), value.flatten(2)  # [b c n]
        # Equation 1: every position attends to all others, softmax over the attended ones.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # [b n n]
        # Rows of channels, which is channels_last.
        attended = (weights @ value.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(attended)


class HalvingConv2d(nn.Conv2d):
    """Convolution of kernel 4, stride 2, padding 1: ``[b c h w] -> [b out h/2 w/2]``, h and w even.

    On a CPU in float32, small maps are convolved by :mod:`.minimal_filtering`, with 9 products for
    16.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        if not minimal_filtering.suits(input, self.weight, 4, 16):
            return convolve(self, input)
        return _with_bias(minimal_filtering.halve(_rows(input), self.weight), self.bias)


class DoublingConv2d(FusedConvTranspose2d):
    """Transposed convolution of kernel 4, stride 2, padding 1: ``[b c h w] -> [b out 2h 2w]``;
    small maps as in :class:`HalvingConv2d`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=bias)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not minimal_filtering.suits(input, self.weight, 2, 8):
            return super().forward(input, output_size)
        return _with_bias(minimal_filtering.double(_rows(input), self.weight), self.bias)


class VectorToMap(nn.ConvTranspose2d):
    """Transposed convolution of kernel 4 on one position, which is a matrix product:
    ``[b c] -> [b out 4 4]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, bias=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return _map(input @ _matrix(self.weight), 4)


class MapToLogit(nn.Conv2d):
    """Convolution of kernel 4 on a 4 px map, which is a matrix product: ``[b c 4 4] -> [b]``."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 1, 4)

    def forward(self, input: Tensor) -> Tensor:
        rows = input.permute(0, 2, 3, 1).reshape(len(input), -1)
        return F.linear(rows, _matrix(self.weight), self.bias)[:, 0]


def spread(kernel: Tensor) -> Tensor:
    """``[n m 3 3] -> [n m 4 4]``: the sum of the kernel at each place of a 2x2 block. A 3x3
    convolution and averages of 2x2, or one of repeated pixels, are one convolution with it."""
    rows = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


def _rows(x: Tensor) -> Tensor:
    """``[b c h w] -> [b h w c]``."""
    return x.permute(0, 2, 3, 1)


def _with_bias(rows: Tensor, bias: Tensor | None) -> Tensor:
    """``[b h w c] -> [b c h w]``."""
    return (rows if bias is None else rows + bias).permute(0, 3, 1, 2)


def _map(rows: Tensor, side: int) -> Tensor:
    """``[n side*side*m] -> [n m side side]``, channels_last."""
    return rows.view(len(rows), side, side, -1).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """``[n m 4 4] -> [n 16*m]``, in the order of patches; no copy where it is channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
