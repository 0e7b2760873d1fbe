"""What a data set holds, seen before anything is trained on it. Pictures are read once, a few at a
time, so a million of them are as good as twenty."""

from __future__ import annotations

import hashlib
import io
import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...errors import DataError
from ...spec import Spec
from .containers import open_container
from .dataset import Progress
from .duplicates import Positions, difference_hash, equal_groups, near_groups
from .layouts import recognise
from .pictures import from_pixels, has_alpha, on_white, reason, shallow
from .source import Block, Picture, Source, in_order

if TYPE_CHECKING:
    from ..recipe import Recipe

# A contact sheet: rows of columns of cells, px.
SHEET = 100
COLUMNS = 10
CELL = 64
# EXIF's orientations that exchange width and height.
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
COLOURS = {
    **dict.fromkeys(("1", "L", "LA", "I", "F"), "grey"),
    **dict.fromkeys(("P", "PA"), "palette"),
}


class Range(Spec):
    """Of one number over all pictures."""

    min: float
    """Least."""
    median: float
    """Half of the pictures have less."""
    max: float
    """Most."""


class Survey(Spec):
    """What ``imagen-nodes data`` tells; ``--json`` prints it as it is."""

    path: str
    """As it was given."""
    layout: str
    """Which of the known layouts: pictures, ImageNet, COCO, CIFAR-10, ..."""
    count: int
    """Pictures that can be read."""
    unreadable: tuple[str, ...]
    """``NAME: reason``."""
    notes: tuple[str, ...]
    """What else the trainer would say of the data."""
    formats: dict[str, int]
    """Pictures by file format."""
    width: Range
    """Px, turned as EXIF says."""
    height: Range
    """Px."""
    aspect: Range
    """Width over height."""
    colours: dict[str, int]
    """Pictures by grey, RGB, palette, CMYK, ..., alpha apart."""
    alpha: int
    """Pictures with an alpha channel or a transparent colour."""
    transparent: int
    """Those of them in which something does show through."""
    bits: dict[int, int]
    """Pictures by bits a channel: 8 or 16."""
    classes: dict[str, int]
    """Pictures by class; empty: no labels."""
    duplicates: tuple[tuple[str, ...], ...]
    """Names of files with the same bytes."""
    near_duplicates: tuple[tuple[str, ...], ...]
    """Names of others that look the same: difference hashes at most 3 of 64 bits apart."""
    presets: tuple[str, ...]
    """Presets that these pictures can train, the best fit first."""


class _Look(NamedTuple):
    """What is seen of one picture."""

    format: str
    width: int
    height: int
    colour: str
    alpha: bool
    transparent: bool
    bits: int
    digest: int
    hash: int
    thumbnail: Image.Image


def survey(
    path: Path,
    presets: Mapping[str, Recipe],
    progress: Progress = lambda done, total: None,
) -> tuple[Survey, Image.Image]:
    """The survey of what is at ``path``, and a contact sheet.

    Args:
        presets: to choose from.
        progress: called with pictures looked at and in all.

    Raises:
        DataError: there is nothing at ``path``, or no picture that can be read.
    """
    container = open_container(path)
    try:
        source = recognise(container)
        seen = _Seen(source)
        for part, looks in in_order(source.parts(), lambda part: _looks(part, source.layout)):
            seen.add(part, looks)
            progress(seen.count + len(seen.unreadable), source.count)
    finally:
        container.close()
    if not seen.count:
        why = "; ".join(seen.unreadable[:1])
        raise DataError(f"{path}: none of its {source.count} pictures can be read; {why}")
    return seen.survey(path, presets), seen.sheet()


def _looks(part: Picture | Block, layout: str) -> list[_Look] | Exception:
    if isinstance(part, Block):
        return [_look(from_pixels(i), layout, _digest(i.tobytes())) for i in part.images]
    try:
        content = part.read()
        with Image.open(io.BytesIO(content)) as picture:
            return [_look(picture, picture.format or "?", _digest(content))]
    except Exception as error:  # whatever a decoder raises, the picture is unreadable
        return error


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _look(picture: Image.Image, format: str, digest: int) -> _Look:
    width, height = picture.size
    if picture.getexif().get(ORIENTATION) in TURNED:
        width, height = height, width
    mode, alpha = picture.mode, has_alpha(picture)
    bits = 16 if ";16" in f"{mode}{getattr(picture, 'tile', '')}" or mode == "I" else 8
    if mode[0] in "IF":  # not all of which Pillow resizes, and the latter not be taken at all
        picture = shallow(ImageOps.exif_transpose(picture))
    picture.thumbnail((CELL, CELL))  # decodes all of it, JPEGs at a fraction of their size
    small = ImageOps.exif_transpose(picture)
    return _Look(
        format=format,
        width=width,
        height=height,
        colour=COLOURS.get(mode.split(";")[0], mode.removesuffix("A")),
        alpha=alpha,
        transparent=alpha and small.convert("RGBA").getchannel("A").getextrema() != (255, 255),
        bits=bits,
        digest=digest,
        hash=difference_hash(small),
        thumbnail=on_white(small).convert("RGB"),
    )


