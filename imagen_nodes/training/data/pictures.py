"""One picture: from a file's bytes, or from pixels, to the pixels that a network takes."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ...images import MODES
from .dataset import Pixels

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})

# EXIF's orientation; from 5 on, the sides change places.
TURNED = 0x0112

# Height and width, px.
Size = tuple[int, int]


def is_picture(name: str) -> bool:
    """By its suffix; hidden files and what macOS adds to archives are not."""
    *folders, file = name.split("/")
    hidden = file.startswith(".") or any(f.startswith(".") or f == "__MACOSX" for f in folders)
    return not hidden and f".{file.rpartition('.')[2].lower()}" in SUFFIXES


def decode(content: bytes, size: int | Size, channels: int, panels: int = 1) -> Pixels:
    """A picture file as :func:`fit` gives it; whatever Pillow raises where it cannot be read."""
    with Image.open(io.BytesIO(content)) as picture:
        return fit(picture, size, channels, panels)


def fit(picture: Image.Image, size: int | Size, channels: int, panels: int = 1) -> Pixels:
    """``[h w channels]`` uint8 in 0..255: turned as its EXIF says, resized to cover ``size`` (a
    side, or height and width; Lanczos, antialiased), the middle cropped. Transparent parts show
    white, unless there is a channel to keep alpha in.

    Args:
        panels: pictures side by side in it, each of which is fitted by itself: cropped as a whole,
            they would lose different sides.

    Raises:
        ValueError: it cannot be parted so."""
    h, w = (size, size) if isinstance(size, int) else size
    picture = _upright(picture, channels)
    if picture.size == (w, h):
        return np.asarray(picture).reshape(h, w, channels)
    part, rest = divmod(picture.width, panels)
    if rest or not part:
        raise ValueError(
            f"{picture.width}x{picture.height} px, which are not {panels} pictures side by side"
        )
    fitted = [
        ImageOps.fit(
            picture.crop((i * part, 0, (i + 1) * part, picture.height)) if panels > 1 else picture,
            (w // panels, h),
            Image.Resampling.LANCZOS,
        )
        for i in range(panels)
    ]
    return np.concatenate([np.asarray(x).reshape(h, -1, channels) for x in fitted], 1)


def cut(picture: Image.Image, size: Size, channels: int) -> Pixels:
    """``[n h w channels]`` uint8: a picture of the same kind in tiles of ``size`` (height, width),
    not resized. Neighbours lie half over each other or more, so that every place is seen with
    different surroundings.

    Raises:
        ValueError: the picture is smaller than a tile."""
    h, w = size
    picture = _upright(picture, channels)
    tops, lefts = starts(picture.height, h), starts(picture.width, w)
    if not tops or not lefts:
        raise ValueError(f"{picture.width}x{picture.height} px, smaller than a tile of {w}x{h}")
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    return np.stack([pixels[y : y + h, x : x + w] for y in tops for x in lefts])


def starts(length: int, tile: int) -> list[int]:
    """Where the tiles along an axis of a picture start, px: evenly, the last at the end; nowhere
    where it is shorter than a tile."""
    if length < tile:
        return []
    gaps = -(-2 * (length - tile) // tile)  # rounded up
    return [(length - tile) * i // max(gaps, 1) for i in range(gaps + 1)]


def cut_file(content: bytes, size: Size, channels: int) -> Pixels:
    """A picture file as :func:`cut` gives it; whatever Pillow raises where it cannot be read."""
    with Image.open(io.BytesIO(content)) as picture:
        return cut(picture, size, channels)


def tiles_in(read: Callable[[], bytes], size: Size) -> int:
    """How many tiles :func:`cut` makes of a picture file, going by its header; 0 where it cannot
    be read."""
    found = header_size(read)
    return len(starts(found[0], size[0])) * len(starts(found[1], size[1])) if found else 0


def header_size(read: Callable[[], bytes]) -> Size | None:
    """Height and width of a picture file, turned as its EXIF says, going by its header; None where
    it cannot be read."""
    try:
        with Image.open(io.BytesIO(read())) as picture:
            (w, h), turned = picture.size, picture.getexif().get(TURNED, 1) >= 5
    except Exception:  # as for decode
        return None
    return (w, h) if turned else (h, w)


def _upright(picture: Image.Image, channels: int) -> Image.Image:
    """Turned as its EXIF says, in 8 bits, with so many channels."""
    picture = shallow(ImageOps.exif_transpose(picture))
    if channels != 4:
        picture = on_white(picture)
    return picture.convert(MODES[channels])


def fit_all(images: Pixels, size: int | Size, channels: int, panels: int = 1) -> Pixels:
    """``[n h w c]`` uint8, each image as :func:`fit` gives it."""
    h, w = (size, size) if isinstance(size, int) else size
    if images.shape[1:] == (h, w, channels):
        return np.ascontiguousarray(images)
    return np.stack([fit(x, size, channels, panels) for x in map(from_pixels, images)])


def from_pixels(image: NDArray[np.uint8]) -> Image.Image:
    """``[h w c]`` or ``[h w]`` uint8 -> a picture."""
    if image.shape[2:] == (1,):
        image = image[..., 0]
    return Image.fromarray(image)


def shallow(picture: Image.Image) -> Image.Image:
    """A picture of 8 bits from one of 16: 257 = 65535 / 255.

    Raises:
        ValueError: its values are floating-point numbers, of which nothing says what white is."""
    if picture.mode == "F":
        raise ValueError("of floating-point values; save it with 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))


def has_alpha(picture: Image.Image) -> bool:
    """Whether it has an alpha channel, a transparent colour, or a palette with such."""
    return "A" in picture.getbands() or "transparency" in picture.info


def on_white(picture: Image.Image) -> Image.Image:
    """The picture on white, if it has transparent parts."""
    if not has_alpha(picture):
        return picture
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def reason(error: Exception) -> str:
    """Why a picture cannot be read."""
    if isinstance(error, UnidentifiedImageError):  # its message is the address of a buffer
        return "not a picture, or damaged"
    if isinstance(error, OSError) and error.strerror:  # its message has the whole path
        return error.strerror
    return str(error) or type(error).__name__
