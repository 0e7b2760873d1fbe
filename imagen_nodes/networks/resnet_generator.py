"""The ResNet generator: a picture is halved, goes through residual blocks, and is doubled again.

    conv 7x7 -> w; n x halve -> 2w, 4w, ...; blocks x (x + conv, conv); n x double; conv 7x7, tanh

each convolution followed by a norm and ReLU, with reflected borders. Sources: Johnson et al.,
"Perceptual Losses for Real-Time Style Transfer and Super-Resolution", 2016, and its supplement;
Zhu et al., "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks"
(CycleGAN), 2017, appendix 7.2: two halvings, 6 blocks at 128 px and 9 above. With four halvings it
is the global generator of Wang et al. (pix2pixHD), 2018, whose local enhancers are here too:
each adds detail at twice the size. Blurred resampling, [1 2 1] before halving and [1 3 3 1] in
doubling, is that of Park et al., "Contrastive Learning for Unpaired Image-to-Image Translation"
(CUT), 2020, after Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..tiles import Sizes
from .architecture import Architecture, Network, Pictures
from .dcgan import initialise
from .fused import FusedConv2d, FusedConvTranspose2d, padded
from .picture_layers import BLEND, Draw, PictureNorm, dropped, norm_of, tile_of
from .resampling import double

Padding = Literal["reflect", "zero", "replicate"]
PADDINGS = {"reflect": "reflect", "zero": "constant", "replicate": "replicate"}


class ResNetGenerator(Architecture):
    """Pictures to pictures of the same size."""

    kind: Literal["resnet-generator"] = "resnet-generator"
    """Names this architecture in files."""
    resolution: Annotated[int, Field(ge=16, le=4096)] = 256
    """Side of the pictures that it is trained on, px; it takes others too."""
    channels: Annotated[int, Field(ge=1, le=512)] = 3
    """Channels of the picture: 1 grey, 3 RGB; more: label maps, one channel a label."""
    outputs: Annotated[int, Field(ge=1, le=4)] = 3
    """Channels of the result."""
    width: Annotated[int, Field(ge=1, le=512)] = 64
    """Channels at full size; doubled by each halving."""
    halvings: Annotated[int, Field(ge=1, le=6)] = 2
    """How often the size is halved; pix2pixHD's global generator has 4."""
    blocks: Annotated[int, Field(ge=0, le=64)] = 9
    """Residual blocks at the smallest size."""
    enhancers: Annotated[int, Field(ge=0, le=3)] = 0
    """Local enhancers (pix2pixHD): each takes the picture at twice the size of the one before, and
    has half its width; ``width`` is that of the last. 0: the picture is seen whole only."""
    enhancer_blocks: Annotated[int, Field(ge=0, le=16)] = 3
    """Residual blocks of each enhancer."""
    norm: PictureNorm = "instance"
    """After each convolution but the last; instance: of each picture by itself."""
    affine: bool = False
    """Whether instance norm has gains and biases, as batch norm has: a batch norm that is used on
    one picture at a time, with that picture's own statistics, is just that."""
    bias: bool = True
    """Whether convolutions but the last have biases; norms without gains and biases need them."""
    down: Literal["strided", "blurred"] = "strided"
    """How sizes are halved: by the convolution, or by a filter after it (CUT)."""
    up: Literal["transposed", "blurred", "nearest"] = "transposed"
    """How sizes are doubled: by a transposed convolution; by a filter (CUT), or by repeating
    pixels, and a convolution after it."""
    padding: Padding = "reflect"
    """Borders in the residual blocks."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of values that are dropped within residual blocks while it is trained; 0: none."""

    @property
    def pictures(self) -> Pictures:
        multiple = 2 ** (self.halvings + self.enhancers)
        return Pictures(
            channels=self.channels,
            outputs=self.outputs,
            # Reflection takes a map of more than 3 px, and of more than 1 px where it is smallest.
            sizes=Sizes(multiple=multiple, minimum=max(4 * 2**self.enhancers, 2 * multiple)),
            tile=tile_of(self.width),
            blend=BLEND,
        )

    def build(self) -> ResNetGeneratorNetwork:
        return ResNetGeneratorNetwork(self)


class Convolution(nn.Module):
    """Convolution, norm: ``[b c h w] -> [b out h' w']``. ``border`` px are put around the map
    first, as ``padding`` says."""

    def __init__(
        self,
        a: ResNetGenerator,
        conv: FusedConv2d | FusedConvTranspose2d,
        border: int = 0,
        padding: Padding = "reflect",
    ) -> None:
        super().__init__()
        self.border, self.mode = [border] * 4 * (border > 0), PADDINGS[padding]
        self.conv, self.norm = conv, norm_of(a.norm, conv.out_channels, a.affine)
        if not a.bias:
            conv.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolved(x))

    def convolved(self, x: Tensor) -> Tensor:
        """Before the norm."""
        return self.conv(padded(x, self.border, self.mode) if self.border else x)


class ResidualBlock(nn.Module):
    """``x + norm(conv(relu(norm(conv(x)))))``, ``[b c h w]``."""

    def __init__(self, a: ResNetGenerator, channels: int) -> None:
        super().__init__()
        self.dropout = a.dropout
        self.first = Convolution(a, FusedConv2d(channels, channels, 3), 1, a.padding)
        self.second = Convolution(a, FusedConv2d(channels, channels, 3), 1, a.padding)

    def forward(self, x: Tensor, draw: Draw | None = None) -> Tensor:
        y = self.first(x).relu_()
        if self.dropout and draw is not None:
            y = dropped(y, self.dropout, draw)
        return self.second(y).add_(x)


