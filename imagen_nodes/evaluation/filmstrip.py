"""The film strip: how the images of a few fixed latents change over a training.

A sample grid is a sheet of 8 x 8 tiles without gaps, and always of the same latents, so the same
place in every sheet is the same latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import write_atomically
from .records import SampleSheet

TILES = 8
"""Tiles a row, and rows, of a sample grid."""
MOMENTS = 12
LATENTS = 8
# Px. Smaller tiles are enlarged by whole factors, larger ones reduced.
TILE_MIN, TILE_MAX = 64, 128
LABEL = 22
INK, PAPER = (90, 90, 90), (255, 255, 255)

Say = Callable[[str], object]


@dataclass(frozen=True)
class Moment:
    """The chosen tiles of one sample grid, all of one size."""

    kimg: int
    tiles: tuple[Image.Image, ...]


def save_filmstrip(folder: Path, strip: Sequence[Moment]) -> Path | None:
    """Write ``strip`` as the run's ``filmstrip.png``; None where there is no sample grid yet.

    Raises:
        StorageError: it cannot be written.
    """
    if not strip:
        return None
    path, image = folder / "filmstrip.png", picture(strip)
    write_atomically(path, lambda file: image.save(file, "PNG"))
    return path


def moments(sheets: Sequence[SampleSheet], say: Say = lambda _: None) -> list[Moment]:
    """The strip: at most 12 moments of 8 latents. ``say`` hears of sheets that were skipped."""
    found: list[Moment] = []
    for index in spread([sheet.kimg for sheet in sheets]):
        sheet = sheets[index]
        opened = open_sheet(sheet, say)
        if opened is None:
            continue
        if opened.width % TILES or opened.height % TILES:
            say(f"samples/{sheet.path.name}: left out of the strip: not a sheet of 8 x 8 tiles")
            continue
        found.append(Moment(sheet.kimg, tuple(_tiles(opened))))
    return found


def spread(kimg: Sequence[float], count: int = MOMENTS) -> list[int]:
    """Indices of at most ``count`` of the ascending moments ``kimg``, the first and the last among
    them: as near to equal ratios as may be, since a training changes most at its beginning."""
    if len(kimg) <= count:
        return list(range(len(kimg)))
    places = np.asarray(kimg, float)
    chosen: list[int] = []
    # A training's first sheet may be of 0 kimg, which is no ratio of anything.
    for i, target in enumerate(np.geomspace(max(places[0], 1), places[-1], count)):
        nearest = int(np.abs(places - target).argmin())
        earliest = chosen[-1] + 1 if chosen else 0
        latest = len(kimg) - (count - i)
        chosen.append(min(max(nearest, earliest), latest))
    return chosen


def open_sheet(sheet: SampleSheet, say: Say) -> Image.Image | None:
    """The decoded sheet, or None where it is damaged, of which ``say`` hears."""
    try:
        with Image.open(sheet.path) as file:
            return file.convert("RGB")
    # What Pillow's decoders raise for damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else error
        say(f"samples/{sheet.path.name}: left out: cannot be read: {reason}")
        return None


def picture(strip: Sequence[Moment]) -> Image.Image:
    """The strip as one picture: a row a latent, a column a moment with its kimg above."""
    width, height = tile_size(strip)
    size = (width * len(strip), LABEL + height * len(strip[0].tiles))
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, moment in enumerate(strip):
        left = column * width
        text = f"{moment.kimg:,}" + " kimg" * (column == 0 and width >= TILE_MIN)
        draw.text((left + width / 2, LABEL / 2), text, INK, font, anchor="mm")
        for row, tile in enumerate(moment.tiles):
            sheet.paste(resized(tile, (width, height)), (left, LABEL + row * height))
    return sheet


def column(moment: Moment, size: tuple[int, int]) -> Image.Image:
    """The tiles of one moment, one below the other, each of ``size``."""
    width, height = size
    sheet = Image.new("RGB", (width, height * len(moment.tiles)))
    for row, tile in enumerate(moment.tiles):
        sheet.paste(resized(tile, size), (0, row * height))
    return sheet


def tile_size(strip: Sequence[Moment]) -> tuple[int, int]:
    """Px of a tile in :func:`picture`: that of the largest, within 64 and 128 px if it can."""
    width, height = (max(m.tiles[0].size[axis] for m in strip) for axis in (0, 1))
    side = max(width, height)
    if side > TILE_MAX:
        return max(1, width * TILE_MAX // side), max(1, height * TILE_MAX // side)
    factor = max(1, -(-TILE_MIN // side))
    return width * factor, height * factor


def resized(tile: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Pixels repeated where it grows, averaged where it shrinks."""
    if tile.size == size:
        return tile
    grows = tile.width <= size[0]
    return tile.resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def _tiles(sheet: Image.Image) -> list[Image.Image]:
    """Spread over the sheet's diagonal: labels run along its rows, and differ there."""
    width, height = sheet.width // TILES, sheet.height // TILES
    boxes = [
        (x * width, y * height, (x + 1) * width, (y + 1) * height)
        for y, x in (divmod(i * (TILES**2 - 1) // (LATENTS - 1), TILES) for i in range(LATENTS))
    ]
    return [sheet.crop(box) for box in boxes]
