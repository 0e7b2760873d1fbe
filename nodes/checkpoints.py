"""Loading weights."""

from typing import Annotated, NamedTuple

from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Choices, Model


class Loaded(NamedTuple):
    model: Model


class LoadCheckpoint(Node):
    """Load a trained network from a safetensors file.

    The file says of itself what network it holds, so nothing else has to be set. Files are looked
    for in ComfyUI's `models/gan` (headless: in the folders given with `--weights`, then in
    `./weights`) and among the weights that come with Imagen Nodes. Pickles (`.pth`, `.pkl`) are
    not opened: they can run code.
    """

    id = "ImagenLoadCheckpoint"
    title = "Load Checkpoint"
    category = "Imagen/checkpoints"

    name: Annotated[str, Choices("weights")] = "dcgan-cifar10.safetensors"
    """Weights file."""

    @classmethod
    def fingerprint(cls, host, values):
        """The file's identity: its path, size and time."""
        path = host.weights(values["name"]) if "name" in values else None
        return path and (str(path), path.stat().st_size, path.stat().st_mtime_ns)

    def run(self, host: Host) -> Loaded:
        from imagen_nodes import checkpoint

        return Loaded(checkpoint.load(host.weights(self.name)))
