"""Generating: latents for a model, and images from them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from . import images, latents
from .checkpoint import Model, Running
from .errors import CheckpointError, DataError
from .graph.host import Host
from .latents import Latents
from .networks.architecture import GeneratorArchitecture
from .networks.modulation import Noise
from .networks.styled import StyledNetwork
from .tiles import is_out_of_memory

# Latents are run in batches of exactly this many, or fewer of large images: kernels, and with them
# the last bits of a result, depend on the batch size, and an image must not depend on what else is
# in its batch.
BATCH = 8
# Pixels of a batch's images, at most, where it is more than one: memory, and the work that a batch
# takes for one image, are bounded.
PIXELS = BATCH * 128**2


def sample(model: Model, seed: int, count: int, truncation: float = 0.0) -> Latents:
    """Latents for ``model``: see :func:`latents.sample`.

    Raises:
        CheckpointError: it is no generator of images from latents."""
    architecture = generator_of(model)
    return latents.sample(count, architecture.z_dim, seed, architecture.classes, truncation)


def label(model: Model, latent: Latents, text: str, every: bool) -> Latents:
    """Latents z of the classes that ``text`` lists: see :func:`latents.classes_of` and
    :func:`latents.labelled`.

    Raises:
        CheckpointError: the model has no classes, or the latents are w.
        DataError: it has no such class."""
    architecture = generator_of(model)
    if not architecture.classes:
        raise CheckpointError(f"{model.name} is unconditional: it takes no class labels")
    if latent.w is not None:
        raise CheckpointError(
            "these latents are w, in which the class is settled: set it before Truncate, Mix "
            "Styles and Edit Latents"
        )
    names = model.card.class_names
    numbers = latents.classes_of(text, names, architecture.classes)
    return latents.labelled(latent, numbers, every)


def generate(host: Host, model: Model, latent: Latents, noise: Noise = "constant") -> Tensor:
    """IMAGE ``[b h w c]`` of a batch of latents; grey generators give three equal channels.

    Args:
        noise: what a generator with styles adds to its layers: see ``modulation.Noise``. Random
            noise of image i is always the same.

    Raises:
        CheckpointError: ``model`` is no generator, or the latents are of another one."""
    check(model, latent)
    count, done = latent.count, 0
    parts: list[Tensor] = []
    with host.running(model) as running:
        for part in draw(running, generator_of(model), latent, noise):
            parts.append(part)
            done += len(part)
            host.progress(done, count)
    result = torch.cat(parts)
    return result.expand(-1, -1, -1, 3) if result.shape[3] == 1 else result


def draw(
    running: Running,
    architecture: GeneratorArchitecture,
    latent: Latents,
    noise: Noise = "constant",
) -> Iterator[Tensor]:
    """The images of latents that :func:`check` has seen, IMAGE ``[b h w c]``, :func:`at_once` at a
    time and what is left; c is the generator's.

    Raises:
        DataError: memory does not suffice for one of them."""
    size, start = at_once(architecture), 0
    while start < latent.count:
        part = _batch(latent, start, size, running.device)
        try:
            drawn = images.from_network(_drawn(running, part, noise, start))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise too_large(architecture) from error
            # Then one by one: in their last bits they may differ from those of a batch.
            size = 1
            continue
        yield drawn[: latent.count - start]
        start += size


def too_large(architecture: GeneratorArchitecture) -> DataError:
    """What to say where memory does not suffice for one image."""
    h, w = architecture.size
    return DataError(
        f"out of memory with one image of {w}x{h} px. Use a device with more memory, or a "
        "generator of smaller images"
    )


def at_once(architecture: GeneratorArchitecture) -> int:
    """Images of a batch: always the same for an architecture."""
    h, w = architecture.size
    return max(1, min(BATCH, PIXELS // (h * w)))


def check(model: Model, latent: Latents) -> None:
    """Whether the latents are of the model.

    Raises:
        CheckpointError: they are not; or it is no generator of images from latents."""
    architecture = generator_of(model)
    again = "draw them with Sample Noise from the same model"
    if latent.w is not None:
        wanted = (getattr(architecture, "layers", 0), getattr(architecture, "w_dim", 0))
        if not architecture.styled:
            raise CheckpointError(f"{model.name} has no styles, these latents are w: {again}")
        if wanted != tuple(latent.w.shape[1:]):
            found = "x".join(map(str, latent.w.shape[1:]))
            raise CheckpointError(
                f"{model.name} takes w of {wanted[0]}x{wanted[1]} values, these have {found}: "
                + again
            )
        return
    wanted, found = architecture.z_dim, latent.values.shape[1]
    if wanted != found:
        raise CheckpointError(
            f"{model.name} takes latents of length {wanted}, these have {found}: {again}"
        )
    if not architecture.classes:
        return
    if latent.labels is None:
        raise CheckpointError(
            f"{model.name} is conditional, these latents have no class labels: {again}"
        )
    wrong = latent.labels[(latent.labels < 0) | (latent.labels >= architecture.classes)]
    if len(wrong):
        raise CheckpointError(
            f"{model.name} has {architecture.classes} classes, counted from 0, these latents are "
            f"of class {int(wrong[0])}: {again}, or set them with Class Labels"
        )


def generator_of(model: Model) -> GeneratorArchitecture:
    """The model's architecture.

    Raises:
        CheckpointError: it is no generator of images from latents."""
    architecture = model.architecture
    if not isinstance(architecture, GeneratorArchitecture):
        kind = model.card.architecture["kind"]
        raise CheckpointError(
            f"{model.name} holds a {kind}, which does not generate images from latents"
        )
    return architecture


def _batch(latent: Latents, start: int, size: int, device: torch.device) -> Latents:
    """Exactly ``size`` from ``start`` on, filled up with zeros."""
    part = latent.part(slice(start, start + size))
    missing = size - part.count
    values = torch.cat([part.values, part.values.new_zeros(missing, *part.values.shape[1:])])
    labels = None if part.labels is None else F.pad(part.labels, (0, missing)).to(device)
    return part.with_values(values.to(device), labels)


def _drawn(running: Running, latent: Latents, noise: Noise, start: int) -> Tensor:
    network = running.network
    if not isinstance(network, StyledNetwork):
        return network(latent.z, latent.labels)
    w = network.w_plus(latent.values, latent.labels) if latent.w is None else latent.w
    return network.synthesis(w, noise, _PerImage(start, len(w)))


class _PerImage:
    """Noise that depends on an image's number alone."""

    def __init__(self, start: int, count: int) -> None:
        self.randoms = [torch.Generator().manual_seed(start + i) for i in range(count)]

    def normal(self, count: int, /, *shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=r) for r in self.randoms[:count]])
