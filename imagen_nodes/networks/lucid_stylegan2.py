"""The generator of lucidrains' stylegan2_pytorch, which goes its own ways from StyleGAN2.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020; what P. Wang's
stylegan2_pytorch has otherwise: no equalised learning rate, but for the mapping network; one style
a resolution; bilinear upsampling before a convolution, a blur [1 2 1] for images; noise that is
uniform in 0..1, one map for all layers, whose top left corner the smaller ones see, turned over;
attention (see ``linear_attention.py``). Images are in 0..1. The generator is

    z -> mapping -> w, one copy a resolution;  a constant, or a map of the average w -> a 3x3
    convolution -> at each resolution conv0 and conv1, and an image that is added to those below
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import GeneratorArchitecture, check_attention, one_of, powers_of_two
from .equalised import in_float32
from .linear_attention import ChannelNorm, LinearAttention, blur
from .modulation import Noise, Normals
from .styled import StyledNetwork

RESOLUTIONS = powers_of_two(8, 1024)


class LucidStyleGAN2Generator(GeneratorArchitecture):
    """Latents to images, through styles, one a resolution."""

    styled: ClassVar[bool] = True

    kind: Literal["lucid-stylegan2-generator"] = "lucid-stylegan2-generator"
    """Names this architecture in files."""
    resolution: Annotated[int, one_of(RESOLUTIONS)] = 128
    """Side of the square images, px: a power of two from 8 to 1024."""
    channels: Annotated[int, Field(ge=3, le=4)] = 3
    """Image channels: 3 RGB, 4 RGBA."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 512
    """Length of z, and of w."""
    classes: Annotated[int, Field(ge=0, le=0)] = 0
    """It has none."""
    mapping_layers: Annotated[int, Field(ge=1, le=32)] = 8
    """Depth of the mapping network."""
    mapping_lr: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The mapping network's learning rate, as a share of the others'."""
    width: Annotated[int, Field(ge=1, le=512)] = 16
    """Half the channels at the full resolution; doubled at each halving."""
    width_max: Annotated[int, Field(ge=2, le=4096)] = 512
    """No layer has more channels than this."""
    attention: tuple[int, ...] = ()
    """Resolutions (px) that begin with attention, on the maps that the one below gave; none: ()."""
    constant: bool = True
    """Whether the first map is a constant, or is made from w."""

    @model_validator(mode="after")
    def _attention_fits(self) -> Self:
        check_attention(self.attention, self.sides, "layers")
        return self

    @property
    def w_dim(self) -> int:
        return self.z_dim

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the maps, px."""
        return powers_of_two(4, self.resolution)

    @property
    def layers(self) -> int:
        """Styles that an image takes: one a resolution."""
        return len(self.sides)

    def width_at(self, side: int) -> int:
        """Channels of the maps of ``side`` px."""
        return min(self.width * 2 * self.resolution // side, self.width_max)

    def build(self) -> LucidStyleGAN2GeneratorNetwork:
        return LucidStyleGAN2GeneratorNetwork(self)


class LucidStyleGAN2GeneratorNetwork(StyledNetwork):
    """See :class:`.styled.StyledNetwork`."""

    def __init__(self, architecture: LucidStyleGAN2Generator) -> None:
        a = architecture
        super().__init__(_Mapping(a), SynthesisNetwork(a), a.layers, a.w_dim)

    def style_weights(self) -> list[Tensor]:
        layers = self.synthesis.modules()
        return [m.style.weight for m in layers if isinstance(m, _ModulatedConv2d)]

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: He's for convolutions and styles, N(0, 1) for the mapping
        network and the constant; noise counts for nothing at first."""
        for module in self.modules():
            if isinstance(module, _Mapping):
                for weight, bias in zip(module.weights, module.biases, strict=True):
                    nn.init.normal_(weight, generator=random)
                    nn.init.zeros_(bias)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=random)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, ChannelNorm):
                nn.init.ones_(module.scale)
                nn.init.zeros_(module.shift)
            elif isinstance(module, SynthesisNetwork):
                if module.constant is not None:
                    nn.init.normal_(module.constant, generator=random)
                module.noise.uniform_(generator=random)
            elif isinstance(module, _ModulatedConv2d):
                nn.init.kaiming_normal_(module.weight, generator=random)
            elif isinstance(module, _Block):
                for tensor in (*module.noise_strength, *module.bias):
                    nn.init.zeros_(tensor)
        self.w_avg.zero_()


class _Mapping(nn.Module):
    """``z [b z_dim]``, labels of no consequence -> ``w [b z_dim]``, float32."""

    def __init__(self, a: LucidStyleGAN2Generator) -> None:
        super().__init__()
        self.lr = a.mapping_lr
        size, depth = a.z_dim, a.mapping_layers
        self.weights = nn.ParameterList(torch.zeros(size, size) for _ in range(depth))
        self.biases = nn.ParameterList(torch.zeros(size) for _ in range(depth))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        with in_float32(z.device):
            x = F.normalize(z, dim=1)
            for weight, bias in zip(self.weights, self.biases, strict=True):
                x = F.leaky_relu(F.linear(x, weight * self.lr, bias * self.lr), 0.2)
        return x


class SynthesisNetwork(nn.Module):
    """``w [b layers w_dim]`` -> images ``[b channels h w]``, float32, nominally in -1..1."""

    noise: Tensor

    def __init__(self, a: LucidStyleGAN2Generator) -> None:
        super().__init__()
        width = a.width_at(4)
        self.constant = nn.Parameter(torch.zeros(width, 4, 4)) if a.constant else None
        self.first = None if a.constant else nn.ConvTranspose2d(a.w_dim, width, 4, bias=False)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleDict({str(side): _Block(a, side) for side in a.sides})
        self.register_buffer("noise", torch.zeros(a.resolution, a.resolution))

    def forward(
        self, w: Tensor, noise: Noise = "constant", random: Normals | None = None
    ) -> Tensor:
        if self.constant is not None:
            x = self.constant.expand(len(w), -1, -1, -1)
        else:
            assert self.first is not None
            x = self.first(w.mean(1)[:, :, None, None])
        x, image, seen = self.conv(x), None, self._noise(noise, len(w), random)
        for i, block in enumerate(self.blocks.values()):
            x, image = block(x, image, w[:, i], seen)
        assert image is not None
        # Its images are in 0..1.
        return image.float() * 2 - 1

    def _noise(self, kind: Noise, count: int, random: Normals | None) -> Tensor:
        """``[count 1 h w]`` in 0..1; none: their mean."""
        if kind == "constant":
            return self.noise.expand(count, 1, -1, -1)
        if kind == "none":
            return torch.full_like(self.noise, 0.5).expand(count, 1, -1, -1)
        shape = (1, *self.noise.shape)
        if random is None:
            return torch.rand(count, *shape, device=self.noise.device)
        # Of normal values, their places in the distribution.
        return torch.special.ndtr(random.normal(count, *shape).to(self.noise))


class _Block(nn.Module):
    """One resolution: features and image of the one below -> features, and the image, which all but
    the last double."""

    def __init__(self, a: LucidStyleGAN2Generator, side: int) -> None:
        super().__init__()
        inputs, outputs = a.width_at(max(side // 2, 4)), a.width_at(side)
        self.doubles, self.last = side > 4, side == a.resolution
        self.attention = _Attention(inputs) if side in a.attention else None
        self.conv0 = _ModulatedConv2d(inputs, outputs, 3, a.w_dim)
        self.conv1 = _ModulatedConv2d(outputs, outputs, 3, a.w_dim)
        self.noise_strength = nn.ParameterList(torch.zeros(outputs) for _ in range(2))
        self.bias = nn.ParameterList(torch.zeros(outputs) for _ in range(2))
        self.to_image = _ModulatedConv2d(outputs, a.channels, 1, a.w_dim, demodulate=False)

    def forward(
        self, x: Tensor, image: Tensor | None, w: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.attention is not None:
            x = self.attention(x)
        if self.doubles:
            x = _doubled(x)
        h, width = x.shape[2:]
        # Its corner, turned over.
        noise = noise[:, :, :h, :width].transpose(2, 3).to(x.dtype)
        convs = (self.conv0, self.conv1)
        for conv, strength, bias in zip(convs, self.noise_strength, self.bias, strict=True):
            x = conv(x, w)
            x = x + noise * strength[:, None, None].to(x.dtype) + bias[:, None, None].to(x.dtype)
            x = F.leaky_relu_(x, 0.2)
        own = self.to_image(x, w)
        own = own if image is None else image + own
        return x, own if self.last else blur(_doubled(own))


class _Attention(nn.Module):
    """``[b c h w] -> [b c h w]``: attention, then two 1x1 convolutions, both beside their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm0, self.norm1 = ChannelNorm(channels), ChannelNorm(channels)
        self.attention = LinearAttention(channels, neighbours=False)
        self.conv0 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv1 = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm0(x))
        return x + self.conv1(F.leaky_relu(self.conv0(self.norm1(x)), 0.2))


class _ModulatedConv2d(nn.Module):
    """``x [b inputs h w]``, ``w [b w_dim]`` -> ``[b outputs h w]``: as in ``modulation.py``, with
    styles that are 1 more."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, w_dim: int, *, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.style = nn.Linear(w_dim, inputs)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with in_float32(w.device):
            styles = self.style(w) + 1
            power = self.weight.square().sum((2, 3))
            scales = (styles.square() @ power.t() + 1e-8).rsqrt()[:, :, None, None]
        x = x * styles[:, :, None, None].to(x.dtype)
        x = F.conv2d(x, self.weight, padding=self.weight.shape[2] // 2)
        return x * scales.to(x.dtype) if self.demodulate else x


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
