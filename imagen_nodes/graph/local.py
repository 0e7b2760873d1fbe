"""LocalHost: folders and a device, with no ComfyUI."""

from __future__ import annotations

import random
import re
import string
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..folders import annotated, files, find_weights, latents_in, offered_weights, shipped
from .execute import Listener

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..checkpoint import Model, Running

# A preview of ours, and how long it is kept, s.
PREVIEW = re.compile(r"ComfyUI_temp_[a-z]{5}_\d{5,}_\.png")
KEPT = 24 * 60 * 60
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class LocalHost:
    """Files in folders, networks on one device; events go to ``listen``.

    Args:
        weights: folders of weights, searched before ``./weights`` and the ones that ship.
        device: a torch device by name; empty: a GPU where there is one.
        metadata: what saved pictures carry.
    """

    def __init__(
        self,
        *,
        input: Path = Path("input"),
        output: Path = Path("output"),
        weights: Sequence[Path] = (),
        device: str = "",
        metadata: Mapping[str, Any] | None = None,
        listen: Listener = lambda event: None,
    ) -> None:
        for folder in weights:
            if not folder.is_dir():
                raise UsageError(f"--weights {folder}: no such folder")
        self.folders = {"input": input, "output": output, "temp": output / "temp"}
        self.weights_folders = (*weights, Path("weights"), shipped("weights"))
        self.metadata = dict(metadata or {})
        self.listen = listen
        self.node_id = ""
        self.carried: list[tuple[str, str]] = []
        self._device_name = device
        self._device: torch.device | None = None
        # ComfyUI marks the previews of one session with five random letters.
        self.preview_suffix = "_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))

    @property
    def device(self) -> torch.device:
        if self._device is None:
            from ..devices import open_device

            self._device = open_device(self._device_name)
        return self._device

    def choices(self, kind: str) -> Sequence[str]:
        if kind == "weights":
            return list(offered_weights(self.weights_folders))
        if kind == "upscale_models":
            return list(offered_weights(self._upscale_folders))
        if kind == "latents":
            return latents_in(self.folders)
        return list(files([self.folders["input"]], PICTURES))

    @property
    def _upscale_folders(self) -> list[Path]:
        """As in ComfyUI's ``models`` folder, or among the other weights."""
        nested = (folder / "upscale_models" for folder in self.weights_folders)
        return [*nested, *self.weights_folders]

    def upscale_model(self, name: str) -> Path:
        return find_weights(self._upscale_folders, name)

    def weights(self, name: str) -> Path:
        return find_weights(self.weights_folders, name)

    @contextmanager
    def running(self, model: Model) -> Generator[Running]:
        from ..checkpoint import placed
        from ..devices import autocast

        with autocast(self.device):
            yield placed(model, self.device)

    def latents(self, name: str) -> Path:
        return annotated(self.folders, name, "latents")

    def data(self, name: str) -> Path:
        return annotated(self.folders, name, "pictures", or_folder=True)

    def carry(self, kind: str, value: str) -> None:
        self.metadata.setdefault(kind, {}).setdefault(self.node_id, []).append(value)
        self.carried.append((kind, value))

    def progress(self, done: int, total: int, preview: Image.Image | None = None) -> None:
        self.listen({"event": "progress", "node": self.node_id, "done": done, "total": total})

    def input_file(self, name: str) -> Path:
        return annotated(self.folders, name, "pictures")

    def save_folder(self, kind: str) -> Path:
        return self.folders[kind]

    def sweep_previews(self) -> None:
        """Delete previews of more than a day ago, which ComfyUI does whenever it starts."""
        for path in self.folders["temp"].glob("ComfyUI_temp_*.png"):
            with suppress(OSError):  # somebody else's, or deleted meanwhile
                if PREVIEW.fullmatch(path.name) and time.time() - path.stat().st_mtime > KEPT:
                    path.unlink()

    def saved(self, ui: Mapping[str, Any]) -> tuple[Path, ...]:
        return tuple(
            self.folders[item["type"]] / item["subfolder"] / item["filename"]
            for kind in ("images", "latents")
            for item in ui.get(kind, ())
        )
