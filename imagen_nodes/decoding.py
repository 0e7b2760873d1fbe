"""Pictures from files, decoded as ComfyUI decodes them: by FFmpeg, and by Pillow where it fails.

Against Pillow alone, JPEGs differ by up to 17 levels of 255 (chroma is enlarged otherwise), and
16-bit pictures keep their depth. The frames of an animation become a batch.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.filter import Graph
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, ImageSequence
from torch import Tensor

from .errors import DataError

# Where Pillow too suspects an attack: 179 Mpx, 2.1 GB as an IMAGE. All frames of a file count.
MOST_PIXELS = 2 * 89_478_485
# Bytes of all compressed texts and profiles in a PNG. FFmpeg would unpack and keep any amount.
LARGEST_TEXT = 2**26

# Containers that hold pictures or films. Others name further files to open (concat, hls, dash) or
# paint what is no picture (tty paints text).
CONTAINERS = (
    *sorted(name for name in av.formats_available if name.endswith("_pipe")),
    *("image2", "apng", "gif", "ico", "mjpeg", "jpegxl_anim", "mov", "matroska", "avi"),
)
LIMITS = {"max_pixels": str(MOST_PIXELS)}
# A file name is a name, not a pattern, and nothing but files is opened.
OPENING = {
    **LIMITS,
    "format_whitelist": ",".join(CONTAINERS),
    "protocol_whitelist": "file",
    "pattern_type": "none",
}
# Pixel formats that ComfyUI converts to 8 bits; all others become float32.
EIGHT_BITS = frozenset({"yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8"})

Pixels = NDArray[Any]
T = TypeVar("T")
P = TypeVar("P")


class Decoded(NamedTuple):
    """float32 in 0..1: ``image [b h w 3]``, and ``mask``, one minus alpha, ``[b h w]``; where there
    is no alpha, zeros ``[b 64 64]``."""

    image: Tensor
    mask: Tensor


def decode(path: Path) -> Decoded:
    """Every frame of a picture.

    Raises:
        DataError: it is no picture, or one that is damaged or absurdly large.
    """
    try:
        with path.open("rb") as file:
            _refuse_text_bomb(path, file)
            _refuse_large_header(path, file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    frames = _by_ffmpeg(path)
    if not frames.pixels:
        frames = _by_pillow(path)
    if not frames.pixels:
        raise DataError(
            f"{path}: not a picture, or a damaged one. Supported are PNG, JPEG, WebP, GIF, BMP and "
            "TIFF, and what else FFmpeg or Pillow can read"
        )
    return frames.decoded()


@dataclass
class _Frames:
    """The frames of one file as they come in: uint8 or float ``[h w c]``, the last channel alpha
    where ``alpha``."""

    path: Path
    alpha: bool = False
    pixels: list[Pixels] = field(default_factory=list[Pixels])
    _total: int = 0

    def admit(self, width: int, height: int, count: int = 1) -> None:
        """Allow for frames of that size.

        Raises:
            DataError: that is more than any picture holds."""
        self._total += width * height * count
        if self._total > MOST_PIXELS:
            frames = f" in {count} frames" if count > 1 else ""
            raise DataError(
                f"{self.path}: {width}x{height} px{frames} is too large: at most "
                f"{MOST_PIXELS // 10**6} million pixels are read, all frames together"
            )

    def decoded(self) -> Decoded:
        if len({frame.shape for frame in self.pixels}) > 1:
            raise DataError(f"{self.path}: its frames differ in size")
        pixels = torch.from_numpy(np.stack(self.pixels))
        if pixels.dtype == torch.uint8:
            pixels = pixels.float().div_(255.0)
        if self.alpha:
            return Decoded(pixels[..., :3], 1.0 - pixels[..., 3])
        return Decoded(pixels, torch.zeros(pixels.shape[0], 64, 64))


# ---- what is refused before anything is decoded -------------------------------------------------


def _refuse_text_bomb(path: Path, file: IO[bytes]) -> None:
    """Try the compressed texts and profiles of a PNG: keyword, 0, method, zlib stream."""
    left = LARGEST_TEXT
    for kind, size in _png_chunks(file):
        if kind in (b"zTXt", b"iCCP"):
            _, _, content = file.read(size).partition(b"\0")
            file.seek(-size, os.SEEK_CUR)
            try:
                text = zlib.decompressobj().decompress(content[1:], left)
            except zlib.error:
                continue
            left -= len(text)
            if not left:
                raise DataError(
                    f"{path}: its {kind.decode()} chunk unpacks from {size} bytes to more than "
                    f"{LARGEST_TEXT // 2**20} MiB, with those before it; this is no ordinary "
                    "picture"
                )


def _png_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Kind and size of every chunk of a PNG, the file standing at its content; none of others."""
    file.seek(0)
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(8) != b"\x89PNG\r\n\x1a\n":
        return
    while len(head := file.read(8)) == 8:
        size, start = int.from_bytes(head[:4], "big"), file.tell()
        if start + size > end:
            return
        yield head[4:], size
        file.seek(start + size + 4)


