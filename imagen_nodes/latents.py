"""Latents: what generators turn into images, as links carry it, and what is done with them."""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Base64Bytes, Field, TypeAdapter, ValidationError
from torch import Tensor

from .errors import DataError
from .files import PNG, png_texts
from .graph.host import Host

# What marks a file of latents.
FILE_KEY, FILE_VERSION = "imagen_nodes.latents", "1"
# A picture carries such files, for each node by its id; of so many bytes at most, compressed, and
# read up to so many. A batch of w takes little where a picture has one style in all layers.
Carried = dict[str, Annotated[list[Base64Bytes], Field(min_length=1)]]
CARRIED_BYTES, READ_BYTES = 256 << 10, 256 << 20
GZIP = b"\x1f\x8b"

Way = Literal["linear", "spherical"]


@dataclass(frozen=True)
class Latents:
    """``z [b z_dim]``, or ``w [b layers w_dim]`` of a generator that has styles, float32 on the
    CPU; and ``labels [b]`` int64 or None, which z needs where there are classes."""

    z: Tensor | None
    labels: Tensor | None = None
    w: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """w where there is one, else z."""
        found = self.z if self.w is None else self.w
        assert found is not None
        return found

    @property
    def count(self) -> int:
        return len(self.values)

    def with_values(self, values: Tensor, labels: Tensor | None) -> Latents:
        """Others of the same kind."""
        return Latents(values, labels) if self.w is None else Latents(None, labels, values)

    def part(self, which: Tensor | slice) -> Latents:
        """Some of them, by an index or a slice."""
        labels = None if self.labels is None else self.labels[which]
        return self.with_values(self.values[which], labels)

    def with_labels(self, labels: Tensor) -> Latents:
        """The same of other classes."""
        return replace(self, labels=labels)


def sample(count: int, z_dim: int, seed: int, classes: int = 0, truncation: float = 0.0) -> Latents:
    """Draw ``count`` latents z ~ N(0, I); number i depends on ``seed + i`` alone.

    They are those of the StyleGAN tools' ``--seeds``: ``RandomState(seed).randn(1, z_dim)``. Seeds
    go round at 2^32. With ``classes``, number i is of class ``(seed + i) mod classes``. With
    ``truncation`` t, values beyond -t..t are drawn again from the same seed until they are within:
    Brock et al., "Large Scale GAN Training", 2019, section 3.1.
    """
    seeds = [(seed + i) % 2**32 for i in range(count)]
    rows = [_drawn(np.random.RandomState(s), z_dim, truncation) for s in seeds]
    z = torch.from_numpy(np.concatenate(rows)).float()
    labels = torch.tensor([s % classes for s in seeds]) if classes else None
    return Latents(z, labels)


def _drawn(random: np.random.RandomState, z_dim: int, truncation: float) -> np.ndarray:
    row = random.randn(1, z_dim)
    while truncation and (beyond := np.abs(row) > truncation).any():
        row[beyond] = random.randn(int(beyond.sum()))
    return row


def interpolate(latents: Latents, frames: int, way: Way, loop: bool) -> Latents:
    """``frames`` latents from each to the next, the first of each pair included, and the last at
    the end; with ``loop``, from the last back to the first, which is not repeated. Classes change
    halfway.

    ``spherical`` goes along the great circle between two directions, and between their lengths
    (Shoemake, "Animating Rotation with Quaternion Curves", 1985; for z, which lies near a sphere);
    ``linear`` is for w.

    Raises:
        DataError: there are fewer than two."""
    count = latents.count
    if count < 2:
        raise DataError("one latent: interpolation needs two or more. Raise Sample Noise's count")
    ends = [*range(1, count), *[0] * loop]
    share = torch.arange(frames) / frames
    values: list[Tensor] = []
    labels: list[Tensor] = []
    for start, end in zip(range(len(ends)), ends, strict=True):
        a, b = latents.values[start], latents.values[end]
        values.append(_slerp(a, b, share) if way == "spherical" else _lerp(a, b, share))
        if latents.labels is not None:
            labels.append(torch.where(share < 0.5, latents.labels[start], latents.labels[end]))
    if not loop:
        values.append(latents.values[-1:])
        labels += [] if latents.labels is None else [latents.labels[-1:]]
    return latents.with_values(torch.cat(values), torch.cat(labels) if labels else None)


