"""AnimeGANv2's generator: photographs to drawings, with inverted residual blocks at a quarter of
the size, layer norm and leaky ReLUs.

Sources: Chen et al., "AnimeGAN: A Novel Lightweight GAN for Photo Animation", 2020, section 3.1;
its second version, as released for PyTorch, has layer norm, and 32, 64 and 128 channels (2.1 M
values). Layer norm is over channels and positions, a group norm of one group.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..tiles import Sizes
from .architecture import Architecture, Network, Pictures
from .dcgan import initialise
from .fused import FusedConv2d, padded
from .picture_layers import BLEND, tile_of

SLOPE = 0.2


class AnimeGANGenerator(Architecture):
    """Pictures to pictures of the same size."""

    kind: Literal["animegan-generator"] = "animegan-generator"
    """Names this architecture in files."""
    resolution: Annotated[int, Field(ge=8, le=4096)] = 512
    """Side of the pictures that it is trained on, px; it takes others too."""
    width: Annotated[int, Field(ge=4, le=512)] = 32
    """Channels at full size, twice as many at half and four times at a quarter of it."""
    blocks: Annotated[int, Field(ge=1, le=16)] = 4
    """Inverted residual blocks, each through twice its channels."""
    align_corners: bool = True
    """Whether the outermost pixels stay in place when maps are doubled; else the borders do."""

    @property
    def pictures(self) -> Pictures:
        # Reflection takes a map of more than 3 px, and of more than 1 px where it is smallest.
        sizes = Sizes(multiple=4, minimum=16)
        return Pictures(sizes=sizes, tile=tile_of(2 * self.width), blend=BLEND)

    def build(self) -> AnimeGANGeneratorNetwork:
        return AnimeGANGeneratorNetwork(self)


class Layer(nn.Module):
    """Convolution, layer norm, leaky ReLU: ``[b c h w] -> [b out h' w']``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        # Where it halves, only the right and lower border are there.
        edge = kernel // 2
        self.border = [0, 1, 0, 1] if stride == 2 else [edge] * 4
        self.conv = FusedConv2d(inputs, outputs, kernel, stride, groups=groups, bias=groups > 1)
        self.norm = nn.GroupNorm(1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.border):
            x = padded(x, self.border, "reflect")
        return F.leaky_relu(self.norm(self.conv(x)), SLOPE, inplace=True)


class InvertedBlock(nn.Module):
    """1x1 to twice the channels, 3x3 on each by itself, 1x1 back (Sandler et al., "MobileNetV2",
    2018); added to the input where the channels are as many."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = 2 * inputs
        self.residual = inputs == outputs
        self.expand = Layer(inputs, inner, 1)
        self.depthwise = Layer(inner, inner, groups=inner)
        self.project = FusedConv2d(inner, outputs, 1, bias=False)
        self.norm = nn.GroupNorm(1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.project(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class AnimeGANGeneratorNetwork(Network):
    """``[b 3 h w]`` in -1..1 -> ``[b 3 h w]`` in -1..1; h and w multiples of 4."""

    def __init__(self, architecture: AnimeGANGenerator) -> None:
        super().__init__()
        a = architecture
        w, self.align_corners = a.width, a.align_corners
        self.whole = nn.Sequential(Layer(3, w, 7), Layer(w, 2 * w, stride=2), Layer(2 * w, 2 * w))
        self.halved = nn.Sequential(Layer(2 * w, 4 * w, stride=2), Layer(4 * w, 4 * w))
        blocks = [InvertedBlock(8 * w if i else 4 * w, 8 * w) for i in range(a.blocks)]
        self.quartered = nn.Sequential(Layer(4 * w, 4 * w), *blocks, Layer(8 * w, 4 * w))
        self.from_quarter = nn.Sequential(Layer(4 * w, 4 * w), Layer(4 * w, 4 * w))
        self.from_half = nn.Sequential(Layer(4 * w, 2 * w), Layer(2 * w, 2 * w), Layer(2 * w, w, 7))
        self.out = FusedConv2d(w, 3, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.quartered(self.halved(self.whole(images)))
        x = self.from_half(self._doubled(self.from_quarter(self._doubled(x))))
        return self.out(x).tanh_()

    def _doubled(self, x: Tensor) -> Tensor:
        align = self.align_corners
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align)

    def initialise(self, random: Generator) -> None:
        """Weights ~ N(0, 0.02), gains 1, biases 0."""
        initialise(self, random)
