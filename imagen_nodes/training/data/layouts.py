"""What a container's files are: the table of layouts, and those of plain pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from ...errors import DataError
from .arrays import mnist, npz
from .cifar import cifar10, cifar10_sheets, cifar100
from .coco import coco
from .containers import Container
from .pictures import SUFFIXES, is_picture
from .shards import webdataset
from .source import Source, pictures_of

# ImageNet's classes are WordNet's synsets.
SYNSET = r"n\d{8}"
SYNSET_FILE = re.compile(r"(?i)synset[^/]*\.txt$")
SYNSET_WORDS = re.compile(rf"(?m)^({SYNSET})\s+(\S.*?)\s*$")
# Folders of the parts of a data set, of two domains perhaps: those to train on, and all.
PARTS = re.compile(r"(train|test|val|valid|validation)([AB]?)")
# In ILSVRC's archive, in torchvision's folder, or the classes alone. Nothing else of it is read.
IMAGENET_FOLDERS = ("ILSVRC/Data/CLS-LOC/train/", "train/", "")


def recognise(container: Container) -> Source:
    """The data set that ``container`` holds.

    Raises:
        DataError: none; or its files do not fit each other.
    """
    for layout in LAYOUTS.values():
        if (source := layout(container)) is not None:
            return source
    kinds = " ".join(sorted(SUFFIXES))
    raise DataError(f"{container.path}: no pictures in it. Looked for {kinds}, in subfolders too")


def imagenet(container: Container) -> Source | None:
    """ImageNet: a folder for each synset; ``LOC_synset_mapping.txt`` or ``synset_words.txt``
    (``n01440764 tench, Tinca tinca``) names them. Labels follow the synsets' order, as usual."""
    names = list(filter(is_picture, container.members))
    for root in IMAGENET_FOLDERS:
        inside = re.compile(f"{root}({SYNSET})/")
        synset = {name: match[1] for name in names if (match := inside.match(name))}
        if synset and (root or len(synset) == len(names)):
            break
    else:
        return None
    synsets = sorted(set(synset.values()))
    number = {synset: label for label, synset in enumerate(synsets)}
    labels = {name: number[found] for name, found in synset.items()}
    files = [name for name in container.members if SYNSET_FILE.search(name)]
    text = "\n".join(container.read(name).decode(errors="replace") for name in files)
    words: dict[str, str] = dict(SYNSET_WORDS.findall(text))
    class_names = tuple(words.get(found, found) for found in synsets)
    return pictures_of(container, "ImageNet", labels, class_names, beside=files)


def pictures(container: Container) -> Source | None:
    """Any pictures. Two or more subfolders that hold all of them are classes, in alphabetical
    order; but of ``train`` and ``test`` (or ``trainA``, ``trainB``, ``testA`` ...) only what is to
    be trained on is taken."""
    names = list(filter(is_picture, container.members))
    if not names:
        return None
    found, class_names = classes(names)
    labels = dict(zip(names, found, strict=True))
    notes: tuple[str, ...] = ()
    kept = [name for name in class_names if name.startswith("train")]
    if kept and len(kept) < len(class_names) and all(map(PARTS.fullmatch, class_names)):
        numbers = {class_names.index(name) for name in kept}
        names = [name for name, label in labels.items() if label in numbers]
        left_out = " and ".join(name for name in class_names if name not in kept)
        notes = (f"takes {' and '.join(kept)}; {left_out} are not for training",)
        found, class_names = classes(names)
        labels = dict(zip(names, found, strict=True))
    return pictures_of(container, "pictures", labels, class_names, notes)


def classes(names: Iterable[str]) -> tuple[list[int | None], tuple[str, ...]]:
    """Labels and class names from the folders below the one that holds all; Nones and no names
    where pictures lie beside them."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    depth = 0
    while len({folder[: depth + 1] for folder in folders}) == 1 and depth < len(folders[0]):
        depth += 1
    found = ["".join(folder[depth : depth + 1]) for folder in folders]
    class_names = tuple(sorted(set(found)))
    if "" in class_names or len(class_names) < 2:
        return [None] * len(folders), ()
    number = {name: i for i, name in enumerate(class_names)}
    return [number[name] for name in found], class_names


# By name, in the order in which they are tried: the special before the general.
LAYOUTS: dict[str, Callable[[Container], Source | None]] = {
    "CIFAR-10": cifar10,
    "CIFAR-100": cifar100,
    "CIFAR-10 sheets": cifar10_sheets,
    "MNIST": mnist,
    "npz": npz,
    "COCO": coco,
    "ImageNet": imagenet,
    "WebDataset": webdataset,
    "pictures": pictures,
}
