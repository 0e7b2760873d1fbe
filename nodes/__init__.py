"""The nodes: declarations only. ``NODES`` is the table of contents."""

from imagen_nodes.graph.node import Node

from .augment import AugmentDataset, Cutout, RandomColour, RandomCrop, RandomFlip
from .checkpoints import LoadCheckpoint
from .denoise import Denoise
from .generate import Generate, ImageGrid
from .inpaint import Inpaint
from .invert import InpaintByInversion, Invert
from .latents import ClassLabels, InterpolateLatents, LoadLatents, SampleNoise, SaveLatents
from .rank import RankByDiscriminator
from .style_transfer import StyleTransfer
from .styles import EditLatents, FindDirections, MixStyles, Truncate
from .super_resolve import SuperResolve
from .translate import Translate

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
    RankByDiscriminator,
    SuperResolve,
    Denoise,
    Inpaint,
    StyleTransfer,
    Translate,
    InpaintByInversion,
    RandomFlip,
    RandomCrop,
    RandomColour,
    Cutout,
    AugmentDataset,
)
