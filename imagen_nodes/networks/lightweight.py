"""The generator of lightweight-gan: one convolution a resolution, and the small maps steer the
channels of the large ones.

Source: Liu et al., "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image
Synthesis" (FastGAN), 2021, section 3.1 (skip-layer excitation), as P. Wang's lightweight-gan has
it, which adds what it took from elsewhere: a pixel shuffle for upsampling (Shi et al. 2016), a
global context in place of a pooled map (Cao et al., "GCNet", 2019) or frequencies (Qin et al.,
"FcaNet: Frequency Channel Attention Networks", 2021), attention (see ``linear_attention.py``). The
generator is

    z -> 4x4, every position of unit length -> at each resolution: upsampling, blur, a 4x4
    convolution, noise, batch norm, a gated linear unit -> 3x3 to the image

and the maps of 16, 32, 64 and 128 px give factors for the channels of those of 128 to 1024 px.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import GeneratorArchitecture, Network, check_attention, one_of, powers_of_two
from .linear_attention import ChannelNorm, LinearAttention, blur

RESOLUTIONS = powers_of_two(16, 1024)
# Maps over maps that steer them, in px.
STEERED = 8
FIRST_STEERING, LAST_STEERING = 16, 128
# From here on maps are hardly wider than images, whatever they were to be, px.
THIN, THIN_WIDTH = 512, 3
# Frequencies of the cosine transform, down and across; a share of the channels is seen at each.
FREQUENCIES = [(0, k) for k in range(8)] + [(k, 0) for k in range(8)]


class LightweightGenerator(GeneratorArchitecture):
    """Latents to images, by a generator of few layers."""

    kind: Literal["lightweight-generator"] = "lightweight-generator"
    """Names this architecture in files."""
    resolution: Annotated[int, one_of(RESOLUTIONS)] = 256
    """Side of the square images, px: a power of two from 16 to 1024."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 256
    """Length of the latent vector z, and channels at 4 px."""
    classes: Annotated[int, Field(ge=0, le=0)] = 0
    """It has none."""
    width_base: Annotated[int, Field(ge=8, le=131_072)] = 8192
    """Maps of s px have ``width_base`` / s channels, within ``width_max``; those of 512 and 1024 px
    have 3."""
    width_max: Annotated[int, Field(ge=1, le=2048)] = 512
    """No layer has more channels than this."""
    attention: tuple[int, ...] = ()
    """Resolutions (px) whose maps get attention before they are doubled; none: ()."""
    steering: Literal["context", "frequencies"] = "context"
    """What small maps steer the channels of large ones by: a mean over places that are looked at
    (global context), or coefficients of a cosine transform (frequency channel attention)."""

    @model_validator(mode="after")
    def _attention_fits(self) -> Self:
        check_attention(self.attention, (4, *self.sides[:-1]), "maps that are doubled")
        return self

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the maps that the layers give, px."""
        return powers_of_two(8, self.resolution)

    def width_at(self, side: int) -> int:
        """Channels of the maps of ``side`` px."""
        if side == 4:
            return self.z_dim
        return THIN_WIDTH if side >= THIN else min(self.width_base // side, self.width_max)

    def build(self) -> LightweightGeneratorNetwork:
        return LightweightGeneratorNetwork(self)


class LightweightGeneratorNetwork(Network):
    """``z [b z_dim]`` -> ``[b channels resolution resolution]``, nominally in -1..1."""

    def __init__(self, architecture: LightweightGenerator) -> None:
        super().__init__()
        a = architecture
        self.first = nn.ConvTranspose2d(a.z_dim, 2 * a.z_dim, 4)
        self.norm = nn.BatchNorm2d(2 * a.z_dim)
        self.blocks = nn.ModuleDict({str(side): _DoublingBlock(a, side) for side in a.sides})
        self.out = nn.Conv2d(a.width_at(a.resolution), a.channels, 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """``labels`` are of no consequence."""
        x = F.glu(self.norm(self.first(z[:, :, None, None])), 1)
        x = F.normalize(x, dim=1)
        factors: dict[int, Tensor] = {}
        for name, block in self.blocks.items():
            side = int(name)
            x = block(x)
            if (steering := block.steering) is not None:
                assert isinstance(steering, _Context | _Frequencies)
                factors[side * STEERED] = steering(x)
            if side in factors:
                x = x * factors[side]
        # Its images are in 0..1.
        return self.out(x).float() * 2 - 1

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: He's for convolutions, noise maps of N(0, 1) that count for
        nothing at first."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, generator=random)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, ChannelNorm):
                nn.init.ones_(module.scale)
                nn.init.zeros_(module.shift)
            elif isinstance(module, _DoublingBlock):
                nn.init.zeros_(module.noise_strength)
                module.noise.normal_(generator=random)


class _DoublingBlock(nn.Module):
    """``[b inputs s/2 s/2] -> [b outputs s s]``."""

    noise: Tensor

    def __init__(self, a: LightweightGenerator, side: int) -> None:
        super().__init__()
        inputs, outputs = a.width_at(side // 2), a.width_at(side)
        self.attention = self.attention_norm = self.steering = None
        if side // 2 in a.attention:
            self.attention_norm = ChannelNorm(inputs)
            self.attention = LinearAttention(inputs, neighbours=True)
        self.up = nn.Conv2d(inputs, 4 * inputs, 1)
        self.conv = nn.Conv2d(inputs, 2 * outputs, 4)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        # The same for all images, and in training mode new values.
        self.register_buffer("noise", torch.zeros(side, side))
        self.norm = nn.BatchNorm2d(2 * outputs)
        steered = side * STEERED
        if FIRST_STEERING <= side <= LAST_STEERING and steered <= a.resolution:
            kind = _Context if a.steering == "context" else _Frequencies
            self.steering = kind(outputs, a.width_at(steered))

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            assert self.attention_norm is not None
            x = x + self.attention(self.attention_norm(x))
        x = blur(F.pixel_shuffle(F.silu(self.up(x)), 2))
        # A kernel of 4 has no centre: two pixels before, one after.
        x = self.conv(F.pad(x, (2, 1, 2, 1)))
        noise = self.noise
        if self.training:
            noise = torch.randn(len(x), 1, *noise.shape, device=noise.device)
        return F.glu(self.norm(x + (self.noise_strength * noise).to(x.dtype)), 1)


class _Context(nn.Module):
    """``[b inputs h w] -> [b outputs 1 1]``, in 0..1: channels at the places that it looks at."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = max(3, outputs // 2)
        self.look = nn.Conv2d(inputs, 1, 1)
        self.conv0 = nn.Conv2d(inputs, hidden, 1)
        self.conv1 = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.look(x).flatten(2).softmax(2)  # [b 1 n]
        seen = (x.flatten(2) * weights).sum(2)[:, :, None, None]
        return self.conv1(F.leaky_relu(self.conv0(seen), 0.1)).sigmoid()


