"""Generated pictures of a class by their seeds: drawn, scored by a discriminator, told by
features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import generation, images, latents, styles
from ..checkpoint import Model, Running
from ..errors import CheckpointError
from ..evaluation.evaluator import exactly
from ..evaluation.features import FeatureSpace
from ..graph.host import Host
from ..latents import Latents
from ..networks.architecture import GeneratorArchitecture
from .judging import check_discriminator, discriminator_scores
from .settings import Settings

# Latents whose styles are kept at a time.
CHUNK = 256

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draws with a generator that :func:`conditional` has seen."""

    host: Host
    model: Model
    architecture: GeneratorArchitecture
    settings: Settings
    judge: Model | None
    """A discriminator; None: nothing is scored."""

    def judged(self, seeds: Sequence[int], number: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches of the pictures of ``seeds`` of the class ``number``, IMAGE ``[b h w c]`` with
        the generator's channels, and their scores ``[b]``, if there is a judge."""
        for start in range(0, len(seeds), CHUNK):
            latent = self._latents(seeds[start : start + CHUNK], number)
            with ExitStack() as stack:
                running = stack.enter_context(self.host.running(self.model))
                judging: Running | None = None
                if self.judge is not None:
                    judging = stack.enter_context(self.host.running(self.judge))
                for batch in generation.draw(running, self.architecture, latent):
                    yield batch, self._scores(judging, batch, number)

    def images(self, seeds: Sequence[int], number: int) -> Iterator[Tensor]:
        """The same pictures, IMAGE of one each."""
        for start in range(0, len(seeds), CHUNK):
            latent = self._latents(seeds[start : start + CHUNK], number)
            with self.host.running(self.model) as running:
                for batch in generation.draw(running, self.architecture, latent):
                    yield from batch.split(1)

    def _latents(self, seeds: Sequence[int], number: int) -> Latents:
        """As Sample Noise, Class Labels and Truncate give them."""
        s, a = self.settings, self.architecture
        z = [latents.sample(1, a.z_dim, seed, 0, s.truncation).values for seed in seeds]
        latent = Latents(torch.cat(z), torch.full((len(z),), number))
        if s.psi == 1:
            return latent
        return styles.truncate(self.host, self.model, latent, s.psi, 0)

    def _scores(self, judging: Running | None, batch: Tensor, number: int) -> Tensor | None:
        if self.judge is None or judging is None:
            return None
        labels = torch.full((len(batch),), number)
        return discriminator_scores(self.judge, judging, batch, labels)


def conditional(model: Model, settings: Settings, judge: Model | None) -> GeneratorArchitecture:
    """The model's architecture.

    Raises:
        CheckpointError: it is no generator with classes, or has no styles to truncate; or the
            discriminator cannot judge its images."""
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
    if judge is not None:
        check_discriminator(judge, a)
    return a


def features_of(space: FeatureSpace, pixels: Pixels) -> Tensor:
    """``[b h w c]`` uint8 -> ``[b d]`` on the CPU."""
    rgb = images.as_rgb(torch.from_numpy(pixels)).to(space.device)
    with exactly(space.device):
        return space.extract(rgb).float().cpu()


def pixels_of(batch: Tensor) -> Pixels:
    """IMAGE -> ``[b h w c]`` uint8, as Save Image cuts them."""
    return np.clip(batch.numpy() * 255.0, 0, 255).astype(np.uint8)
