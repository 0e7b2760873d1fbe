"""Networks of pictures in the formats of other programs, read and built by spandrel.

A file without our card may still be of a format that spandrel knows: ESRGAN, Compact, SPAN, GFPGAN,
LaMa, ... Tensors are read by torch's weights-only loader or by safetensors, never by spandrel
itself, whose reader hands a TorchScript archive to torch's, which runs programs: of such a one the
tensors are taken by the importers' reader, and its program is left alone. spandrel then tells the
network from the tensors' names and shapes.
"""

from __future__ import annotations

import tarfile
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .checkpoint import Card, Model, has_card, load
from .errors import CheckpointError
from .folders import ABOUT_PICKLES, PICKLES, WEIGHTS
from .networks.architecture import Architecture, Network, Pictures
from .tiles import Sizes

if TYPE_CHECKING:
    from spandrel import ModelDescriptor

# spandrel's purposes -> ours.
TASKS = {
    "SR": "super-resolution",
    "FaceSR": "face restoration",
    "Restoration": "restoration",
    "Inpainting": "inpainting",
}
# Of convolutions alone, which are faster in channels_last. Others may view their maps in the order
# that their authors had, or have weights of five axes, which are in no such order.
CONVOLUTIONAL = frozenset({"Compact", "DnCNN", "ESRGAN", "LaMa", "SPAN"})
# Longest side of a tile, px; and for networks of faces and such that fill in, which go by the whole
# picture. Others that spandrel advises against tiles for take gigabytes without.
TILE, WHOLE = 512, 2048


class Foreign(Architecture):
    """A network that spandrel has built. No card names it: it is not in ``ARCHITECTURES``."""

    kind: Literal["spandrel"] = "spandrel"
    """Names this architecture."""
    name: str
    """spandrel's name of the architecture: ESRGAN, Compact, ..."""
    tags: tuple[str, ...] = ()
    """What spandrel says of its size: 64nf, ..."""
    described: Pictures
    """What pictures it takes and gives."""

    @property
    def pictures(self) -> Pictures:
        return self.described

    def build(self) -> Network:
        raise CheckpointError(f"a {self.name} is built from its own file alone: load that again")


class ForeignNetwork(Network):
    """``[b c h w]`` in 0..1 -> ``[b out s*h s*w]`` in 0..1. Inpainting networks take a mask as
    their last channel, rounded to 0 or 1; 1 = fill this in."""

    def __init__(self, descriptor: ModelDescriptor) -> None:
        super().__init__()
        self.model = cast(nn.Module, descriptor.model)
        self._descriptor: Any = descriptor
        self._masked = descriptor.purpose == "Inpainting"
        self._of_faces = descriptor.purpose == "FaceSR"
        needs = descriptor.size_requirements
        self._side = (needs.minimum,) * 2 if _of_one_size(descriptor) else None
        self._exact = not descriptor.supports_bfloat16
        self.any_order = descriptor.architecture.name in CONVOLUTIONAL

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if not self.any_order:
            x = x.contiguous()
        with torch.autocast(kind, enabled=False) if self._exact else nullcontext():
            if self._masked:
                return self._descriptor(x[:, :-1], x[:, -1:].round())
            if self._of_faces:  # which take and give -1..1, and of that spandrel knows nothing
                h, w = x.shape[2:]
                y = _resized(x, self._side or (h, w))
                y = self.model(y * 2 - 1)[0].add(1).div(2)
                return _resized(y, (h, w)).clamp(0, 1)
            return self._descriptor(x)

    def initialise(self, random: Generator) -> None:
        raise CheckpointError("networks of other programs are not trained here")


def open_model(path: Path) -> Model:
    """The network in a file: ours by its card, others by spandrel.

    Raises:
        CheckpointError: it cannot be read safely, or nobody knows what it is."""
    if path.suffix.lower() not in PICKLES and (not path.is_file() or has_card(path)):
        return load(path)
    descriptor = describe(path)
    network = ForeignNetwork(descriptor)
    network.requires_grad_(False).eval()
    architecture = Foreign(
        name=descriptor.architecture.name,
        tags=tuple(descriptor.tags),
        described=_pictures(descriptor),
    )
    card = Card(
        title=path.stem,
        description=f"{architecture.name} {' '.join(architecture.tags)}".strip(),
        architecture={"kind": architecture.kind, "name": architecture.name},
        task=TASKS[descriptor.purpose],
        value_range=(0.0, 1.0),
    )
    return Model(path.name, card, architecture, network)


