"""Translating pictures into others: labels into photographs, photographs into paintings."""

from __future__ import annotations

from torch import Tensor

from . import images, tiles
from .checkpoint import Model, Running
from .errors import CheckpointError, DataError
from .graph.host import Host
from .networks.architecture import Pictures
from .super_resolution import refuse_broken, reporting

# Tasks of networks whose results are their pictures, restored.
RESTORING = frozenset({"super-resolution", "restoration", "face restoration"})
# Most that a network is given to see of one picture, pixels.
MOST = 1 << 28


def translate(host: Host, model: Model, image: Tensor, side: int = 0) -> Tensor:
    """IMAGE ``[b h w c]`` -> IMAGE of the same size; c is 1, 3, or 4 with alpha, which is kept. The
    result of a grey picture has colours, if the network gives any: c of 1 becomes 3.

    Each picture is run by itself, whole where memory allows: see ``networks/picture_layers.py``.
    Values outside 0..1 are clamped.

    Args:
        side: the picture's shorter side while it is translated, px; 0: its own; -1: that which the
            network is trained on. The result is resized back.

    Raises:
        CheckpointError: ``model`` does not turn pictures into such of their own size.
        DataError: the pictures hold NaN or infinity, or memory runs out, or would, since one is
            long and ``side`` large.
    """
    pictures = pictures_of(model)
    refuse_broken(host, image)
    side = _trained(model) if side < 0 else side
    b, h, w, c = image.shape
    image = image.float().cpu()
    result = tiles.empty(b, h, w, max(c, 3))
    with host.running(model) as running:
        for i in range(b):
            given = image[i : i + 1, ..., :3]
            if side:
                factor = side / min(h, w)
                size = max(round(h * factor), 1), max(round(w * factor), 1)
                if size[0] * size[1] > max(MOST, h * w):
                    raise DataError(
                        f"a picture of {w}x{h} px whose shorter side is to be {side} would be seen "
                        f"as {size[1]}x{size[0]} px. Choose the size as it is, or a smaller side"
                    )
                given = images.resized(given, size, "lanczos")
            with reporting(host, running.network, i, b) as progress:
                made = _run(running, model, pictures, given, progress)
            result[i, ..., :3] = images.resized(made, (h, w), "lanczos")[0]
    if c == 4:
        result[..., 3] = image[..., 3]
    return result


def pictures_of(model: Model) -> Pictures:
    """What the model takes and gives.

    Raises:
        CheckpointError: it is no network for translation."""
    pictures, kind = model.architecture.pictures, model.card.architecture["kind"]
    restores = model.card.task in RESTORING
    if pictures is None or pictures.masked or restores:
        needs = "gives no pictures of pictures"
        if pictures and (pictures.masked or restores):
            needs = "needs a mask" if pictures.masked else "gives the same pictures back, restored"
        raise CheckpointError(
            f"{model.name} holds a {kind} for {model.card.task}, which {needs}: load a network for "
            "translation, such as pix2pix, CycleGAN or CUT"
        )
    if pictures.outputs not in (1, 3):
        raise CheckpointError(
            f"{model.name} gives {pictures.outputs} channels, which are no picture: this node "
            "shows results of 1 or 3"
        )
    if pictures.channels not in (1, 3):
        raise CheckpointError(
            f"{model.name} takes {pictures.channels} channels, one for each label of a label map, "
            "and not pictures; this node gives it pictures of 1 or 3"
        )
    if pictures.scale != 1:
        raise CheckpointError(
            f"{model.name} enlarges pictures {pictures.scale} times. Use Super-Resolve, or load a "
            "network for translation"
        )
    return pictures


def _trained(model: Model) -> int:
    """Shorter side of the pictures that the network is trained on, px; 0: not known. One without a
    size of its own sees windows of pictures that were brought to a side."""
    side = model.card.architecture.get("resolution") or model.card.task_recipe.get("read")
    return side if isinstance(side, int) else 0


def _run(
    running: Running, model: Model, pictures: Pictures, image: Tensor, progress: tiles.Progress
) -> Tensor:
    """``[1 h w c]`` of 1 or 3 channels -> ``[1 h w 3]``."""
    x = image.movedim(3, 1)
    if x.shape[1] != pictures.channels:
        x = images.luma(x) if pictures.channels == 1 else x.expand(-1, 3, -1, -1)

    call = images.through(running.network, model.card.value_range, running.device)
    y = tiles.run(call, x, sizes=pictures.sizes, tiling=pictures.tiling, progress=progress)
    return y.expand(-1, 3, -1, -1).movedim(1, 3)
