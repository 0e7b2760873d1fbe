"""Progressive GANs of pytorch_GAN_zoo. Each layer is a convolution and its bias, both times He's
constant; otherwise they are ours (``networks/progan.py``)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..networks.progan import ProGANGenerator
from .candidates import Candidate, fields_of
from .imported import Imported, Names, Other

if TYPE_CHECKING:
    from torch import Tensor

# Losses whose generators end in a tanh.
SQUASHED = ("DCGAN", "MSE")


def generator(candidate: Candidate) -> Imported:
    """``avgG`` or ``netG``: formatLayer, groupScale0.0, scaleLayers.0.0, toRGBLayers.0, ...

    Raises:
        Other: it is none."""
    import torch

    names = Names(candidate.without_prefix("module."))
    if not names.has("formatLayer.module.weight") or not names.has("toRGBLayers.0.module.weight"):
        raise Other("no formatLayer and toRGBLayers")
    config = fields_of(candidate.siblings.get("config")) or {}
    if config.get("lossMode") in SQUASHED:
        raise Other("a tanh at its end, which ours has not")
    if config.get("leakyReluLeak", 0.2) != 0.2:
        raise Other(f"rectifiers of slope {config['leakyReluLeak']}, not 0.2")
    if config.get("categoryVectorDim"):
        raise Other("classes, which are not supported")
    if config.get("perChannelNormalization") is False or config.get("equalizedlR") is False:
        raise Other("no pixel norm, or no equalised learning rate")
    scales = names.count(r"toRGBLayers\.(\d+)\.module\.bias")
    sides = [4 << i for i in range(scales)]
    widths = [names.shape(f"toRGBLayers.{i}.module.weight")[1] for i in range(scales)]
    most = max(widths)
    # Those below the widest follow the rule that the widest hide.
    narrow = [width * side // 2 for width, side in zip(widths, sides, strict=True) if width < most]
    architecture = ProGANGenerator.model_validate(
        {
            "resolution": sides[-1],
            "channels": names.shape("toRGBLayers.0.module.weight")[0],
            "width_base": max(narrow, default=most * sides[-1] // 2),
            "width_max": most,
            "z_dim": names.shape("formatLayer.module.weight")[1],
            "bias_by_place": True,
        }
    )
    if [architecture.width_at(side) for side in sides] != widths:
        raise Other(f"channels that follow another rule: {widths}")

    def layer(theirs: str, ours: str, gain: float = 1.0) -> dict[str, Tensor]:
        """``gain``: what ours leaves out of He's constant."""
        weight, bias = (names.take(f"{theirs}.module.{part}") for part in ("weight", "bias"))
        scale = math.sqrt(2 / weight[0].numel())
        return {f"{ours}.weight": weight * gain, f"{ours}.bias": bias * scale}

    # A quarter is in our layer: see there.
    first = layer("formatLayer", "first.dense", 4.0)
    state = {
        "first.dense.weight": first["first.dense.weight"],
        "first.bias": first["first.dense.bias"].view(-1, 4, 4),
        **layer("groupScale0.0", "first.conv"),
    }
    for i in range(scales):
        state |= layer(f"toRGBLayers.{i}", f"to_rgb.{i}", math.sqrt(2))
    for i in range(scales - 1):
        for k in (0, 1):
            state |= layer(f"scaleLayers.{i}.{k}", f"blocks.{i}.conv{k}")
    state["_extra_state"] = torch.tensor(float(scales - 1))
    names.finish()
    alpha = config.get("alpha", 0)
    fading = isinstance(alpha, float) and alpha > 0
    note = "its last resolution was still being faded in; here it is whole"
    return Imported(architecture, state, notes=(note,) if fading else ())
