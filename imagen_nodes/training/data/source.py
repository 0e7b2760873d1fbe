"""What a data set is before it is decoded: pictures in files, or blocks of pixels, one by one."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from .containers import Container, Member, Reader
from .dataset import Labels, Pixels

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Picture:
    """A picture file: what reads it, and its label, if it has one."""

    name: str
    read: Reader
    label: int | None = None


@dataclass(frozen=True)
class Block:
    """Pictures as pixels: ``images [n h w c]``, c = 1, 3 or 4, ``labels [n]`` or None."""

    images: Pixels
    labels: Labels | None = None


@dataclass(frozen=True)
class Source:
    """A data set whose layout is known."""

    layout: str
    """Name of the layout."""
    members: dict[str, Member]
    """The files that it is made of."""
    count: int
    """Pictures, those that turn out to be unreadable included."""
    parts: Callable[[], Iterator[Picture | Block]]
    """Reads them, in order. Raises DataError where more than a picture is lost."""
    class_names: tuple[str, ...] = ()
    """By label; empty: none, or only numbers are known."""
    notes: tuple[str, ...] = ()
    """What the user should know of it."""


def pictures_of(
    container: Container,
    layout: str,
    labels: Mapping[str, int | None],
    class_names: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    beside: Iterable[str] = (),
) -> Source:
    """The source of picture files, with ``labels`` by name; files ``beside`` them decide the
    labels or what they mean."""
    return Source(
        layout=layout,
        members={name: container.members[name] for name in (*labels, *beside)},
        count=len(labels),
        parts=lambda: (Picture(_text(n), r, labels[n]) for n, r in container.readers(labels)),
        class_names=tuple(map(_text, class_names)),
        notes=notes,
    )


def _text(name: str) -> str:
    """A file's name, whose bytes may be no text, as of old archives, as text that says which."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def in_order(parts: Iterable[P], work: Callable[[P], R]) -> Iterator[tuple[P, R]]:
    """Parts and what ``work`` gives for them, on all cores; few of them are in memory at a time."""
    workers = os.cpu_count() or 1
    waiting: deque[tuple[P, Future[R]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for part in parts:
            waiting.append((part, pool.submit(work, part)))
            if len(waiting) > 4 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for part, future in waiting:
            yield part, future.result()
