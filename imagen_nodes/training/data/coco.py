"""COCO: a folder of pictures, and a JSON file of the objects in them.

Lin et al., "Microsoft COCO: Common Objects in Context", 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import DataError
from .containers import Container
from .source import Source, pictures_of

ANNOTATIONS = re.compile(r"((?:.*/)?)annotations/instances_(train[^/]*)\.json")
PICTURES = re.compile(r"(?:.*/)?(train201[47])/[^/]*\d{12}\.jpg")
# train2017's annotations are 448 MB, nearly all of it outlines.
JSON_LIMIT = 1 << 31
KEPT = {
    *("images", "annotations", "categories"),
    *("id", "file_name", "name", "image_id", "category_id", "area", "iscrowd"),
}


def coco(container: Container) -> Source | None:
    """``train2017/*.jpg`` and ``annotations/instances_train2017.json``, or those of another year. A
    picture's label is the category of its largest object, by area; crowds do not count, and
    pictures without an object are left out."""
    found = next(filter(None, map(ANNOTATIONS.fullmatch, container.members)), None)
    if found is None:
        if pictures := next(filter(None, map(PICTURES.fullmatch, container.members)), None):
            raise DataError(
                f"{container.path}: COCO's labels are missing: put annotations/instances_"
                f"{pictures[1]}.json beside {pictures[1]}, or give that folder itself"
            )
        return None
    content = _read(container, found[0])
    try:
        categories = sorted((int(c["id"]), str(c["name"])) for c in content["categories"])
        number = {category: label for label, (category, _) in enumerate(categories)}
        largest = _largest(content["annotations"])
        folder = f"{found[1]}{found[2]}/"
        files = {folder + str(image["file_name"]): image["id"] for image in content["images"]}
        present = {name: files[name] for name in container.members if name in files}
        labels = {n: number[largest[image]] for n, image in present.items() if image in largest}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        text = f"not the annotations of COCO's instances: {type(error).__name__} {error}"
        raise DataError(f"{container.path}: {found[0]}: {text}") from error
    if not labels:
        raise DataError(
            f"{container.path}: none of the pictures that {found[0]} names is in {folder}, or none "
            "has an object in it"
        )
    left_out, absent = len(present) - len(labels), len(files) - len(present)
    notes = [f"{left_out} pictures without an object in them are left out"] * bool(left_out)
    notes += [f"{absent} of the annotated pictures are not there"] * bool(absent)
    class_names = tuple(name for _, name in categories)
    return pictures_of(container, "COCO", labels, class_names, tuple(notes), beside=[found[0]])


def _read(container: Container, name: str) -> dict[str, Any]:
    """The annotations without their outlines, each of which is dropped as soon as it is read."""
    try:
        text = container.read(name, JSON_LIMIT).decode()
        content = json.loads(text, object_hook=lambda d: {k: d[k] for k in KEPT & d.keys()})
    except Exception as error:
        raise DataError(f"{container.path}: {name}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{container.path}: {name}: not the annotations of COCO's instances")
    return content


def _largest(annotations: list[dict[str, Any]]) -> dict[int, int]:
    """Category of the largest object by picture; of equals, the first."""
    found: dict[int, tuple[float, int]] = {}
    for object_ in annotations:
        image, area = object_["image_id"], float(object_["area"])
        if not object_.get("iscrowd") and area > found.get(image, (-1.0, 0))[0]:
            found[image] = area, object_["category_id"]
    return {image: category for image, (_, category) in found.items()}
