"""Convolutions of kernel 4, stride 2, padding 1 by minimal filtering, on a CPU in float32.

Source: Winograd, "Arithmetic Complexity of Computations", 1980; Lavin & Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016, section 4. The even and the odd rows and columns of the larger
map are maps of their own, convolved with kernels of 2. Along each axis, two outputs y of three
inputs d and two weights g then take three products for four:

    y = A'(G g * B'd)    B'd = d0 - d1, d1, d1 - d2    G g = g0, g0 + g1, g1
                         A'm = m0 + m1, m1 - m2

With both axes these are 9 products of matrices, of tiles and channels:

    halve(x, w) = A'(B'(x) G(w)')    double(y, w) = B(A(y) G(w))    weight(x, y) = G'(A(y)' B'(x))

Each gives the gradients of the other two, so they differentiate any number of times; a first
gradient takes over what the forward pass has transformed. Maps are ``[b h w c]`` here, the smaller
one's h and w even, and results new memory, so that an activation may change them in place.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def suits(x: Tensor, weight: Tensor, tile: int, most: int) -> bool:
    """Whether ``x [b c h w]`` can be convolved so, in whole tiles of ``tile`` px, and it pays:
    with larger maps than ``most`` px, tiles outgrow the caches, and with few channels there is too
    little to multiply."""
    height, width = x.shape[2:]
    fits = max(height, width) <= most and height % tile == width % tile == 0
    fits = fits and min(weight.shape[:2]) >= 8 and len(x) > 0
    plain = x.device.type == "cpu" and x.dtype == torch.float32
    plain = plain and not torch.is_autocast_enabled("cpu")
    return fits and plain and not torch.compiler.is_compiling()


def halve(x: Tensor, weight: Tensor) -> Tensor:
    """``x [b 2h 2w c]``, ``weight [o c 4 4]`` -> ``[b h w o]``: F.conv2d, stride 2, padding 1."""
    return _apply(_Halve, x, weight)


def double(y: Tensor, weight: Tensor) -> Tensor:
    """``y [b h w o]``, ``weight [o c 4 4]`` -> ``[b 2h 2w c]``: F.conv_transpose2d, likewise."""
    return _apply(_Double, y, weight)


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        keep = any(ctx.needs_input_grad)
        tiles, kernels = _tiles_of_larger(x, keep), _kernels(weight, keep)
        if keep:
            ctx.save_for_backward(x, weight, tiles, kernels)
        return _halved(tiles, kernels, x.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, tiles, kernels = ctx.saved_tensors
        y, (for_x, for_weight) = grad_outputs[0], ctx.needs_input_grad
        if torch.is_grad_enabled():
            return (
                _apply(_Double, y, weight) if for_x else None,
                _apply(_Weight, x, y) if for_weight else None,
            )
        smaller = _tiles_of_smaller(y)
        return (
            _doubled(smaller, kernels, y.shape) if for_x else None,
            _weight(tiles, smaller) if for_weight else None,
        )


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor) -> Tensor:
        keep = any(ctx.needs_input_grad)
        tiles, kernels = _tiles_of_smaller(y, keep), _kernels(weight, keep)
        if keep:
            ctx.save_for_backward(y, weight, tiles, kernels)
        return _doubled(tiles, kernels, y.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, tiles, kernels = ctx.saved_tensors
        x, (for_y, for_weight) = grad_outputs[0], ctx.needs_input_grad
        if torch.is_grad_enabled():
            return (
                _apply(_Halve, x, weight) if for_y else None,
                _apply(_Weight, x, y) if for_weight else None,
            )
        larger = _tiles_of_larger(x)
        return (
            _halved(larger, kernels, x.shape) if for_y else None,
            _weight(larger, tiles) if for_weight else None,
        )


class _Weight(torch.autograd.Function):
    """``x [b 2h 2w c]``, ``y [b h w o]`` -> ``[o c 4 4]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return _weight(_tiles_of_larger(x), _tiles_of_smaller(y))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        gradient, (for_x, for_y) = grad_outputs[0], ctx.needs_input_grad
        return (
            _apply(_Double, y, gradient) if for_x else None,
            _apply(_Halve, x, gradient) if for_y else None,
        )


