"""Generators of pix2pix, CycleGAN, CUT, pix2pixHD and AnimeGANv2, of any width and depth.

Layers are numbered in these files as they come, those without tensors included, so that shapes and
gaps say what the layers are. What they do not say is asked for: see :class:`.told.Told`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..networks.animegan import AnimeGANGenerator
from ..networks.resnet_generator import ResNetGenerator
from ..networks.unet_generator import UNetGenerator
from .candidates import Candidate
from .imported import Imported, Names, Other
from .told import Told

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = (
    "module.", "netG.", "netG_A.", "netG_B.", "netG_A2B.", "netG_B2A.", "G_A.", "G_B.",
    "generator.", "gen.", "model.",
)  # fmt: skip
TASK = "translation"
# CUT's filters each way, before halving and in doubling, by their size.
BLURS = {3: (0.25, 0.5, 0.25), 4: (0.25, 0.75, 0.75, 0.25)}
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Norm:
    """The norms of a file: which of ours they become, and with gains and biases or not."""

    kind: Literal["instance", "batch", "none"]
    affine: bool


# ---- U-Net --------------------------------------------------------------------------------------


def unet_generator(candidate: Candidate, told: Told) -> Imported:
    """pix2pix's U-Net, each size of which is within the one before:
    ``model.model.1.model.3.model. ...``.

    Raises:
        Other: it is none."""
    names = Names(candidate.without_prefix(*WRAPPERS))
    levels = _levels(names)
    shapes = [names.shape(f"{level.down}.weight") for level in levels]
    widths, depth = [shape[0] for shape in shapes], len(levels)
    if shapes[0][2:] != (4, 4):
        raise Other(f"kernels of {shapes[0][2:]} px where a U-Net has 4")
    bias = names.has(f"{levels[0].down}.bias")
    norm = _norm_of(names, levels[-1].up_norm, bias, told)
    architecture = UNetGenerator.model_validate(
        {
            "resolution": told.number("resolution", max(256, 2**depth)),
            "channels": shapes[0][1],
            "outputs": names.shape(f"{levels[0].up}.weight")[1],
            "width": widths[0],
            "width_max": max(widths),
            "depth": depth,
            "norm": norm.kind,
            "affine": norm.affine,
            "bias": bias,
            "dropout": 0.0,  # without a trace in the file, and without effect on its use
        }
    )
    if [architecture.width_at(i + 1) for i in range(depth)] != widths:
        raise Other(f"channels that follow another rule: {widths}")
    state: dict[str, Tensor] = {}
    for i, level in enumerate(levels):
        up = depth - 1 - i
        _move(names, level.down, f"downs.{i}", state)
        _move(names, level.up, f"ups.{up}", state)
        if level.down_norm:
            _move_norm(names, level.down_norm, f"down_norms.{i}", norm, state)
        if level.up_norm:
            _move_norm(names, level.up_norm, f"up_norms.{up}", norm, state)
    names.finish()
    return Imported(architecture, state, TASK, notes=_notes(told))


@dataclass(frozen=True)
class _Level:
    """One size of a U-Net: the names of its layers."""

    down: str
    up: str
    down_norm: str = ""
    up_norm: str = ""


def _levels(names: Names) -> list[_Level]:
    """From the outside in.

    Raises:
        Other: it is no U-Net."""
    if not names.has("0.weight") or not any(name.startswith("1.model.") for name in names.stored):
        raise Other("no layers within layers (model.1.model. ...)")
    found, prefix = [_Level("0", "3")], "1.model."
    while not names.has(f"{prefix}3.weight"):  # which the innermost has
        if not names.has(f"{prefix}1.weight"):
            raise Other(f"no {prefix}1.weight")
        down, norm, up, up_norm = (f"{prefix}{i}" for i in (1, 2, 5, 6))
        found.append(_Level(down, up, norm, up_norm))
        prefix = f"{prefix}3.model."
    return [*found, _Level(f"{prefix}1", f"{prefix}3", "", f"{prefix}4")]


# ---- ResNet -------------------------------------------------------------------------------------


def resnet_generator(candidate: Candidate, told: Told) -> Imported:
    """CycleGAN's, CUT's and pix2pixHD's global generator: ``model.1``, ``model.4``, ...,
    ``model.{n}.conv_block.{m}``.

    Raises:
        Other: it is none."""
    names = Names(candidate.without_prefix(*WRAPPERS))
    stack = _Stack.of(names, "")
    if not stack.blocks or len(stack.convs) < 4:
        raise Other("no numbered convolutions around residual blocks (10.conv_block.1 ...)")
    downs, ups = stack.before, stack.after
    stem, out = names.shape(f"{downs[0]}.weight"), names.shape(f"{ups[-1]}.weight")
    if stem[2:] != (7, 7) or out[2:] != (7, 7) or len(downs) != len(ups):
        raise Other("no convolutions of 7 px at both ends, with as many between on either side")
    bias = names.has(f"{downs[0]}.bias")
    norm = _norm_of(names, _next(downs[0]), bias, told)
    fields = _resnet_fields(names, stack, norm, told)
    architecture = ResNetGenerator.model_validate(
        {
            **fields,
            "channels": stem[1],
            "outputs": out[0],
            "width": stem[0],
            "halvings": len(downs) - 1,
            "bias": bias,
            "resolution": told.number("resolution", 256),
        }
    )
    state: dict[str, Tensor] = {}
    _move_trunk(names, stack, downs, ups[:-1], norm, state)
    _move(names, ups[-1], "out", state)
    names.finish()
    return Imported(architecture, state, TASK, notes=_notes(told))


def enhanced_generator(candidate: Candidate, told: Told) -> Imported:
    """pix2pixHD's local enhancers around its global generator: ``model``, ``model1_1``,
    ``model1_2``, ``model2_1``, ...

    Raises:
        Other: it is none."""
    names = Names(candidate.without_prefix("module.", "netG."))
    count = 0
    while names.has(f"model{count + 1}_1.1.weight"):
        count += 1
    if not count:
        raise Other("no model1_1.1.weight")
    stack = _Stack.of(names, "model.")
    downs, ups = stack.before, stack.after
    bias = names.has(f"{downs[0]}.bias")
    norm = _norm_of(names, _next(downs[0]), bias, told)
    stem = names.shape(f"{downs[0]}.weight")
    inner = [_Stack.of(names, f"model{k}_2.") for k in range(1, count + 1)]
    last = inner[-1].after[-1]
    architecture = ResNetGenerator.model_validate(
        {
            **_resnet_fields(names, stack, norm, told),
            "channels": stem[1],
            "outputs": names.shape(f"{last}.weight")[0],
            "width": stem[0] >> count,
            "halvings": len(downs) - 1,
            "bias": bias,
            "enhancers": count,
            "enhancer_blocks": len(inner[0].blocks),
            "resolution": told.number("resolution", 1024),
        }
    )
    state: dict[str, Tensor] = {}
    _move_trunk(names, stack, downs, ups, norm, state)
    for k, part in enumerate(inner):
        ours, theirs = f"enhancers.{k}", f"model{k + 1}_1"
        for number, name in ((1, "stem"), (4, "down.step")):
            _move(names, f"{theirs}.{number}", f"{ours}.{name}.conv", state)
            _move_norm(names, f"{theirs}.{number + 1}", f"{ours}.{name}.norm", norm, state)
        _move_blocks(names, part, f"{ours}.blocks", norm, state)
        _move(names, part.after[0], f"{ours}.up.step.conv", state)
        _move_norm(names, _next(part.after[0]), f"{ours}.up.step.norm", norm, state)
    _move(names, last, "out", state)
    names.finish()
    return Imported(architecture, state, TASK, notes=_notes(told))


@dataclass
class _Stack:
    """Numbered layers: convolutions and residual blocks, in the order of the file."""

    convs: list[str] = field(default_factory=list[str])
    blocks: list[str] = field(default_factory=list[str])
    """With the name that their own layers are in."""
    filters: list[str] = field(default_factory=list[str])
    """Of blurred resampling (CUT)."""

    @classmethod
    def of(cls, names: Names, prefix: str) -> _Stack:
        found = cls()
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.(?:(conv_block|block)\.|(weight|filt)$)")
        matches = {
            (int(match[1]), match[2], match[3])
            for match in map(pattern.match, names.stored)
            if match
        }
        for number, block, tensor in sorted(matches, key=lambda key: key[0]):
            name = f"{prefix}{number}"
            if block:
                found.blocks.append(f"{name}.{block}")
            elif tensor == "filt":
                found.filters.append(name)
            elif len(names.shape(f"{name}.weight")) == 4:
                found.convs.append(name)
        return found

    @property
    def before(self) -> list[str]:
        """The convolutions before the residual blocks."""
        return [name for name in self.convs if _number(name) < _number(self.blocks[0])]

    @property
    def after(self) -> list[str]:
        return [name for name in self.convs if _number(name) > _number(self.blocks[-1])]


def _resnet_fields(names: Names, stack: _Stack, norm: Norm, told: Told) -> dict[str, object]:
    """What the layers' numbers and shapes say."""
    first = _inner(names, stack.blocks[0])
    # 0: no layer of padding before the convolution; and then one layer less before the second.
    padded = first[0] == 1
    usual = 5 if padded else 3
    if first[1] not in (usual, usual + 1):
        raise Other(f"residual blocks of other layers: {first}")
    inputs, outputs = names.shape(f"{stack.after[0]}.weight")[:2]
    blurs = [_blur(names, name) for name in stack.filters]
    up = "transposed" if inputs > outputs else ("blurred" if 4 in blurs else "nearest")
    return {
        "blocks": len(stack.blocks),
        "norm": norm.kind,
        "affine": norm.affine,
        "down": "blurred" if 3 in blurs else "strided",
        "up": up,
        "padding": told.choice("padding", "reflect", "replicate") if padded else "zero",
        "dropout": 0.5 if first[1] == usual + 1 else 0.0,
    }