def _refuse_large_header(path: Path, file: IO[bytes]) -> None:
    """Ask Pillow for the size, which it reads from the header alone."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(file)
            animated = picture.format in ("GIF", "PNG", "WEBP")
            count = int(getattr(picture, "n_frames", 1)) if animated else 1
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: refused: {error}") from error
    except Exception:  # whatever Pillow raises: FFmpeg may know better, and is watched too
        return
    _Frames(path).admit(*picture.size, count)


# ---- FFmpeg -------------------------------------------------------------------------------------


def _by_ffmpeg(path: Path) -> _Frames:
    frames = _Frames(path)
    try:
        with av.open(str(path), options=OPENING) as container:
            if container.streams.video:
                _read_stream(container, frames)
    except FFmpegError:  # ComfyUI gives up here; Pillow may still succeed
        frames.pixels.clear()
    return frames


def _read_stream(container: InputContainer, frames: _Frames) -> None:
    stream = container.streams.video[0]
    stream.codec_context.options = LIMITS
    convert = None
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                frames.admit(frame.width, frame.height)
                convert = convert or _Converter(frame, stream)
                frames.alpha = convert.alpha
                frames.pixels.append(convert(frame))
        except InvalidDataError:  # the other packets may be whole
            continue


class _Converter:
    """Frames to arrays, in the format that the first one asks for."""

    def __init__(self, first: av.VideoFrame, stream: av.VideoStream) -> None:
        source = first.format
        self.stream = stream
        self.alpha = source.name == "pal8" or any(part.is_alpha for part in source.components)
        self.exact = source.name in EIGHT_BITS
        formats = ("rgb24", "rgba") if self.exact else ("gbrpf32le", "gbrapf32le")
        self.format = formats[self.alpha]
        self.graph: Graph | None = None

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        h, w = frame.height, frame.width
        turns = frame.rotation // 90
        if not self.exact and w % 32:
            frame = self._aligned(frame)
        pixels = frame.to_ndarray(format=self.format)[:h, :w]
        return np.ascontiguousarray(np.rot90(pixels, turns))

    def _aligned(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame continued to sides of a multiple of 32 px: FFmpeg's conversion to float depends
        on what memory holds beyond other widths."""
        if self.graph is None:
            h, w = -(-frame.height // 32) * 32, -(-frame.width // 32) * 32
            edges = f"left=0:right={w - frame.width}:top=0:bottom={h - frame.height}:mode=smear"
            self.graph = graph = Graph()
            source = graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=self.stream.time_base,
            )
            pad, fill = graph.add("pad", f"{w}:{h}:0:0"), graph.add("fillborders", edges)
            graph.link_nodes(source, pad, fill, graph.add("buffersink")).configure()
        self.graph.push(frame)
        aligned = self.graph.pull()
        assert isinstance(aligned, av.VideoFrame)
        return aligned


# ---- Pillow -------------------------------------------------------------------------------------


def _by_pillow(path: Path) -> _Frames:
    """What FFmpeg cannot decode: animated WebP, truncated pictures as far as they go."""
    frames = _Frames(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _insist(Image.open, path) as picture:
                for part in ImageSequence.Iterator(picture):
                    frames.admit(*part.size)
                    _add_picture(frames, _insist(ImageOps.exif_transpose, part))
    except DataError:
        raise
    except Exception:  # whatever Pillow raises on a damaged file
        frames.pixels.clear()
    return frames


def _add_picture(frames: _Frames, picture: Image.Image) -> None:
    mode = "RGBA" if "A" in picture.getbands() else "RGB"
    pixels = np.asarray(picture.convert(mode))
    if not frames.pixels:
        frames.alpha = mode == "RGBA"
    if not frames.pixels or pixels.shape == frames.pixels[0].shape:
        frames.pixels.append(pixels)


def _insist(read: Callable[[T], P], source: T) -> P:
    """``read(source)``; if that fails, once more, Pillow now filling up what is cut off."""
    try:
        return read(source)
    except (OSError, ValueError):
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return read(source)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
