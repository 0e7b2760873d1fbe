"""BigGAN files: BigGAN-deep as Hugging Face has it (pytorch_model.bin), and BigGAN-PyTorch's
``G_ema.pth``. Which tensor is which of ours is written in ``networks/biggan.py`` and
``biggan_deep.py``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..networks.biggan import GENERATOR, BigGANGenerator
from ..networks.biggan_deep import BigGANDeepGenerator
from .candidates import Candidate
from .imported import Imported, Names, Other

if TYPE_CHECKING:
    from torch import Tensor

# Of its 51 sets of batch norm statistics the last is for z that is not truncated.
UNTRUNCATED = -1
HUGGING_FACE_EPS = 1e-4
BLOCKS_A_STAGE = 2


def hugging_face_deep(candidate: Candidate) -> Imported:
    """``embeddings``, ``generator.gen_z``, ``generator.layers.0.conv_0``, ...

    Raises:
        Other: it is none."""
    names = Names(candidate.without_prefix("module."))
    if not names.has("generator.conv_to_rgb.bias") and not names.has("generator.gen_z.bias"):
        raise Other("no generator.gen_z")
    numbers = sorted(
        {
            int(m[1])
            for n in names.stored
            if (m := re.match(r"generator\.layers\.(\d+)\.conv_0\.", n))
        }
    )
    attention = [
        int(m[1]) for n in names.stored if (m := re.match(r"generator\.layers\.(\d+)\.gamma$", n))
    ]
    if len(numbers) % BLOCKS_A_STAGE or len(attention) > 1:
        raise Other("another number of blocks")
    stages = len(numbers) // BLOCKS_A_STAGE
    resolution = 4 << stages
    if resolution not in GENERATOR:
        raise Other(f"images of {resolution} px")
    width = names.shape("generator.bn.running_means")[1] // GENERATOR[resolution][-1]
    class_dim, classes = names.shape("embeddings.weight")
    at = _shape_of(names, "generator.gen_z")[1]
    sides: list[int] = []
    if attention:
        before = sum(number < attention[0] for number in numbers)
        sides.append(4 << (before // BLOCKS_A_STAGE))
    architecture = BigGANDeepGenerator.model_validate(
        {
            "resolution": resolution,
            "width": width,
            "attention": sides,
            "classes": classes,
            "class_dim": class_dim,
            "z_dim": at - class_dim,
            "spectral_norm": False,
            "norm_eps": HUGGING_FACE_EPS,
        }
    )
    state: dict[str, Tensor] = {"embed.weight": names.take("embeddings.weight").t().contiguous()}
    state["linear.weight"] = names.folded("generator.gen_z")
    state["linear.bias"] = names.take("generator.gen_z.bias")
    for i, number in enumerate(numbers):
        theirs, ours = f"generator.layers.{number}", f"blocks.{i}"
        for k in range(4):
            state[f"{ours}.convs.{k}.weight"] = names.folded(f"{theirs}.conv_{k}")
            state[f"{ours}.convs.{k}.bias"] = names.take(f"{theirs}.conv_{k}.bias")
            norm = f"{theirs}.bn_{k}"
            state[f"{ours}.norms.{k}.gain.weight"] = names.folded(f"{norm}.scale")
            state[f"{ours}.norms.{k}.bias.weight"] = names.folded(f"{norm}.offset")
            state |= _statistics(names, norm, f"{ours}.norms.{k}.norm")
    if attention:
        theirs, ours = f"generator.layers.{attention[0]}", f"attention.{sides[0]}"
        for their, our in (("theta", "query"), ("phi", "key"), ("g", "value"), ("o_conv", "out")):
            state[f"{ours}.{our}.weight"] = names.folded(f"{theirs}.snconv1x1_{their}")
        state[f"{ours}.gamma"] = names.take(f"{theirs}.gamma").reshape(())
    state |= _statistics(names, "generator.bn", "norm")
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = names.take(f"generator.bn.{part}")
    state["conv.weight"] = names.folded("generator.conv_to_rgb")[:3]
    state["conv.bias"] = names.take("generator.conv_to_rgb.bias")[:3]
    for suffix in ("_u", "_v", ".step_size", "num_batches_tracked"):
        names.ignore_all(suffix)
    names.finish()
    note = "its batch norm statistics are those for z without truncation"
    return Imported(architecture, _tracked(architecture, state), notes=(note,))


def pytorch_generator(candidate: Candidate) -> Imported:
    """``linear``, ``blocks.0.0.conv1``, ``output_layer.2``, with or without ``shared``.

    Raises:
        Other: it is none."""
    import torch

    names = Names(candidate.without_prefix("module."))
    if not names.has("output_layer.0.gain") or not names.has("blocks.0.0.conv1.weight"):
        raise Other("no output_layer and blocks")
    if names.has("blocks.0.0.conv4.weight"):
        raise Other("a BigGAN-deep of BigGAN-PyTorch")
    count = names.count(r"blocks\.(\d+)\.0\.conv1\.weight")
    resolution = 4 << count
    if resolution not in GENERATOR:
        raise Other(f"images of {resolution} px")
    width = names.shape("output_layer.0.gain")[0] // GENERATOR[resolution][-1]
    attention = [8 << i for i in range(count) if names.has(f"blocks.{i}.1.gamma")]
    shared = names.has("shared.weight")
    part = names.shape("linear.weight")[1]
    if shared:
        classes, class_dim = names.shape("shared.weight")
        extra = names.shape("blocks.0.0.bn1.gain.weight")[1] - class_dim
        fields = {
            "classes": classes,
            "class_dim": class_dim,
            "hierarchical": extra > 0,
            "z_dim": part * (count + 1) if extra > 0 else part,
        }
    else:
        classes = names.shape("blocks.0.0.bn1.gain.weight")[0]
        extra, class_dim = 0, 0
        fields = {"classes": classes, "class_dim": 0, "hierarchical": False, "z_dim": part}
    architecture = BigGANGenerator.model_validate(
        {
            "resolution": resolution,
            "width": width,
            "channels": names.shape("output_layer.2.weight")[0],
            "attention": attention,
            "spectral_norm": False,
            **fields,
        }
    )
    state: dict[str, Tensor] = {}
    if shared:
        state["embed.weight"] = names.take("shared.weight")
    weight, bias = names.iterated("linear", "u0"), names.take("linear.bias")
    # Rows [c h w] -> [h w c].
    state["linear.weight"] = weight.unflatten(0, (-1, 4, 4)).permute(1, 2, 0, 3).flatten(0, 2)
    state["linear.bias"] = bias.unflatten(0, (-1, 4, 4)).permute(1, 2, 0).flatten()
    for i in range(count):
        theirs, ours = f"blocks.{i}.0", f"blocks.{i}"
        for their, our in (("conv1", "conv1"), ("conv2", "conv2"), ("conv_sc", "shortcut")):
            state[f"{ours}.{our}.weight"] = names.iterated(f"{theirs}.{their}", "u0")
            state[f"{ours}.{our}.bias"] = names.take(f"{theirs}.{their}.bias")
        for k in (1, 2):
            norm, our = f"{theirs}.bn{k}", f"{ours}.norm{k}"
            if shared:
                for field in ("gain", "bias"):
                    found = names.iterated(f"{norm}.{field}", "u0")
                    # Columns [class, z] -> [z, class].
                    state[f"{our}.{field}.weight"] = torch.cat(
                        [found[:, class_dim:], found[:, :class_dim]], 1
                    )
            else:
                gain = 1 + names.take(f"{norm}.gain.weight")
                state[f"{our}.embed.weight"] = torch.cat(
                    [gain, names.take(f"{norm}.bias.weight")], 1
                )
            state |= _stored(names, norm, f"{our}.norm")
        if 8 << i in attention:
            side = 8 << i
            for their, our in (("theta", "query"), ("phi", "key"), ("g", "value"), ("o", "out")):
                state[f"attention.{side}.{our}.weight"] = names.iterated(
                    f"blocks.{i}.1.{their}", "u0"
                )
            state[f"attention.{side}.gamma"] = names.take(f"blocks.{i}.1.gamma").reshape(())
    state |= _stored(names, "output_layer.0", "norm")
    state["norm.weight"] = names.take("output_layer.0.gain")
    state["norm.bias"] = names.take("output_layer.0.bias")
    state["conv.weight"] = names.iterated("output_layer.2", "u0")
    state["conv.bias"] = names.take("output_layer.2.bias")
    for suffix in (".u0", ".sv0", ".accumulation_counter"):
        names.ignore_all(suffix)
    names.finish()
    return Imported(architecture, _tracked(architecture, state))


def _stored(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    return {
        f"{ours}.running_mean": names.take(f"{theirs}.stored_mean"),
        f"{ours}.running_var": names.take(f"{theirs}.stored_var"),
    }


def _statistics(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    return {
        f"{ours}.running_mean": names.take(f"{theirs}.running_means")[UNTRUNCATED],
        f"{ours}.running_var": names.take(f"{theirs}.running_vars")[UNTRUNCATED],
    }


def _shape_of(names: Names, layer: str) -> tuple[int, ...]:
    kind = "weight_orig" if names.has(f"{layer}.weight_orig") else "weight"
    return names.shape(f"{layer}.{kind}")


def _tracked(
    architecture: BigGANGenerator | BigGANDeepGenerator, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """With the counters that torch's batch norms have."""
    import torch

    with torch.device("meta"):
        wanted = architecture.build().state_dict()
    counters = (name for name in wanted if name.endswith("num_batches_tracked"))
    return state | {name: torch.tensor(0) for name in counters if name not in state}
