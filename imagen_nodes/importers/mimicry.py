"""mimicry's SNGAN, cGAN-PD and SAGAN generators (``netG_N_steps.pth``). Which tensor is which
of ours is written in ``networks/sngan.py``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..networks.sngan import SNGANGenerator
from .candidates import Candidate
from .imported import Imported, Names, Other

if TYPE_CHECKING:
    from torch import Tensor


# Of the maps that a SAGAN attends to, px, by that of its images: after block3 and block4.
ATTENTION = {32: 16, 128: 32}


def generator(candidate: Candidate) -> Imported:
    """``l1``, ``block2``, ..., ``b5``, ``c5``.

    Raises:
        Other: it is none."""
    names = Names(candidate.without_prefix("module."))
    found = (re.match(r"block(\d+)\.c1\.bias", name) for name in names.stored)
    numbers = sorted(int(match[1]) for match in found if match)
    if not names.has("l1.bias") or not numbers or numbers[0] != 2:
        raise Other("no l1 and block2")
    last = numbers[-1] + 1
    widths = [names.shape(f"block{n}.c1.bias")[0] for n in numbers]
    resolution = 4 << len(numbers)
    attends = names.has("attn_block.gamma")
    if attends and resolution not in ATTENTION:
        raise Other(f"a SAGAN of {resolution} px, whose place of attention is not known")
    side = ATTENTION.get(resolution, 0)
    classes = 0
    if names.has("block2.b1.embed.weight"):
        classes = names.shape("block2.b1.embed.weight")[0]
    weight = _weight(names, "l1")
    first = len(weight) // 16
    architecture = SNGANGenerator.model_validate(
        {
            "resolution": resolution,
            "channels": names.shape(f"c{last}.bias")[0],
            "classes": classes,
            "width": widths[-1],
            "width_max": first,
            "z_dim": weight.shape[1],
            "upsampling": "bilinear",
            "attention": [side] if attends else [],
        }
    )
    if [architecture.width_at(side) for side in architecture.sides] != widths:
        raise Other(f"channels that follow another rule: {first}, {widths}")
    # Rows [c h w] -> [h w c].
    state: dict[str, Tensor] = {
        "linear.weight": weight.unflatten(0, (-1, 4, 4)).permute(1, 2, 0, 3).flatten(0, 2),
        "linear.bias": names.take("l1.bias").unflatten(0, (-1, 4, 4)).permute(1, 2, 0).flatten(),
    }
    for i, n in enumerate(numbers):
        for theirs, ours in (("c1", "conv1"), ("c2", "conv2"), ("c_sc", "shortcut")):
            state[f"blocks.{i}.{ours}.weight"] = _weight(names, f"block{n}.{theirs}")
            state[f"blocks.{i}.{ours}.bias"] = names.take(f"block{n}.{theirs}.bias")
        for k in (1, 2):
            theirs, ours = f"block{n}.b{k}", f"blocks.{i}.norm{k}"
            if classes:
                state[f"{ours}.embed.weight"] = names.take(f"{theirs}.embed.weight")
                state |= _statistics(names, f"{theirs}.bn", f"{ours}.norm")
            else:
                state |= _plain(names, theirs, ours)
    state |= _plain(names, f"b{last}", "norm")
    state["conv.weight"] = _weight(names, f"c{last}")
    state["conv.bias"] = names.take(f"c{last}.bias")
    if attends:
        for theirs, ours in (("theta", "query"), ("phi", "key"), ("g", "value"), ("o", "out")):
            state[f"attention.{side}.{ours}.weight"] = _weight(names, f"attn_block.{theirs}")
        state[f"attention.{side}.gamma"] = names.take("attn_block.gamma").reshape(())
    names.ignore_all(".sn_sigma")
    names.finish()
    return Imported(architecture, state)


def _weight(names: Names, name: str) -> Tensor:
    """Over its spectral norm, in the one form or the other."""
    if names.has(f"{name}.weight"):
        return names.iterated(name, "sn_u")
    return names.folded(name)


def _plain(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    affine = {f"{ours}.{part}": names.take(f"{theirs}.{part}") for part in ("weight", "bias")}
    return affine | _statistics(names, theirs, ours)


def _statistics(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    import torch

    names.ignore(f"{theirs}.num_batches_tracked")
    found = {
        f"{ours}.{part}": names.take(f"{theirs}.{part}") for part in ("running_mean", "running_var")
    }
    return found | {f"{ours}.num_batches_tracked": torch.tensor(0)}
