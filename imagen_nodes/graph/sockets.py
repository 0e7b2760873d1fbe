"""The types that links carry and widgets show, as annotations of node fields and outputs.

A field's type decides its socket: ``int float str bool`` are INT FLOAT STRING BOOLEAN, a
``Literal`` or a :class:`Choices` is a COMBO, and the names below are links.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor  # pyright: ignore[reportMissingTypeStubs]
    from torch import nn

    from ..checkpoint import Model as ModelHandle
    from ..latents import Latents


@dataclass(frozen=True)
class Socket:
    """A link type by ComfyUI's name. ``is_list``: the output is a list, one link value each."""

    type: str
    meaning: str
    is_list: bool = False


@dataclass(frozen=True)
class Choices:
    """A COMBO whose options the host lists: the files of a kind."""

    kind: str


@dataclass(frozen=True)
class Widget:
    """What the page shows besides the limits; the names are ComfyUI's option keys."""

    step: float | None = None
    multiline: bool | None = None
    display: str | None = None
    control_after_generate: bool | str | None = None
    image_upload: bool | None = None
    advanced: bool | None = None


@dataclass(frozen=True)
class Added:
    """Of an input that a node got when there were workflows with it in the world: they stay valid,
    with its default."""


# Links from other packs, and Python, carry what they like: checked at the door.


def _is_tensor(axes: int) -> AfterValidator:
    def check(value: Any) -> Any:
        import torch

        if not isinstance(value, torch.Tensor):
            found = type(value).__name__
            raise ValueError(f"expected a torch tensor of {axes} axes, got {found}")
        if value.ndim != axes:
            raise ValueError(f"expected a tensor of {axes} axes, got {value.ndim}")
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"expected values as float32, 0..1 in pictures, got {kind}")
        return value

    return AfterValidator(check)


def _as_masks(value: Any) -> Any:
    """What other packs take for masks too: one without an axis for the batch, as ComfyUI's own
    nodes gave them once, or with one for channels; and truth values."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    if value.ndim == 2:
        value = value[None]
    elif value.ndim == 4 and value.shape[1] == 1:
        value = value[:, 0]
    return value.float() if value.dtype is torch.bool else value


def _comes_from(source: str, attribute: str) -> AfterValidator:
    """It has what such things have, and comes from nodes such as ``source``."""

    def check(value: Any) -> Any:
        if not hasattr(value, attribute):
            raise ValueError(f"expected the output of {source}, got {type(value).__name__}")
        return value

    return AfterValidator(check)


IMAGE = Socket("IMAGE", "images, float32 [b h w c] in 0..1")
MASK = Socket("MASK", "masks, float32 [b h w] in 0..1; 1 = fill this in")
MODEL = Socket("IMAGEN_MODEL", "a network with its card")
UPSCALE = Socket("UPSCALE_MODEL", "a network that enlarges, as spandrel hands it out")
LATENT = Socket(
    "IMAGEN_LATENT", "latents z [b z_dim] or w [b layers w_dim], with class labels or none"
)
DIRECTIONS = Socket("IMAGEN_DIRECTIONS", "directions of w or z, [n d], each of length 1")
ANY = Socket("*", "anything")
UI = Socket("UI", "what the page shows; not an output")

if TYPE_CHECKING:
    from torch import Tensor

    Image = Tensor
    Mask = Tensor
    Model = ModelHandle
    Latent = Latents
    Directions = Tensor
    UpscaleModel = ImageModelDescriptor[nn.Module]
    ImageList = list[Tensor]
    Anything = Any
    Ui = dict[str, Any]
else:
    Image = Annotated[Any, IMAGE, _is_tensor(4)]
    Mask = Annotated[Any, MASK, BeforeValidator(_as_masks), _is_tensor(3)]
    Model = Annotated[Any, MODEL, _comes_from("Load Checkpoint", "architecture")]
    Latent = Annotated[Any, LATENT, _comes_from("Sample Noise", "with_labels")]
    Directions = Annotated[Any, DIRECTIONS, _is_tensor(2)]
    UpscaleModel = Annotated[Any, UPSCALE, _comes_from("Load Upscale Model", "scale")]
    ImageList = Annotated[Any, Socket("IMAGE", IMAGE.meaning, is_list=True)]
    Anything = Annotated[Any, ANY]
    Ui = Annotated[Any, UI]

Seed = Annotated[int, Field(ge=0, le=2**32 - 1), Widget(control_after_generate=True)]
"""As far as numpy's RandomState goes, and well inside what a page's numbers hold exactly."""
