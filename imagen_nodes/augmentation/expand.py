"""The work: a data set's pictures, changed copies of them, and generated ones, in a new folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import __version__, generation, images, latents, styles
from ..checkpoint import Model, Running
from ..errors import CheckpointError, DataError, StorageError, UsageError
from ..evaluation.evaluator import batch_size, exactly
from ..evaluation.features import FeatureSpace, mobilenet
from ..files import folder_atomically, refuse_taken
from ..graph.host import Host
from ..latents import Latents
from ..networks.architecture import GeneratorArchitecture
from ..training.data import open_data
from ..training.data.opening import one_size
from . import manifest, transforms
from .classes import folders, matched
from .judging import FEWEST, Real, check_discriminator, discriminator_scores, pick
from .manifest import Drawn, Manifest
from .settings import Settings

# Latents whose styles are kept at a time.
CHUNK = 256
# Generated pictures that are shown, in all.
SHOWN = 64

Say = Callable[[str], object]


@dataclass(frozen=True)
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
    classes: list[Expanded] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user should know."""
    preview: Tensor | None = None
    """IMAGE of some generated pictures, classes in turns."""

    def total(self, what: str) -> int:
        """A sum over the classes, by the name of a number of :class:`Expanded`."""
        return sum(getattr(found, what) for found in self.classes)


