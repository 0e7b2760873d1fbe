"""The DCGAN family: PyTorch's tutorial and its many copies, a ``Sequential`` of transposed
convolutions under any name, with or without batch norm, biases and a class embedding.

Kernels are in the tensors' shapes; strides and padding are not, and are taken to be the usual ones,
by :data:`USUAL`, unless ``--layers`` says otherwise. Activations are taken to be DCGAN's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..networks.convolution_stack import ConvolutionStackGenerator
from .candidates import Candidate
from .imported import Imported, Names, Other

if TYPE_CHECKING:
    from torch import Tensor

# Stride, padding and output padding by kernel, of all layers but the first, which begins at one
# position with stride 1 and without padding.
USUAL = {1: (1, 0, 0), 2: (2, 0, 0), 3: (1, 1, 0), 4: (2, 1, 0), 5: (2, 2, 1), 6: (2, 2, 0)}
WRAPPERS = ("module.", "netG.", "generator.", "gen.", "model.")
NORM = {"weight", "bias", "running_mean", "running_var"}


@dataclass
class _Layer:
    """A convolution in the file, and the batch norm behind it."""

    name: str
    norm: str = ""
    parts: set[str] = field(default_factory=set[str])


def generator(candidate: Candidate, layers: str = "") -> Imported:
    """A stack of transposed convolutions.

    Args:
        layers: kernel/stride/padding[/output padding] of each layer, with commas between; empty:
            the usual ones.

    Raises:
        Other: it is none.
        UsageError: ``layers`` is not of that form."""
    import torch

    names = Names(candidate.without_prefix(*WRAPPERS))
    found, embedding = _layers(names)
    shapes = [names.shape(f"{layer.name}.weight") for layer in found]
    if any(a[1] != b[0] for a, b in pairwise(shapes)):
        if all(a[0] == b[1] for a, b in pairwise(shapes)):
            raise Other("convolutions that shrink: a discriminator")
        raise Other("convolutions whose channels do not follow each other")
    if shapes[-1][1] > 4:
        raise Other(f"{shapes[-1][1]} channels at its end, which make no image")
    steps = _steps(layers, [shape[2] for shape in shapes])
    side = 1
    described: list[dict[str, object]] = []
    for layer, shape, (stride, padding, extra) in zip(found, shapes, steps, strict=True):
        side = (side - 1) * stride - 2 * padding + shape[2] + extra
        described.append(
            {
                "outputs": shape[1],
                "kernel": shape[2],
                "stride": stride,
                "padding": padding,
                "output_padding": extra,
                "bias": names.has(f"{layer.name}.bias"),
                "norm": bool(layer.norm),
            }
        )
    architecture = ConvolutionStackGenerator.model_validate(
        {
            "resolution": side,
            "channels": shapes[-1][1],
            "layers": described,
            **_classes(names, embedding, shapes[0][0]),
        }
    )
    state: dict[str, Tensor] = {}
    if embedding:
        state["embed.weight"] = names.take(f"{embedding}.weight")
    for i, layer in enumerate(found):
        state[f"convs.{i}.weight"] = names.take(f"{layer.name}.weight")
        if architecture.layers[i].bias:
            state[f"convs.{i}.bias"] = names.take(f"{layer.name}.bias")
        if layer.norm:
            for part in sorted(NORM):
                state[f"norms.{i}.{part}"] = names.take(f"{layer.norm}.{part}")
            state[f"norms.{i}.num_batches_tracked"] = torch.tensor(0)
            names.ignore(f"{layer.norm}.num_batches_tracked")
    names.finish()
    text = ", ".join(
        f"{layer.kernel}/{layer.stride}/{layer.padding}" for layer in architecture.layers
    )
    notes = [f"kernel/stride/padding of its layers are taken to be {text}; --layers sets others"]
    if architecture.classes:
        notes.append("its class embedding is taken to come behind z, or to multiply it")
    return Imported(architecture, state, notes=() if layers else tuple(notes))


def _layers(names: Names) -> tuple[list[_Layer], str]:
    """The convolutions in the order of the file, and the name of an embedding, or "".

    Raises:
        Other: there are layers of other kinds."""
    modules: dict[str, set[str]] = {}
    for name in names.stored:
        module, _, part = name.rpartition(".")
        modules.setdefault(module, set()).add(part)
    found: list[_Layer] = []
    embedding = ""
    for module, parts in modules.items():
        if "weight" not in parts:
            raise Other(f"a layer without a weight, {module}")
        shape = names.shape(f"{module}.weight")
        if len(shape) == 4 and shape[2] == shape[3]:
            found.append(_Layer(module))
        elif len(shape) == 1 and parts >= NORM and found and not found[-1].norm:
            found[-1].norm = module
        elif len(shape) == 2 and parts == {"weight"} and not embedding:
            embedding = module
        else:
            raise Other(f"a layer of another kind, {module}")
    if len(found) < 2:
        raise Other("no stack of convolutions")
    return found, embedding


def _classes(names: Names, embedding: str, inputs: int) -> dict[str, object]:
    if not embedding:
        return {"z_dim": inputs}
    classes, length = names.shape(f"{embedding}.weight")
    if length == inputs:
        fields: dict[str, object] = {"conditioning": "product", "z_dim": inputs}
    elif length < inputs:
        fields = {"conditioning": "beside", "z_dim": inputs - length}
    else:
        raise Other(f"an embedding of {length} values for {inputs} inputs")
    return {"classes": classes, "class_dim": length, **fields}


def _steps(layers: str, kernels: list[int]) -> list[tuple[int, int, int]]:
    """Stride, padding and output padding of each layer."""
    if not layers:
        try:
            return [(1, 0, 0), *(USUAL[kernel] for kernel in kernels[1:])]
        except KeyError as error:
            raise Other(f"kernels of {error.args[0]} px: give --layers") from None
    found: list[tuple[int, int, int]] = []
    parts = layers.split(",")
    for part, kernel in zip(parts, kernels, strict=False):
        try:
            own, stride, padding, extra = map(int, [*part.split("/"), "0"][:4])
        except ValueError:
            raise UsageError(
                f"--layers {layers}: {part!r} is not kernel/stride/padding, as in 4/2/1"
            ) from None
        if own != kernel:
            raise UsageError(f"--layers {layers}: its kernels are {', '.join(map(str, kernels))}")
        found.append((stride, padding, extra))
    if len(parts) != len(kernels):
        raise UsageError(f"--layers {layers}: {len(parts)} layers, the file has {len(kernels)}")
    return found
