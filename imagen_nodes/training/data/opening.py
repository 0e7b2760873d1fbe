"""Decode a data set once: a small one into memory, a large one into the cache."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from ...errors import DataError, StorageError
from .cache import FOLDER, Facts, Shape, cache_folder, cache_key, gigabytes, load, store
from .containers import Container, open_container
from .dataset import Dataset, Labels, Pixels, Progress, Say, checksum, fingerprint
from .layouts import recognise
from .pictures import (
    Size,
    cut,
    cut_file,
    decode,
    fit_all,
    from_pixels,
    header_size,
    reason,
    starts,
    tiles_in,
)
from .source import Block, Picture, Source, in_order

# Decoded pictures up to this, bytes, are kept in memory and not cached.
SMALL = 1 << 26
# Pictures whose shape is looked at, and how many times as wide as high a pair is at least, as most
# have it.
LOOKED, PAIR = 16, 1.3


def open_data(
    path: Path,
    size: int | Size,
    channels: int,
    say: Say = lambda text: None,
    progress: Progress = lambda done, total: None,
    tiles: bool = False,
    panels: int = 1,
) -> Dataset:
    """Decode the pictures at ``path`` to ``size`` px (a side, or height and width) and ``channels``
    channels (1 grey, 3 RGB, 4 RGBA): each resized and cropped to one image, or with ``tiles`` cut
    into images of that size as it is.

    ``path`` is a folder or an archive in one of the layouts of ``layouts.py``, or a pattern of
    shards. Unreadable pictures are skipped and named in the result. More than ``SMALL`` go into
    the cache, and are mapped into memory from there, now and the next time.

    Args:
        say: hears where the pictures went, and what else the user should know.
        progress: called with pictures decoded and in all, while it decodes.
        panels: pictures side by side in each, which are resized and cropped each by itself.

    Raises:
        DataError: there is nothing at ``path``, or no readable picture in it; it is damaged, or
            its labels are missing; or it was changed meanwhile.
        StorageError: it fits neither on the disk nor into memory.
    """
    size = (size, size) if isinstance(size, int) else size
    container = open_container(path)
    try:
        source = recognise(container)
        for note in source.notes:
            say(f"{path}: {note}")
        if panels > 1 and (doubt := _narrow(source)):
            say(f"warning: {path}: {doubt}")
        decoder = Decoder(container, source, (*size, channels), progress, tiles, panels)
        return decoder.into_memory() if decoder.size <= SMALL else _cached(decoder, say)
    finally:
        container.close()


def one_size(path: Path) -> Size | None:
    """Height and width that all pictures at ``path`` have, going by their headers; None where they
    differ. Those that cannot be read do not count.

    Raises:
        DataError: as :func:`open_data`."""
    container = open_container(path)
    found: Size | None = None
    try:
        for part in recognise(container).parts():
            is_block = isinstance(part, Block)
            h_w = part.images.shape[1:3] if is_block else header_size(part.read)
            if h_w is not None and found is not None and h_w != found:
                return None
            found = h_w or found
    finally:
        container.close()
    return found


def _cached(decoder: Decoder, say: Say) -> Dataset:
    source, name = decoder.source, decoder.name
    folder, key = cache_folder(), cache_key(source, decoder.shape, decoder.tiles, decoder.panels)
    if (dataset := load(folder, key, name)) is not None:
        say(f"cache: {folder / key}.npy, decoded before")
        return dataset
    need = gigabytes(decoder.size)
    say(f"cache: decoding {source.count} pictures once, to {need} in {folder / key}.npy")
    try:
        store(folder, key, decoder.most, decoder.shape, decoder.decode)
        error = StorageError(f"{folder / key}.npy: cannot be read again")
    except StorageError as failure:
        error = failure
    # After a failure, perhaps because another process has the file open and has written it.
    if (dataset := load(folder, key, name)) is not None:
        return dataset
    if decoder.size > _memory() // 2:
        raise StorageError(
            f"{error}. Decoded, the pictures take {need}, too much to keep in memory: free some "
            f"space, or set {FOLDER} to a folder on a larger disk"
        ) from error
    say(f"warning: no cache: {error}. Decoding into memory, this time and the next")
    return decoder.into_memory()


def _narrow(source: Source) -> str:
    """What is odd about the first pictures, if they should be pairs; empty: nothing."""
    first = [part for part in islice(source.parts(), LOOKED) if isinstance(part, Picture)]
    sizes = [size for part in first if (size := header_size(part.read))]
    narrow = sum(w < PAIR * h for h, w in sizes)
    if narrow <= len(sizes) / 2:
        return ""
    return (
        f"{narrow} of the first {len(sizes)} pictures are hardly wider than high. Each should hold "
        "a pair, input and target side by side; of other pictures each half is taken for one"
    )


class Decoder:
    """Decodes a source's pictures in order, on all cores, a few at a time."""

    def __init__(
        self,
        container: Container,
        source: Source,
        shape: Shape,
        progress: Progress,
        tiles: bool = False,
        panels: int = 1,
    ) -> None:
        self.container = container
        self.source = source
        self.shape = shape
        self.progress = progress
        self.tiles, self.panels = tiles, panels
        path = container.path
        self.name = path.resolve().name if path.name in ("", "..") else path.name
        self.most = self._tiles() if tiles else source.count
        """Images, at most."""
        self.size = self.most * math.prod(shape)
        """Bytes of all images, at most."""

    def into_memory(self) -> Dataset:
        """The data set, its images in memory."""
        images = np.empty((self.most, *self.shape), np.uint8)
        done = 0

        def put(part: Pixels) -> None:
            nonlocal done
            images[done : done + len(part)] = part
            done += len(part)

        facts = self.decode(put)
        return facts.dataset(self.name, images[:done])

    def decode(self, put: Callable[[Pixels], object]) -> Facts:
        """Hand all images to ``put``, lot by lot; what is known of them.

        Raises:
            DataError: none can be read, or the files were changed meanwhile.
        """
        found, done = _Found(), 0
        for part, result in in_order(self.source.parts(), self._decode):
            if isinstance(result, Exception):
                assert isinstance(part, Picture)
                found.skipped.append(f"{part.name}: {reason(result)}")
            elif len(result):
                put(result)
                found.add(part, result)
            done += len(part.images) if isinstance(part, Block) else 1
            self.progress(done, self.source.count)
        self._check_unchanged()
        if not found.count:
            why = f"; {found.skipped[0]}" if found.skipped else ""
            count = self.source.count
            raise DataError(f"{self.container.path}: none of its {count} pictures can be read{why}")
        return found.facts(self.shape, self.source.class_names)

    def _decode(self, part: Picture | Block) -> Pixels | Exception:
        h, w, channels = self.shape
        if isinstance(part, Block):
            return self._of_block(part.images, (h, w), channels)
        try:
            content = part.read()
            if self.tiles:
                return cut_file(content, (h, w), channels)
            return decode(content, (h, w), channels, self.panels)[None]
        except Exception as error:  # whatever a decoder raises, the picture is unreadable
            return error

    def _of_block(self, images: Pixels, size: Size, channels: int) -> Pixels:
        try:
            if not self.tiles:
                return fit_all(images, size, channels, self.panels)
            return np.concatenate([cut(from_pixels(image), size, channels) for image in images])
        except ValueError as error:
            raise DataError(f"{self.container.path}: its pictures are {error}") from error

    def _tiles(self) -> int:
        """How many there will be at most: all files are read for it, but not decoded."""
        size, total = self.shape[:2], 0
        for part in self.source.parts():
            if isinstance(part, Picture):
                total += tiles_in(part.read, size)
            else:
                n, h, w = part.images.shape[:3]
                total += n * len(starts(h, size[0])) * len(starts(w, size[1]))
        return total

    def _check_unchanged(self) -> None:
        fresh = self.container.fresh()
        if fresh is self.container:
            return
        try:
            changed = recognise(fresh).members != self.source.members
        finally:
            fresh.close()
        if changed:
            raise DataError(
                f"{self.container.path}: its files were changed while they were decoded. Start "
                "again when nothing writes there any more"
            )


