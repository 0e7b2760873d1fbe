"""Pictures from the input folder, and into the output folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ...errors import DataError, StorageError, UsageError
from ...files import write_numbered
from ...folders import inside
from ..host import Folders
from ..node import Node, Refusal
from ..sockets import Choices, Image, Ui, Widget
from .ports import ImageAndMask, OneMask

if TYPE_CHECKING:
    from torch import Tensor

# Source: the Exif standard; libwebp's effort for ComfyUI's words.
EXIF_MAKE, EXIF_MODEL = 0x010F, 0x0110
WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}

FileName = Annotated[str, Choices("images"), Widget(image_upload=True)]


class PictureFile(Node):
    """A node that reads an input picture: run again when the file's content has changed."""

    checked = frozenset({"image"})

    image: FileName
    """File in the input folder; ``name [output]`` and ``name [temp]`` lie in those."""

    @classmethod
    def check(cls, host: Folders, values: Mapping[str, Any]) -> str:
        return missing(host, values["image"])

    @classmethod
    def fingerprint(cls, host: Folders, values: Mapping[str, Any]) -> str | float:
        return content_hash(host, values.get("image"))


class LoadImage(PictureFile):
    """Read a picture. Its frames become a batch; the mask is 1 where it is transparent, and zeros
    of 64 x 64 px where it has no transparency."""

    id = "LoadImage"
    title = "Load Image"
    category = "image"

    def run(self, host: Folders) -> ImageAndMask:
        from ...decoding import decode

        image, mask = decode(host.input_file(self.image))
        return ImageAndMask(image, mask)


class LoadImageMask(PictureFile):
    """Read one channel of a picture as a mask."""

    id = "LoadImageMask"
    title = "Load Image (as Mask)"
    category = "image"

    channel: Literal["alpha", "red", "green", "blue"]
    """Which one; alpha gives 1 where the picture is transparent."""

    def run(self, host: Folders) -> OneMask:
        from ...decoding import decode

        image, mask = decode(host.input_file(self.image))
        if self.channel == "alpha":
            return OneMask(mask)
        return OneMask(image[..., ("red", "green", "blue").index(self.channel)].clone())


def missing(host: Folders, name: Any) -> str:
    """ComfyUI's words for a picture that is not there, and ours beside them; ours for one that may
    not be read; empty: neither."""
    try:
        host.input_file(str(name))
    except UsageError as error:
        return str(error)
    except DataError as error:
        hint = "" if str(name).endswith("]") else ". Another folder is named by --input, or input="
        return Refusal(f"Invalid image file: {name}", f"{error}{hint}")
    return ""


