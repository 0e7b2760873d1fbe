"""The data's classes, the generator's, and the folders that they are written in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import DataError
from . import manifest

# What some file system does not take.
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def matched(
    data: Sequence[str], chosen: Sequence[int], generator: Sequence[str], count: int
) -> tuple[dict[int, int], str]:
    """The generator's class for each of the data's labels in ``chosen``, and what the user should
    know of it; empty: nothing.

    By name where all names are known, the first of those that the generator has several times,
    unless both have the same list. Where none of all the data's names is known, numbers are labels,
    and other names are taken in order if there are as many classes.

    Args:
        data: names of the data's classes, by label.
        generator: names of the generator's ``count`` classes, by label; empty: they have none.

    Raises:
        DataError: some classes are not the generator's; the message lists what it has."""
    names = [_plain(name) for name in data]
    known: dict[str, list[int]] = {}
    for number, name in enumerate(generator):
        known.setdefault(_plain(name), []).append(number)
    if names == [_plain(name) for name in generator]:
        return {label: label for label in chosen}, ""
    found = {label: known[names[label]] for label in chosen if names[label] in known}
    if len(found) == len(chosen):
        notes = [
            f"{len(numbers)} of the generator's classes are named {data[label]}: number "
            f"{numbers[0]} is taken"
            for label, numbers in found.items()
            if len(numbers) > 1
        ]
        return {label: numbers[0] for label, numbers in found.items()}, "; ".join(notes)
    if known.keys().isdisjoint(names):
        numbers = {label: int(data[label]) for label in chosen if data[label].isdecimal()}
        if len(numbers) == len(chosen) and all(number < count for number in numbers.values()):
            return numbers, "the data's classes are numbers, taken for the generator's labels"
        if len(data) == count:
            pairs = [f"{data[k]} = {generator[k] if generator else k}" for k in chosen[:10]]
            more = ", ..." if len(chosen) > 10 else ""
            note = "no class of the data is named as one of the generator's: taken in order, "
            return {label: label for label in chosen}, f"{note}{', '.join(pairs)}{more}"
    missing = [data[label] for label in chosen if label not in found]
    raise DataError(
        f"{_listed(missing)}: no such class in the generator, which has {count}: "
        f"{_listed(generator) if generator else f'0 to {count - 1}'}. Rename the data's classes, "
        "or say which to expand (classes)"
    )


def folders(names: Sequence[str]) -> tuple[str, ...]:
    """A folder's name for each class: its own, without what file systems do not take, and told
    apart by its number where that, or the manifest's name, is in the way."""
    found: list[str] = []
    for number, name in enumerate(names):
        folder = UNSAFE.sub("_", name).strip(" .") or "class"
        taken = {manifest.FILE, *(other.casefold() for other in found)}
        # Again, where another class is called what this one would be.
        while folder.casefold() in taken:
            folder = f"{folder}-{number}"
        found.append(folder)
    return tuple(found)


def _plain(name: str) -> str:
    """As names are compared: without case, and ``_`` and ``-`` as spaces."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
