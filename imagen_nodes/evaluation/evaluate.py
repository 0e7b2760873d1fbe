"""How good a generator is: distances between what it draws and real pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .. import checkpoint
from ..checkpoint import Measurement, Model
from ..errors import CheckpointError
from ..folders import shipped
from ..images import to_network
from ..latents import sample
from ..networks.architecture import GeneratorArchitecture
from ..networks.mobilenet import MobileNetV2FeaturesNetwork
from .distances import frechet_distance, kernel_distance, precision_recall

FEATURES = "metrics/mobilenet-v2-features.safetensors"
BATCH = 100

Progress = Callable[[int, int], object]


def measure(
    model: Model, real: Tensor, reference: str, samples: int, report: Progress
) -> tuple[Measurement, ...]:
    """FD, KID, precision and recall on the features of MobileNetV2, in float32.

    Args:
        real: ``[n h w 3]`` uint8, at the generator's resolution.
        reference: what ``real`` is, for the reader of the figures.
        samples: how many images to draw: those of the seeds 0, 1, ...
        report: called with images done and in all.

    Raises:
        CheckpointError: ``model`` is no generator of RGB images.
    """
    architecture = model.architecture
    if not isinstance(architecture, GeneratorArchitecture) or architecture.channels != 3:
        kind = model.card.architecture["kind"]
        raise CheckpointError(f"{model.name}: a {kind}, not a generator of RGB images")
    network = feature_network()
    total, done = len(real) + samples, 0

    def features(batches: Iterable[Tensor]) -> Tensor:
        nonlocal done
        parts: list[Tensor] = []
        for batch in batches:
            parts.append(network(batch))
            done += len(batch)
            report(done, total)
        return torch.cat(parts)

    latents = sample(samples, architecture.z_dim, 0, architecture.classes)
    with torch.inference_mode():
        of_real = features(map(to_network, real.split(BATCH)))
        labels = [None] * samples if latents.labels is None else latents.labels.split(BATCH)
        drawn = (model.network(z, y) for z, y in zip(latents.z.split(BATCH), labels, strict=False))
        of_fake = features(drawn)
        return _figures(of_real, of_fake, f"{len(real):,} images of {reference}")


def _figures(real: Tensor, fake: Tensor, reference: str) -> tuple[Measurement, ...]:
    precision, recall = precision_recall(real, fake)
    figures = {
        "FD-MobileNetV2": frechet_distance(real, fake),
        "KID-MobileNetV2": kernel_distance(real, fake),
        "precision (MobileNetV2, k=3)": precision,
        "recall (MobileNetV2, k=3)": recall,
    }
    return tuple(
        Measurement(metric=name, value=round(value, 4), samples=len(fake), reference=reference)
        for name, value in figures.items()
    )


def feature_network() -> MobileNetV2FeaturesNetwork:
    """The feature network that ships, in float32."""
    network = checkpoint.load(shipped("weights") / FEATURES).network
    assert isinstance(network, MobileNetV2FeaturesNetwork)
    return network.float().to(memory_format=torch.channels_last)  # pyright: ignore
