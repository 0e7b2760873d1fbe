"""Layers that several families share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Self-attention over all positions of a feature map.

    1x1 convolutions give queries, keys and values of c/8 channels, a fourth brings the attended
    values back to c; the result is added to the input, scaled by ``gamma``, which starts at 0 so
    that the block begins as the identity.

    Shapes: ``[b c h w] -> [b c h w]``; c is a multiple of 8.

    Source: Zhang et al., "Self-Attention Generative Adversarial Networks", 2018, section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 8
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # [b c/8 n]
        key = self.key(x).flatten(2)
        value = self.value(x).flatten(2)
        # Equation 1: every position attends to all others, softmax over the attended ones.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # [b n n]
        attended = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
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
            b, _, h, w = input.shape
            rows = _apply(_Patches, input) @ _matrix(self.weight).t()
            return rows.view(b, h // 2, w // 2, -1).permute(0, 3, 1, 2)
        return super().forward(input)


class DoublingConv2d(nn.ConvTranspose2d):
    """Transposed convolution of kernel 4, stride 2, padding 1: ``[b c h w] -> [b out 2h 2w]``; on a
    CPU in float32 maps of 4 px are multiplied as matrices, as in :class:`HalvingConv2d`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=bias)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.bias is None and _prefers_matrices(input, 4):
            b, c, h, w = input.shape
            rows = input.permute(0, 2, 3, 1).reshape(-1, c)
            return _apply(_Overlap, rows @ _matrix(self.weight), b, h, w)
        return super().forward(input, output_size)


class VectorToMap(nn.ConvTranspose2d):
    """Transposed convolution of kernel 4 on one position, which is a matrix product:
    ``[b c] -> [b out 4 4]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, bias=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        y = input @ _matrix(self.weight)
        return y.view(len(input), 4, 4, -1).permute(0, 3, 1, 2)


class MapToLogit(nn.Conv2d):
    """Convolution of kernel 4 on a 4 px map, which is a matrix product: ``[b c 4 4] -> [b]``."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 1, 4)

    def forward(self, input: Tensor) -> Tensor:
        rows = input.permute(0, 2, 3, 1).reshape(len(input), -1)
        return F.linear(rows, _matrix(self.weight), self.bias)[:, 0]


def _prefers_matrices(x: Tensor, side: int) -> bool:
    small = max(x.shape[2:]) <= side and x.device.type == "cpu" and x.dtype == torch.float32
    return small and not torch.is_autocast_enabled("cpu")


class _Patches(torch.autograd.Function):
    """``[b c h w] -> [b*h/2*w/2 16*c]``: what each output position of kernel 4, stride 2, padding 1
    sees. Linear, and the transpose of :class:`_Overlap`, so that each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        b, h, w, c = x.shape
        s = x.stride()
        shape = (b, h // 2 - 1, w // 2 - 1, 4, 4, c)
        windows = x.as_strided(shape, (s[0], 2 * s[1], 2 * s[2], s[1], s[2], s[3]))
        return windows.reshape(-1, 16 * c)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        b, _, h, w = ctx.shape
        return _apply(_Overlap, grad_outputs[0], b, h // 2, w // 2)


class _Overlap(torch.autograd.Function):
    """``[b*h*w 16*c] -> [b c 2h 2w]``: add patches up where they lie over each other."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, b: int, h: int, w: int) -> Tensor:
        patches = patches.view(b, h, w, 4, 4, -1)
        x = patches.new_zeros(b, 2 * h + 2, 2 * w + 2, patches.shape[-1])
        for i in range(4):
            for j in range(4):
                x[:, i : i + 2 * h : 2, j : j + 2 * w : 2] += patches[:, :, :, i, j]
        return x[:, 1:-1, 1:-1].contiguous().permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _apply(_Patches, grad_outputs[0]), None, None, None


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    return function.apply(*arguments)  # pyright: ignore[reportReturnType]


def _matrix(weight: Tensor) -> Tensor:
    """``[n m 4 4] -> [n 16*m]``, in the order of patches; no copy where it is channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