def _apply(function: type[torch.autograd.Function], *arguments: Tensor) -> Tensor:
    return function.apply(*arguments)  # pyright: ignore[reportReturnType]


# The products, from transformed factors. Columns are transformed inside rows, each axis by itself.


def _halved(larger: Tensor, kernels: Tensor, shape: torch.Size) -> Tensor:
    """A' of the products; ``shape`` is that of x."""
    b, h, w, o = shape[0], shape[1] // 2, shape[2] // 2, kernels.shape[1]
    products = torch.bmm(
        larger, kernels.transpose(1, 2), out=_scratch("products", 9, larger.shape[1], o)
    )
    m = products.view(3, 3, b, h // 2, w // 2, o)
    rows = _scratch("rows", 3, b, h // 2, 2, w // 2, o)
    torch.add(m[0], m[1], out=rows[:, :, :, 0])
    torch.sub(m[1], m[2], out=rows[:, :, :, 1])
    y = larger.new_empty(b, h, w, o)
    tiles = y.view(b, h // 2, 2, w // 2, 2, o)
    torch.add(rows[0], rows[1], out=tiles[..., 0, :])
    torch.sub(rows[1], rows[2], out=tiles[..., 1, :])
    return y


def _doubled(smaller: Tensor, kernels: Tensor, shape: torch.Size) -> Tensor:
    """B of the products, added up where tiles lie over each other; ``shape`` is that of y."""
    b, h, w, _ = shape
    c = kernels.shape[2] // 4
    products = torch.bmm(smaller, kernels, out=_scratch("products", 9, smaller.shape[1], 4 * c))
    tiles = products.view(3, 3, b, h // 2, w // 2, 2, 2 * c).transpose(4, 5)
    rows = _scratch("rows", 3, b, h // 2, 2, w + 1, 2 * c)
    _add_tiles(tiles.unbind(1), rows, 4)
    x = _scratch("padded", b, h + 1, 2 * (w + 1) * 2 * c)
    _add_tiles(rows.view(3, b, h // 2, -1).unbind(0), x, 1)
    return x.view(b, 2 * h + 2, 2 * w + 2, c)[:, 1:-1, 1:-1].contiguous()


def _add_tiles(m: tuple[Tensor, ...], out: Tensor, axis: int) -> None:
    """B along an axis: n tiles of three to 2n + 1."""
    n = m[0].shape[axis]

    def every_other(first: int, count: int) -> Tensor:
        return out[(slice(None),) * axis + (slice(first, first + 2 * count, 2),)]

    torch.add(m[1], m[2], out=every_other(1, n)).sub_(m[0])
    later, earlier = m[0].narrow(axis, 1, n - 1), m[2].narrow(axis, 0, n - 1)
    torch.sub(later, earlier, out=every_other(2, n - 1))
    every_other(0, 1).copy_(m[0].narrow(axis, 0, 1))
    torch.neg(m[2].narrow(axis, n - 1, 1), out=every_other(2 * n, 1))


def _weight(larger: Tensor, smaller: Tensor) -> Tensor:
    """G' of the products: ``[o c 4 4]``, channels_last."""
    o, c = smaller.shape[2], larger.shape[2] // 4
    products = torch.bmm(smaller.transpose(1, 2), larger, out=_scratch("kernels", 9, o, 4 * c))
    u = products.view(3, 3, o, 2, 2, c)
    columns = _scratch("rows", 3, o, 2, 2, 2, c)
    torch.add(u[:, 0], u[:, 1], out=columns[:, :, :, 0])
    torch.add(u[:, 1], u[:, 2], out=columns[:, :, :, 1])
    weight = larger.new_empty(o, 2, 2, 2, 2, c)
    torch.add(columns[0], columns[1], out=weight[:, 0])
    torch.add(columns[1], columns[2], out=weight[:, 1])
    return weight.view(o, 4, 4, c).permute(0, 3, 1, 2)


# The factors, transformed; to be kept, or in scratch memory. The four phases lie side by side.


def _tiles_of_larger(x: Tensor, keep: bool = False) -> Tensor:
    """B': ``[b 2h 2w c] -> [9 b*(h/2)*(w/2) 4*c]``."""
    b, h, w, c = x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
    x = F.pad(x, (0, 0, 1, 1, 1, 1)).view(b, h + 1, 2 * (w + 1) * 2 * c)
    rows = _scratch("rows", 3, b, h // 2, 2 * (w + 1) * 2 * c)
    _cut_tiles(x, rows.unbind(0), 1)
    tiles = _memory_for("larger", keep, 3, 3, b, h // 2, w // 2, 2, 2 * c)
    rows = rows.view(3, b, h // 2, 2, w + 1, 2 * c)
    _cut_tiles(rows, tiles.transpose(4, 5).unbind(1), 4)
    return tiles.view(9, -1, 4 * c)


def _cut_tiles(x: Tensor, out: tuple[Tensor, ...], axis: int) -> None:
    """B' along an axis: 2n + 1 positions to n tiles of three."""
    n = x.shape[axis] // 2
    d0, d1, d2 = (x[(slice(None),) * axis + (slice(k, k + 2 * n, 2),)] for k in range(3))
    torch.sub(d0, d1, out=out[0])
    out[1].copy_(d1)
    torch.sub(d1, d2, out=out[2])


def _tiles_of_smaller(y: Tensor, keep: bool = False) -> Tensor:
    """A: ``[b h w o] -> [9 b*(h/2)*(w/2) o]``."""
    b, h, w, o = y.shape
    y = y.reshape(b, h // 2, 2, w, o)
    rows = _scratch("rows", 3, b, h // 2, w, o)
    _spread_tiles(y[:, :, 0], y[:, :, 1], rows.unbind(0))
    tiles = _memory_for("smaller", keep, 3, 3, b, h // 2, w // 2, o)
    rows = rows.view(3, b, h // 2, w // 2, 2, o)
    _spread_tiles(rows[..., 0, :], rows[..., 1, :], tiles.unbind(1))
    return tiles.view(9, -1, o)


def _spread_tiles(y0: Tensor, y1: Tensor, out: tuple[Tensor, ...]) -> None:
    """A along an axis."""
    out[0].copy_(y0)
    torch.add(y0, y1, out=out[1])
    torch.neg(y1, out=out[2])


def _kernels(weight: Tensor, keep: bool) -> Tensor:
    """G: ``[o c 4 4] -> [9 o 4*c]``."""
    o, c = weight.shape[:2]
    weight = weight.permute(0, 2, 3, 1).reshape(o, 2, 2, 2, 2, c)
    rows = _scratch("rows", 3, o, 2, 2, 2, c)
    rows[0].copy_(weight[:, 0])
    torch.add(weight[:, 0], weight[:, 1], out=rows[1])
    rows[2].copy_(weight[:, 1])
    kernels = _memory_for("kernels", keep, 3, 3, o, 2, 2, c)
    kernels[:, 0].copy_(rows[:, :, :, 0])
    torch.add(rows[:, :, :, 0], rows[:, :, :, 1], out=kernels[:, 1])
    kernels[:, 2].copy_(rows[:, :, :, 1])
    return kernels.view(9, o, 4 * c)


_memory = threading.local()


def _memory_for(name: str, keep: bool, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu") if keep else _scratch(name, *shape)


def _scratch(name: str, *shape: int) -> Tensor:
    """Float32 memory of that shape, which the next call in this thread with that name takes again:
    at this size, touching new memory costs as much as the product."""
    size = math.prod(shape)
    buffer: Tensor | None = getattr(_memory, name, None)
    if buffer is None or buffer.numel() < size:
        with torch.inference_mode(False):  # a training may take it next
            buffer = torch.empty(size, dtype=torch.float32, device="cpu")
        setattr(_memory, name, buffer)
    return buffer[:size].view(shape)
