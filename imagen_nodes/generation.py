"""Generating: latents for a model, and images from them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from . import images, latents
from .checkpoint import Model
from .errors import CheckpointError
from .graph.host import Host
from .latents import Latents
from .networks.architecture import GeneratorArchitecture

# Latents are run in batches of exactly this many: kernels, and with them the last bits of a result,
# depend on the batch size, and an image must not depend on what else is in its batch.
BATCH = 8


def sample(model: Model, seed: int, count: int) -> Latents:
    """Latents for ``model``: see :func:`latents.sample`.

    Raises:
        CheckpointError: it is no generator of images from latents."""
    architecture = _generator(model)
    return latents.sample(count, architecture.z_dim, seed, architecture.classes)


def generate(host: Host, model: Model, latent: Latents) -> Tensor:
    """IMAGE ``[b h w c]`` of a batch of latents; grey generators give three equal channels.

    Raises:
        CheckpointError: ``model`` is no generator, or the latents are of another one."""
    architecture = _generator(model)
    wanted, found = architecture.z_dim, latent.z.shape[1]
    if wanted != found:
        raise CheckpointError(
            f"{model.name} takes latents of length {wanted}, these have {found}: draw them with "
            "Sample Noise from the same model"
        )
    if architecture.classes and latent.labels is None:
        raise CheckpointError(
            f"{model.name} is conditional, these latents have no class labels: draw them with "
            "Sample Noise from the same model"
        )
    parts: list[Tensor] = []
    with host.running(model) as running:
        for z, labels in _batches(latent, running.device):
            parts.append(images.from_network(running.network(z, labels)))
            host.progress(min(len(parts) * BATCH, len(latent.z)), len(latent.z))
    result = torch.cat(parts)[: len(latent.z)]
    return result.expand(-1, -1, -1, 3) if result.shape[3] == 1 else result


def _batches(latent: Latents, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of exactly ``BATCH``, the last one filled up with zeros."""
    for start in range(0, len(latent.z), BATCH):
        z = latent.z[start : start + BATCH]
        missing = BATCH - len(z)
        labels = None
        if latent.labels is not None:
            labels = F.pad(latent.labels[start : start + BATCH], (0, missing)).to(device)
        yield F.pad(z, (0, 0, 0, missing)).to(device), labels


def _generator(model: Model) -> GeneratorArchitecture:
    architecture = model.architecture
    if not isinstance(architecture, GeneratorArchitecture):
        kind = model.card.architecture["kind"]
        raise CheckpointError(
            f"{model.name} holds a {kind}, which does not generate images from latents"
        )
    return architecture
