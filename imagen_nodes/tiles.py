"""Networks that take pictures, on pictures of any size: pad, run tile by tile, blend, crop.

A network says what sizes it takes (:class:`Sizes`). A picture is padded to one of them at its right
and lower border, by reflection and, where it is smaller than the padding, by repeating its last
pixel; what that adds is cut off the result. A picture larger than a tile is run in overlapping
windows of one size (:class:`Tiling`), which are cut, or blended, in the middle of their overlap.
Windows at the picture's border end there, so that the network's own border rule applies there and
nowhere else. Memory beyond the picture and the result is that of one window.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from .errors import DataError
from .spec import Spec

Call = Callable[[Tensor], Tensor]
"""``[1 c h w] -> [1 out scale*h scale*w]``, for sizes that the network takes."""
Progress = Callable[[int, int], None]
"""Told (windows done, windows in all); raises to stop."""

# Smallest tile, px.
SMALLEST = 64


class Sizes(Spec):
    """The sizes of picture that a network takes."""

    multiple: Annotated[int, Field(ge=1)] = 1
    """Width and height are multiples of this, px; 1: any."""
    minimum: Annotated[int, Field(ge=1)] = 1
    """Smallest width and height, px; 1: any."""
    square: bool = False
    """Whether width and height must be equal."""

    def fit(self, side: int) -> int:
        """The smallest side, px, that the network takes and that holds ``side``."""
        return _up(max(side, self.minimum), self.multiple)


class Tiling(Spec):
    """How a picture is cut into windows."""

    tile: Annotated[int, Field(ge=1)] = 512
    """Longest side of a window, px."""
    overlap: Annotated[int, Field(ge=0)] = 64
    """What neighbouring windows share at least, px. With ``overlap - blend`` of twice the distance
    that the network sees, the result is that of the whole picture."""
    blend: Annotated[int, Field(ge=0)] = 16
    """Width of the strip in the middle of the overlap where neighbours are mixed, px; 0: a cut."""
    step: Annotated[int, Field(ge=1)] = 1
    """What a position is of the picture, px, where maps of it are cut: lengths are in positions."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.tile <= self.overlap + self.blend or 2 * self.blend > self.overlap:
            raise ValueError(
                "a tile is more than the overlap and the blend, an overlap at least twice the blend"
            )
        return self

    def smaller(self) -> Tiling | None:
        """Half the tile, and of the overlap what then is less than half of one, mixed widely; None:
        that is too little to go on with."""
        half = self.tile // 2
        if half * self.step < SMALLEST:
            return None
        if half > 2 * self.overlap:
            return self.model_copy(update={"tile": half})
        overlap = half // 2 - 1
        return Tiling(tile=half, overlap=overlap, blend=overlap // 2, step=self.step)


@dataclass(frozen=True)
class _Span:
    """One window along an axis: where it starts in the picture, which part ``start:stop`` of the
    result it gives, px, and how much of it: a weight a pixel, or None for all."""

    window: int
    start: int
    stop: int
    weight: Tensor | None


@dataclass(frozen=True)
class _Axis:
    """One axis of a picture, in windows of ``length`` px; ``source`` is the pixel that each
    position of the padded picture shows."""

    length: int
    spans: tuple[_Span, ...]
    source: Tensor


def run(
    call: Call,
    picture: Tensor,
    *,
    scale: int = 1,
    sizes: Sizes | None = None,
    tiling: Tiling | None = None,
    progress: Progress = lambda done, total: None,
    more: Tensor | None = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """``call`` on a batch of pictures ``[b c h w]`` -> float32 ``[b out scale*h scale*w]`` on the
    CPU, in channels_last. Each picture is run alone, so that it does not depend on its batch.

    Where memory runs out, the whole is begun again in tiles of half the size.

    Args:
        more: ``[b n h w]``, any type: channels that each window has after the picture's. Joined to
            the whole picture they would take its memory once more.
        wanted: ``[b 1 h w]``: pixels whose result is of use, where it is as large as the picture.
            Windows that give none of them are not run, and their part of the result is 0.

    Raises:
        DataError: memory runs out in the smallest tiles too, or for the result.
    """
    sizes, tiling = sizes or Sizes(), tiling or Tiling()
    while True:
        try:
            return _run(call, picture, more, wanted, scale, sizes, tiling, progress)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        smaller = tiling.smaller()
        if smaller is None:
            raise too_little_memory(tiling.tile * tiling.step, reason)
        tiling = smaller
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _run(
    call: Call,
    picture: Tensor,
    more: Tensor | None,
    wanted: Tensor | None,
    scale: int,
    sizes: Sizes,
    tiling: Tiling,
    progress: Progress,
) -> Tensor:
    b, _, h, w = picture.shape
    rows, columns = _axes(h, w, scale, sizes, tiling)
    windows = [
        (i, row, column)
        for i, row, column in itertools.product(range(b), rows.spans, columns.spans)
        if wanted is None or wanted[i, :, row.start : row.stop, column.start : column.stop].any()
    ]
    result: Tensor | None = None
    for done, (i, row, column) in enumerate(windows, 1):
        window = _window(picture[i : i + 1], rows, row, columns, column)
        if more is not None:
            extra = _window(more[i : i + 1], rows, row, columns, column)
            window = torch.cat([window, extra.to(window)], 1)
        part = call(window.contiguous(memory_format=torch.channels_last))
        if result is None:
            result = empty(b, scale * h, scale * w, part.shape[1]).zero_().permute(0, 3, 1, 2)
        _add(result[i], part[0].float().cpu(), scale, row, column)
        progress(done, len(windows))
    if result is None:
        raise DataError("the batch holds no picture, or nothing is wanted of any")
    return result


def ensemble(call: Call) -> Call:
    """The mean of what ``call`` makes of a window's eight orientations, each turned back: a network
    errs differently in each, unless it is perfect. Takes eight times as long.

    Source: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution" (EDSR+),
    2017, geometric self-ensemble.
    """

    def run(picture: Tensor) -> Tensor:
        total: Tensor | None = None
        for mirrored, quarters in itertools.product((False, True), range(4)):
            x = torch.rot90(picture.mT if mirrored else picture, quarters, (2, 3))
            y = call(x.contiguous(memory_format=torch.channels_last))
            y = torch.rot90(y, -quarters, (2, 3))
            y = y.mT if mirrored else y
            total = y / 8 if total is None else total.add_(y, alpha=1 / 8)
        assert total is not None
        return total

    return run


def padded(picture: Tensor, sizes: Sizes) -> Tensor:
    """``[b c h w]`` padded, as :func:`run` pads it, to a size that the network takes."""
    y, x = (_source(side, sizes.fit(side)).to(picture.device) for side in picture.shape[2:])
    if (len(y), len(x)) == picture.shape[2:]:
        return picture
    return picture[:, :, y[:, None], x]


def _axes(h: int, w: int, scale: int, sizes: Sizes, tiling: Tiling) -> tuple[_Axis, _Axis]:
    overlap = _up(tiling.overlap, sizes.multiple)
    tile = max(
        sizes.fit(overlap + tiling.blend + 1), tiling.tile // sizes.multiple * sizes.multiple
    )
    lengths = [_length(sizes.fit(side), tile, overlap, sizes) for side in (h, w)]
    if sizes.square:
        lengths = [max(lengths)] * 2

    def axis(side: int, length: int) -> _Axis:
        padded = max(sizes.fit(side), length)
        starts = _starts(padded, length, overlap, sizes.multiple)
        spans = _spans(side, length, starts, scale, tiling.blend)
        return _Axis(length, spans, _source(side, padded))

    return axis(h, lengths[0]), axis(w, lengths[1])


def _source(side: int, padded: int) -> Tensor:
    """The pixel of a side that each position of the padded one shows."""
    i = torch.arange(padded)
    return torch.where(i < side, i, (2 * (side - 1) - i).clamp(min=0))


def _length(padded: int, tile: int, overlap: int, sizes: Sizes) -> int:
    """Side of the windows, px: the smallest that needs no more windows than ``tile`` would."""
    if padded <= tile:
        return padded
    count = _quotient(padded - overlap, tile - overlap)
    return sizes.fit(_quotient(padded + (count - 1) * overlap, count))


def _starts(padded: int, length: int, overlap: int, multiple: int) -> list[int]:
    """Where the windows start, px: evenly, at multiples, the first and last at the borders."""
    if padded == length:
        return [0]
    gaps = _quotient(padded - overlap, length - overlap) - 1
    return [(padded - length) * i // gaps // multiple * multiple for i in range(gaps + 1)]


def _spans(side: int, length: int, starts: list[int], scale: int, blend: int) -> tuple[_Span, ...]:
    """What each window gives. Neighbours' weights add up to 1: they rise and fall along one ramp
    around the middle of the overlap."""
    ramp = blend * scale
    cuts = [(a + length + b) * scale // 2 - ramp // 2 for a, b in itertools.pairwise(starts)]
    rise = (torch.arange(ramp) + 0.5) / max(ramp, 1)
    spans: list[_Span] = []
    for i, window in enumerate(starts):
        start = cuts[i - 1] if i else 0
        stop = min(side * scale, cuts[i] + ramp if i < len(cuts) else side * scale)
        weight = torch.ones(max(stop - start, 0))
        if i:
            weight[:ramp] *= rise[: len(weight)]
        if i < len(cuts):
            fall = 1 - rise[: max(stop - cuts[i], 0)]
            weight[cuts[i] - start :] *= fall
        spans.append(_Span(window, start, stop, weight if ramp and cuts else None))
    return tuple(span for span in spans if span.start < span.stop)


def _window(picture: Tensor, rows: _Axis, row: _Span, columns: _Axis, column: _Span) -> Tensor:
    """One window of the padded picture, in memory of its own."""
    y = rows.source[row.window : row.window + rows.length].to(picture.device)
    x = columns.source[column.window : column.window + columns.length].to(picture.device)
    return picture[:, :, y[:, None], x]


def _add(result: Tensor, part: Tensor, scale: int, row: _Span, column: _Span) -> None:
    """Add what a window gives, ``part [c h w]``, to the result ``[c h w]``."""
    y, x = row.window * scale, column.window * scale
    part = part[:, row.start - y : row.stop - y, column.start - x : column.stop - x]
    if row.weight is not None:
        part = part * row.weight[:, None]
    if column.weight is not None:
        part = part * column.weight
    result[:, row.start : row.stop, column.start : column.stop] += part


def empty(b: int, h: int, w: int, c: int) -> Tensor:
    """Room for a result ``[b h w c]``, float32.

    Raises:
        DataError: there is not so much memory."""
    try:
        return torch.empty(b, h, w, c)
    except RuntimeError as error:
        size = b * c * h * w * 4 / 2**20
        text = f"{size / 1024:.1f} GiB" if size >= 1024 else f"{size:.0f} MiB"
        raise DataError(
            f"out of memory: the result, {b} of {w}x{h} px, takes {text}. Run fewer pictures at "
            "once, or enlarge less"
        ) from error


def too_little_memory(tile: int, reason: str) -> DataError:
    """What to say where even the smallest tiles, of ``tile`` px, do not fit."""
    return DataError(
        f"out of memory, even in tiles of {tile} px: {reason}. Use a smaller network, or a device "
        "with more memory"
    )


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class for a GPU's memory, and words for the CPU's, others on Windows, and a
    Mac's; numpy and Pillow have Python's class."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    words = "can't allocate memory", "not enough memory", "MPS backend out of memory"
    return isinstance(error, RuntimeError) and any(x in str(error) for x in words)


def _up(value: int, multiple: int) -> int:
    return _quotient(value, multiple) * multiple


def _quotient(value: int, divisor: int) -> int:
    """Rounded up."""
    return -(-value // divisor)
