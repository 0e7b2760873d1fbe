"""Enlarging and restoring pictures with a network: any picture, any factor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from . import images, tiles
from .checkpoint import Model, Running
from .errors import CheckpointError, DataError
from .graph.host import Host
from .networks.architecture import Pictures
from .noise_level import noise_map

# Seconds between two looks at whether somebody has cancelled, within a tile.
PATIENCE = 0.25
# Pixels of a picture at a time whose result is resized; and how far Lanczos's filter reaches.
BAND, SUPPORT = 1 << 20, 3


def enlarge(
    host: Host,
    model: Model,
    image: Tensor,
    factor: float = 0.0,
    method: str = "lanczos",
    noise: float | None = None,
    ensemble: bool = False,
) -> Tensor:
    """IMAGE ``[b h w c]`` -> IMAGE ``[b f*h f*w c]``, rounded; c is 1, 3, or 4 with alpha.

    Each picture is run by itself, in tiles, by the network's own factor, and then resized, averaged
    where that makes it smaller. Grey pictures stay grey. Alpha is resized by ``method``. Values
    outside 0..1 are clamped.

    Args:
        factor: of both sides; 0: the network's own.
        method: of resizing: ``lanczos`` or ``bicubic``.
        noise: for a network that is told how strong the noise is, its deviation, where pictures are
            in 0..1; none: it is estimated, in each picture.
        ensemble: the mean over the picture's eight orientations (:func:`tiles.ensemble`).

    Raises:
        CheckpointError: ``model`` does not turn pictures into pictures, or needs a mask.
        DataError: the pictures hold NaN or infinity, or memory runs out.
    """
    pictures = _pictures(model)
    refuse_broken(host, image)
    b, h, w, c = image.shape
    factor = factor or pictures.scale
    size = (max(round(h * factor), 1), max(round(w * factor), 1))
    image = image.float().cpu()
    # Of one picture the network's own result will do.
    own = size == (h * pictures.scale, w * pictures.scale) and b == 1 and c != 4
    result = None if own else tiles.empty(b, *size, c)
    with host.running(model) as running:
        for i in range(b):
            draw = partial(run, running, model, pictures, noise=noise, ensemble=ensemble)
            with reporting(host, running.network, i, b) as progress:
                picture = image[i : i + 1, ..., :3]
                if result is None:
                    return draw(picture, progress)
                _draw_into(result[i, ..., :3], draw, pictures, picture, method, progress)
                if c == 4:
                    _resize_into(result[i, ..., 3:], image[i : i + 1, ..., 3:], method, progress)
    assert result is not None
    return result


def _draw_into(
    result: Tensor,
    draw: Callable[..., Tensor],
    pictures: Pictures,
    picture: Tensor,
    method: str,
    progress: tiles.Progress,
) -> None:
    """What ``draw`` makes of ``[1 h w c]``, resized to the ``result [h' w' c]``: some rows at a
    time, so that the network's own, which may be many times as large, is never whole in memory."""
    (_, h, w, _), (height, width, _), scale = picture.shape, result.shape, pictures.scale
    if pictures.reach is None or pictures.noise_map or h * w <= BAND:
        result.copy_(images.resized(draw(picture, progress), (height, width), method)[0])
        return
    grey, step = is_grey(picture), scale * h / height  # rows of the network's a row of the result
    around = math.ceil((SUPPORT * max(step, 1) + 1) / scale) + pictures.reach
    count = min(-(-h * w // BAND), height)
    for k in range(count):
        start, stop = (height * i // count for i in (k, k + 1))
        top, bottom = start * step, stop * step
        first = max(int(top / scale) - around, 0) // pictures.sizes.multiple
        first *= pictures.sizes.multiple
        made = draw(
            picture[:, first : math.ceil(bottom / scale) + around],
            lambda done, total, k=k: progress(k * total + done, count * total),
            grey=grey,
        )
        rows = (top - first * scale, min(bottom - first * scale, made.shape[1]))
        result[start:stop] = images.resized(made, (stop - start, width), method, rows)[0]


def _resize_into(result: Tensor, picture: Tensor, method: str, progress: tiles.Progress) -> None:
    """``[1 h w c]``, resized to the ``result [h' w' c]``, some rows at a time."""
    (h, height, width), picture = (picture.shape[1], *result.shape[:2]), picture.contiguous()
    count = min(-(-height * width // BAND), height)
    for k in range(count):
        progress(1, 1)
        start, stop = (height * i // count for i in (k, k + 1))
        rows = (start * h / height, stop * h / height)
        result[start:stop] = images.resized(picture, (stop - start, width), method, rows)[0]


def is_grey(image: Tensor, where: Tensor | None = None) -> bool:
    """Whether ``[... c]`` has no colours ``where [...]`` that is true; everywhere, where it is
    nowhere."""
    if image.shape[-1] == 1:
        return True
    grey = (image == image[..., :1]).all(-1)
    return bool((grey if where is None or not where.any() else grey | ~where).all())


def restore(
    host: Host,
    model: Model,
    image: Tensor,
    strength: float = 1.0,
    noise: float | None = None,
    ensemble: bool = False,
) -> Tensor:
    """IMAGE ``[b h w c]`` -> IMAGE of the same size, as :func:`enlarge` runs it.

    Args:
        strength: how far to go from the picture, 0, to the network's result, 1.
        noise, ensemble: as :func:`enlarge`.

    Raises:
        CheckpointError: as :func:`enlarge`, or ``model`` changes the size, or is not told how
            strong the noise is, and ``noise`` says it.
        DataError: as :func:`enlarge`.
    """
    pictures = _pictures(model)
    if pictures.scale != 1:
        raise CheckpointError(
            f"{model.name} enlarges pictures {pictures.scale} times. Use Super-Resolve, or load a "
            "network that keeps their size"
        )
    if noise is not None and not pictures.noise_map:
        raise CheckpointError(
            f"{model.name} is not told how strong the noise is, but sees it. Set noise to 0, or "
            "load a network that is told"
        )
    restored = enlarge(host, model, image, noise=noise, ensemble=ensemble)
    if strength == 1:
        return restored
    if len(restored) == 1:  # whose channels may share memory
        return torch.lerp(image.float().cpu().clamp(0, 1), restored, strength)
    for i, picture in enumerate(image):  # a batch may be most of the memory: no second one
        host.progress(len(image), len(image))
        torch.lerp(picture.float().cpu().clamp(0, 1), restored[i], strength, out=restored[i])
    return restored


def run(
    running: Running,
    model: Model,
    pictures: Pictures,
    image: Tensor,
    progress: tiles.Progress,
    holes: Tensor | None = None,
    noise: float | None = None,
    ensemble: bool = False,
    grey: bool | None = None,
) -> Tensor:
    """What a network makes of ``[1 h w c]`` of 1 or 3 channels: as many, larger by its factor; grey
    stays grey.

    Args:
        holes: ``[h w]``, for a network that takes a mask; what is no hole of the result is of no
            use.
        noise, ensemble: as :func:`enlarge`.
        grey: whether it is; none: as it looks.
    """
    grey = is_grey(image) if grey is None else grey
    x = image.movedim(3, 1)
    if pictures.channels == 1:  # one picture a channel
        x = (x[:, :1] if grey else x).transpose(0, 1)
    elif x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    more, wanted = None, None
    if holes is not None:
        more = wanted = holes.expand(len(x), 1, -1, -1)
    elif pictures.noise_map:
        more = noise_map(x, noise, pictures.jpeg_mark)
    network, device = running.network, running.device
    call = images.through(network, model.card.value_range, device, more is not None)
    y = tiles.run(
        tiles.ensemble(call) if ensemble else call,
        x,
        scale=pictures.scale,
        sizes=pictures.sizes,
        tiling=pictures.tiling,
        progress=progress,
        more=more,
        wanted=wanted,
    )
    y = y.transpose(0, 1) if pictures.channels == 1 else y
    y = y.mean(1, keepdim=True) if grey else y
    return y.expand(-1, image.shape[3], -1, -1).movedim(1, 3)


def _pictures(model: Model) -> Pictures:
    pictures, task = model.architecture.pictures, model.card.task
    if pictures is None or pictures.channels not in (1, 3):
        needs = "takes no pictures of one channel or three"
    elif pictures.masked:
        needs = "needs a mask"
    elif task == "translation" or pictures.outputs != pictures.channels:
        needs = "makes other pictures of them"
    else:
        return pictures
    kind = model.card.architecture["kind"]
    raise CheckpointError(
        f"{model.name} holds a {kind} for {task}, which {needs}: load a network for "
        "super-resolution or restoration"
    )


def refuse_broken(host: Host, image: Tensor, where: str = "") -> None:
    """
    Raises:
        DataError: ``image [b h w c]`` is of no picture, of other channels than pictures have, or
            has values that are no numbers."""
    if not len(image):
        raise DataError(f"{where}the batch holds no picture")
    if 0 in image.shape[1:3]:
        raise DataError(f"{where}pictures of {image.shape[2]}x{image.shape[1]} px hold nothing")
    if image.shape[3] not in images.MODES:
        raise DataError(
            f"{where}pictures of {image.shape[3]} channels; takes grey (1), RGB (3) or RGBA (4)"
        )
    last = time.monotonic()
    for i, picture in enumerate(image):
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            host.progress(0, len(image))
        if not images.is_finite(picture):
            raise DataError(
                f"{where}image {i} of the batch (counted from 0) holds NaN or infinity, which "
                "would spread over the result. Look at the node that made it"
            )


@contextmanager
def reporting(
    host: Host, network: nn.Module, i: int, b: int
) -> Generator[Callable[[int, int], None]]:
    """Progress of picture ``i`` of ``b`` for the host, which is asked between the network's layers
    too, so that a cancelled run stops within a tile."""
    step, last = (i, b), time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal step
        step = (i * total + done, b * total)
        report()

    def report() -> None:
        nonlocal last
        last = time.monotonic()
        host.progress(*step)

    def between(module: nn.Module, inputs: object) -> None:
        if time.monotonic() - last > PATIENCE:
            report()

    hooks = [module.register_forward_pre_hook(between) for module in network.modules()]
    try:
        yield progress
    finally:
        for hook in hooks:
            hook.remove()