def describe(path: Path) -> ModelDescriptor:
    """spandrel's handle of the network in a file, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: see :func:`open_model`."""
    from spandrel import ModelLoader, UnsupportedModelError

    _add_extra_architectures()
    state = tensors(path)
    try:
        descriptor = ModelLoader("cpu").load_from_state_dict(state)
    except UnsupportedModelError as error:
        raise CheckpointError(
            f"{path}: without an Imagen card, and its tensors are of no network that spandrel "
            "knows. Use a file that `imagen-nodes train` wrote, or a super-resolution, restoration "
            "or inpainting network of a known format (some, as MAT, it knows once the package "
            "spandrel_extra_arches is installed); if it is a generator, "
            f"`imagen-nodes import {path.name} -o OUT.safetensors` makes a checkpoint of it"
        ) from error
    except Exception as error:  # spandrel trusts what it is given: whatever it raises is the file's
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{path}: its tensors do not make up the network that they look like ({reason}). "
            "It may be damaged: get it again"
        ) from error
    return descriptor.eval()


def tensors(path: Path) -> dict[str, Any]:
    """What a file holds, read without running anything of it.

    Raises:
        CheckpointError: it cannot be read so."""
    suffix = path.suffix.lower()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if suffix in PICKLES - WEIGHTS:
        raise CheckpointError(f"{path}: {ABOUT_PICKLES}")
    try:
        if suffix not in PICKLES:
            from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

            return load_file(path)
        if tarfile.is_tarfile(path):  # torch's first format; older torches unpack it to the disk
            raise ValueError("a tar archive")
        found = _of_program(path) or torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # pickle, zip, torch and safetensors each have errors of their own
        raise CheckpointError(
            f"{path}: cannot be read as tensors alone, and nothing else of it is ever run. It is "
            "damaged, or holds more than weights. Get the plain weights, best as .safetensors"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a dictionary of tensors. Get the plain weights")
    return cast(dict[str, Any], found)


def _of_program(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive, without its program; none: it is no such archive."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        # The program's text lies beside the values.
        if not any(name.partition("/")[2].startswith("code/") for name in archive.namelist()):
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError(
                    "compressed values, as torch writes none: a little may become a lot"
                )
            return {}
    from .importers.candidates import of_program
    from .importers.containers import open_foreign

    found = of_program(open_foreign(path).content)
    if not found:
        raise ValueError("a program without tensors")
    # Copies: what the file's own memory holds goes with it.
    return {name: tensor.tensor().clone() for name, tensor in found.items()}


def _pictures(descriptor: ModelDescriptor) -> Pictures:
    from spandrel import ModelTiling

    needs = descriptor.size_requirements
    one_size = needs.square or _of_one_size(descriptor)
    whole = one_size or descriptor.purpose in ("FaceSR", "Inpainting")
    whole = whole and descriptor.tiling is not ModelTiling.SUPPORTED
    return Pictures(
        scale=descriptor.scale,
        channels=descriptor.input_channels,
        outputs=descriptor.output_channels,
        masked=descriptor.purpose == "Inpainting",
        tile=WHOLE if whole else TILE,
        sizes=Sizes(
            multiple=needs.multiple_of,
            minimum=max(needs.minimum, 1),
            square=one_size,
        ),
    )


def _of_one_size(descriptor: ModelDescriptor) -> bool:
    """Whether it takes squares of its minimum alone, of which spandrel knows the minimum."""
    return descriptor.architecture.name == "GFPGAN"


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size, mode="bicubic", antialias=True)


def _add_extra_architectures() -> None:
    """Those of spandrel_extra_arches, whose licences are their own, where it is installed."""
    from spandrel import MAIN_REGISTRY

    try:
        from spandrel_extra_arches import (  # pyright: ignore[reportMissingImports]
            EXTRA_REGISTRY,  # pyright: ignore[reportUnknownVariableType]
        )
    except ImportError:
        return
    MAIN_REGISTRY.add(*EXTRA_REGISTRY, ignore_duplicates=True)  # pyright: ignore
