"""How good a generator is: distances between what it draws and real pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .. import latents
from ..checkpoint import Measurement
from ..errors import CheckpointError, DataError, UsageError
from ..files import write_atomically
from ..images import as_rgb, to_pixels
from ..networks.architecture import GeneratorArchitecture
from . import distances
from .features import FeatureSpace

# Images at a time, and the pixels that these hold at most.
BATCH, BATCH_PIXELS = 100, 1 << 20
# Third neighbours take so many images.
FEWEST = distances.NEIGHBOURS + 1
# Below this a Frechet distance, which falls with the sample count, says little.
FEW = 10_000

Report = Callable[[int], object]


class Pictures(Protocol):
    """A data set: ``images [n h w c]`` uint8, of which ``images[indices]`` gives some."""

    @property
    def name(self) -> str: ...
    @property
    def images(self) -> NDArray[np.uint8]: ...


def _silent(count: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Measures generators against one set of real pictures, whose features are computed once.

        evaluator = Evaluator(mobilenet(device), dataset, cache=folder)
        for figure in evaluator.figures(architecture, network, samples=5000): ...

    Everything is in float32 (moments in float64), and the same network gives the same figures. The
    images are drawn in the batches that they are measured in, and not kept.

    Raises:
        DataError: there are too few pictures.
        StorageError: the cache cannot be written.
    """

    space: FeatureSpace
    """What to compare in."""
    pictures: Pictures
    """Real pictures, with the generator's resolution and channels."""
    count: int = 0
    """How many of them to compare with, drawn at random with seed 0; 0: all."""
    cache: Path | None = None
    """Folder to keep the real pictures' features in, by their content; None: nowhere."""
    report: Report = field(default=_silent, repr=False)
    """Called with the number of images after each batch."""

    def figures(
        self, architecture: GeneratorArchitecture, network: nn.Module, samples: int
    ) -> tuple[Measurement, ...]:
        """The figures of a generator: see :meth:`compare`. It is left in the mode it was in and
        on its device, which must be the feature network's."""
        return self.compare(self.features(architecture, network, samples))

    def features(
        self, architecture: GeneratorArchitecture, network: nn.Module, samples: int
    ) -> Tensor:
        """``[samples d]``: of the images of seeds 0, 1, ...; classes take turns.

        Raises:
            UsageError: too few samples."""
        if samples < FEWEST:
            raise UsageError(f"{samples} samples: at least {FEWEST} are needed")
        # The real pictures first: what is wrong with them should be said before the long part.
        _ = self.real
        drawn = draw(architecture, network, range(samples), self.space.device)
        return self.features_of(drawn, samples)

    def features_of(self, batches: Iterator[Tensor], count: int) -> Tensor:
        """``[count d]``: of batches ``[b h w 3]`` uint8 on the feature network's device, ``count``
        images in all."""
        return self._extract(batches, count)

    def compare(self, fake: Tensor) -> tuple[Measurement, ...]:
        """Frechet and kernel distance with intervals, precision and recall, and where the space has
        classes the Inception score, of generated images' features ``[m d]``."""
        with exactly(self.space.device):
            return tuple(self._figures(fake))

    def _figures(self, fake: Tensor) -> Iterator[Measurement]:
        name, real, gaussian = self.space.name, self.real, distances.gaussian(fake)
        frechet = distances.frechet_distance(self.gaussian, gaussian)
        influence = distances.frechet_influence(self.gaussian, gaussian, fake)
        low, high = distances.interval(frechet, influence)
        yield self._figure(self.space.frechet, fake, frechet, max(low, 0.0), high)
        kernel = distances.kernel_distance(real, fake)
        influence = distances.kernel_influence(real, fake)
        bounds = distances.interval(kernel, influence)
        yield self._figure(self.space.kernel, fake, kernel, *bounds)
        neighbourhoods = self.around.squares[:, -1], distances.radii(fake)
        precision, recall = distances.precision_recall(real, fake, *neighbourhoods)
        yield self._figure(f"precision ({name}, k={distances.NEIGHBOURS})", fake, precision)
        yield self._figure(f"recall ({name}, k={distances.NEIGHBOURS})", fake, recall)
        if self.space.classes is not None:
            score = distances.inception_score(fake, self.space.classes)
            yield self._figure("IS", fake, score)

    def doubts(self, samples: int) -> tuple[str, ...]:
        """Why the figures of so many samples say little; empty: no reason."""
        size, frechet = self.space.size, self.space.frechet
        found: list[str] = []
        for count, what in ((samples, "samples"), (len(self.indices), "real pictures")):
            if count <= size:
                found.append(
                    f"{count:,} {what} do not determine the covariance of {size:,} features: "
                    f"{frechet} is no estimate, use {self.space.kernel}"
                )
            elif count < FEW:
                found.append(
                    f"{count:,} {what}: {frechet} is too high, compare figures of as many only"
                )
        return tuple(found)

    @property
    def reference(self) -> str:
        """What is compared with, for the reader of the figures."""
        return f"{len(self.indices):,} images of {self.pictures.name}"

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """Of the real pictures that are compared with, ascending."""
        total = len(self.pictures.images)
        if max(self.count, FEWEST) > total:
            wanted = f"{max(self.count, FEWEST):,} are asked for"
            raise DataError(f"{self.pictures.name}: {wanted}, it has {total:,} pictures")
        if not self.count:
            return np.arange(total)
        return np.sort(np.random.RandomState(0).permutation(total)[: self.count])

    @cached_property
    def real(self) -> Tensor:
        """Features of the real pictures, ``[n d]``."""
        count = len(self.indices)
        if self.cache is None:
            return self._extract(self._real_batches(), count)
        path = self.cache / f"features-{self._fingerprint()}.safetensors"
        try:
            kept = load_file(path)["features"]
        except (OSError, SafetensorError, KeyError):  # not there, or damaged
            features = self._extract(self._real_batches(), count)
            write_atomically(path, save({"features": features.cpu()}))
            return features
        self.report(count)
        return kept.to(_home(self.space.device))

    @cached_property
    def gaussian(self) -> distances.Gaussian:
        """Fitted to the real pictures' features."""
        return distances.gaussian(self.real)

    @cached_property
    def around(self) -> distances.Nearest:
        """Each real picture's neighbours, itself and three others."""
        return distances.nearest(self.real, self.real, FEWEST)

    def _real_batches(self) -> Iterator[Tensor]:
        images = self.pictures.images
        size = batch_size(images.shape[1])
        for start in range(0, len(self.indices), size):
            batch = torch.from_numpy(images[self.indices[start : start + size]])
            yield as_rgb(batch).to(self.space.device)

    def _fingerprint(self) -> str:
        """Of the feature network and of every pixel."""
        digest = hashlib.sha256(f"{self.space.name} 1 {self.pictures.images.shape[1:]}".encode())
        for batch in self._real_batches():
            digest.update(batch.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:32]

    def _extract(self, batches: Iterator[Tensor], count: int) -> Tensor:
        """Features of batches ``[b h w 3]`` uint8, one after another."""
        features = torch.empty(count, self.space.size, device=_home(self.space.device))
        done = 0
        for batch in batches:
            with exactly(self.space.device):
                features[done : done + len(batch)] = self.space.extract(batch)
            done += len(batch)
            self.report(len(batch))
        return features

    def _figure(
        self,
        metric: str,
        fake: Tensor,
        value: float,
        low: float | None = None,
        high: float | None = None,
    ) -> Measurement:
        return Measurement(
            metric=metric,
            value=round(value, 4),
            samples=len(fake),
            reference=self.reference,
            low=None if low is None else round(low, 4),
            high=None if high is None else round(high, 4),
        )


