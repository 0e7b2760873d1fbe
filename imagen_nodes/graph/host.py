"""The host: the only door from a node to the world around it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..checkpoint import Model, Running


class Host(Protocol):
    """What a node may ask for. ``LocalHost`` and ``ComfyHost`` implement it."""

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        ...

    def choices(self, kind: str) -> Sequence[str]:
        """The names that a :class:`~.sockets.Choices` of this kind offers, sorted."""
        ...

    def weights(self, name: str) -> Path:
        """The file of that name among the weights folders.

        Raises:
            CheckpointError: there is none; the message lists what there is."""
        ...

    def running(self, model: Model) -> AbstractContextManager[Running]:
        """The model's network on the device, in the device's precision, while the block runs."""
        ...

    def latents(self, name: str) -> Path:
        """The file of latents of that name in the input folder; ``name [output]`` lies in the
        output folder.

        Raises:
            DataError: there is none.
            UsageError: it leaves the folder."""
        ...

    def data(self, name: str) -> Path:
        """The data set of that name in the input folder, a folder or an archive of pictures;
        ``name [output]`` lies in the output folder.

        Raises:
            DataError: there is none.
            UsageError: it leaves the folder."""
        ...

    def save_folder(self, kind: str) -> Path:
        """Where files of a kind, ``output`` or ``temp``, are saved."""
        ...

    def carry(self, kind: str, value: str) -> None:
        """Let the pictures that are saved later in this run carry ``value`` beside the workflow:
        under ``kind``, a list for each node by its id. Only for nodes that declare that they
        ``carry``."""
        ...

    def progress(self, done: int, total: int, preview: Image.Image | None = None) -> None:
        """Report a step.

        Raises:
            Cancelled: somebody asked to stop."""
        ...


class Folders(Host, Protocol):
    """A host with files, for the built-in nodes that read and write them."""

    def input_file(self, name: str) -> Path:
        """The input picture of that name, ``[input]``, ``[output]`` and ``[temp]`` annotations
        understood. Raises DataError where it is missing, UsageError where it leaves its folder."""
        ...

    def upscale_model(self, name: str) -> Path:
        """The upscaling network's file of that name.

        Raises:
            CheckpointError: there is none; the message lists what there is."""
        ...

    @property
    def preview_suffix(self) -> str:
        """What ends the prefix of this session's previews: ``_temp_`` and five letters."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """What saved pictures carry: ``prompt``, ``workflow``, ..., each as JSON."""
        ...
