"""Loading weights."""

import math
from typing import Annotated, NamedTuple

from imagen_nodes.folders import contents
from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Choices, Model


class Loaded(NamedTuple):
    model: Model


class LoadCheckpoint(Node):
    """Load a trained network.

    A safetensors file of ours says of itself what network it holds, so nothing else has to be set.
    Networks of other programs that take pictures and give pictures (super-resolution, restoration,
    inpainting: ESRGAN, Compact, SPAN, GFPGAN, LaMa, DnCNN and whatever else spandrel knows) are
    told by their tensors, and may be `.pth` files too: the tensors alone are read, nothing is run.

    Files are looked for in ComfyUI's `models/gan` and `models/upscale_models` (headless: in the
    folders given with `--weights`, then in `./weights`) and among the weights that come with Imagen
    Nodes.
    """

    id = "ImagenLoadCheckpoint"
    title = "Load Checkpoint"
    category = "Imagen/checkpoints"

    name: Annotated[str, Choices("weights")] = "dcgan-cifar10.safetensors"
    """Weights file."""

    @classmethod
    def fingerprint(cls, host, values):
        """What changes when another file takes its place."""
        return contents(host.weights(values["name"])) if "name" in values else math.nan

    def run(self, host: Host) -> Loaded:
        from imagen_nodes import foreign

        return Loaded(foreign.open_model(host.weights(self.name)))
