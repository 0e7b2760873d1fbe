"""The work: a data set's pictures, changed copies of them, and generated ones, in a new folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .. import __version__, generation, images, latents
from ..checkpoint import Model
from ..errors import CheckpointError, DataError, StorageError, UsageError
from ..evaluation.evaluator import batch_size, exactly
from ..evaluation.features import FeatureSpace, mobilenet
from ..files import folder_atomically, refuse_taken
from ..graph.host import Host
from ..training.data import open_data
from ..training.data.opening import one_size
from . import manifest
from .classes import folders, matched
from .drawing import Drawing, Pixels, conditional, features_of, pixels_of
from .judging import FEWEST, Picked, Real, pick
from .manifest import Drawn, Manifest
from .settings import Settings
from .transforms import altered

# Generated pictures that are shown.
SHOWN = 64
# Pictures between two looks at whether somebody has cancelled.
LOOK = 256

Indices = NDArray[np.int64]
Say = Callable[[str], object]


@dataclass
class Expanded:
    """What became of one class."""

    name: str
    """The data's name of it."""
    real: int = 0
    """Real pictures written."""
    altered: int = 0
    """Changed copies written."""
    generated: int = 0
    """Generated pictures written."""
    drawn: int = 0
    """Generated pictures drawn."""
    copies: int = 0
    """Dropped as copies of real ones, before enough were found."""
    duplicates: int = 0
    """Dropped as duplicates of better ones, likewise."""


@dataclass
class Report:
    """What was written."""

    folder: Path
    classes: list[Expanded] = field(default_factory=list[Expanded])
    notes: list[str] = field(default_factory=list[str])
    """What the user should know."""
    preview: Tensor = field(default_factory=lambda: torch.empty(0))
    """IMAGE of some generated pictures, classes in turns."""

    def total(self, what: str) -> int:
        """Over all classes, of a number of :class:`Expanded`."""
        return sum(getattr(found, what) for found in self.classes)

    def __str__(self) -> str:
        kinds = {"real": "real", "altered": "changed copies", "generated": "generated"}
        counts = {text: self.total(what) for what, text in kinds.items()}
        text = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"{self.folder}: {text}"


@torch.inference_mode()
def augment(
    host: Host,
    model: Model,
    data: Path,
    out: Path,
    settings: Settings,
    discriminator: Model | None = None,
    say: Say = lambda text: None,
) -> Report:
    """Expand the labelled pictures at ``data`` into the new folder ``out``: a subfolder for each
    class, and a manifest. It is there whole or not at all.

    Args:
        model: generator with classes.
        data: what the trainer's ``--data`` takes, with labels.
        discriminator: judges the generated pictures; None: the realism score does.
        say: hears notes as they come; they are in the report too.

    Raises:
        UsageError: ``out`` is taken, or lies in ``data``.
        CheckpointError: the networks do not do, or not together.
        DataError: the pictures do not do, their classes are not the generator's, or no generated
            picture is kept.
        StorageError: it cannot be written."""
    work = _Work(host, model, data, out, settings, discriminator, say)
    with folder_atomically(out) as folder:
        work.write(folder)
    return work.report