@dataclass
class _Seen:
    """What was seen so far: numbers, and a sheet's worth of thumbnails."""

    source: Source
    unreadable: list[str] = field(default_factory=list[str])
    formats: Counter[str] = field(default_factory=Counter[str])
    colours: Counter[str] = field(default_factory=Counter[str])
    bits: Counter[int] = field(default_factory=Counter[int])
    alpha: int = 0
    transparent: int = 0
    names: list[str] = field(default_factory=list[str])
    # Compact, since there may be a million.
    sizes: array[int] = field(default_factory=lambda: array("L"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    digests: array[int] = field(default_factory=lambda: array("Q"))
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    thumbnails: list[Image.Image] = field(default_factory=list[Image.Image])

    @property
    def count(self) -> int:
        return len(self.digests)

    def add(self, part: Picture | Block, looks: list[_Look] | Exception) -> None:
        if isinstance(looks, Exception):
            assert isinstance(part, Picture)
            self.unreadable.append(f"{part.name}: {reason(looks)}")
            return
        if isinstance(part, Picture):
            self.names.append(part.name)
            self.labels.extend([] if part.label is None else [part.label])
        else:
            self.names += [f"image {self.count + i}" for i in range(len(looks))]
            self.labels.extend([] if part.labels is None else part.labels.tolist())
        for look in looks:
            self._add(look)

    def _add(self, look: _Look) -> None:
        # Thumbnails of a sheet's worth of pictures, evenly spread.
        if self.count * SHEET // self.source.count >= len(self.thumbnails):
            self.thumbnails.append(look.thumbnail)
        self.formats[look.format] += 1
        self.colours[look.colour] += 1
        self.bits[look.bits] += 1
        self.alpha += look.alpha
        self.transparent += look.transparent
        self.sizes.extend((look.width, look.height))
        self.digests.append(look.digest)
        self.hashes.append(look.hash)

    def survey(self, path: Path, presets: Mapping[str, Recipe]) -> Survey:
        width, height = np.array(self.sizes, np.int64).reshape(-1, 2).T
        duplicates, near = self._duplicates()
        classes = self._classes()
        side, grey = float(np.median(np.minimum(width, height))), set(self.colours) == {"grey"}
        channels = 1 if grey else 4 if 2 * self.transparent > self.count else 3
        return Survey(
            path=str(path),
            layout=self.source.layout,
            count=self.count,
            unreadable=tuple(self.unreadable),
            notes=self.source.notes,
            formats=dict(self.formats.most_common()),
            width=_range(width),
            height=_range(height),
            aspect=_range(width / height),
            colours=dict(self.colours.most_common()),
            alpha=self.alpha,
            transparent=self.transparent,
            bits=dict(self.bits),
            classes=classes,
            duplicates=duplicates,
            near_duplicates=near,
            presets=fitting(presets, side, channels, len(classes)),
        )

    def _classes(self) -> dict[str, int]:
        if len(self.labels) < self.count:
            return {}
        counts = np.bincount(np.array(self.labels)).tolist()
        names = self.source.class_names or tuple(map(str, range(len(counts))))
        counts += [0] * (len(names) - len(counts))
        return dict(zip(names, counts, strict=True))

    def _duplicates(self) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
        digests, hashes = np.array(self.digests, np.uint64), np.array(self.hashes, np.uint64)
        _, first = np.unique(digests, return_index=True)
        first.sort()
        near = [first[group] for group in near_groups(hashes[first])]
        return self._named(equal_groups(digests)), self._named(near)

    def _named(self, groups: list[Positions]) -> tuple[tuple[str, ...], ...]:
        return tuple(sorted(tuple(self.names[i] for i in sorted(group)) for group in groups))

    def sheet(self) -> Image.Image:
        """The thumbnails, row by row, each in the middle of its cell."""
        rows = -(-len(self.thumbnails) // COLUMNS)
        columns = min(COLUMNS, len(self.thumbnails))
        sheet = Image.new("RGB", (columns * CELL, rows * CELL), "white")
        for i, picture in enumerate(self.thumbnails):
            left, top = i % COLUMNS * CELL, i // COLUMNS * CELL
            space = (CELL - picture.width) // 2, (CELL - picture.height) // 2
            sheet.paste(picture, (left + space[0], top + space[1]))
        return sheet


def _range(values: NDArray[Any]) -> Range:
    low, middle, high = float(values.min()), float(np.median(values)), float(values.max())
    return Range(min=round(low, 3), median=round(middle, 3), max=round(high, 3))


def fitting(
    presets: Mapping[str, Recipe], side: float, channels: int, classes: int
) -> tuple[str, ...]:
    """Names of the presets that can be trained on pictures of ``classes``, the best fit first: the
    nearest resolution that pictures whose shorter side is ``side`` px need not be enlarged to,
    then as many ``channels``, then one that uses the classes."""

    def misfit(name: str) -> tuple[bool, float, bool, bool]:
        wanted = presets[name].task.wanted
        wanted_side = min(wanted.size)
        enlarged = wanted_side > side
        distance = abs(math.log2(wanted_side / side))
        return enlarged, distance, wanted.channels != channels, wanted.classes != classes

    able = [
        name
        for name, wanted in ((name, recipe.task.wanted) for name, recipe in presets.items())
        # What takes tiles, or pictures side by side, is for another purpose than drawing such.
        if wanted.classes in (0, classes) and not wanted.tiles and wanted.panels == 1
        if wanted.domains in (1, classes)
    ]
    return tuple(sorted(able, key=misfit))
