"""Checkpoints: one safetensors file a network, tensors and a card that says what they are.

The card is JSON in the header, under ``imagen_nodes.card``, and is mirrored to the ``modelspec.*``
keys that the ecosystem displays. :func:`inspect` reads the header alone and needs no torch;
:func:`load` rebuilds the network from the card, compares every tensor's name, shape and dtype, and
only then reads data. Nothing in a file is ever executed.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from .errors import CheckpointError
from .files import write_atomically
from .folders import ABOUT_PICKLES, PICKLES
from .spec import Spec, problems

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .networks.architecture import Architecture, Network

CARD_KEY = "imagen_nodes.card"
# Bytes; safetensors' own.
HEADER_LIMIT = 100_000_000


class Measurement(Spec):
    """One figure of a network's quality, with what it takes to read it."""

    metric: str
    """Full name, e.g. FD-MobileNetV2."""
    value: float
    """The figure."""
    samples: int
    """Number of generated images."""
    reference: str
    """What they were compared with."""
    low: float | None = None
    """Lower end of the 95% interval; none: not known."""
    high: float | None = None
    """Upper end of the 95% interval."""


class Training(Spec):
    """How a network was trained."""

    recipe: dict[str, Any]
    """The whole recipe, as trained."""
    data: str
    """The data set, by name."""
    images: int
    """Number of distinct training images."""
    nimg: int
    """Images shown to the discriminator."""
    losses: dict[str, float] = Field(default_factory=dict)
    """Mean losses over the last log line before the snapshot."""
    selection: str = ""
    """How this snapshot was chosen; empty: the last one."""


class Card(Spec):
    """What a file says of itself."""

    version: Literal[1] = 1
    """Of this format."""
    title: str
    """Name for people."""
    description: str = ""
    """One or two sentences."""
    architecture: dict[str, Any]
    """What rebuilds the network: ``kind`` and its hyperparameters."""
    task: str
    """What the network is for: generate, ..."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    """Range of the image values that the network takes or gives."""
    class_names: tuple[str, ...] = ()
    """Names of the classes by label; empty: unconditional."""
    training: Training | None = None
    """How it was trained; none: unknown."""
    quality: tuple[Measurement, ...] = ()
    """What was measured."""
    licence: str = ""
    """SPDX identifier, or terms in words."""
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] = Field(
        default_factory=lambda: date.today().isoformat()
    )
    """Day of the snapshot."""
    thumbnail: str = ""
    """A data URL of a small sample picture; empty: none."""

    @property
    def task_recipe(self) -> dict[str, Any]:
        """What of its recipe is the task's; empty: unknown."""
        return self.training.recipe.get("task", {}) if self.training else {}

    @field_validator("architecture")
    @classmethod
    def _has_kind(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value.get("kind"), str):
            raise ValueError("an architecture needs its kind")
        return value


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor, as the header has them (``F32``, ``I64``, ...)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Header:
    """A file's card and the tensors that it says it holds."""

    card: Card
    tensors: dict[str, TensorInfo]

    @property
    def parameters(self) -> int:
        """Number of values in all tensors."""
        total = 0
        for info in self.tensors.values():
            count = 1
            for size in info.shape:
                count *= size
            total += count
        return total


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint, as links carry it: frozen, in evaluation mode. Its host moves it."""

    name: str
    card: Card
    architecture: Architecture
    network: Network


@dataclass(frozen=True)
class Running:
    """A model's network where and how it runs, for as long as the host says."""

    network: Network
    device: torch.device


def inspect(path: Path) -> Header:
    """Read a checkpoint's header; no tensor data is read and torch is not imported.

    Raises:
        CheckpointError: not there, a pickle, damaged, or without a valid card.
    """
    with _opened(path, "numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
        tensors: dict[str, TensorInfo] = {}
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            tensors[name] = TensorInfo(tuple(part.get_shape()), str(part.get_dtype()))
    if CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file without an Imagen card, so what network it belongs to is "
            "not known. Use a file that `imagen-nodes train` wrote"
        )
    try:
        card = Card.model_validate_json(metadata[CARD_KEY])
    except ValidationError as error:
        raise CheckpointError(f"{path}: its card is not valid:\n{problems(error)}") from error
    return Header(card, tensors)


def has_card(path: Path) -> bool:
    """Whether a safetensors file is one of ours.

    Raises:
        CheckpointError: it is none, or damaged."""
    with _opened(path, "numpy") as file:
        return CARD_KEY in (file.metadata() or {})


def load(path: Path) -> Model:
    """Read a checkpoint: its card, and its network with weights, on the CPU. What a file keeps in
    half precision to be small is float32 in the network.

    Raises:
        CheckpointError: as :func:`inspect`, or tensors that do not fit the card.
    """
    import torch
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    header = inspect(path)
    architecture = _architecture(path, header.card)
    with torch.device("meta"):
        network = architecture.build()
    _compare(path, header, network)
    wanted = network.state_dict()
    tensors = {name: tensor.to(wanted[name].dtype) for name, tensor in load_file(path).items()}
    network.load_state_dict(tensors, strict=True, assign=True)
    network.requires_grad_(False).eval()
    return Model(path.name, header.card, architecture, network)