def augment(
    host: Host,
    model: Model,
    data: Path,
    out: Path,
    settings: Settings,
    discriminator: Model | None = None,
    say: Say = lambda text: None,
) -> Report:
    """Expand the labelled pictures at ``data`` into the new folder ``out``, a subfolder for each
    class, with a manifest. It is there whole or not at all.

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
        self.host, self.model, self.settings = host, model, settings
        self.discriminator, self.say = discriminator, say
        self.report = Report(out)
        self.a = _generator(model, settings)
        if discriminator is not None:
            check_discriminator(discriminator, self.a)
        refuse_taken(out)
        if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
            raise UsageError(f"{out}: lies in the data, {data}: choose a folder beside it")
        self.size = self._size(data)
        self.data = open_data(data, self.size, self.a.channels, say)
        labels = self.data.labels
        if labels is None:
            raise DataError(
                f"{data}: its pictures have no classes. Put them into a subfolder for each class"
            )
        self.labels = labels
        self.names = self.data.class_names
        self.folders = folders(self.names)
        self.chosen = latents.classes_of(settings.classes, self.names, len(self.names))
        self.classes, note = matched(
            self.names, self.chosen, model.card.class_names, self.a.classes
        )
        self._note(note)
        self._refuse_few()
        self.candidates = _rounded(settings.per_class * settings.oversample)
        self.steps, self.done = self._total(), 0

    def write(self, folder: Path) -> None:
        """Everything, into ``folder``."""
        space = mobilenet(self.host.device)
        previews: list[Tensor] = []
        lines = Manifest(folder, self._header())
        for label, name in enumerate(self.names):
            (folder / self.folders[label]).mkdir()
            indices = np.flatnonzero(self.labels == label)
            counts: dict[str, int] = {}
            if not self.settings.only_generated:
                counts = self._write_real(folder, label, indices, lines)
            if label in self.classes:
                counts |= self._write_generated(folder, label, indices, space, lines, previews)
            lines.flush()
            self.report.classes.append(Expanded(name, **counts))
        if not self.report.total("generated"):
            raise DataError(
                f"{self.model.name}: none of {self.report.total('drawn')} pictures passed. Lower "
                "copy_distance and duplicate_distance, which 0 turns off"
            )
        self.report.preview = _in_turns(previews)

    # -------------------------------------------------------------------------- real pictures

    def _write_real(
        self, folder: Path, label: int, indices: np.ndarray, lines: Manifest
    ) -> dict[str, int]:
        """The real pictures of a class, and changed copies of them."""
        s, written = self.settings, 0
        for part in _parts(indices, batch_size(max(self.size))):
            batch = torch.from_numpy(np.asarray(self.data.images[part]))
            for index, pixels in zip(part.tolist(), batch.numpy(), strict=True):
                file = f"{self.folders[label]}/real-{index:06}.png"
                _save(folder / file, pixels)
                lines.real(file, self.names[label], self._source(index))
            for copy in range(s.copies):
                # Another seed for each picture and copy.
                seeds = [(s.seed + index * s.copies + copy) % 2**32 for index in part.tolist()]
                for index, seed, image in zip(part.tolist(), seeds, batch, strict=True):
                    file = f"{self.folders[label]}/altered-{index:06}-{copy}.png"
                    _save(folder / file, pixels_of(altered(image[None].float() / 255, seed, s))[0])
                    lines.altered(file, self.names[label], self._source(index), seed)
                    written += 1
            self._step(len(part) * (1 + s.copies))
        return {"real": len(indices), "altered": written}

    def _source(self, index: int) -> str:
        """What a real picture is called in the data: its file, or its number."""
        return self.data.names[index] if self.data.names else f"#{index}"

    # -------------------------------------------------------------------------- generated ones

    def _write_generated(
        self,
        folder: Path,
        label: int,
        indices: np.ndarray,
        space: FeatureSpace,
        lines: Manifest,
        previews: list[Tensor],
    ) -> dict[str, int]:
        """The generated pictures of a class: all are drawn and judged, those that are kept are
        drawn once more, which takes less memory than to remember them."""
        s, number = self.settings, self.classes[label]
        seeds = self._seeds(label)
        real = Real.of(self._real_features(space, indices))
        features, judged = self._candidates(space, seeds, number)
        with exactly(torch.device("cpu")):
            scores = judged if judged is not None else real.realism(features)
            distances, nearest = real.nearest(features)
            picked = pick(
                features / real.usual,
                scores,
                distances,
                s.per_class,
                s.copy_distance,
                s.duplicate_distance,
            )
        kept = [seeds[i] for i in picked.indices]
        found = zip(picked.indices, self._drawn(kept, number), strict=True)
        shown: list[Tensor] = []
        for i, image in found:
            file = f"{self.folders[label]}/generated-{seeds[i]:010}.png"
            _save(folder / file, pixels_of(self._fitted(image))[0])
            source = self._source(int(indices[int(nearest[i])]))
            drawn = Drawn(seeds[i], float(scores[i]), source, float(distances[i]))
            lines.generated(file, self.names[label], drawn, s)
            if len(shown) < SHOWN:
                shown.append(self._fitted(image))
            self._step(1)
        if shown:
            previews.append(torch.cat(shown))
        self._step(s.per_class - len(kept))
        if len(kept) < s.per_class:
            self._note(
                f"{self.names[label]}: {len(kept)} of {s.per_class} pictures: of {len(seeds)} "
                f"drawn {picked.copies} are copies and {picked.duplicates} duplicates. A higher "
                "oversample draws more"
            )
        return {
            "generated": len(kept),
            "drawn": len(seeds),
            "copies": picked.copies,
            "duplicates": picked.duplicates,
        }

    def _seeds(self, label: int) -> list[int]:
        """Of the candidates of a class: those of one class follow those of the one before, so that
        no two classes have the same latents."""
        first = self.settings.seed + self.chosen.index(label) * self.candidates
        return [(first + i) % 2**32 for i in range(self.candidates)]

    def _candidates(
        self, space: FeatureSpace, seeds: Sequence[int], number: int
    ) -> tuple[Tensor, Tensor | None]:
        """Features ``[m d]`` and the discriminator's scores ``[m]`` of the pictures of ``seeds``;
        None where there is no discriminator."""
        features: list[Tensor] = []
        scores: list[Tensor] = []
        for batch, judged in self._judged(seeds, number):
            features.append(features_of(space, pixels_of(self._fitted(batch))))
            if judged is not None:
                scores.append(judged)
            self._step(len(batch), batch)
        return torch.cat(features), torch.cat(scores) if scores else None

    def _judged(
        self, seeds: Sequence[int], number: int
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches of the pictures of ``seeds``, as they are drawn, and their scores."""
        judge = self.discriminator
        for start in range(0, len(seeds), CHUNK):
            latent = self._latents(seeds[start : start + CHUNK], number)
            with ExitStack() as stack:
                running = stack.enter_context(self.host.running(self.model))
                judging: Running | None = None
                if judge is not None:
                    judging = stack.enter_context(self.host.running(judge))
                for batch in generation.draw(running, latent):
                    if judge is None or judging is None:
                        yield batch, None
                        continue
                    labels = torch.full((len(batch),), number)
                    yield batch, discriminator_scores(judge, judging, batch, labels)

    def _drawn(self, seeds: Sequence[int], number: int) -> Iterator[Tensor]:
        """The pictures of ``seeds``, IMAGE of one each."""
        for start in range(0, len(seeds), CHUNK):
            latent = self._latents(seeds[start : start + CHUNK], number)
            with self.host.running(self.model) as running:
                for batch in generation.draw(running, latent):
                    yield from batch.split(1)

    def _latents(self, seeds: Sequence[int], number: int) -> Latents:
        """As Sample Noise, Class Labels and Truncate give them."""
        s, a = self.settings, self.a
        z = [latents.sample(1, a.z_dim, seed, 0, s.truncation).values for seed in seeds]
        latent = Latents(torch.cat(z), torch.full((len(z),), number))
        if s.psi == 1:
            return latent
        return styles.truncate(self.host, self.model, latent, s.psi, 0)

    def _real_features(self, space: FeatureSpace, indices: np.ndarray) -> Tensor:
        parts: list[Tensor] = []
        for part in _parts(indices, batch_size(max(self.size))):
            parts.append(features_of(space, np.asarray(self.data.images[part])))
            self._step(len(part))
        return torch.cat(parts)

    # -------------------------------------------------------------------------- what is to be done

    def _size(self, data: Path) -> tuple[int, int]:
        """Height and width of what is written."""
        h, w = self.a.size
        if self.settings.size:
            size = (self.settings.size, max(round(self.settings.size * w / h), 1))
        else:
            found = one_size(data)
            size = found if found and found[0] * w == found[1] * h else (h, w)
            if found != size:
                what = f"{found[1]}x{found[0]} px" if found else "of several sizes"
                self._note(
                    f"the real pictures are {what}: resized to {size[1]}x{size[0]} px, as the "
                    "generator's, and cropped in the middle"
                )
        if size != (h, w):
            self._note(
                f"the generated pictures are {w}x{h} px: resized to {size[1]}x{size[0]} px"
            )
        return size

    def _fitted(self, batch: Tensor) -> Tensor:
        return images.resized(batch, self.size, "lanczos")

    def _refuse_few(self) -> None:
        counts = np.bincount(self.labels, minlength=len(self.names))
        few = [f"{self.names[k]} ({counts[k]})" for k in self.chosen if counts[k] < FEWEST]
        if few:
            raise DataError(
                f"{self.data.name}: {FEWEST} real pictures of a class are needed to judge "
                f"generated ones by; fewer has {', '.join(few[:10])}. Add some, or say which "
                "classes to expand (classes)"
            )

    def _total(self) -> int:
        """Pictures looked at, drawn and written."""
        counts = np.bincount(self.labels, minlength=len(self.names))
        real = 0 if self.settings.only_generated else len(self.labels) * (1 + self.settings.copies)
        each = self.candidates + self.settings.per_class
        return int(real + sum(counts[k] + each for k in self.classes))

    def _step(self, count: int, shown: Tensor | None = None) -> None:
        self.done += count
        picture = None if shown is None else images.to_pictures(shown[:1])[0]
        self.host.progress(self.done, self.steps, picture)

    def _note(self, text: str) -> None:
        if text:
            self.report.notes.append(text)
            self.say(text)

    def _header(self) -> dict[str, Any]:
        judge = self.discriminator
        return {
            "imagen_nodes": __version__,
            "weights": manifest.weights(self.model),
            "discriminator": None if judge is None else manifest.weights(judge),
            "score": "realism" if judge is None else "discriminator",
            "data": {
                "name": self.data.name,
                "pictures": len(self.data.images),
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


def altered(batch: Tensor, seed: int, settings: Settings) -> Tensor:
    """IMAGE ``[b h w c]`` through the changes that are set."""
    if settings.flip:
        batch = transforms.random_flip(batch, seed)
    batch = transforms.random_crop(batch, seed, settings.crop)
    batch = transforms.random_colour(batch, seed, settings.colour)
    return transforms.cutout(batch, seed, settings.cutout)


def _generator(model: Model, settings: Settings) -> GeneratorArchitecture:
    a = generation.generator_of(model)
    if not a.classes:
        raise CheckpointError(
            f"{model.name} is unconditional: it cannot draw pictures of a class. Use a generator "
            "with classes, such as cgan-cifar10.safetensors"
        )
    if settings.psi != 1 and not a.styled:
        raise CheckpointError(
            f"{model.name} has no styles, which psi is for: leave it at 1, and set truncation"
        )
    return a


def _rounded(candidates: float) -> int:
    """Whole batches: some discriminators compare the pictures of one."""
    return math.ceil(candidates / generation.BATCH) * generation.BATCH


def features_of(space: FeatureSpace, pixels: np.ndarray) -> Tensor:
    """``[b h w c]`` uint8 -> ``[b d]`` on the CPU."""
    rgb = images.as_rgb(torch.from_numpy(pixels)).to(space.device)
    with exactly(space.device):
        return space.extract(rgb).float().cpu()


def pixels_of(batch: Tensor) -> np.ndarray:
    """IMAGE -> ``[b h w c]`` uint8, as Save Image cuts them."""
    return np.clip(batch.numpy() * 255.0, 0, 255).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    """``[h w c]`` uint8 as a PNG."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    try:
        picture.save(path, "PNG")
    except OSError as error:
        raise StorageError.at(path, error) from error


def _parts(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _in_turns(parts: Sequence[Tensor]) -> Tensor:
    """The first of each part, the second of each, ...: at most ``SHOWN``."""
    longest = max(len(part) for part in parts)
    order = [part[i] for i in range(longest) for part in parts if i < len(part)]
    shown = torch.stack(order[:SHOWN])
    return shown.expand(-1, -1, -1, 3) if shown.shape[3] == 1 else shown
