"""Inversion: latents whose image is a given one, by optimisation; and filling in what is masked.

Sources: Abdal, Qin, Wonka, "Image2StyleGAN", 2019 (w+, pixel and perceptual loss); Yeh et al.,
"Semantic Image Inpainting with Deep Generative Models", 2017 (a masked loss and a prior on z).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import images, latents
from .checkpoint import Model
from .errors import DataError
from .generation import at_once, generate, generator_of, too_large
from .graph.host import Host
from .latents import Latents
from .networks.architecture import GeneratorArchitecture
from .networks.progan import ProGANGeneratorNetwork
from .networks.squeezenet import SMALLEST
from .networks.styled import StyledNetwork
from .super_resolution import refuse_broken
from .tiles import is_out_of_memory

# Random latents of which the best begins; steps between two previews.
TRIED, PREVIEW = 256, 10
# Of the squared length of z over its expected one, beside losses of about 0.1.
PRIOR = 0.02
# What a mask of ones is off by where it was resized.
ROUNDING = 1e-4

Report = Callable[[int, Tensor | None], object]
"""Hears how many of a picture's steps are done, and now and then what is drawn, ``[1 c h w]``."""


def invert(
    host: Host,
    model: Model,
    image: Tensor,
    mask: Tensor | None = None,
    steps: int = 200,
    rate: float = 0.05,
    perceptual: float = 1.0,
    labels: str = "0",
    seed: int = 0,
) -> Latents:
    """Latents of the pictures ``image`` (IMAGE, resized to the generator's size): w+ of a generator
    with styles, else z.

    Args:
        mask: MASK; what is 1 is not looked at, so that the generator makes it up. One for all
            pictures, or one each.
        steps: of Adam, at the learning ``rate``, which falls along half a cosine.
        perceptual: weight of LPIPS beside the mean squared error.
        labels: classes of the pictures, in turns, where there are classes: see
            ``latents.classes_of``.
        seed: of the random latents of which the best begins.

    Raises:
        CheckpointError: ``model`` draws no images.
        DataError: pictures and masks do not fit together, or hold NaN or infinity, or there is no
            such class, or memory does not suffice."""
    a = generator_of(model)
    numbers = _classes(a, model, labels, len(image))
    refuse_broken(host, image)
    return _found(host, model, image, mask, numbers, steps, rate, perceptual, seed)


def inpaint(
    host: Host, model: Model, image: Tensor, mask: Tensor, labels: str = "0", **search: Any
) -> Tensor:
    """IMAGE ``image`` with what is 1 in MASK filled in by what the generator makes of the rest;
    pictures without any such are not searched for.

    Args:
        mask: one for all, or one each; resized bilinearly where it is of another size.
        labels: classes of the pictures, in turns.
        search: ``steps``, ``rate``, ``perceptual`` and ``seed`` of :func:`invert`.

    Raises:
        CheckpointError, DataError: as :func:`invert`."""
    a = generator_of(model)
    numbers = _classes(a, model, labels, len(image))
    refuse_broken(host, image)
    masks = images.fitted_mask(mask, len(image), (image.shape[1], image.shape[2]))
    holes = masks.flatten(1).any(1)
    if not holes.any():
        return image
    chosen, mask = image, masks
    if not holes.all():  # a search takes long
        chosen, mask = image[holes], masks[holes]
        numbers = None if numbers is None else numbers[holes]
    latent = _found(host, model, chosen, mask, numbers, **search)
    return fill(image, masks, generate(host, model, latent), holes)


def _classes(a: GeneratorArchitecture, model: Model, labels: str, count: int) -> Tensor | None:
    if not a.classes:
        return None
    return latents.in_turns(labels, model.card.class_names, a.classes, count)


def _found(
    host: Host,
    model: Model,
    image: Tensor,
    mask: Tensor | None,
    numbers: Tensor | None,
    steps: int = 200,
    rate: float = 0.05,
    perceptual: float = 1.0,
    seed: int = 0,
) -> Latents:
    """What :func:`invert` gives, of pictures that have been looked at, of the classes
    ``numbers [b]``."""
    a = generator_of(model)
    # Before it was fully grown, one draws smaller images.
    network = model.network
    size = a.size
    if isinstance(network, ProGANGeneratorNetwork):
        size = network.resolution, network.resolution
    targets, seen = _targets(host, size, a.channels, image, mask)
    total = len(targets) * steps
    found: list[Tensor] = []
    # Nodes run where nothing can be differentiated, on weights that cannot be.
    with host.running(model) as running, torch.inference_mode(False), torch.enable_grad():
        device = running.device
        network = _copy(a, running.network, device)
        judge = _Judge(perceptual, device)
        for i in range(len(targets)):
            # Clones, since a tensor of a node is one that cannot be differentiated.
            target, weight = (x[i : i + 1].clone().to(device) for x in (targets, seen))
            label = None if numbers is None else numbers[i : i + 1].clone().to(device)

            def report(step: int, drawn: Tensor | None, i: int = i) -> None:
                shown = None
                if drawn is not None:
                    shown = images.to_picture(images.from_network(drawn)[0])
                host.progress(i * steps + step, total, shown)

            try:
                with torch.autocast(device.type, enabled=False):
                    values = _start(a, network, judge, target, weight, label, seed, report)
                    _search(values, network, judge, target, weight, label, steps, rate, report)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise too_large(a) from error
            found.append(values.detach().float().cpu())
    values = torch.cat(found)
    return Latents(None, None, values) if a.styled else Latents(values, numbers)