def _blur(names: Names, name: str) -> int:
    """Size of a filter, which is always the same.

    Raises:
        Other: it is another."""
    import torch

    found = names.take(f"{name}.filt")
    size = found.shape[2]
    if size not in BLURS:
        raise Other(f"a filter of {size} px in {name}")
    taps = torch.tensor(BLURS[size])
    if not torch.allclose(found, (taps[:, None] * taps).expand_as(found), atol=1e-3):
        raise Other(f"a filter of other values in {name}")
    return size


def _inner(names: Names, block: str) -> list[int]:
    """Numbers of the two convolutions in a residual block.

    Raises:
        Other: there are not two."""
    pattern = re.compile(re.escape(block) + r"\.(\d+)\.weight$")
    found = sorted(
        int(match[1])
        for match in map(pattern.match, names.stored)
        if match and len(names.shape(match[0])) == 4
    )
    if len(found) != 2:
        raise Other(f"{len(found)} convolutions in {block}, where there are two")
    return found


def _move_trunk(
    names: Names,
    stack: _Stack,
    downs: list[str],
    ups: list[str],
    norm: Norm,
    state: dict[str, Tensor],
) -> None:
    ours = ["trunk.stem", *(f"trunk.downs.{i}.step" for i in range(len(downs) - 1))]
    ours += [f"trunk.ups.{i}.step" for i in range(len(ups))]
    for theirs, name in zip([*downs, *ups], ours, strict=True):
        _move(names, theirs, f"{name}.conv", state)
        _move_norm(names, _next(theirs), f"{name}.norm", norm, state)
    _move_blocks(names, stack, "trunk.blocks", norm, state)