class _Work:
    """One call of :func:`augment`."""

    def __init__(
        self,
        host: Host,
        model: Model,
        data: Path,
        out: Path,
        settings: Settings,
        discriminator: Model | None,
        say: Say,
    ) -> None:
        a = conditional(model, settings, discriminator)
        refuse_taken(out)
        if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
            raise UsageError(f"{out}: lies in the data, {data}. Choose a folder beside it")
        self.host, self.settings, self.say = host, settings, say
        self.drawing = Drawing(host, model, a, settings, discriminator)
        self.report = Report(out)
        self.size = self._size(data)
        self.data = open_data(data, self.size, a.channels, say, host.progress)
        if self.data.labels is None:
            raise DataError(
                f"{data}: its pictures have no classes. Put those of each class into a subfolder "
                "of its name"
            )
        if skipped := self.data.skipped:
            self._note(f"{len(skipped)} pictures cannot be read and are left out: {skipped[0]}")
        self.labels, self.names = self.data.labels, self.data.class_names
        self.folders = folders(self.names)
        chosen = latents.classes_of(settings.classes, self.names, len(self.names))
        self.chosen = list(dict.fromkeys(chosen))
        names = model.card.class_names
        self.classes, note = matched(self.names, self.chosen, names, a.classes)
        self._note(note)
        # What a class's generated pictures are compared with.
        self.real = {k: self._distinct(k) for k in self.chosen}
        self._refuse_few()
        # Whole batches: some discriminators compare the pictures of one.
        batches = math.ceil(settings.per_class * settings.oversample / generation.BATCH)
        self.candidates = batches * generation.BATCH
        self.steps, self.done = self._total(), 0

    # -------------------------------------------------------------------------- before it begins

    def _size(self, data: Path) -> tuple[int, int]:
        """Height and width of what is written, px."""
        h, w = self.drawing.architecture.size
        if self.settings.size:
            size = (self.settings.size, max(round(self.settings.size * w / h), 1))
        else:
            found = one_size(data)
            size = found if found and found[0] * w == found[1] * h else (h, w)
            if found != size:
                what = f"are {_text(found)}" if found else "differ in size"
                self._note(f"the real pictures {what}: resized, and cropped, to {_text(size)}")
        if size != (h, w):
            self._note(f"the generated pictures are {_text((h, w))}: resized to {_text(size)}")
        return size

    def _refuse_few(self) -> None:
        few = [
            f"{self.names[k]} has {len(real)}"
            for k, real in self.real.items()
            if len(real) < FEWEST
        ]
        if few:
            raise DataError(
                f"{self.data.name}: generated pictures of a class are judged by {FEWEST} different "
                f"real ones or more; {', '.join(few[:10])}. Add some, or leave the class out "
                "(classes)"
            )

    def _total(self) -> int:
        """Pictures to write, look at, draw, and draw again."""
        s, real = self.settings, len(self.labels)
        written = 0 if s.only_generated else real * (1 + s.copies)
        each = self.candidates + s.per_class
        return written + sum(len(self.real[k]) + each for k in self.classes)

    def _header(self) -> dict[str, Any]:
        d = self.drawing
        return {
            "imagen_nodes": __version__,
            "weights": manifest.weights(d.model),
            "discriminator": None if d.judge is None else manifest.weights(d.judge),
            "score": "realism" if d.judge is None else "discriminator",
            "data": {
                "name": self.data.name,
                "pictures": len(self.labels),
                "fingerprint": self.data.fingerprint,
            },
            "size": list(self.size),
            "classes": [
                {"name": name, "folder": self.folders[k], "generator": self.classes.get(k)}
                for k, name in enumerate(self.names)
            ],
            "settings": self.settings.model_dump(include=set(Settings.model_fields)),
            "notes": list(self.report.notes),
        }

    # -------------------------------------------------------------------------- the pictures

    def write(self, folder: Path) -> None:
        """All of it, into ``folder``."""
        space = mobilenet(self.host.device)
        lines = Manifest(folder, self._header())
        previews: list[Tensor] = []
        for label, name in enumerate(self.names):
            found = Expanded(name)
            indices = np.flatnonzero(self.labels == label)
            if not self.settings.only_generated:
                self._write_real(folder, label, indices, lines, found)
            if label in self.classes:
                real = self.real[label]
                shown = self._write_generated(folder, label, real, space, lines, found)
                previews += [shown] if len(shown) and len(previews) < SHOWN else []
            lines.flush()
            self.report.classes.append(found)
        if not previews:
            raise DataError(
                f"{self.drawing.model.name}: none of {self.report.total('drawn')} pictures is "
                "kept. Lower copy_distance and duplicate_distance, which 0 turns off"
            )
        empty = [f.name for f in self.report.classes if not f.real + f.altered + f.generated]
        if empty:
            self._note(f"no pictures of {', '.join(empty)}, so no folder: labels count those left")
        self.report.preview = _in_turns(previews)

    def _write_real(
        self, folder: Path, label: int, indices: Indices, lines: Manifest, found: Expanded
    ) -> None:
        """The real pictures of a class, and changed copies of them."""
        s, name = self.settings, self.names[label]
        for part in self._parts(indices):
            for index, pixels in zip(part.tolist(), self.data.images[part], strict=True):
                file = f"{self.folders[label]}/real-{index:06}.png"
                _save(folder / file, pixels)
                lines.real(file, name, self._source(index))
                for copy in range(s.copies):
                    # Another seed for each picture and copy.
                    seed = (s.seed + index * s.copies + copy) % 2**32
                    file = f"{self.folders[label]}/altered-{index:06}-{copy}.png"
                    image = torch.from_numpy(pixels)[None].float() / 255
                    _save(folder / file, pixels_of(altered(image, seed, s))[0])
                    lines.altered(file, name, self._source(index), seed)
            found.real += len(part)
            found.altered += len(part) * s.copies
            self._step(len(part) * (1 + s.copies))

    def _write_generated(
        self,
        folder: Path,
        label: int,
        indices: Indices,
        space: FeatureSpace,
        lines: Manifest,
        found: Expanded,
    ) -> Tensor:
        """The generated pictures of a class, and IMAGE of some. All are drawn and judged; those
        that are kept are drawn once more, which takes less memory than to remember all."""
        s, number = self.settings, self.classes[label]
        # Those of one class follow those of the one before: no two classes share a latent.
        first = s.seed + self.chosen.index(label) * self.candidates
        seeds = [(first + i) % 2**32 for i in range(self.candidates)]
        real = Real.of(self._real_features(space, indices))
        features, scores = self._candidates(space, seeds, number)
        with exactly(features.device):
            scores = real.realism(features) if scores is None else scores
            if not scores.isfinite().all():
                judge = self.drawing.judge or self.drawing.model
                raise CheckpointError(
                    f"{judge.name}: scores of generated pictures are NaN or infinite. Use other "
                    "weights, or no discriminator"
                )
            distances, nearest = real.nearest(features)
            limits = s.copy_distance, s.duplicate_distance
            picked = pick(features / real.usual, scores, distances, s.per_class, *limits)
        kept = [seeds[i] for i in picked.indices]
        shown: list[Tensor] = []
        for i, image in zip(picked.indices, self.drawing.images(kept, number), strict=True):
            file = f"{self.folders[label]}/generated-{seeds[i]:010}.png"
            fitted = self._fitted(image)
            _save(folder / file, pixels_of(fitted)[0])
            source = self._source(int(indices[int(nearest[i])]))
            drawn = Drawn(seeds[i], float(scores[i]), source, float(distances[i]))
            lines.generated(file, self.names[label], drawn, s)
            shown += [fitted] if len(shown) * len(self.classes) < SHOWN else []
            self._step(1)
        found.generated, found.drawn = len(kept), len(seeds)
        found.copies, found.duplicates = picked.copies, picked.duplicates
        self._note_missing(label, picked)
        return torch.cat(shown) if shown else torch.empty(0)

    def _note_missing(self, label: int, picked: Picked) -> None:
        """Say so where there are fewer than there should be."""
        wanted, kept = self.settings.per_class, len(picked.indices)
        self._step(wanted - kept)
        if kept < wanted:
            self._note(
                f"{self.names[label]}: {kept} generated pictures instead of {wanted}: of "
                f"{self.candidates} drawn {picked.copies} are copies and {picked.duplicates} "
                "duplicates. With a higher oversample more are drawn"
            )

    def _distinct(self, label: int) -> Indices:
        """The class's real pictures without repetitions: where most occur twice, the usual distance
        to the nearest other one would be 0, and nothing near to it."""
        first: dict[bytes, int] = {}
        indices = np.flatnonzero(self.labels == label)
        for i, index in enumerate(indices.tolist()):
            if i % LOOK == 0:
                self.host.progress(i, len(indices))
            pixels = np.ascontiguousarray(self.data.images[index])
            first.setdefault(hashlib.blake2b(pixels.data, digest_size=16).digest(), index)
        if left := len(indices) - len(first):
            self._note(
                f"{self.names[label]}: {left} real pictures repeat others, and are compared with "
                "once"
            )
        return np.array(list(first.values()), np.int64)

    def _real_features(self, space: FeatureSpace, indices: Indices) -> Tensor:
        found: list[Tensor] = []
        for part in self._parts(indices):
            found.append(features_of(space, np.asarray(self.data.images[part])))
            self._step(len(part))
        return torch.cat(found)

    def _candidates(
        self, space: FeatureSpace, seeds: Sequence[int], number: int
    ) -> tuple[Tensor, Tensor | None]:
        """Features ``[m d]`` and a discriminator's scores ``[m]`` of the pictures of ``seeds``."""
        features: list[Tensor] = []
        scores: list[Tensor] = []
        for batch, judged in self.drawing.judged(seeds, number):
            features.append(features_of(space, pixels_of(self._fitted(batch))))
            scores += [] if judged is None else [judged]
            self._step(len(batch), batch)
        return torch.cat(features), torch.cat(scores) if scores else None

    # -------------------------------------------------------------------------- small things

    def _source(self, index: int) -> str:
        """What a real picture is called in the data: its file, or its number."""
        return self.data.names[index] if self.data.names else f"#{index}"

    def _fitted(self, batch: Tensor) -> Tensor:
        return images.resized(batch, self.size, "lanczos")

    def _parts(self, indices: Indices) -> Iterator[Indices]:
        size = batch_size(max(self.size))
        for start in range(0, len(indices), size):
            yield indices[start : start + size]

    def _step(self, count: int, shown: Tensor | None = None) -> None:
        self.done += count
        picture = None if shown is None else images.to_picture(shown[0])
        self.host.progress(self.done, self.steps, picture)

    def _note(self, text: str) -> None:
        if text:
            self.report.notes.append(text)
            self.say(text)


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} px"


def _save(path: Path, pixels: Pixels) -> None:
    """``[h w c]`` uint8 as a PNG, in a folder that is made when its first one comes: ImageFolder
    refuses empty ones."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    try:
        path.parent.mkdir(exist_ok=True)
        picture.save(path, "PNG")
    except OSError as error:
        raise StorageError.at(path, error) from error


def _in_turns(parts: Sequence[Tensor]) -> Tensor:
    """The first of each part, the second of each, ...: at most ``SHOWN``."""
    longest = max(len(part) for part in parts)
    order = [part[i] for i in range(longest) for part in parts if i < len(part)]
    shown = torch.stack(order[:SHOWN])
    return shown.expand(-1, -1, -1, 3) if shown.shape[3] == 1 else shown