class Halving(nn.Module):
    """``[b c h w] -> [b 2c h/2 w/2]``; h and w even."""

    def __init__(self, a: ResNetGenerator, inputs: int) -> None:
        super().__init__()
        self.blurred = a.down == "blurred"
        stride = 1 if self.blurred else 2
        self.step = Convolution(a, FusedConv2d(inputs, 2 * inputs, 3, stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.step.convolved(x))

    def rest(self, convolved: Tensor) -> Tensor:
        """What follows the convolution."""
        x = F.relu(self.step.norm(convolved))
        return blurred_half(x) if self.blurred else x


class Doubling(nn.Module):
    """``[b c h w] -> [b c/2 2h 2w]``."""

    def __init__(self, a: ResNetGenerator, inputs: int) -> None:
        super().__init__()
        self.up = a.up
        outputs = inputs // 2
        self.step = Convolution(
            a,
            FusedConvTranspose2d(inputs, outputs, 3, 2, 1, 1)
            if a.up == "transposed"
            else FusedConv2d(inputs, outputs, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.up == "blurred":
            x = blurred_double(x)
        elif self.up == "nearest":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.step(x).relu_()


def blurred_half(x: Tensor) -> Tensor:
    """``[b c h w] -> [b c h/2 w/2]``: [1 2 1] each way, then every other pixel; reflected
    borders."""
    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(padded(x, [1] * 4, "reflect"), kernel, stride=2, groups=x.shape[1])


def blurred_double(x: Tensor) -> Tensor:
    """``[b c h w] -> [b c 2h 2w]``: zeros between the pixels, then [1 3 3 1] each way; borders
    repeat their pixels."""
    return double(padded(x, [1] * 4, "replicate"))[:, :, 2:-2, 2:-2]


class Trunk(nn.Module):
    """Everything between the picture and the last convolution: ``[b c h w] -> [b width h w]``."""

    def __init__(self, a: ResNetGenerator, width: int) -> None:
        super().__init__()
        self.stem = Convolution(a, FusedConv2d(a.channels, width, 7), 3)
        widths = [width * 2**i for i in range(a.halvings)]
        self.downs = nn.ModuleList(Halving(a, w) for w in widths)
        inner = width * 2**a.halvings
        self.blocks = nn.ModuleList(ResidualBlock(a, inner) for _ in range(a.blocks))
        self.ups = nn.ModuleList(Doubling(a, 2 * w) for w in reversed(widths))

    def forward(self, x: Tensor, draw: Draw | None = None) -> Tensor:
        x = self.stem(x).relu_()
        for down in self.downs:
            x = down(x)
        for block in self.blocks:
            x = block(x, draw)
        for up in self.ups:
            x = up(x)
        return x


class Enhancer(nn.Module):
    """``[b c h w]`` and what was found at half the size, ``[b 2*width h/2 w/2]`` -> ``[b width h
    w]`` (Wang et al. 2018, section 3.1)."""

    def __init__(self, a: ResNetGenerator, width: int) -> None:
        super().__init__()
        strided = a.model_copy(update={"down": "strided"})
        self.stem = Convolution(a, FusedConv2d(a.channels, width, 7), 3)
        self.down = Halving(strided, width)
        self.blocks = nn.ModuleList(ResidualBlock(a, 2 * width) for _ in range(a.enhancer_blocks))
        self.up = Doubling(a, 2 * width)

    def forward(self, x: Tensor, coarse: Tensor, draw: Draw | None = None) -> Tensor:
        y = self.down(self.stem(x).relu_()) + coarse
        for block in self.blocks:
            y = block(y, draw)
        return self.up(y)


class ResNetGeneratorNetwork(Network):
    """``[b channels h w]`` in -1..1 -> ``[b outputs h w]`` in -1..1; sides as ``pictures`` says.

    ``draw`` gives the random numbers of dropout; without it nothing is dropped."""

    def __init__(self, architecture: ResNetGenerator) -> None:
        super().__init__()
        a = architecture
        self.trunk = Trunk(a, a.width * 2**a.enhancers)
        widths = [a.width * 2**i for i in reversed(range(a.enhancers))]
        self.enhancers = nn.ModuleList(Enhancer(a, width) for width in widths)
        self.out = FusedConv2d(a.width, a.outputs, 7)

    def forward(self, images: Tensor, draw: Draw | None = None) -> Tensor:
        sizes = [images]
        for _ in self.enhancers:
            sizes.append(F.avg_pool2d(sizes[-1], 3, 2, 1, count_include_pad=False))
        x = self.trunk(sizes.pop(), draw)
        for enhancer in self.enhancers:
            x = enhancer(sizes.pop(), x, draw)
        return self.out(padded(x, [3] * 4, "reflect")).tanh_()

    def features(self, images: Tensor) -> list[Tensor]:
        """What contrastive learning compares: the pixels, each halving's convolution before its
        norm, the first residual block and the middle one (Park et al. 2020, appendix C.1: layers 0,
        4, 8, 12 and 16 of the authors' code)."""
        trunk = self.trunk
        found, x = [images], F.relu(trunk.stem(images))
        for down in trunk.downs:
            assert isinstance(down, Halving)
            found.append(down.step.convolved(x))
            x = down.rest(found[-1])
        last = len(trunk.blocks) // 2
        for i, block in enumerate(trunk.blocks):
            if i > last:
                break
            x = block(x)
            if i in (0, last):
                found.append(x)
        return found

    def initialise(self, random: Generator) -> None:
        """Weights ~ N(0, 0.02), batch norm gains ~ N(1, 0.02), biases 0 (Zhu et al. 2017, 4)."""
        initialise(self, random)
