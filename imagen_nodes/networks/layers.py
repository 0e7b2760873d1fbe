"""Layers that several families share."""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    On a CPU in float32, maps of up to 8 px are multiplied as one matrix of patches: the usual
    convolution kernels reach 60% of the machine's rate there, a matrix product 90%.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        if self.bias is None and _prefers_matrices(input, 8):
            return _apply(_Halve, input.permute(0, 2, 3, 1), self.weight).permute(0, 3, 1, 2)
        return super().forward(input)


class DoublingConv2d(nn.ConvTranspose2d):
    """Transposed convolution of kernel 4, stride 2, padding 1: ``[b c h w] -> [b out 2h 2w]``; on a
    CPU in float32 maps of 4 px are multiplied as matrices, as in :class:`HalvingConv2d`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=bias)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.bias is None and _prefers_matrices(input, 4):
            return _apply(_Double, input.permute(0, 2, 3, 1), self.weight).permute(0, 3, 1, 2)
        return super().forward(input, output_size)


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


def _prefers_matrices(x: Tensor, side: int) -> bool:
    small = max(x.shape[2:]) <= side
    plain = x.device.type == "cpu" and x.dtype == torch.float32
    return small and plain and not torch.is_autocast_enabled("cpu")


# The convolution of kernel 4, stride 2, padding 1 as matrix products: with P(x) the patches of x,
# W the weight as a matrix and O = P^T, which adds patches up where they lie over each other,
#
#     halve(x, w) = P(x) W^T       double(y, w) = O(y W)       weight(x, y) = y^T P(x)
#
# Each gives the gradients of the other two, so they differentiate any number of times. Maps are
# [b h w c] here, and results new memory, so that an activation may change them in place.


class _Halve(torch.autograd.Function):
    """``x [b 2h 2w c]``, ``w [o c 4 4]`` -> ``[b h w o]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(x.shape[0], x.shape[1] // 2, x.shape[2] // 2, weight.shape[0])
        torch.mm(_patches(x), _matrix(weight).t(), out=y.view(-1, y.shape[3]))
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient, needed = grad_outputs[0], ctx.needs_input_grad
        return (
            _apply(_Double, gradient, weight) if needed[0] else None,
            _apply(_Weight, x, gradient) if needed[1] else None,
        )


class _Double(torch.autograd.Function):
    """``y [b h w o]``, ``w [o c 4 4]`` -> ``[b 2h 2w c]``."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(y, weight)
        rows, matrix = y.reshape(-1, y.shape[3]), _matrix(weight)
        patches = torch.mm(rows, matrix, out=_scratch("patches", len(rows), matrix.shape[1]))
        return _overlap(patches, *y.shape[:3])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        y, weight = ctx.saved_tensors
        gradient, needed = grad_outputs[0], ctx.needs_input_grad
        return (
            _apply(_Halve, gradient, weight) if needed[0] else None,
            _apply(_Weight, gradient, y) if needed[1] else None,
        )


class _Weight(torch.autograd.Function):
    """``x [b 2h 2w c]``, ``y [b h w o]`` -> ``[o c 4 4]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return _map(y.reshape(-1, y.shape[3]).t() @ _patches(x), 4)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        gradient, needed = grad_outputs[0], ctx.needs_input_grad
        return (
            _apply(_Double, y, gradient) if needed[0] else None,
            _apply(_Halve, x, gradient) if needed[1] else None,
        )


def _apply(function: type[torch.autograd.Function], *arguments: Tensor) -> Tensor:
    return function.apply(*arguments)  # pyright: ignore[reportReturnType]


def _patches(x: Tensor) -> Tensor:
    """P: ``[b 2h 2w c] -> [b*h*w 16*c]``, what each output position sees; in scratch memory."""
    x = F.pad(x, (0, 0, 1, 1, 1, 1)).contiguous()
    b, h, w, c = x.shape
    s = x.stride()
    shape = (b, h // 2 - 1, w // 2 - 1, 4, 4 * c)  # the four taps of a row lie side by side
    windows = x.as_strided(shape, (s[0], 2 * s[1], 2 * s[2], s[1], 1))
    patches = _scratch("patches", b * shape[1] * shape[2], 16 * c)
    patches.view(shape).copy_(windows)
    return patches


def _overlap(patches: Tensor, b: int, h: int, w: int) -> Tensor:
    """O: ``[b*h*w 16*c] -> [b 2h 2w c]``."""
    patches = patches.view(b, h, w, 4, 4, -1)
    x = _scratch("sum", b, 2 * h + 2, 2 * w + 2, patches.shape[-1]).zero_()
    for i in range(4):
        for j in range(4):
            x[:, i : i + 2 * h : 2, j : j + 2 * w : 2] += patches[:, :, :, i, j]
    return x[:, 1:-1, 1:-1].contiguous()


_memory = threading.local()


def _scratch(name: str, *shape: int) -> Tensor:
    """Float32 memory of that shape, which the next call in this thread with that name takes again:
    at this size, touching new memory costs as much as the product."""
    size = math.prod(shape)
    buffer: Tensor | None = getattr(_memory, name, None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a training may take it next
            buffer = torch.empty(size)
        setattr(_memory, name, buffer)
    return buffer[:size].view(shape)


def _map(rows: Tensor, side: int) -> Tensor:
    """``[n side*side*m] -> [n m side side]``, channels_last."""
    return rows.view(len(rows), side, side, -1).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """``[n m 4 4] -> [n 16*m]``, in the order of patches; no copy where it is channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