def _lerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(a[None], b[None], share.view(-1, *[1] * a.ndim))


def _slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Along the last axis."""
    lengths = [x.norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (a, b)]
    u, v = a / lengths[0], b / lengths[1]
    angle = (u * v).sum(-1, keepdim=True).clamp(-1, 1).acos()
    t = share.view(-1, *[1] * a.ndim)
    near = angle < 1e-4
    safe = torch.where(near, torch.ones_like(angle), angle)
    sine = safe.sin()
    # Opposite directions have no one circle between them; they are met with probability 0.
    sine = torch.where(sine.abs() < 1e-6, torch.full_like(sine, 1e-6), sine)
    direction = ((1 - t) * safe).sin() / sine * u + (t * safe).sin() / sine * v
    direction = torch.where(near, torch.lerp(u[None], v[None], t), direction)
    return direction * torch.lerp(lengths[0][None], lengths[1][None], t)


def classes_of(text: str, names: tuple[str, ...], classes: int) -> list[int]:
    """The class numbers that ``text`` lists: names or numbers, ranges of numbers (``3-7``), with
    commas between, which names may hold too; ``all``. What is both is taken for a name.

    Raises:
        DataError: one is not there; the message lists what there is."""
    known = {", ".join(_parts(name)): number for number, name in enumerate(names)}
    longest = max((name.count(",") + 1 for name in names), default=1)
    found: list[int] = []
    parts = _parts(text)
    while parts:
        count = next((n for n in range(longest, 1, -1) if ", ".join(parts[:n]) in known), 1)
        part = ", ".join(parts[:count])
        del parts[:count]
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        if part == "all":
            found += range(classes)
        elif part in known:
            found.append(known[part])
        elif low.isdecimal() and (not dash or high.isdecimal()):
            first, last = int(low), int(high if dash else low)
            # No more than one beyond, however many are asked for.
            numbers = range(first, min(last, first + classes) + 1)
            found += (known.get(str(number), number) for number in numbers)
        else:
            raise DataError(f"no class {part!r}. {_known(names, classes)}")
    beyond = [number for number in found if not 0 <= number < classes]
    if beyond:
        raise DataError(f"no class {beyond[0]}. {_known(names, classes)}")
    if not found:
        raise DataError(f"no class given. {_known(names, classes)}")
    return found


def in_turns(text: str, names: tuple[str, ...], classes: int, count: int) -> Tensor:
    """``[count]`` int64: the classes of :func:`classes_of`, one after another."""
    numbers = torch.tensor(classes_of(text, names, classes))
    return numbers[torch.arange(count) % len(numbers)]


def _parts(text: str) -> list[str]:
    """What stands between commas, in small letters."""
    return [part for part in map(str.strip, text.lower().split(",")) if part]


def _known(names: tuple[str, ...], classes: int) -> str:
    shown = ", ".join(f"{i} {name}" for i, name in enumerate(names[:20]))
    more = f", ... to {classes - 1}" if classes > 20 else ""
    return f"There are {classes}: {shown}{more}" if shown else f"There are 0 to {classes - 1}"


def labelled(latents: Latents, numbers: list[int], every: bool) -> Latents:
    """Of those classes in turns; or with ``every`` each latent once of each class, one class after
    another for each latent."""
    wanted = torch.tensor(numbers)
    if every:
        index = torch.arange(latents.count).repeat_interleave(len(numbers))
        return latents.part(index).with_labels(wanted.repeat(latents.count))
    turns = wanted.repeat(math.ceil(latents.count / len(numbers)))
    return latents.with_labels(turns[: latents.count])


def pick(latents: Latents, number: int) -> Latents:
    """The one of that number, counted from 1.

    Raises:
        DataError: there are not so many."""
    if number > latents.count:
        raise DataError(f"number {number}: there are {latents.count} latents")
    return latents.part(slice(number - 1, number))


def carry(host: Host, latents: Latents) -> None:
    """Let pictures that are saved later in this run carry them, unless they are too large for
    that."""
    content = _packed(to_bytes(latents))
    if content is not None:
        host.carry(FILE_KEY, base64.b64encode(content).decode())


def _packed(content: bytes) -> bytes | None:
    """Compressed; None: it is too much to travel, which is found without compressing the rest."""
    if len(content) > READ_BYTES:
        return None
    packer, found = zlib.compressobj(wbits=31), bytearray()
    for start in range(0, len(content), CARRIED_BYTES):
        found += packer.compress(content[start : start + CARRIED_BYTES])
        if len(found) > CARRIED_BYTES:
            return None
    found += packer.flush()
    return bytes(found) if len(found) <= CARRIED_BYTES else None


def to_bytes(latents: Latents) -> bytes:
    """A safetensors file of latents."""
    from safetensors.torch import save as to_bytes

    tensors = {"w" if latents.z is None else "z": latents.values.contiguous()}
    if latents.labels is not None:
        tensors["labels"] = latents.labels.contiguous()
    return to_bytes(tensors, {FILE_KEY: FILE_VERSION})


def load(path: Path, node: str = "") -> Latents:
    """The latents in a file that :func:`save` wrote, or those that a PNG carries.

    Args:
        node: the id of the node that a PNG carries latents of; needed where there are several.

    Raises:
        DataError: there are none, or they are damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not content.startswith(PNG):
        return _from_bytes(path, content)
    parts = [_from_bytes(path, part) for part in _carried(path, node)]
    if len({(p.w is None, p.labels is None, p.values.shape[1:]) for p in parts}) > 1:
        raise DataError(f"{path}: carries latents of several kinds. Load them from a file")
    labels = [p.labels for p in parts if p.labels is not None]
    values = torch.cat([p.values for p in parts])
    return parts[0].with_values(values, torch.cat(labels) if labels else None)