def _move_blocks(
    names: Names, stack: _Stack, ours: str, norm: Norm, state: dict[str, Tensor]
) -> None:
    for i, block in enumerate(stack.blocks):
        for number, name in zip(_inner(names, block), ("first", "second"), strict=True):
            _move(names, f"{block}.{number}", f"{ours}.{i}.{name}.conv", state)
            theirs = f"{block}.{number + 1}"
            _move_norm(names, theirs, f"{ours}.{i}.{name}.norm", norm, state)


# ---- AnimeGANv2 ---------------------------------------------------------------------------------


def animegan_generator(candidate: Candidate, told: Told) -> Imported:
    """AnimeGANv2's: ``block_a.0.1``, ..., ``block_c.1.layers.0.1``, ..., ``out_layer.0``.

    Raises:
        Other: it is none."""
    names = Names(candidate.without_prefix("module.", "netG.", "generator."))
    if not names.has("block_a.0.1.weight") or not names.has("out_layer.0.weight"):
        raise Other("no block_a.0.1 and out_layer.0")
    blocks = 0
    while names.has(f"block_c.{blocks + 1}.layers.2.weight"):
        blocks += 1
    align = told.choice("align_corners", "true", "false") == "true"
    architecture = AnimeGANGenerator.model_validate(
        {
            "width": names.shape("block_a.0.1.weight")[0],
            "blocks": blocks,
            "align_corners": align,
            "resolution": told.number("resolution", 512),
        }
    )
    state: dict[str, Tensor] = {}

    def layer(theirs: str, ours: str) -> None:
        _move(names, f"{theirs}.1", f"{ours}.conv", state)
        _move(names, f"{theirs}.2", f"{ours}.norm", state)

    parts = {
        "block_a": ("whole", 3), "block_b": ("halved", 2), "block_d": ("from_quarter", 2),
        "block_e": ("from_half", 3),
    }  # fmt: skip
    for theirs, (ours, count) in parts.items():
        for i in range(count):
            layer(f"{theirs}.{i}", f"{ours}.{i}")
    for i in (0, blocks + 1):
        layer(f"block_c.{i}", f"quartered.{i}")
    for i in range(1, blocks + 1):
        theirs, ours = f"block_c.{i}.layers", f"quartered.{i}"
        layer(f"{theirs}.0", f"{ours}.expand")
        layer(f"{theirs}.1", f"{ours}.depthwise")
        _move(names, f"{theirs}.2", f"{ours}.project", state)
        _move(names, f"{theirs}.3", f"{ours}.norm", state)
    _move(names, "out_layer.0", "out", state)
    names.finish()
    return Imported(architecture, state, TASK, notes=_notes(told))


