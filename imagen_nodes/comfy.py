"""The one door to ComfyUI: our node types as its node classes, its services as our host.

ComfyUI is given small adapter classes made from the declarations, never the pydantic classes: its
V3 machinery clones classes (HOST: ``comfy_api/internal``). Works from ComfyUI 0.3.64 on: options
that a version does not know are left out.
"""

# ComfyUI is not there when types are checked, so what comes from it is unknown.
# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io

from .folders import WEIGHTS, annotated, find_weights, latents_in, offered_weights, shipped
from .graph.node import DeclaredNode, Input, Output
from .nodes import NODES  # pyright: ignore[reportMissingImports]

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .checkpoint import Model, Running

FOLDER = "gan"
# What our networks' maps take at most beside weights and pictures, bytes
# (``benchmarks/picture_memory.py``): else tiles would get smaller for other models' sake.
WORKING = 2 << 30
# Our type names -> ComfyUI's classes; all other types are links of our own.
IO: dict[str, Any] = {
    "INT": io.Int,
    "FLOAT": io.Float,
    "STRING": io.String,
    "BOOLEAN": io.Boolean,
    "COMBO": io.Combo,
    "IMAGE": io.Image,
    "MASK": io.Mask,
}


def register_folder() -> None:
    """Make ``models/gan`` a model folder. extra_model_paths.yaml is read before packs are loaded,
    so it may be one already, without extensions (which would list every file)."""
    known, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))
    own = str(Path(folder_paths.models_dir, FOLDER))
    paths = known if own in known else [*known, own]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(WEIGHTS))


class ComfyHost:
    """ComfyUI's folders, devices and progress bar, for the node of that id.

    Args:
        saved: what pictures saved in this run carry beside the prompt; None where they carry
            nothing else, as with a prompt that did not come from the page."""

    def __init__(self, node_id: str = "", saved: dict[str, Any] | None = None) -> None:
        self.node_id = node_id
        self._saved = saved

    @property
    def device(self) -> torch.device:
        return management.get_torch_device()

    @property
    def _weights_folders(self) -> list[Path]:
        found = (folder_paths.get_folder_paths(name) for name in (FOLDER, "upscale_models"))
        return [*(Path(folder) for folders in found for folder in folders), shipped("weights")]

    def choices(self, kind: str) -> Sequence[str]:
        if kind == "latents":
            return latents_in(self._folders)
        assert kind == "weights", kind
        return list(offered_weights(self._weights_folders))

    def weights(self, name: str) -> Path:
        return find_weights(self._weights_folders, name)

    @property
    def _folders(self) -> dict[str, Path]:
        kinds = ("input", "output", "temp")
        return {kind: Path(folder_paths.get_directory_by_type(kind)) for kind in kinds}

    def latents(self, name: str) -> Path:
        return annotated(self._folders, name, "latents")

    def data(self, name: str) -> Path:
        return annotated(self._folders, name, "pictures", or_folder=True)

    def save_folder(self, kind: str) -> Path:
        return self._folders[kind]

    @contextmanager
    def running(self, model: Model) -> Generator[Running]:
        from .checkpoint import placed
        from .devices import autocast

        device = self.device
        management.free_memory(management.module_size(model.network) + WORKING, device)
        try:
            with autocast(device):
                yield placed(model, device)
        finally:
            # Results stay in ComfyUI's cache: their weights should not stay on its GPU.
            model.network.to(management.unet_offload_device())

    def carry(self, kind: str, value: str) -> None:
        if self._saved is not None:
            self._saved.setdefault(kind, {}).setdefault(self.node_id, []).append(value)

    def progress(self, done: int, total: int, preview: Image.Image | None = None) -> None:
        """Moves the bar; raises ComfyUI's own exception where the user has cancelled."""
        shown = None if preview is None else ("JPEG", preview, 512)
        comfy.utils.ProgressBar(total).update_absolute(done, total, shown)


def adapter(node: DeclaredNode) -> type[io.ComfyNode]:
    """The V3 class that ComfyUI runs for a node."""
    host = ComfyHost()

    class Adapter(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return schema(node, host)

        @classmethod
        def execute(cls, **values: Any) -> io.NodeOutput:
            now = (
                ComfyHost(cls.hidden.unique_id, cls.hidden.extra_pnginfo) if node.carries else host
            )
            result = node.run(now, values)
            return io.NodeOutput(*result.outputs, ui=result.ui or None)

        @classmethod
        def fingerprint_inputs(cls, **values: Any) -> Any:
            constants = {name: value for name, value in values.items() if value is not None}
            return node.fingerprint(host, constants)

    Adapter.__name__ = Adapter.__qualname__ = node.id
    return Adapter


def schema(node: DeclaredNode, host: ComfyHost) -> io.Schema:
    """The V3 schema of a node, from its declaration."""
    return io.Schema(
        node_id=node.id,
        display_name=node.title,
        category=node.category,
        description=node.description.split("\n\n")[0].replace("\n", " "),
        inputs=[_input(port, host) for port in node.inputs],
        outputs=[_output(port) for port in node.outputs],
        is_output_node=node.is_output,
        is_input_list=node.takes_lists,
        hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo] if node.carries else [],
    )


def _input(port: Input, host: ComfyHost) -> Any:
    make = IO.get(port.type, io.Custom(port.type)).Input
    options = {"id": port.name, "optional": not port.required, **port.widget}
    if port.type == "COMBO":
        options["options"] = port.choices(host)
    known = inspect.signature(make).parameters
    return make(**{key: value for key, value in options.items() if key in known})


def _output(port: Output) -> Any:
    make = IO.get(port.type, io.Custom(port.type)).Output
    return make(display_name=port.name, is_output_list=port.is_list, tooltip=port.meaning or None)


class ImagenExtension(ComfyExtension):
    """What ComfyUI asks for our nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [adapter(DeclaredNode(node)) for node in NODES]


async def comfy_entrypoint() -> ImagenExtension:
    """ComfyUI calls this once, when it loads the pack."""
    register_folder()
    return ImagenExtension()
