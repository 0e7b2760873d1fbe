"""Ranking pictures by how real a discriminator takes them for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import images, latents
from .checkpoint import Model, Running
from .errors import CheckpointError, DataError
from .generation import PIXELS
from .graph.host import Host
from .latents import Latents
from .networks.architecture import DiscriminatorArchitecture
from .super_resolution import refuse_broken

# Pictures are judged this many at a time, or fewer of large ones, and always as many: what compares
# the pictures of a batch must see as many as in training, or nearly.
BATCH, FEWEST = 8, 4


def best(
    host: Host,
    model: Model,
    image: Tensor,
    count: int = 0,
    label: str = "0",
    latent: Latents | None = None,
) -> tuple[Tensor, list[float]]:
    """The ``count`` best pictures of IMAGE (0: all), the best first and otherwise as they are, and
    their scores: see :func:`scores`."""
    found = scores(host, model, image, label, latent)
    order = found.argsort(descending=True, stable=True)[: count or len(found)]
    return image[order], found[order].tolist()


def scores(
    host: Host, model: Model, image: Tensor, label: str = "0", latent: Latents | None = None
) -> Tensor:
    """``[b]`` in 0..1: how real each picture of IMAGE, resized to the discriminator's size, seems
    to it. Of one trained with cross-entropy, its estimate of the probability that the picture is
    real (and of its class, where it has an auxiliary classifier); with squared error, what it has
    learned to give 1 for real ones; of others the order alone has a meaning. Where it compares
    pictures (minibatch standard deviation), the score depends a little on what else is in the
    batch.

    Args:
        label: classes of the pictures, in turns, where the discriminator judges them: see
            ``latents.classes_of``.
        latent: what the pictures were drawn from; its classes come before ``label``.

    Raises:
        CheckpointError: ``model`` judges no images.
        DataError: the batch holds no picture, a picture NaN or infinity or other channels than
            pictures have, or there is no such class, or not a latent each."""
    # Its fields, or its properties.
    a: Any = discriminator_of(model)
    refuse_broken(host, image)
    size = getattr(a, "size", (a.resolution, a.resolution))
    small: list[Tensor] = []
    for picture in image.split(1):
        host.progress(0, len(image))
        resized = images.resized(picture.float().cpu(), size, "bicubic")
        small.append(images.for_network(resized, a.channels))
    x = torch.cat(small)
    labels = _labels(model, a.classes, len(x), label, latent) if a.classes else None
    parts: list[Tensor] = []
    with host.running(model) as running, torch.inference_mode():
        size = max(FEWEST, min(BATCH, PIXELS // (x.shape[2] * x.shape[3])))
        for start in range(0, len(x), size):
            # Filled up with the first ones.
            index = torch.arange(start, start + size) % len(x)
            parts.append(judge(running, a, x[index], None if labels is None else labels[index]))
            host.progress(min(start + size, len(x)), len(x))
    found = torch.cat(parts)[: len(x)]
    if a.classifies:
        return found.exp()
    return found.clamp(0, 1) if _squares(model) else found.sigmoid()


def judge(
    running: Running, architecture: DiscriminatorArchitecture, x: Tensor, labels: Tensor | None
) -> Tensor:
    """``[b]``: how real a discriminator finds images ``[b c h w]`` of the classes ``labels [b]``:
    its logit, the mean where there are several. One that classifies: the logarithms of its
    probabilities of real and of the class."""
    x, network = x.to(running.device), running.network
    labels = None if labels is None else labels.to(running.device)
    if architecture.classifies:
        assert labels is not None
        logits, classes = network.classify(x)  # pyright: ignore[reportCallIssue]
        of_class = classes.float().log_softmax(1).gather(1, labels[:, None])[:, 0]
        return (F.logsigmoid(logits.float()) + of_class).cpu()
    logits = network(x, labels).float().cpu()
    return logits.flatten(1).mean(1) if logits.ndim > 1 else logits


def discriminator_of(model: Model) -> DiscriminatorArchitecture:
    """The model's architecture.

    Raises:
        CheckpointError: it is no discriminator of whole images."""
    architecture = model.architecture
    if not isinstance(architecture, DiscriminatorArchitecture):
        kind = model.card.architecture["kind"]
        raise CheckpointError(
            f"{model.name} holds a {kind}, which does not judge images. Load a discriminator: "
            "`imagen-nodes export RUN` writes that of a training, `imagen-nodes import FILE "
            "--network D` that of another program's file"
        )
    return architecture


def _labels(model: Model, classes: int, count: int, label: str, latent: Latents | None) -> Tensor:
    if latent is not None and latent.labels is not None:
        if latent.count != count:
            raise DataError(f"{latent.count} latents for {count} pictures: give one each")
        wrong = latent.labels[(latent.labels < 0) | (latent.labels >= classes)]
        if len(wrong):
            raise DataError(f"the latents are of class {wrong[0]}, {model.name} has {classes}")
        return latent.labels
    return latents.in_turns(label, model.card.class_names, classes, count)


def _squares(model: Model) -> bool:
    """Whether it was trained with squared error."""
    training = model.card.training
    task = training.recipe.get("task") if training else None
    return isinstance(task, dict) and task.get("loss") == "mse"  # pyright: ignore[reportUnknownMemberType]
