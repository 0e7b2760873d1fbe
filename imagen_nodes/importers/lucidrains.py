"""Files of lucidrains' stylegan2_pytorch and lightweight-gan: ``model_N.pt``, in which the averages
of the networks begin with SE and GE. What no tensor says, ``.config.json`` beside it does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..networks.lightweight import LightweightGenerator, cosines
from ..networks.lucid_stylegan2 import LucidStyleGAN2Generator
from .candidates import Candidate
from .imported import Imported, Names, Other
from .stylegan2 import DRAWS, average_of_w

if TYPE_CHECKING:
    from torch import Tensor

# Of the mapping network, where no file says: the program's own default.
MAPPING_LR = 0.1


def stylegan2(candidate: Candidate) -> Imported:
    """``SE.net.0``, ``GE.initial_conv``, ``GE.blocks.0.conv1``, ``GE.attns.3``, ...

    Raises:
        Other: it is none."""
    import torch

    names = _averages(candidate, "SE.", "GE.")
    if not names.has("GE.initial_conv.weight") or not names.has("SE.net.0.weight"):
        raise Other("no GE.initial_conv and SE.net.0")
    count = 1 + _last(names, r"GE\.blocks\.(\d+)\.conv1\.weight")
    widths = [names.shape(f"GE.blocks.{i}.conv2.weight")[0] for i in range(count)]
    attention = [i for i in range(count) if names.has(f"GE.attns.{i}.0.fn.norm.g")]
    depth = sum(re.fullmatch(r"SE\.net\.\d+\.weight", name) is not None for name in names.stored)
    lr = candidate.settings().get("lr_mlp", MAPPING_LR)
    constant = names.has("GE.initial_block")
    architecture = LucidStyleGAN2Generator.model_validate(
        {
            "resolution": 2 << count,
            "channels": names.shape("GE.blocks.0.to_rgb.conv.weight")[0],
            "z_dim": names.shape("SE.net.0.weight")[0],
            "mapping_layers": depth,
            "mapping_lr": lr,
            "width": widths[-1] // 2,
            "width_max": max(widths),
            "attention": [4 << i for i in attention],
            "constant": constant,
        }
    )
    if [architecture.width_at(side) for side in architecture.sides] != widths:
        raise Other(f"channels that follow another rule: {widths}")
    state: dict[str, Tensor] = {}
    for i in range(depth):
        state[f"mapping.weights.{i}"] = names.take(f"SE.net.{2 * i}.weight")
        state[f"mapping.biases.{i}"] = names.take(f"SE.net.{2 * i}.bias")
    if constant:
        state["synthesis.constant"] = names.take("GE.initial_block")[0]
    else:
        state["synthesis.first.weight"] = names.take("GE.to_initial_block.weight")
    state |= _layer(names, "GE.initial_conv", "synthesis.conv")
    for i, side in enumerate(architecture.sides):
        theirs, ours = f"GE.blocks.{i}", f"synthesis.blocks.{side}"
        for k in (0, 1):
            state |= _layer(names, f"{theirs}.to_style{k + 1}", f"{ours}.conv{k}.style")
            state[f"{ours}.conv{k}.weight"] = names.take(f"{theirs}.conv{k + 1}.weight")
            noise = f"{theirs}.to_noise{k + 1}"
            state[f"{ours}.noise_strength.{k}"] = names.take(f"{noise}.weight")[:, 0]
            state[f"{ours}.bias.{k}"] = names.take(f"{noise}.bias")
        state |= _layer(names, f"{theirs}.to_rgb.to_style", f"{ours}.to_image.style")
        state[f"{ours}.to_image.weight"] = names.take(f"{theirs}.to_rgb.conv.weight")
        if i in attention:
            theirs, ours = f"GE.attns.{i}", f"{ours}.attention"
            state |= _norm(names, f"{theirs}.0.fn.norm", f"{ours}.norm0")
            state |= _attention(
                names, f"{theirs}.0.fn.fn", f"{ours}.attention", ("to_q", "to_kv.net")
            )
            state |= _norm(names, f"{theirs}.1.fn.norm", f"{ours}.norm1")
            for k in (0, 1):
                state |= _layer(names, f"{theirs}.1.fn.fn.{2 * k}", f"{ours}.conv{k}")
    names.ignore_all(".f")
    names.finish()
    random = torch.Generator().manual_seed(0)
    side = architecture.resolution
    state["synthesis.noise"] = torch.rand(side, side, generator=random)
    state["w_avg"] = average_of_w(architecture, state)
    notes = [f"it has no average of w, so that of {DRAWS:,} draws is taken"]
    if "lr_mlp" not in candidate.settings():
        notes.append(
            f"lr_mlp is taken to be {lr}, since there is no .config.json beside it: lay the "
            "training's there if it was another"
        )
    return Imported(architecture, state, notes=tuple(notes))


def lightweight(candidate: Candidate) -> Imported:
    """``GE.initial_conv.0``, ``GE.layers.0.0.2.1``, ``GE.out_conv``, ...

    Raises:
        Other: it is none."""
    import torch

    names = _averages(candidate, "GE.")
    if not names.has("GE.initial_conv.0.weight") or not names.has("GE.out_conv.weight"):
        raise Other("no GE.initial_conv.0 and GE.out_conv")
    count = 1 + _last(names, r"GE\.layers\.(\d+)\.0\.2\.1\.weight")
    if not names.has("GE.layers.0.0.0.net.0.weight"):
        raise Other("a version before 1.0, whose upsampling is another")
    waves = [name for name in names.stored if name.endswith(".dct_weights")]
    widths = [names.shape(f"GE.layers.{i}.0.2.1.weight")[0] // 2 for i in range(count)]
    sides = [8 << i for i in range(count)]
    thick = [width * side for width, side in zip(widths, sides, strict=True) if side < 512]
    architecture = LightweightGenerator.model_validate(
        {
            "resolution": sides[-1],
            "channels": names.shape("GE.out_conv.weight")[0],
            "z_dim": names.shape("GE.initial_conv.0.weight")[0],
            "width_base": max(thick),
            "width_max": max(widths),
            "attention": [4 << i for i in range(count) if names.has(f"GE.layers.{i}.2.norm.g")],
            "steering": "frequencies" if waves else "context",
        }
    )
    for name in waves:
        found = names.take(name)[0]
        if not torch.allclose(found, cosines(found.shape[0], found.shape[1]), atol=1e-5):
            raise Other(f"other frequencies than the usual ones, {name}")
    if [architecture.width_at(side) for side in sides] != widths:
        raise Other(f"channels that follow another rule: {widths}")
    state = _layer(names, "GE.initial_conv.0", "first")
    state |= _batch_norm(names, "GE.initial_conv.1", "norm")
    random = torch.Generator().manual_seed(0)
    for i, side in enumerate(sides):
        theirs, ours = f"GE.layers.{i}", f"blocks.{side}"
        state |= _layer(names, f"{theirs}.0.0.net.0", f"{ours}.up")
        state |= _layer(names, f"{theirs}.0.2.1", f"{ours}.conv")
        state[f"{ours}.noise_strength"] = names.take(f"{theirs}.0.3.weight").reshape(())
        state[f"{ours}.noise"] = torch.randn(side, side, generator=random)
        state |= _batch_norm(names, f"{theirs}.0.4", f"{ours}.norm")
        for their, our in (("to_k", "look"), ("net.0", "conv0"), ("net.2", "conv1")):
            if names.has(f"{theirs}.1.{their}.weight"):
                state |= _layer(names, f"{theirs}.1.{their}", f"{ours}.steering.{our}")
        if side // 2 in architecture.attention:
            state |= _norm(names, f"{theirs}.2.norm", f"{ours}.attention_norm")
            attention = f"{ours}.attention"
            state |= _attention(names, f"{theirs}.2.fn", attention, ("to_lin_q", "to_lin_kv.net"))
            for their, our in (("to_q", "near_query"), ("to_kv", "near_key_value")):
                state[f"{attention}.{our}.weight"] = names.take(f"{theirs}.2.fn.{their}.weight")
    state |= _layer(names, "GE.out_conv", "out")
    names.ignore_all(".f")
    names.finish()
    return Imported(
        architecture, state, notes=("its noise, new for each image, is the same for all from here",)
    )


def _averages(candidate: Candidate, *prefixes: str) -> Names:
    """The averages' tensors; the raw networks and the discriminator stay where they are."""
    return Names({n: t for n, t in candidate.tensors.items() if n.startswith(prefixes)})


