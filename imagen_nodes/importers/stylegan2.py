"""StyleGAN2 files: NVIDIA's PyTorch pickles (stylegan2-ada-pytorch and its descendants) and
TensorFlow pickles (the first release, stylegan2-ada), and rosinality's checkpoints.

Their layers are ours one to one (``networks/stylegan2.py``); names differ, and rosinality's weights
have a leading axis and its constants are spread over convs and to_rgbs.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from ..networks.lucid_stylegan2 import LucidStyleGAN2Generator
from ..networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from .candidates import Candidate, arguments_of
from .imported import Imported, Names, Other

if TYPE_CHECKING:
    from torch import Tensor

Styled = StyleGAN2Generator | LucidStyleGAN2Generator
# Draws of z that w's average is taken over, where the file has none, as rosinality's code does.
DRAWS = 10_000


def nvidia_generator(candidate: Candidate) -> Imported:
    """``G`` or ``G_ema``: mapping.fc0, synthesis.b4.conv1, ...; of StyleGAN2.

    Raises:
        Other: it is none."""
    names = Names(candidate.tensors)
    if not names.has("synthesis.b4.const"):
        raise Other("no synthesis.b4.const")
    sides = _sides(names, r"synthesis\.b(\d+)\.conv1\.weight")
    last = sides[-1]
    widths = {side: names.shape(f"synthesis.b{side}.conv1.weight")[0] for side in sides}
    drawing = [side for side in sides if names.has(f"synthesis.b{side}.torgb.weight")]
    residual = names.has(f"synthesis.b{last}.skip.weight")
    paths = "skip" if len(drawing) == len(sides) else "residual" if residual else "plain"
    classes = names.shape("mapping.embed.weight")[1] if names.has("mapping.embed.weight") else 0
    w_dim = names.shape("mapping.fc0.weight")[0]
    constant = names.shape("synthesis.b4.const")
    fields = {
        "resolution": last,
        "smallest": constant[1:],
        "channels": names.shape(f"synthesis.b{last}.torgb.weight")[0],
        "classes": classes,
        "z_dim": names.shape("mapping.fc0.weight")[1] - (w_dim if classes else 0),
        "w_dim": w_dim,
        "mapping_layers": _count(names, r"mapping\.fc\d+\.weight"),
        "paths": paths,
        "clamp": _clamp(candidate.about),
        **_widths(widths),
    }
    architecture = StyleGAN2Generator.model_validate(fields)
    state = {"w_avg": names.take("mapping.w_avg")}
    state |= nvidia_mapping(names, architecture.mapping_layers, bool(classes))
    state["synthesis.constant"] = names.take("synthesis.b4.const")
    for side in sides:
        theirs, ours = f"synthesis.b{side}", f"synthesis.blocks.{side}"
        for conv in ("conv0", "conv1") if side > 4 else ("conv1",):
            for their, our in (
                ("weight", "weight"), ("bias", "bias"), ("noise_const", "noise"),
                ("noise_strength", "noise_strength"), ("affine.weight", "style.weight"),
                ("affine.bias", "style.bias"),
            ):  # fmt: skip
                state[f"{ours}.{conv}.{our}"] = names.take(f"{theirs}.{conv}.{their}")
        if side in drawing:
            for their, our in (
                ("weight", "weight"), ("bias", "bias"), ("affine.weight", "style.weight"),
                ("affine.bias", "style.bias"),
            ):  # fmt: skip
                state[f"{ours}.to_image.{our}"] = names.take(f"{theirs}.torgb.{their}")
        if residual and side > 4:
            state[f"{ours}.skip.weight"] = names.take(f"{theirs}.skip.weight")
    _check_filters(names)
    names.finish()
    return Imported(architecture, state)


def nvidia_discriminator(candidate: Candidate) -> Imported:
    """``D``: b64.fromrgb, b64.conv0, ..., b4.fc, b4.out.

    Raises:
        Other: it is none."""
    names = Names(candidate.tensors)
    if not names.has("b4.fc.weight") or not names.has("b4.conv.weight"):
        raise Other("no b4.fc and b4.conv")
    sides = [4, *_sides(names, r"b(\d+)\.conv0\.weight")]
    last = sides[-1]
    widths = {side: names.shape(f"b{side}.conv0.weight")[0] for side in sides[1:]}
    widths[4] = names.shape("b4.out.weight")[1]
    classes = names.shape("mapping.embed.weight")[1] if names.has("mapping.embed.weight") else 0
    seen = [side for side in sides if names.has(f"b{side}.fromrgb.weight")]
    residual = names.has(f"b{last}.skip.weight")
    fields = {
        "resolution": last,
        "smallest": _smallest(names.shape("b4.fc.weight")[1] // widths[4]),
        "channels": names.shape(f"b{last}.fromrgb.weight")[1],
        "classes": classes,
        "mapping_layers": _count(names, r"mapping\.fc\d+\.weight") or 8,
        "paths": "residual" if residual else "skip" if len(seen) > 1 else "plain",
        "group": 4 if names.shape("b4.conv.weight")[1] > widths[4] else 1,
        "clamp": _clamp(candidate.about),
        **_widths(widths),
    }
    architecture = StyleGAN2Discriminator.model_validate(fields)
    state: dict[str, Tensor] = {}
    if classes:
        state |= nvidia_mapping(names, architecture.mapping_layers, True)
        names.ignore("mapping.w_avg")
    for side in seen:
        for part in ("weight", "bias"):
            state[f"from_image.{side}.{part}"] = names.take(f"b{side}.fromrgb.{part}")
    for side in sides[1:]:
        for conv in ("conv0", "conv1"):
            for part in ("weight", "bias"):
                state[f"blocks.{side}.{conv}.{part}"] = names.take(f"b{side}.{conv}.{part}")
        if residual:
            state[f"blocks.{side}.skip.weight"] = names.take(f"b{side}.skip.weight")
    for their, our in (("conv", "conv"), ("fc", "dense"), ("out", "out")):
        for part in ("weight", "bias"):
            state[f"blocks.4.{our}.{part}"] = names.take(f"b4.{their}.{part}")
    _check_filters(names)
    names.finish()
    return Imported(architecture, state, task="discriminate")


def tensorflow_generator(candidate: Candidate) -> Imported:
    """``Gs`` or ``G`` of the first release, or of stylegan2-ada, in TensorFlow: kernels
    [h w in out], matrices [in out], those of layers that double turned by 180 degrees, biases of
    styles less 1.

    Raises:
        Other: it is none."""
    import torch

    names = Names(candidate.tensors)
    if not names.has("synthesis/4x4/Const/const"):
        raise Other("no synthesis/4x4/Const/const")
    joint = names.has("mapping/LabelConcat/weight")  # the first release
    embed = "mapping/LabelConcat" if joint else "mapping/LabelEmbed"
    labelled = names.has(f"{embed}/weight")
    classes, embedded = names.shape(f"{embed}/weight") if labelled else (0, 0)
    sides = _sides(names, r"synthesis/(\d+)x\1/(?:Conv|Conv1)/weight")
    last = sides[-1]

    def conv_name(side: int, conv: str) -> str:
        kind = "Conv" if side == 4 else {"conv0": "Conv0_up", "conv1": "Conv1"}[conv]
        return f"synthesis/{side}x{side}/{kind}"

    widths = {side: names.shape(f"{conv_name(side, 'conv1')}/weight")[3] for side in sides}
    drawing = [side for side in sides if names.has(f"synthesis/{side}x{side}/ToRGB/weight")]
    residual = names.has(f"synthesis/{last}x{last}/Skip/weight")
    inputs, w_dim = names.shape("mapping/Dense0/weight")
    layers = _count(names, r"mapping/Dense\d+/weight")
    architecture = StyleGAN2Generator.model_validate(
        {
            "resolution": last,
            "channels": names.shape(f"synthesis/{last}x{last}/ToRGB/weight")[3],
            "z_dim": inputs - embedded,
            "w_dim": w_dim,
            "classes": classes,
            "label_norm": "joint" if joint else "separate",
            "mapping_layers": layers,
            "clamp": _clamp(candidate.about),
            "paths": "skip" if len(drawing) == len(sides) else "residual" if residual else "plain",
            **_widths(widths),
        }
    )

    def kernel(name: str, turned: bool = False) -> Tensor:
        found = names.take(f"{name}/weight")
        return (found.flip(0, 1) if turned else found).permute(3, 2, 0, 1)

    state = {
        "w_avg": names.take("dlatent_avg"),
        "synthesis.constant": names.take("synthesis/4x4/Const/const")[0],
    }
    for i in range(layers):
        state[f"mapping.layers.{i}.weight"] = names.take(f"mapping/Dense{i}/weight").t()
        state[f"mapping.layers.{i}.bias"] = names.take(f"mapping/Dense{i}/bias")
    if joint:  # a matrix as it is: ours is scaled when it is used
        state["mapping.embed.weight"] = names.take(f"{embed}/weight").t() * math.sqrt(classes)
        state["mapping.embed.bias"] = torch.zeros(embedded)
    elif classes:
        state["mapping.embed.weight"] = names.take(f"{embed}/weight").t()
        state["mapping.embed.bias"] = names.take(f"{embed}/bias")
    number = 0
    for side in sides:
        ours = f"synthesis.blocks.{side}"
        parts = [(conv, conv_name(side, conv), conv == "conv0") for conv in ("conv0", "conv1")]
        for conv, theirs, up in parts[1:] if side == 4 else parts:
            state[f"{ours}.{conv}.weight"] = kernel(theirs, up)
            state[f"{ours}.{conv}.bias"] = names.take(f"{theirs}/bias")
            state[f"{ours}.{conv}.noise_strength"] = names.take(f"{theirs}/noise_strength")
            state[f"{ours}.{conv}.noise"] = names.take(f"synthesis/noise{number}")[0, 0]
            state |= _tensorflow_style(names, theirs, f"{ours}.{conv}")
            number += 1
        if side in drawing:
            theirs = f"synthesis/{side}x{side}/ToRGB"
            state[f"{ours}.to_image.weight"] = kernel(theirs)
            state[f"{ours}.to_image.bias"] = names.take(f"{theirs}/bias")
            state |= _tensorflow_style(names, theirs, f"{ours}.to_image")
        if residual and side > 4:
            state[f"{ours}.skip.weight"] = kernel(f"synthesis/{side}x{side}/Skip", True)
    names.ignore("lod", "synthesis/lod")
    names.finish()
    return Imported(architecture, state)


def _tensorflow_style(names: Names, theirs: str, ours: str) -> dict[str, Tensor]:
    return {
        f"{ours}.style.weight": names.take(f"{theirs}/mod_weight").t(),
        f"{ours}.style.bias": names.take(f"{theirs}/mod_bias") + 1,
    }


def rosinality_generator(candidate: Candidate) -> Imported:
    """``g_ema`` or ``g``: style.1, conv1, convs.0, to_rgbs.0, noises.noise_0, ...

    Raises:
        Other: it is none."""
    import torch

    names = Names(candidate.without_prefix("module."))
    if not names.has("input.input") or not names.has("to_rgb1.conv.weight"):
        raise Other("no input.input and to_rgb1")
    count = _count(names, r"to_rgbs\.\d+\.bias")
    sides = [4 << i for i in range(count + 1)]
    convs = {4: ["conv1"]} | {
        side: [f"convs.{2 * i}", f"convs.{2 * i + 1}"] for i, side in enumerate(sides[1:])
    }
    widths = {side: names.shape(f"{convs[side][-1]}.conv.weight")[1] for side in sides}
    depth = _count(names, r"style\.\d+\.weight")
    fields = {
        "resolution": sides[-1],
        "channels": names.shape("to_rgb1.conv.weight")[1],
        "z_dim": names.shape("style.1.weight")[1],
        "w_dim": names.shape("style.1.weight")[0],
        "mapping_layers": depth,
        **_widths(widths),
    }
    architecture = StyleGAN2Generator.model_validate(fields)
    state = {"synthesis.constant": names.take("input.input")[0]}
    for i in range(depth):
        for part in ("weight", "bias"):
            state[f"mapping.layers.{i}.{part}"] = names.take(f"style.{i + 1}.{part}")
    number = 0
    for i, side in enumerate(sides):
        ours = f"synthesis.blocks.{side}"
        for conv, theirs in zip(("conv0", "conv1")[-len(convs[side]) :], convs[side], strict=True):
            our = f"{ours}.{conv}"
            state[f"{our}.weight"] = names.take(f"{theirs}.conv.weight")[0]
            state[f"{our}.style.weight"] = names.take(f"{theirs}.conv.modulation.weight")
            state[f"{our}.style.bias"] = names.take(f"{theirs}.conv.modulation.bias")
            state[f"{our}.noise_strength"] = names.take(f"{theirs}.noise.weight")[0]
            state[f"{our}.bias"] = names.take(f"{theirs}.activate.bias")
            noise = f"noises.noise_{number}"
            state[f"{our}.noise"] = (
                names.take(noise)[0, 0] if names.has(noise) else torch.zeros(side, side)
            )
            number += 1
        theirs = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}"
        state[f"{ours}.to_image.weight"] = names.take(f"{theirs}.conv.weight")[0]
        state[f"{ours}.to_image.bias"] = names.take(f"{theirs}.bias").flatten()
        for part in ("weight", "bias"):
            state[f"{ours}.to_image.style.{part}"] = names.take(f"{theirs}.conv.modulation.{part}")
    names.ignore_all(".kernel")
    names.finish()
    average = candidate.siblings.get("latent_avg")
    notes: tuple[str, ...] = ()
    if average is not None and hasattr(average, "tensor"):
        state["w_avg"] = average.tensor().float().flatten()
    else:
        state["w_avg"] = average_of_w(architecture, state)
        notes = (f"it has no average of w, so that of {DRAWS:,} draws is taken",)
    return Imported(architecture, state, notes=notes)


def average_of_w(architecture: Styled, state: dict[str, Tensor]) -> Tensor:
    """Over ``DRAWS`` latents, by the mapping network's part of ``state``."""
    import torch

    network = architecture.build().mapping
    prefix = "mapping."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    with torch.inference_mode():
        random = torch.Generator().manual_seed(0)
        return network(torch.randn(DRAWS, architecture.z_dim, generator=random)).mean(0).clone()