class _Frequencies(nn.Module):
    """``[b inputs s s] -> [b outputs 1 1]``, in 0..1: one coefficient of each channel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = max(3, outputs // 4)
        self.conv0 = nn.Conv2d(inputs, hidden, 1)
        self.conv1 = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Made anew: a buffer would have no values in a network that is built without memory.
        waves = cosines(x.shape[1], x.shape[2], x.device).to(x.dtype)
        seen = (x * waves).sum((2, 3), keepdim=True)
        return self.conv1(F.leaky_relu(self.conv0(seen), 0.1)).sigmoid()


def cosines(channels: int, side: int, device: torch.device | None = None) -> Tensor:
    """``[channels side side]``: what each channel's map is multiplied by, the orthonormal cosine
    transform's function of its frequency; 0 for channels that are left over."""
    share, turns = channels // len(FREQUENCIES), torch.arange(side, device=device) + 0.5
    found = torch.zeros(channels, side, side, device=device)

    def wave(frequency: int) -> Tensor:
        gain = math.sqrt((2 if frequency else 1) / side)
        return (math.pi * frequency / side * turns).cos() * gain

    for i, (down, across) in enumerate(FREQUENCIES):
        found[i * share : (i + 1) * share] = wave(down)[:, None] * wave(across)
    return found