class _Found:
    """What is known of the images decoded so far."""

    def __init__(self) -> None:
        self.count = 0
        self.names: list[str] = []
        self.skipped: list[str] = []
        self._labels: list[Labels | None] = []
        self._code = 0

    def add(self, part: Picture | Block, images: Pixels) -> None:
        """``images`` are those of ``part``."""
        self.count += len(images)
        self._code = checksum(images, self._code)
        if isinstance(part, Block):
            labels, count = part.labels, len(part.images)
        else:
            self.names += [part.name] * len(images)
            labels, count = None if part.label is None else np.array([part.label], np.int64), 1
        # All tiles of a picture have its label.
        repeats = len(images) // count
        self._labels.append(None if labels is None else np.repeat(labels, repeats))

    def facts(self, shape: Shape, class_names: tuple[str, ...]) -> Facts:
        """In all. Classes without names are called by their numbers."""
        known = [labels for labels in self._labels if labels is not None]
        labels = np.concatenate(known) if len(known) == len(self._labels) else None
        if labels is not None and not class_names:
            class_names = tuple(map(str, range(labels.max() + 1)))
        return Facts(
            shape=(self.count, *shape),
            fingerprint=fingerprint(self._code, labels),
            labels=None if labels is None else tuple(labels.tolist()),
            class_names=class_names,
            names=tuple(self.names),
            skipped=tuple(self.skipped),
        )


def _memory() -> int:
    """Bytes of this machine's memory; where the system does not say, no limit."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