def _last(names: Names, pattern: str) -> int:
    found = (re.fullmatch(pattern, name) for name in names.stored)
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        raise Other("no layers")
    return max(numbers)


def _layer(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    """With a bias."""
    return {f"{ours}.{part}": names.take(f"{theirs}.{part}") for part in ("weight", "bias")}


def _norm(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    parts = (("g", "scale"), ("b", "shift"))
    return {f"{ours}.{our}": names.take(f"{theirs}.{their}").flatten() for their, our in parts}


def _batch_norm(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    import torch

    names.ignore(f"{theirs}.num_batches_tracked")
    parts = ("weight", "bias", "running_mean", "running_var")
    found = {f"{ours}.{part}": names.take(f"{theirs}.{part}") for part in parts}
    return found | {f"{ours}.num_batches_tracked": torch.tensor(0)}


def _attention(names: Names, theirs: str, ours: str, of_all: tuple[str, str]) -> dict[str, Tensor]:
    query, key_value = of_all
    return {
        f"{ours}.query.weight": names.take(f"{theirs}.{query}.weight"),
        f"{ours}.around.weight": names.take(f"{theirs}.{key_value}.0.weight"),
        f"{ours}.key_value.weight": names.take(f"{theirs}.{key_value}.1.weight"),
        **_layer(names, f"{theirs}.to_out", f"{ours}.out"),
    }
