"""VGG-19's features: what the content and the style of pictures are compared in.

    1x1, [conv, conv] P [conv, conv] P [conv x 4] P [conv x 4] P [conv]

each conv 3x3 with reflection padding and a ReLU, P the largest of each 2x2. relu k_1 is what the
first convolution of the k-th stage gives. Source: Simonyan & Zisserman, "Very Deep Convolutional
Networks for Large-Scale Image Recognition", 2015, table 1, column E. The 1x1 convolution in front,
which turns RGB in 0..1 into what the network was trained on (BGR in 0..255 without its mean), and
the reflection padding are those of Huang & Belongie's encoder (see ``adain.py``).

The features that ship are of a network with a quarter of the channels: Wang et al., "Collaborative
Distillation for Ultra-Resolution Universal Style Transfer", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture, Network
from .fused import RELU, FusedConv2d

Width = Annotated[int, Field(ge=1, le=4096)]
# Convolutions of the stages.
DEPTHS = (2, 2, 4, 4, 4)
# Channels of the original, by stage; of the pruned one that ships.
ORIGINAL, PRUNED = (64, 128, 256, 512, 512), (16, 32, 64, 128, 128)


class VGGFeatures(Architecture):
    """VGG-19 from the picture to relu5_1."""

    kind: Literal["vgg-features"] = "vgg-features"
    """Names this architecture in files."""
    widths: tuple[Width, Width, Width, Width, Width] = PRUNED
    """Channels of the five stages."""

    def build(self) -> VGGFeaturesNetwork:
        return VGGFeaturesNetwork(self.widths)


class VGGFeaturesNetwork(Network):
    """``[b 3 h w]`` in 0..1, of 2 px or more in the last stage -> the first feature map of each
    stage, ``[b widths[k] h/2^k w/2^k]``, rounded down.

    Args:
        widths: of the stages; of the last only the first convolution is there.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.first = FusedConv2d(3, 3, 1)
        stages: list[nn.Module] = []
        inputs = 3
        for k, width in enumerate(widths):
            depth = DEPTHS[k] if k < len(widths) - 1 else 1
            channels = [inputs, *[width] * depth]
            stages.append(nn.ModuleList(map(reflecting, channels, channels[1:])))
            inputs = width
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor, layers: int = 0) -> list[Tensor]:
        """
        Args:
            layers: so many, from the first; 0: all of them."""
        x, found = self.first(images), list[Tensor]()
        for k, stage in enumerate(self.stages):
            if k:
                x = F.max_pool2d(x, 2)
            for i, conv in enumerate(stage.children()):
                x = conv(x, RELU)
                if i == 0:
                    found.append(x)
                    if len(found) == layers:
                        return found
        return found

    @property
    def smallest(self) -> int:
        """Side of the smallest picture, px: reflection takes two positions."""
        return 2 ** len(self.widths)

    def initialise(self, random: Generator) -> None:
        """He's initial weights, biases 0."""
        initialise(self, random)


def reflecting(inputs: int, outputs: int) -> FusedConv2d:
    """A 3x3 convolution with reflection padding: ``[b c h w] -> [b out h w]``, h and w from 2."""
    return FusedConv2d(inputs, outputs, 3, 1, 1, padding_mode="reflect")


def initialise(network: nn.Module, random: Generator) -> None:
    """All convolutions: He's weights, biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=random)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
