"""The nodes: declarations only. ``NODES`` is the table of contents."""

from imagen_nodes.graph.node import Node

from .augment import AugmentDataset, Cutout, RandomColour, RandomCrop, RandomFlip
from .checkpoints import LoadCheckpoint
from .denoise import Denoise
from .generate import Generate, ImageGrid
from .invert import InpaintByInversion, Invert
from .latents import ClassLabels, InterpolateLatents, LoadLatents, SampleNoise, SaveLatents
from .styles import EditLatents, FindDirections, MixStyles, Truncate
from .super_resolve import SuperResolve

NODES: tuple[type[Node], ...] = (
    LoadCheckpoint,
    SampleNoise,
    ClassLabels,
    InterpolateLatents,
    Truncate,
    MixStyles,
    FindDirections,
    EditLatents,
    Invert,
    SaveLatents,
    LoadLatents,
    Generate,
    ImageGrid,
    SuperResolve,
    Denoise,
    InpaintByInversion,
    RandomFlip,
    RandomCrop,
    RandomColour,
    Cutout,
    AugmentDataset,
)
