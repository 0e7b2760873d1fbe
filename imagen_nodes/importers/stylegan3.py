"""StyleGAN3 files: NVIDIA's PyTorch pickles, configurations T and R. Their layers are ours one to
one (``networks/stylegan3.py``); what no tensor says, the arguments in the file do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..networks.stylegan3 import StyleGAN3Generator
from .candidates import Candidate, arguments_of
from .imported import Imported, Names, Other
from .stylegan2 import nvidia_mapping

if TYPE_CHECKING:
    from torch import Tensor

# Our fields, theirs, and what theirs is where the file does not say.
FIELDS = (
    ("width_base", "channel_base", 32768),
    ("width_max", "channel_max", 512),
    ("critical", "num_critical", 2),
    ("margin", "margin_size", 10),
    ("first_cutoff", "first_cutoff", 2.0),
    ("first_stopband", "first_stopband", 2**2.1),
    ("last_stopband", "last_stopband_rel", 2**0.3),
)
# What all published networks have alike.
FIXED = {"filter_size": 6, "lrelu_upsampling": 2, "output_scale": 0.25}
CLAMP = 256


def generator(candidate: Candidate) -> Imported:
    """``G`` or ``G_ema``: mapping.fc0, synthesis.input, synthesis.L0_36_512, ...

    Raises:
        Other: it is none."""
    import torch

    names = Names(candidate.tensors)
    if not names.has("synthesis.input.freqs"):
        raise Other("no synthesis.input.freqs")
    found = (re.match(r"synthesis\.(L(\d+)_(\d+)_(\d+))\.weight$", name) for name in names.stored)
    layers = sorted((int(m[2]), m[1], int(m[3]), int(m[4])) for m in found if m)
    if not layers or [number for number, *_ in layers] != list(range(len(layers))):
        raise Other("layers that are not counted from 0 on")
    given = arguments_of(candidate.about)
    other = [name for name, value in FIXED.items() if given.get(name, value) != value]
    if other:
        raise Other(f"{other[0]} is {given[other[0]]}, not {FIXED[other[0]]}")
    classes = names.shape("mapping.embed.weight")[1] if names.has("mapping.embed.weight") else 0
    w_dim = names.shape("mapping.fc0.weight")[0]
    depth = len(layers) - 1
    radial = any(len(t.shape) == 2 for n, t in names.stored.items() if n.endswith(".down_filter"))
    architecture = StyleGAN3Generator.model_validate(
        {
            "resolution": layers[-1][2],
            "channels": layers[-1][3],
            "z_dim": names.shape("mapping.fc0.weight")[1] - (w_dim if classes else 0),
            "w_dim": w_dim,
            "classes": classes,
            "mapping_layers": sum(
                re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in names.stored
            ),
            "depth": depth,
            "kernel": names.shape(f"synthesis.{layers[0][1]}.weight")[2],
            "radial": radial,
            "clamp": given.get("conv_clamp", CLAMP) or 0,
            **{ours: given.get(theirs, usual) for ours, theirs, usual in FIELDS},
        }
    )
    wanted = [(signal.size, signal.channels) for signal in architecture.signals]
    if wanted != [(size, channels) for *_, size, channels in layers]:
        raise Other("layers whose sizes follow another rule")
    if not torch.equal(names.take("synthesis.input.transform"), torch.eye(3)):
        raise Other("a transform of its own at the input")
    state: dict[str, Tensor] = {"w_avg": names.take("mapping.w_avg")}
    state |= nvidia_mapping(names, architecture.mapping_layers, bool(classes))
    for theirs, ours in (
        ("weight", "weight"), ("freqs", "frequencies"), ("phases", "phases"),
        ("affine.weight", "transform.weight"), ("affine.bias", "transform.bias"),
    ):  # fmt: skip
        state[f"synthesis.input.{ours}"] = names.take(f"synthesis.input.{theirs}")
    for number, name, *_ in layers:
        for theirs, ours in (
            ("weight", "weight"), ("bias", "bias"), ("affine.weight", "style.weight"),
            ("affine.bias", "style.bias"), ("magnitude_ema", "magnitude"),
            *((("up_filter", "up_taps"), ("down_filter", "down_taps")) if number < depth else ()),
        ):  # fmt: skip
            state[f"synthesis.layers.{number}.{ours}"] = names.take(f"synthesis.{name}.{theirs}")
    names.finish()
    return Imported(architecture, state)
