"""StyleGAN2: a generator whose layers are modulated by styles, and its mirror image that judges.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020: section 2
(layers), figure 7 (the three kinds of connections), appendix B; Karras et al., "Training
Generative Adversarial Networks with Limited Data", 2020 (conditions, the plain discriminator). The
generator is

    z -> mapping -> w, one copy a layer;  a learned constant -> conv1 at 4 px, then at each
    resolution conv0 (doubles) and conv1

and the discriminator

    image -> "from image" 1x1 -> at each resolution conv0 and conv1 (halves) -> at 4 px minibatch
    standard deviation, a convolution, two dense layers -> one logit

with connections past them: "skip", where each resolution adds to the doubled image of the one below
(and the discriminator is shown the image at each), "residual", where each adds to what came in, and
"plain", without. Tensors correspond one to one to those of NVIDIA's PyTorch releases
(stylegan2-ada-pytorch and later), and mean the same.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import (
    Architecture,
    DiscriminatorArchitecture,
    GeneratorArchitecture,
    Network,
    one_of,
    powers_of_two,
)
from .equalised import (
    HE_GAIN,
    Drawn,
    EqualisedConv2d,
    EqualisedLinear,
    draw_weights,
    minibatch_deviation,
    scale_smaller,
)
from .mapping import MappingNetwork
from .modulation import Noise, Normals, StyledConv2d, ToImage
from .resampling import double, halve, smooth
from .styled import StyledNetwork

RESOLUTIONS = powers_of_two(16, 1024)
Paths = Literal["skip", "residual", "plain"]
# Layers that are given maps up to this side, px, or give those up to this share of the images' side
# are small beside the last: float32 costs little there, and errors would be seen everywhere.
SMALL, SMALL_SHARE = 16, 1 / 4
# What the sum of two signals is multiplied by to keep their variance.
SUM_GAIN = math.sqrt(0.5)


class _StyleGAN2(Architecture):
    """What generator and discriminator share: they mirror each other."""

    resolution: Annotated[int, one_of(RESOLUTIONS)] = 64
    """Longer side of the images, px: a power of two from 16 to 1024."""
    smallest: tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1, le=4)]] = (4, 4)
    """Height and width of the smallest map, px, whose shape the images have: 4, 3 is upright."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    width_base: Annotated[int, Field(ge=64, le=131_072)] = 8192
    """Maps of s px have ``width_base`` / s channels, within ``width_max``. Configuration F: 32768,
    configuration E: 16384."""
    width_max: Annotated[int, Field(ge=8, le=2048)] = 256
    """No layer has more channels than this. The paper's: 512."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""
    mapping_layers: Annotated[int, Field(ge=1, le=32)] = 8
    """Depth of the mapping network: of z and labels in the generator, of labels in the
    discriminator."""
    mapping_lr: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The mapping network's learning rate, as a share of the others'."""
    clamp: Annotated[float, Field(ge=0)] = 0.0
    """Activations are held within +- this; 0: not at all. NVIDIA's networks that were trained in
    half precision have 256."""

    @model_validator(mode="after")
    def _longer_side_is_4(self) -> Self:
        if max(self.smallest) != 4:
            raise ValueError(f"smallest is {self.smallest}; its longer side is 4 px")
        return self

    @property
    def size(self) -> tuple[int, int]:
        return self.size_at(self.resolution)

    def size_at(self, side: int) -> tuple[int, int]:
        """Height and width of the maps whose longer side is ``side`` px."""
        h, w = self.smallest
        return h * side // 4, w * side // 4

    @property
    def sides(self) -> tuple[int, ...]:
        """Longer sides of the feature maps, px, from 4 to the images'."""
        return powers_of_two(4, self.resolution)

    def width_at(self, side: int) -> int:
        """Channels of the feature maps of ``side`` px."""
        return min(self.width_base // side, self.width_max)


class StyleGAN2Generator(_StyleGAN2, GeneratorArchitecture):
    """Latents to images, through styles."""

    styled: ClassVar[bool] = True

    kind: Literal["stylegan2-generator"] = "stylegan2-generator"
    """Names this architecture in files."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 512
    """Length of the latent vector z."""
    w_dim: Annotated[int, Field(ge=1, le=4096)] = 512
    """Length of the intermediate latent w, and width of the mapping network."""
    label_norm: Literal["separate", "joint"] = "separate"
    """How the mapping network normalises z and the embedding of a label: each by itself, or, as in
    the paper's own code, as one vector. Without classes there is nothing to join."""
    paths: Paths = "skip"
    """How the image comes about: summed up over resolutions; or drawn by the last, with residual
    connections or plainly."""

    @property
    def layers(self) -> int:
        """Styles that an image takes: one a convolution, and one for the last image. An image in
        between shares that of the next convolution."""
        return 2 * len(self.sides)

    def build(self) -> StyleGAN2GeneratorNetwork:
        return StyleGAN2GeneratorNetwork(self)


class StyleGAN2Discriminator(_StyleGAN2, DiscriminatorArchitecture):
    """Images to one logit each."""

    kind: Literal["stylegan2-discriminator"] = "stylegan2-discriminator"
    """Names this architecture in files."""
    paths: Paths = "residual"
    """What goes past the layers: what every block is given, as in the paper; the image, at each
    resolution; or nothing, as in NVIDIA's CIFAR-10 configuration."""
    group: Annotated[int, Field(ge=1, le=1024)] = 4
    """Images that minibatch standard deviation compares; 1: without."""

    @property
    def compares_images(self) -> bool:
        return self.group > 1

    def build(self) -> StyleGAN2DiscriminatorNetwork:
        return StyleGAN2DiscriminatorNetwork(self)


class StyleGAN2GeneratorNetwork(StyledNetwork):
    """See :class:`.styled.StyledNetwork`."""

    def __init__(self, architecture: StyleGAN2Generator) -> None:
        a = architecture
        joint = a.label_norm == "joint"
        mapping = MappingNetwork(
            a.z_dim, a.classes, a.w_dim, a.mapping_layers, a.mapping_lr, joint=joint
        )
        super().__init__(mapping, SynthesisNetwork(a), a.layers, a.w_dim)

    def style_weights(self) -> list[Tensor]:
        layers = self.synthesis.modules()
        return [m.style.weight for m in layers if isinstance(m, StyledConv2d | ToImage)]

    def initialise(self, random: Generator) -> None:
        """New weights and noise maps from ``random``; the average of w is 0."""
        draw_weights(self, random)
        self.w_avg.zero_()


class SynthesisNetwork(Drawn):
    """``w [b layers w_dim]`` -> images ``[b channels h w]``, float32."""

    def __init__(self, architecture: StyleGAN2Generator) -> None:
        super().__init__()
        a = architecture
        self.constant = nn.Parameter(torch.zeros(a.width_at(4), *a.smallest))
        self.blocks = nn.ModuleDict({str(side): DoublingBlock(a, side) for side in a.sides})

    def forward(
        self, w: Tensor, noise: Noise = "constant", random: Normals | None = None
    ) -> Tensor:
        """``random`` is where random noise is drawn from; none: torch's own generator."""
        x, image = self.constant.expand(len(w), -1, -1, -1), None
        layer = 0
        for block in self.blocks.values():
            x, image = block(x, image, w[:, layer:], noise, random)
            layer += 1 if block.conv0 is None else 2
        assert image is not None
        return image

    def draw(self, random: Generator) -> None:
        """The constant ~ N(0, 1)."""
        nn.init.normal_(self.constant, generator=random)


class DoublingBlock(nn.Module):
    """One resolution: features ``[b inputs h w]`` and image so far -> features of twice the size
    (at 4 px: of the same) and the image; ``w [b n w_dim]`` from its first convolution on."""

    def __init__(self, a: StyleGAN2Generator, side: int) -> None:
        super().__init__()
        width, below, size = a.width_at(side), a.width_at(side // 2), a.size_at(side)
        residual = a.paths == "residual" and side > 4
        gain = SUM_GAIN if residual else 1.0
        small = side <= a.resolution * SMALL_SHARE
        layer = partial(StyledConv2d, w_dim=a.w_dim, size=size, clamp=a.clamp)
        self.conv0 = (
            layer(below, width, up=True, float32=small or side // 2 <= SMALL) if side > 4 else None
        )
        self.conv1 = layer(width, width, up=False, gain=gain, float32=small or side <= SMALL)
        self.skip = EqualisedConv2d(below, width, 1, bias=False, gain=gain) if residual else None
        draws = a.paths == "skip" or side == a.resolution
        self.to_image = ToImage(width, a.channels, a.w_dim, clamp=a.clamp) if draws else None

    def forward(
        self, x: Tensor, image: Tensor | None, w: Tensor, noise: Noise, random: Normals | None
    ) -> tuple[Tensor, Tensor | None]:
        # A 1x1 convolution and doubling may change places: a quarter of the work.
        past = None if self.skip is None else double(self.skip(x))
        layers = [self.conv1] if self.conv0 is None else [self.conv0, self.conv1]
        for i, layer in enumerate(layers):
            x = layer(x, w[:, i], layer.noise_map(noise, len(x), random))
        if past is not None:
            x = x + past
        if self.to_image is None:
            return x, None
        own = self.to_image(x, w[:, len(layers)])
        return x, own if image is None else double(image) + own


class StyleGAN2DiscriminatorNetwork(Network):
    """``[b channels h w]`` in -1..1, ``labels [b]`` (int64; needed exactly where there are classes)
    -> logits ``[b]``; positive: real.

    With classes, the last layer's output is projected on the mapped label: Miyato & Koyama, "cGANs
    with Projection Discriminator", 2018."""

    def __init__(self, architecture: StyleGAN2Discriminator) -> None:
        super().__init__()
        a = architecture
        self.size = a.size
        seen = reversed(a.sides) if a.paths == "skip" else (a.resolution,)
        self.from_image = nn.ModuleDict(
            {
                str(side): _RectifiedConv2d(a.channels, a.width_at(side), 1, clamp=a.clamp)
                for side in seen
            }
        )
        halving = {str(side): _HalvingBlock(a, side) for side in reversed(a.sides[1:])}
        self.blocks = nn.ModuleDict({**halving, "4": _LastBlock(a)})
        self.mapping = (
            MappingNetwork(0, a.classes, a.width_at(4), a.mapping_layers, a.mapping_lr)
            if a.classes
            else None
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        if images.shape[2:] != self.size:
            raise ValueError(
                f"images of {images.shape[3]}x{images.shape[2]} px, expected "
                f"{self.size[1]}x{self.size[0]} px"
            )
        x: Tensor | None = None
        for side, block in self.blocks.items():
            if side in self.from_image:
                if x is not None:  # the same image at half the size
                    images = halve(images)
                own = self.from_image[side](images)
                x = own if x is None else x + own
            x = block(x)
        assert x is not None
        if self.mapping is None:
            return x[:, 0]
        return (x * self.mapping(None, labels)).sum(1) / math.sqrt(x.shape[1])

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``."""
        draw_weights(self, random)


class _HalvingBlock(nn.Module):
    """One resolution: ``[b inputs h w] -> [b outputs h/2 w/2]``."""

    def __init__(self, a: StyleGAN2Discriminator, side: int) -> None:
        super().__init__()
        width, outputs = a.width_at(side), a.width_at(side // 2)
        residual = a.paths == "residual"
        gain = SUM_GAIN if residual else 1.0
        self.conv0 = _RectifiedConv2d(width, width, 3, clamp=a.clamp)
        self.conv1 = _RectifiedConv2d(width, outputs, 3, down=True, gain=gain, clamp=a.clamp)
        self.skip = EqualisedConv2d(width, outputs, 1, bias=False, gain=gain) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.conv0(x))
        return y if self.skip is None else y + self.skip(halve(x))


class _LastBlock(nn.Module):
    """The smallest map ``[b c h w] -> [b 1]``, with classes ``[b c]``."""

    def __init__(self, a: StyleGAN2Discriminator) -> None:
        super().__init__()
        width = a.width_at(4)
        self.group = a.group
        self.conv = _RectifiedConv2d(width + (a.group > 1), width, 3, clamp=a.clamp)
        self.dense = EqualisedLinear(width * a.smallest[0] * a.smallest[1], width)
        self.out = EqualisedLinear(width, width if a.classes else 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(minibatch_deviation(x, self.group) if self.group > 1 else x)
        return self.out(F.leaky_relu(self.dense(x.flatten(1)), 0.2) * HE_GAIN)


class _RectifiedConv2d(EqualisedConv2d):
    """Convolution and leaky rectifier; ``down``: the filter before it, every other position after.
    ``gain`` beside the rectifier's, which scales the limits of ``clamp`` too."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        down: bool = False,
        gain: float = 1.0,
        clamp: float = 0.0,
    ) -> None:
        # The rectifier is homogeneous: its gain is given to what goes into it.
        super().__init__(inputs, outputs, kernel, gain=gain * HE_GAIN)
        self.down = down
        self.gain = gain * HE_GAIN
        self.limit = clamp * gain

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        padding, stride = self.padding, 1
        if self.down:
            x, padding, stride = smooth(x, padding=2), 0, 2
        x, weight = scale_smaller(x, self.weight, self.scale)
        x = F.conv2d(x, weight, self.bias * self.gain, stride, padding)
        x = F.leaky_relu_(x, 0.2)
        return x.clamp(-self.limit, self.limit) if self.limit else x