def fill(image: Tensor, mask: Tensor, drawn: Tensor, which: Tensor) -> Tensor:
    """IMAGE ``image``, with ``drawn``, resized to it, where ``mask`` is 1; other pixels are
    untouched. ``which [b]``: the pictures that ``drawn`` is for, in their order."""
    size = (image.shape[1], image.shape[2])
    weights = images.fitted_mask(mask, len(image), size)[..., None]
    result = image.float().cpu()
    drawn = drawn[..., :3]
    result = result.expand(-1, -1, -1, max(result.shape[3], drawn.shape[3])).clone()
    for i, made in zip(which.nonzero().flatten().tolist(), drawn.split(1), strict=True):
        picture, weight = result[i, ..., :3], weights[i]
        large = images.resized(made, size, "bicubic")[0]
        picture.copy_(torch.where(weight > 0, torch.lerp(picture, large, weight), picture))
    return result


class _Judge:
    """How far images are from a target, where they are looked at: mean squared error, and LPIPS
    with the rest grey in both."""

    def __init__(self, perceptual: float, device: torch.device) -> None:
        from .evaluation.paired import lpips_network

        self.perceptual = perceptual
        self.network: nn.Module | None = None
        if perceptual:
            self.network = lpips_network().requires_grad_(False).to(device)

    def __call__(self, drawn: Tensor, target: Tensor, seen: Tensor) -> Tensor:
        """``[n c h w]`` against ``[1 c h w]``, ``seen [1 1 h w]`` -> ``[n]``."""
        share = seen.mean().clamp(min=1e-6)
        distance = ((drawn - target).square() * seen).mean((1, 2, 3)) / share
        if self.network is None:
            return distance
        a, b = (_rgb(x * seen) for x in (drawn, target.expand_as(drawn)))
        return distance + self.perceptual * self.network(a, b)


def _rgb(x: Tensor) -> Tensor:
    """Three channels, of at least the size that LPIPS takes."""
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    small = min(x.shape[2:])
    factor = -(-2 * SMALLEST // small)
    return F.interpolate(x, scale_factor=factor, mode="bilinear") if factor > 1 else x


def _targets(
    host: Host, size: tuple[int, int], channels: int, image: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``[b c h w]`` in -1..1 at the generator's ``size``, and what is looked at, ``[b 1 h w]``."""
    b, h, w, _ = image.shape
    masks = torch.zeros(1, 1, 1) if mask is None else mask
    masks = images.fitted_mask(masks, b, (h, w), said=False)[..., None]
    if (masks.flatten(1).amin(1) > 1 - ROUNDING).any():
        raise DataError("a mask covers its whole picture: there is nothing to go by")
    targets: list[Tensor] = []
    seen: list[Tensor] = []
    for i in range(b):
        host.progress(0, b)
        picture, share = _reduced(image[i : i + 1].float().cpu(), 1 - masks[i : i + 1], size)
        targets.append(images.for_network(picture, channels))
        seen.append(share.movedim(3, 1))
    return torch.cat(targets), torch.cat(seen)


def _reduced(picture: Tensor, seen: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """``[1 h w c]`` and its share that is looked at, ``[1 h w 1]``, at another size. What is not
    looked at has no say in what is averaged: it is filled in from around it beforehand."""
    whole = picture.shape[1], picture.shape[2]
    if whole == size:
        return picture, seen
    if seen.amin() == 1:
        return images.resized(picture, size, "bicubic"), torch.ones(1, *size, 1)
    # Kernels without negative values, so that a share is one.
    known, share = (images.resized(x, size, "bilinear") for x in (picture * seen, seen))
    around, of = (images.resized(x, whole, "bilinear") for x in (known, share))
    filled = torch.lerp(around / of.clamp(min=1e-6), picture, seen)
    return images.resized(filled, size, "bicubic"), share


def _copy(a: GeneratorArchitecture, network: nn.Module, device: torch.device) -> nn.Module:
    """The network with weights that can be differentiated through."""
    fresh = a.build()
    fresh.load_state_dict({name: t.clone() for name, t in network.state_dict().items()})
    fresh.requires_grad_(False).eval()
    return fresh.to(device, memory_format=torch.channels_last)  # pyright: ignore


def _draw(network: nn.Module, values: Tensor, label: Tensor | None) -> Tensor:
    if isinstance(network, StyledNetwork):
        return network.synthesis(values).clamp(-1.5, 1.5)
    labels = None if label is None else label.expand(len(values))
    return network(values, labels)


@torch.no_grad()
def _start(
    a: GeneratorArchitecture,
    network: nn.Module,
    judge: _Judge,
    target: Tensor,
    seen: Tensor,
    label: Tensor | None,
    seed: int,
    report: Report,
) -> Tensor:
    """The best of some random latents, and of a styled generator's average w."""
    z = latents.sample(TRIED, a.z_dim, seed).values.to(target.device)
    tried = z
    if isinstance(network, StyledNetwork):
        labels = None if label is None else label.expand(len(z))
        w = network.w_plus(z, labels, psi=0.7)
        average = network.w_avg.expand(1, w.shape[1], -1)
        tried = torch.cat([average, w])
    losses: list[Tensor] = []
    for part in tried.split(at_once(a)):
        report(0, None)
        losses.append(judge(_draw(network, part, label), target, seen))
    return tried[torch.cat(losses).argmin()][None].clone()


def _search(
    values: Tensor,
    network: nn.Module,
    judge: _Judge,
    target: Tensor,
    seen: Tensor,
    label: Tensor | None,
    steps: int,
    rate: float,
    report: Report,
) -> None:
    """Improve latents ``values [1 ...]`` in place."""
    values.requires_grad_()
    adam = torch.optim.Adam([values], rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        drawn = _draw(network, values, label)
        loss = judge(drawn, target, seen).sum()
        if not isinstance(network, StyledNetwork):
            loss = loss + PRIOR * (values.square().mean() - 1).clamp(min=0)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        report(step + 1, None if step % PREVIEW else drawn.detach())