def draw(
    architecture: GeneratorArchitecture,
    network: nn.Module,
    seeds: Sequence[int],
    device: torch.device,
) -> Iterator[Tensor]:
    """The images of those seeds as they would be saved, in batches ``[b h w 3]`` uint8. The image
    of seed i is of class i mod classes.

    Raises:
        CheckpointError: the generator's images are neither grey, RGB nor RGBA."""
    if architecture.channels not in (1, 3, 4):
        raise CheckpointError(f"images of {architecture.channels} channels cannot be compared")
    size = batch_size(architecture.resolution)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        for start in range(0, len(seeds), size):
            yield _drawn(architecture, network, seeds[start : start + size], device)
    finally:
        for module, mode in modes:
            module.training = mode


def _drawn(
    architecture: GeneratorArchitecture,
    network: nn.Module,
    seeds: Sequence[int],
    device: torch.device,
) -> Tensor:
    drawn = [latents.sample(1, architecture.z_dim, s, architecture.classes) for s in seeds]
    z = torch.cat([latent.values for latent in drawn]).to(device)
    labels = [latent.labels for latent in drawn if latent.labels is not None]
    with exactly(device):
        images = network(z, torch.cat(labels).to(device) if labels else None)
        return as_rgb(to_pixels(images))


def batch_size(side: int) -> int:
    """Images of that side, px, at a time."""
    return max(1, min(BATCH, BATCH_PIXELS // side**2))


def _home(device: torch.device) -> torch.device:
    """Where features are kept: on a GPU if it has float64."""
    return device if device.type == "cuda" else torch.device("cpu")


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Plain float32 without gradients, whatever is set outside."""
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            cudnn.flags(enabled=True, benchmark=cudnn.benchmark, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
