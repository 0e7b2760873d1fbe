"""The nodes: declarations only. ``NODES`` is the table of contents."""

from imagen_nodes.graph.node import Node

from .checkpoints import LoadCheckpoint
from .denoise import Denoise
from .generate import Generate, ImageGrid
from .latents import SampleNoise
from .super_resolve import SuperResolve

NODES: tuple[type[Node], ...] = (
    LoadCheckpoint,
    SampleNoise,
    Generate,
    ImageGrid,
    SuperResolve,
    Denoise,
)