def _carried(path: Path, node: str) -> list[bytes]:
    """The files of latents of one node in a PNG."""
    text = png_texts(path).get(FILE_KEY)
    if text is None:
        raise DataError(
            f"{path}: this picture carries no latents. Use one that Save Image wrote after "
            "Generate, or a file that Save Latents wrote"
        )
    try:
        found = TypeAdapter(Carried).validate_json(text)
    except ValidationError as error:
        raise DataError(f"{path}: the latents that it carries are damaged") from error
    if not found:
        raise DataError(f"{path}: this picture carries no node's latents")
    ids = ", ".join(found)
    if node and node not in found:
        raise DataError(f"{path}: no latents of node {node}. There are those of {ids}")
    if not node and len(found) > 1:
        raise DataError(f"{path}: carries the latents of nodes {ids}: say which (node)")
    parts, left = list[bytes](), READ_BYTES
    try:
        for part in found[node or next(iter(found))]:
            parts.append(_unpacked(part, left))
            left -= len(parts[-1])
    except zlib.error as error:
        raise DataError(f"{path}: the latents that it carries are damaged: {error}") from error
    return parts


def _unpacked(content: bytes, most: int) -> bytes:
    """
    Raises:
        zlib.error: it is damaged, or longer than ``most``."""
    if not content.startswith(GZIP):  # as they were carried at first
        return content
    reader = zlib.decompressobj(wbits=31)
    found = reader.decompress(content, max(most, 1))  # 0 would be no limit
    if not reader.eof:
        raise zlib.error("cut off, or too long")
    return found


def _from_bytes(path: Path, content: bytes) -> Latents:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        tensors = from_bytes(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        version = header.get("__metadata__", {}).get(FILE_KEY)
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path}: not a file of latents that can be read: {error}") from error
    axes = {"z": 2, "w": 3, "labels": 1}
    values = [name for name in ("z", "w") if name in tensors]
    wrong = version != FILE_VERSION or len(values) != 1 or set(tensors) - set(axes)
    if wrong or any(t.ndim != axes[name] for name, t in tensors.items()):
        raise DataError(f"{path}: not a file of latents. Use one that Save Latents wrote")
    labels = tensors.get("labels")
    found = tensors[values[0]].float()
    if labels is not None and (len(labels) != len(found) or labels.dtype != torch.int64):
        raise DataError(f"{path}: damaged: its labels do not belong to its latents")
    return Latents(found, labels) if values[0] == "z" else Latents(None, labels, found)
