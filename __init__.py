"""ComfyUI's door: it imports this folder, by path, from custom_nodes/. Elsewhere it does nothing.

The library is loaded under its own name, so that `nodes` stays ComfyUI's."""

import importlib.util
import sys
from pathlib import Path

if "folder_paths" in sys.modules:  # ComfyUI is running
    if sys.version_info < (3, 11):  # noqa: UP036 - nothing else looks at it here
        found = ".".join(map(str, sys.version_info[:3]))
        raise ImportError(f"Imagen Nodes needs Python 3.11 or newer; ComfyUI runs on {found} here")
    for name, folder in (("imagen_nodes", "imagen_nodes"), ("imagen_nodes.nodes", "nodes")):
        path = Path(__file__).resolve().parent / folder
        spec = importlib.util.spec_from_file_location(name, path / "__init__.py")
        if spec and spec.loader and name not in sys.modules:
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
    from imagen_nodes.comfy import comfy_entrypoint as comfy_entrypoint

    WEB_DIRECTORY = "./nodes/web"