def content_hash(host: Folders, name: str | None) -> str | float:
    """SHA-256 of an input picture, as ComfyUI writes it; NaN where the name is not known yet."""
    if name is None:
        return math.nan
    with host.input_file(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ImagesShown(NamedTuple):
    images: Image
    ui: Ui


class SaveImage(Node):
    """Save every image of a batch as a PNG that carries the workflow. Values are cut to 8 bits, not
    rounded. Files are numbered on from the highest number there is: PREFIX_00001_.png."""

    id = "SaveImage"
    title = "Save Image"
    category = "image"
    is_output = True

    images: Image
    """Images to save."""
    filename_prefix: str = "ComfyUI"
    """Start of the file names, with subfolders if you like. %width%, %height%, %year%, %month%,
    %day%, %hour%, %minute%, %second% and %batch_num% are filled in."""

    def run(self, host: Folders) -> ImagesShown:
        # 4: ComfyUI's compromise between time and size.
        return ImagesShown(self.images, saved(self.images, self.filename_prefix, host, "output", 4))


class PreviewImage(Node):
    """Save every image of a batch for a look: as SaveImage does, but among temporary files."""

    id = "PreviewImage"
    title = "Preview Image"
    category = "image"
    is_output = True

    images: Image
    """Images to look at."""

    def run(self, host: Folders) -> ImagesShown:
        prefix = "ComfyUI" + host.preview_suffix
        return ImagesShown(self.images, saved(self.images, prefix, host, "temp", 1))


class SaveAnimatedWEBP(Node):
    """Save a batch as one animated WebP that carries the workflow, its images as frames."""

    id = "SaveAnimatedWEBP"
    title = "Save Animated WEBP"
    category = "image/animation"
    is_output = True

    images: Image
    """Frames."""
    filename_prefix: str = "ComfyUI"
    """Start of the file name: see SaveImage."""
    fps: Annotated[float, Field(ge=0.01, le=1000), Widget(step=0.01)] = 6.0
    """Frames a second."""
    lossless: bool = True
    """Keep every pixel as it is; else as ``quality`` says."""
    quality: Annotated[int, Field(ge=0, le=100)] = 80
    """0 small files to 100 good ones."""
    method: Literal["default", "fastest", "slowest"] = "default"
    """Time to spend on a small file."""

    def run(self, host: Folders) -> ImagesShown:
        from ...images import to_pictures

        if not len(self.images):
            raise ValueError("images: the batch is empty, there is nothing to save")
        prefix = _sized(self.filename_prefix, self.images)
        folder, subfolder, name = target(host.save_folder("output"), prefix)
        first, *others = to_pictures(_one_by_one(self.images, host))
        exif = first.getexif()
        # ComfyUI's tags: the prompt in Model, what else there is from Make downwards.
        tag = EXIF_MAKE
        for key, value in host.metadata.items():
            text = f"{key}:{json.dumps(value)}"
            if key == "prompt":
                exif[EXIF_MODEL] = text
            else:
                exif[tag] = text
                tag -= 1

        def write(out: IO[bytes]) -> None:
            first.save(
                out,
                "WEBP",
                save_all=True,
                append_images=others,
                duration=int(1000 / self.fps),
                loop=0,
                exif=exif,
                lossless=self.lossless,
                quality=self.quality,
                method=WEBP_METHODS[self.method],
            )

        file = write_next(folder, name, ".webp", write)
        shown = {"filename": file, "subfolder": subfolder, "type": "output"}
        return ImagesShown(self.images, {"images": [shown], "animated": (True,)})


def saved(
    images: Tensor, prefix: str, host: Folders, kind: str, compress_level: int
) -> dict[str, Any]:
    """Save a batch and return what the page is told of it.

    Raises:
        UsageError: the prefix leaves the folder.
        StorageError: a file cannot be written; those before it are whole.
    """
    from PIL.PngImagePlugin import PngInfo

    from ...images import to_pictures

    if not len(images):
        raise ValueError("images: the batch is empty, there is nothing to save")
    folder, subfolder, name = target(host.save_folder(kind), _sized(prefix, images))
    number = next_number(folder, name)
    texts = PngInfo()
    for key, value in host.metadata.items():
        texts.add_text(key, json.dumps(value))
    shown: list[dict[str, str]] = []
    for i, picture in enumerate(to_pictures(_one_by_one(images, host))):
        start = name.replace("%batch_num%", str(i))
        write = partial(picture.save, format="PNG", pnginfo=texts, compress_level=compress_level)
        file = write_next(folder, start, ".png", write, number)
        number = _number(file, start) + 1
        shown.append({"filename": file, "subfolder": subfolder, "type": kind})
    return {"images": shown}


def _one_by_one(images: Tensor, host: Folders) -> Iterator[Tensor]:
    """The pictures of a batch, each of which is a step of the node's progress."""
    for i, image in enumerate(images):
        yield image
        host.progress(i + 1, len(images))


def _sized(prefix: str, images: Tensor) -> str:
    """The prefix with the pictures' %width% and %height%."""
    _, h, w, _ = images.shape
    return prefix.replace("%width%", f"{w}").replace("%height%", f"{h}")


def target(root: Path, prefix: str) -> tuple[Path, str, str]:
    """The folder to save in, its path below ``root``, and the start of the file names, with %year%
    to %second% of now filled in.

    Raises:
        UsageError: the prefix leaves ``root``."""
    now = time.localtime()
    tokens = {
        "year": f"{now.tm_year}",
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    for token, value in tokens.items():
        prefix = prefix.replace(f"%{token}%", value)
    subfolder, name = os.path.split(os.path.normpath(prefix))
    folder = inside(root, subfolder)
    if folder is None or name == os.pardir or "\0" in name:
        raise UsageError(f"filename_prefix {prefix!r}: pictures are saved in {root} only")
    return folder, subfolder, name


@contextmanager
def numbered_folder(root: Path, prefix: str) -> Generator[Path]:
    """A new empty folder of the next number, taken before the work that is to fill it, so that
    nobody else takes it meanwhile; gone again where that fails.

    Raises:
        StorageError: it cannot be made."""
    parent, _, name = target(root, prefix)
    number = next_number(parent, name)
    while True:
        folder = parent / f"{name}_{number:05}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise StorageError.at(folder, error) from error
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # it is empty: what fills it takes its place
        raise


def write_next(
    folder: Path,
    name: str,
    suffix: str,
    content: Callable[[IO[bytes]], object],
    number: int | None = None,
) -> str:
    """Write ``NAME_NUMBER_SUFFIX``, of ``number``, or the next one, or the first after it that
    nobody else has taken meanwhile; its name.

    Raises:
        StorageError: it cannot be written."""

    def file(number: int) -> str:
        return f"{name}_{number:05}_{suffix}"

    first = next_number(folder, name) if number is None else number
    return file(write_numbered(lambda number: folder / file(number), first, content))


def next_number(folder: Path, name: str) -> int:
    """One more than the highest number of the files ``NAME_NUMBER...``."""
    highest = 0
    start = len(name) + 1
    try:
        files = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - 5 times as fast
    except OSError as error:
        raise StorageError(f"{folder}: cannot be read: {error.strerror}") from error
    for file in files:
        if os.path.normcase(file[:start]) == os.path.normcase(f"{name}_"):
            highest = max(highest, _number(file, name))
    return highest + 1


def _number(file: str, name: str) -> int:
    """That follows ``NAME_``; 0 where there is none."""
    number = file[len(name) + 1 :].split(".")[0].split("_")[0]
    return int(number) if number.isdecimal() else 0