def nvidia_mapping(names: Names, layers: int, classes: bool) -> dict[str, Tensor]:
    """``mapping.fc0``, ..., and with classes ``mapping.embed``, of NVIDIA's PyTorch code."""
    state: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        for i in range(layers):
            state[f"mapping.layers.{i}.{part}"] = names.take(f"mapping.fc{i}.{part}")
        if classes:
            state[f"mapping.embed.{part}"] = names.take(f"mapping.embed.{part}")
    return state


def _sides(names: Names, pattern: str) -> list[int]:
    found = (re.fullmatch(pattern, name) for name in names.stored)
    sides = sorted(int(match[1]) for match in found if match)
    if not sides:
        raise Other("no resolutions")
    return sides


def _count(names: Names, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names.stored)


def _widths(widths: dict[int, int]) -> dict[str, int]:
    """``width_base`` and ``width_max`` of channels by side.

    Raises:
        Other: they follow another rule."""
    most = max(widths.values())
    base = max(width * side for side, width in widths.items())
    if any(min(base // side, most) != width for side, width in widths.items()):
        raise Other(f"channels that follow no rule: {widths}")
    return {"width_base": base, "width_max": most}


def _smallest(positions: int) -> tuple[int, int]:
    """Of a discriminator, which does not say: upright or square."""
    if positions % 4 or not 4 <= positions <= 16:
        raise Other(f"a last map of {positions} positions")
    return 4, positions // 4


def _clamp(about: dict[str, Any]) -> float:
    """``conv_clamp`` of NVIDIA's arguments."""
    clamp = arguments_of(about).get("conv_clamp")
    return float(clamp) if isinstance(clamp, int | float) and math.isfinite(clamp) else 0.0


def _check_filters(names: Names) -> None:
    """All filters are the binomial [1 3 3 1].

    Raises:
        Other: one is not."""
    import torch

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    wanted = taps[:, None] * taps / 64
    for name in list(names.stored):
        if name.endswith("resample_filter"):
            found = names.take(name)
            found = found[:, None] * found if found.ndim == 1 else found
            if found.shape != wanted.shape or not torch.allclose(found, wanted, atol=1e-5):
                raise Other(f"a filter of another kind, {name}")