# ---- Of all of them -----------------------------------------------------------------------------


def _norm_of(names: Names, norm: str, bias: bool, told: Told) -> Norm:
    """What the layer ``norm`` and those like it are. A batch norm may be meant to use the picture's
    own statistics, as pix2pix's test does, or those of the training, which it holds too."""
    if not names.has(f"{norm}.weight"):
        # Statistics that old files hold were never used. The authors' convolutions have biases
        # before instance norm, and neither biases nor norms where there are none.
        kind = "instance" if bias else told.choice("norm", "none", "instance")
        return Norm("instance" if kind == "instance" else "none", False)
    if not names.has(f"{norm}.running_mean"):
        return Norm("instance", True)
    own = told.choice("statistics", "picture", "stored") == "picture"
    return Norm("instance", True) if own else Norm("batch", True)


def _move(names: Names, theirs: str, ours: str, state: dict[str, Tensor]) -> None:
    """A weight, and a bias where there is one."""
    state[f"{ours}.weight"] = names.folded(theirs)
    if names.has(f"{theirs}.bias"):
        state[f"{ours}.bias"] = names.take(f"{theirs}.bias")


def _move_norm(names: Names, theirs: str, ours: str, norm: Norm, state: dict[str, Tensor]) -> None:
    import torch

    names.ignore(f"{theirs}.num_batches_tracked")
    if norm.affine:
        _move(names, theirs, ours, state)
    if norm.kind != "batch":
        names.ignore(*(f"{theirs}.{part}" for part in STATISTICS))
        return
    for part in STATISTICS:
        state[f"{ours}.{part}"] = names.take(f"{theirs}.{part}")
    state[f"{ours}.num_batches_tracked"] = torch.tensor(0)


def _notes(told: Told) -> tuple[str, ...]:
    """What was taken to be so, because the file does not say."""
    return tuple(
        f"{name} is taken to be {usual}, which the file does not say; --set {name}=... changes it "
        f"({values})"
        for name, (usual, values) in told.assumed.items()
    )


def _number(name: str) -> int:
    return int(name.rsplit(".", 1)[-1]) if name[-1].isdigit() else int(name.split(".")[-2])


def _next(name: str) -> str:
    """The layer after a numbered one."""
    head, dot, number = name.rpartition(".")
    return f"{head}{dot}{int(number) + 1}"
