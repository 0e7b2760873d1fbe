"""R3GAN's pickles. Which tensor is which of ours is written in ``networks/r3gan.py``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..networks.r3gan import R3GANGenerator
from .candidates import Candidate
from .imported import Imported, Names, Other

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = r"MainLayers\.(\d+)\.Layers\.(\d+)\.LinearLayer1\.Layer\.weight"


def generator(candidate: Candidate) -> Imported:
    """``Model.MainLayers.0.Layers.0.Basis``, ...

    Raises:
        Other: it is none."""
    names = Names(candidate.without_prefix("module.", "Model."))
    first = "MainLayers.0.Layers.0"
    if not names.has(f"{first}.Basis"):
        raise Other("no Basis")
    found: dict[int, list[int]] = {}
    for name in names.stored:
        if match := re.fullmatch(_BLOCK, name):
            found.setdefault(int(match[1]), []).append(int(match[2]))
    stages = [sorted(found[s]) for s in sorted(found)]
    blocks = {len(stage) for stage in stages}
    if len(blocks) != 1:
        raise Other("stages with different numbers of blocks")

    def at(stage: int, block: int) -> str:
        return f"MainLayers.{stage}.Layers.{block}"

    inner = [names.shape(f"{at(s, b[0])}.LinearLayer1.Layer.weight") for s, b in enumerate(stages)]
    classes = 0
    inputs = names.shape(f"{first}.LinearLayer.weight")[1]
    fields: dict[str, Any] = {"z_dim": inputs}
    if names.has("EmbeddingLayer.weight"):
        length, classes = names.shape("EmbeddingLayer.weight")
        fields = {"z_dim": inputs - length, "class_dim": length}
    architecture = R3GANGenerator.model_validate(
        {
            "resolution": 4 << (len(stages) - 1),
            "channels": names.shape("AggregationLayer.Layer.weight")[0],
            "widths": [shape[1] for shape in inner],
            "blocks": blocks.pop(),
            "expansion": inner[0][0] // inner[0][1],
            "group": names.shape(f"{at(0, stages[0][0])}.LinearLayer2.Layer.weight")[1],
            "classes": classes,
            **fields,
        }
    )
    state: dict[str, Tensor] = {
        "basis": names.take(f"{first}.Basis"),
        "linear.weight": names.take(f"{first}.LinearLayer.weight"),
        "image.weight": names.take("AggregationLayer.Layer.weight"),
    }
    if classes:
        state["embed.weight"] = names.take("EmbeddingLayer.weight").t().contiguous()
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage):
            theirs, ours = at(s, block), f"stages.{s}.{b}"
            for k in (1, 2, 3):
                state[f"{ours}.conv{k}.weight"] = names.take(
                    f"{theirs}.LinearLayer{k}.Layer.weight"
                )
            for k in (1, 2):
                state[f"{ours}.conv{k}.bias"] = names.take(f"{theirs}.NonLinearity{k}.Bias")
        if s and names.has(change := f"{at(s, 0)}.LinearLayer.Layer.weight"):
            state[f"changes.{s}.weight"] = names.take(change)
    names.ignore(*(name for name in names.stored if "Resampl" in name or "Kernel" in name))
    names.finish()
    return Imported(architecture, state)
