"""Pages of emoji, text and shapes, to learn what photographs lack: plain grounds, sharp edges, and
colours as fine as brightness.

    python weights/drawn_pages.py EMOJI.zip OUT [--count 60] [--over PHOTOS]

EMOJI.zip holds RGBA pictures, as those of Noto emoji (Apache-2.0). Some pages have a photograph of
PHOTOS behind them. Fonts are those of the system, or Pillow's own. ``denoise`` was trained on such
pages beside photographs.
"""

from __future__ import annotations

import argparse
import io
import random
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 512
FONTS = sorted(Path("/usr/share/fonts").rglob("*.[to]tf"))
TEXT = """The most valuable first. Each is one command in runs of eight minutes: ends a run after
its step with a SAVED state, and the same command goes on; 4,000 kimg, 50%, 31.3 / 28.0 / 27.2 dB
(190 ships). #9 & @home = {0.001} [x, y] "Quick" brown fox jumps over the lazy dog - 'why not?'"""
WORDS = TEXT.split()

Colour = tuple[int, int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description="Pages of emoji, text and shapes.")
    parser.add_argument("emoji", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--over", type=Path, help="photographs, behind a fifth of the pages")
    args = parser.parse_args()
    photos = sorted(args.over.iterdir()) if args.over else []
    args.out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    with zipfile.ZipFile(args.emoji) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        for i in range(args.count):
            emoji = [
                Image.open(io.BytesIO(archive.read(draw.choice(names)))).convert("RGBA")
                for _ in range(draw.randrange(4, 40))
            ]
            page(emoji, photos, draw).save(args.out / f"page{i:03d}.png")


def page(emoji: list[Image.Image], photos: list[Path], draw: random.Random) -> Image.Image:
    image = ground(photos, draw)
    pen = ImageDraw.Draw(image)
    for _ in range(draw.randrange(8)):
        x, y = draw.randrange(SIDE), draw.randrange(SIDE)
        w, h = draw.randrange(8, 260), draw.randrange(8, 260)
        box = (x - w // 2, y - h // 2, x + w // 2, y + h // 2)
        shape = draw.choice([pen.rectangle, pen.ellipse])
        if draw.random() < 0.4:
            shape(box, outline=colour(draw), width=draw.randrange(1, 6))
        else:
            shape(box, fill=colour(draw))
    for _ in range(draw.randrange(30)):
        ends = [draw.randrange(SIDE) for _ in range(4)]
        pen.line(ends, fill=colour(draw), width=draw.randrange(1, 5))
    for picture in emoji:
        side = int(128 * draw.choice([0.25, 0.4, 0.6, 0.8, 1, 1]))
        small = picture.resize((side, side), Image.Resampling.LANCZOS)
        image.paste(small, (draw.randrange(-40, SIDE), draw.randrange(-40, SIDE)), small)
    for _ in range(draw.randrange(2, 12)):
        write(pen, draw)
    return image


def ground(photos: list[Path], draw: random.Random) -> Image.Image:
    """Of one colour, shaded between four, or a photograph."""
    kind = draw.random()
    if kind < 0.45 or (kind >= 0.8 and not photos):
        return Image.new("RGB", (SIDE, SIDE), colour(draw))
    if kind < 0.8:
        corners = np.array([[colour(draw) for _ in range(2)] for _ in range(2)], np.uint8)
        return Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    with Image.open(draw.choice(photos)) as photo:
        return photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def write(pen: ImageDraw.ImageDraw, draw: random.Random) -> None:
    size = draw.choice([9, 11, 13, 16, 20, 26, 34, 48])
    font = (
        ImageFont.truetype(str(draw.choice(FONTS)), size) if FONTS else ImageFont.load_default(size)
    )
    lines = (
        " ".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 7)))
        for _ in range(draw.randrange(1, 9))
    )
    text, place = "\n".join(lines), (draw.randrange(-30, SIDE - 60), draw.randrange(-10, SIDE - 20))
    if draw.random() < 0.5:
        pen.rectangle(pen.multiline_textbbox(place, text, font=font), fill=colour(draw))
    pen.multiline_text(place, text, font=font, fill=colour(draw))


def colour(draw: random.Random) -> Colour:
    """White, black and greys more often than others."""
    kind = draw.random()
    if kind < 0.4:
        grey = 255 if kind < 0.2 else 0 if kind < 0.3 else draw.randrange(256)
        return grey, grey, grey
    return draw.randrange(256), draw.randrange(256), draw.randrange(256)


if __name__ == "__main__":
    main()