def placed(model: Model, device: torch.device) -> Running:
    """The model's network, moved to ``device``, in channels_last unless it cannot."""
    import torch

    order = torch.channels_last if model.network.any_order else torch.preserve_format
    model.network.to(device, memory_format=order)  # pyright: ignore
    return Running(model.network, device)


def save(path: Path, card: Card, network: nn.Module, half: bool = False) -> None:
    """Write a checkpoint, atomically: ``path`` holds the old file or the whole new one.

    Args:
        half: keep what is float32 as float16.

    Raises:
        StorageError: the file cannot be written (a full disk, no permission).
    """
    import torch

    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        tensors = {
            name: tensor.half() if tensor.dtype == torch.float32 else tensor
            for name, tensor in tensors.items()
        }
    _write(path, tensors, card)


def recard(path: Path, card: Card) -> None:
    """Give a checkpoint another card, atomically; its tensors stay as they are in the file.

    Raises:
        StorageError: the file cannot be written."""
    from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

    _write(path, load_file(path), card)


def _write(path: Path, tensors: dict[str, Tensor], card: Card) -> None:
    from safetensors.torch import save

    # Not its save_file, which has a temporary file of its own: a killed process leaves that behind.
    write_atomically(path, save(tensors, _metadata(card)))


def _metadata(card: Card) -> dict[str, str]:
    """The header's strings. Source of the names: the Stability AI ModelSpec 1.0.0."""
    side = card.architecture.get("resolution")
    spec = {
        "sai_model_spec": "1.0.0",
        "architecture": f"imagen-nodes/{card.architecture['kind']}",
        "implementation": "imagen-nodes",
        "title": card.title,
        "description": card.description,
        "date": card.created,
        "license": card.licence,
        "resolution": f"{side}x{side}" if side else "",
        "thumbnail": card.thumbnail,
    }
    metadata = {f"modelspec.{key}": value for key, value in spec.items() if value}
    return {"format": "pt", CARD_KEY: card.model_dump_json(), **metadata}


def _architecture(path: Path, card: Card) -> Architecture:
    from .networks import AnyArchitecture

    try:
        return TypeAdapter[Any](AnyArchitecture).validate_python(card.architecture)
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: its card names an architecture that cannot be built:\n{problems(error)}"
        ) from error


def _compare(path: Path, header: Header, network: nn.Module) -> None:
    """Every tensor's name, shape and dtype against the architecture."""
    import torch

    dtypes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    dtypes |= {torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}
    wanted = {
        name: TensorInfo(tuple(tensor.shape), dtypes[tensor.dtype])
        for name, tensor in network.state_dict().items()
    }
    lines = [f"missing: {name} {_text(wanted[name])}" for name in wanted.keys() - header.tensors]
    lines += [f"unknown: {name}" for name in header.tensors.keys() - wanted]
    lines += [
        f"{name}: is {_text(header.tensors[name])}, expected {_text(wanted[name])}"
        for name in wanted.keys() & header.tensors
        if not _holds(header.tensors[name], wanted[name])
    ]
    if lines:
        shown = sorted(lines)[:8]
        more = f"\n... and {len(lines) - 8} more" if len(lines) > 8 else ""
        kind = header.card.architecture["kind"]
        raise CheckpointError(
            f"{path}: {len(lines)} of its tensors do not fit the {kind} that its card describes:\n"
            + "\n".join(shown)
            + more
        )


def _holds(found: TensorInfo, wanted: TensorInfo) -> bool:
    """Whether it is what is wanted, or that in half precision."""
    smaller = found.dtype in ("F16", "BF16") and wanted.dtype == "F32"
    return found.shape == wanted.shape and (found.dtype == wanted.dtype or smaller)


def _text(info: TensorInfo) -> str:
    return f"{info.dtype} [{' '.join(map(str, info.shape))}]"


@contextmanager
def _opened(path: Path, framework: str) -> Generator[Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(f"{path}: {ABOUT_PICKLES}")
    try:
        with safe_open(path, framework) as file:  # pyright: ignore[reportUnknownVariableType]
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {_diagnosis(path, str(error))}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _diagnosis(path: Path, message: str) -> str:
    """What a reader can do about safetensors' ``message``. Source of the layout: a file is the
    header's length (8 bytes, little-endian), the header, the tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = 8 + int.from_bytes(file.read(8), "little")
    if size >= 8 and end > 8 + HEADER_LIMIT:
        return f"not a safetensors file (its header would be {end - 8} bytes long)"
    if size < 8 or end > size:
        return f"truncated: it is {size} bytes long and ends within its header. Get it again"
    if "incomplete" in message:
        return "truncated: its size is not that of the tensors that its header lists. Get it again"
    return f"not a valid safetensors file ({message.strip()})"
