"""StyleGAN3: a generator whose signals are continuous, and are sampled without aliases, so that
what it draws moves with the picture and does not stick to the pixels.

Source: Karras et al., "Alias-Free Generative Adversarial Networks", 2021: section 3 (layers),
appendix C (filters), D.1, F.1. The generator is

    z -> mapping -> w, one copy a layer;  Fourier features, turned and shifted as w says, mixed
    -> layers of rising bandwidth, each a modulated convolution and a filtered rectifier
    -> "to RGB", a quarter of it

Layer i passes frequencies up to its cutoff f_c[i], and has stopped those from f_t[i] on; both grow
geometrically until the last layers, which are critically sampled for the sake of sharp pictures. A
layer's sampling rate is a power of two, of which f_t[i] takes no more than half. Between its
convolution and the next a signal is doubled in rate, so that what the rectifier adds in new
frequencies can be filtered off before aliases come of it. Every map has a margin around it that
takes up what convolutions bring in from the border.

Configuration T (moves) has 3x3 kernels and separable filters; R (moves and turns) has 1x1 kernels,
twice the channels and radial filters. There is no noise: it would stick to the pixels. StyleGAN2's
discriminator judges it. Tensors correspond one to one to those of NVIDIA's PyTorch release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from . import lowpass
from .architecture import GeneratorArchitecture, one_of, powers_of_two
from .equalised import HE_GAIN, Drawn, EqualisedLinear, draw_weights, in_float32, widened
from .mapping import MappingNetwork
from .modulation import Noise, Normals
from .styled import StyledNetwork

RESOLUTIONS = powers_of_two(16, 1024)
# Filters, relative to the lower of two rates; and how many times its sampling rate a signal is
# rectified at: configuration T and R alike.
TAPS, RECTIFIER_RATE = 6, 2
# What the image is multiplied by, appendix F.1.
OUTPUT_SCALE = 0.25
# Half-life, in images, of the averages of what layers are given.
MAGNITUDE_HALF_LIFE = 20_000


@dataclass(frozen=True)
class Signal:
    """What one layer gives: channels, and its frequencies in cycles an image."""

    channels: int
    cutoff: float
    half_width: float
    """Half of the transition band, from the cutoff to where everything is stopped."""
    rate: int
    """Samples an image side, px."""
    size: int
    """Side of its maps, px: with the margin."""


class StyleGAN3Generator(GeneratorArchitecture):
    """Latents to images, through styles, without aliases."""

    styled: ClassVar[bool] = True

    kind: Literal["stylegan3-generator"] = "stylegan3-generator"
    """Names this architecture in files."""
    resolution: Annotated[int, one_of(RESOLUTIONS)] = 64
    """Side of the square images, px: a power of two from 16 to 1024."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 512
    """Length of the latent vector z."""
    w_dim: Annotated[int, Field(ge=1, le=4096)] = 512
    """Length of the intermediate latent w, and width of the mapping network."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""
    mapping_layers: Annotated[int, Field(ge=1, le=32)] = 2
    """Depth of the mapping network."""
    mapping_lr: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The mapping network's learning rate, as a share of the others'."""
    width_base: Annotated[int, Field(ge=64, le=262_144)] = 8192
    """Layers that pass f cycles an image have ``width_base`` / 2f channels, within ``width_max``.
    Configuration T: 32768, R: 65536."""
    width_max: Annotated[int, Field(ge=8, le=4096)] = 256
    """No layer has more channels than this. Configuration T: 512, R: 1024."""
    depth: Annotated[int, Field(ge=4, le=64)] = 14
    """Number of layers, of which the resolution is no matter; the last one, which draws the image,
    is not counted."""
    critical: Annotated[int, Field(ge=1, le=16)] = 2
    """Number of critically sampled layers at the end."""
    kernel: Annotated[int, one_of((1, 3))] = 3
    """Of the convolutions. Configuration T: 3, R: 1."""
    radial: bool = False
    """Whether filters treat all directions alike, where layers are not critically sampled.
    Configuration R: they do."""
    margin: Annotated[int, Field(ge=0, le=64)] = 10
    """Around the image, px, whatever a map's resolution."""
    first_cutoff: Annotated[float, Field(gt=0, le=8)] = 2.0
    """Frequencies that the first layer passes, cycles an image."""
    first_stopband: Annotated[float, Field(gt=0, le=32)] = 2**2.1
    """Frequencies from which on the first layer stops everything."""
    last_stopband: Annotated[float, Field(gt=1, le=4)] = 2**0.3
    """The same of the last layer, over its cutoff, which is half the resolution."""
    clamp: Annotated[float, Field(ge=0)] = 256.0
    """Activations are held within +- this; 0: not at all."""

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        if self.critical >= self.depth:
            raise ValueError(f"critical is {self.critical}, of {self.depth} layers in all")
        if self.first_stopband <= self.first_cutoff:
            raise ValueError(
                f"first_stopband is {self.first_stopband:g}, expected more than first_cutoff, "
                f"{self.first_cutoff:g}"
            )
        return self

    @property
    def layers(self) -> int:
        """Styles that an image takes: one for the Fourier features, one a layer, and one for the
        image."""
        return self.depth + 2

    def width_at(self, side: int) -> int:
        """Channels of a layer that passes what maps of ``side`` px can hold."""
        return min(self.width_base // side, self.width_max)

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What the layers give, the last one being the image: section 3.2 and appendix C.1."""
        last_cutoff = self.resolution / 2
        found: list[Signal] = []
        for i in range(self.depth + 1):
            share = min(i / (self.depth - self.critical), 1)
            cutoff = self.first_cutoff * (last_cutoff / self.first_cutoff) ** share
            last = last_cutoff * self.last_stopband
            stopband = self.first_stopband * (last / self.first_stopband) ** share
            rate = 2 ** math.ceil(math.log2(min(stopband * 2, self.resolution)))
            channels = round(min(self.width_base / 2 / cutoff, self.width_max))
            padded = i < self.depth - 1
            found.append(
                Signal(
                    channels=self.channels if i == self.depth else channels,
                    cutoff=cutoff,
                    half_width=max(stopband, rate / 2) - cutoff,
                    rate=rate,
                    size=rate + 2 * self.margin if padded else self.resolution,
                )
            )
        return tuple(found)

    def build(self) -> StyleGAN3GeneratorNetwork:
        return StyleGAN3GeneratorNetwork(self)


class StyleGAN3GeneratorNetwork(StyledNetwork):
    """See :class:`.styled.StyledNetwork`. Noise is of no consequence: it has none."""

    def __init__(self, architecture: StyleGAN3Generator) -> None:
        a = architecture
        mapping = MappingNetwork(a.z_dim, a.classes, a.w_dim, a.mapping_layers, a.mapping_lr)
        super().__init__(mapping, SynthesisNetwork(a), a.layers, a.w_dim)

    def style_weights(self) -> list[Tensor]:
        layers = self.synthesis.modules()
        return [m.style.weight for m in layers if isinstance(m, AliasFreeConv2d)]

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``; the average of w is 0."""
        draw_weights(self, random)
        self.w_avg.zero_()


class SynthesisNetwork(nn.Module):
    """``w [b layers w_dim]`` -> images ``[b channels h w]``, float32."""

    def __init__(self, architecture: StyleGAN3Generator) -> None:
        super().__init__()
        a = architecture
        signals = a.signals
        self.input = FourierFeatures(a.w_dim, signals[0])
        pairs = zip((signals[0], *signals[:-1]), signals, strict=True)
        self.layers = nn.ModuleList(
            AliasFreeConv2d(a, given, wanted, number=i) for i, (given, wanted) in enumerate(pairs)
        )

    def forward(
        self, w: Tensor, noise: Noise = "constant", random: Normals | None = None
    ) -> Tensor:
        """``noise`` and ``random`` are of no consequence."""
        x = self.input(w[:, 0])
        for i, layer in enumerate(self.layers, 1):
            x = layer(x, w[:, i])
        return x.float() * OUTPUT_SCALE


class FourierFeatures(Drawn):
    """``w [b w_dim]`` -> ``[b channels size size]``: waves of random frequencies within the band,
    turned and shifted as w says, then mixed. Sections 3.2 (B, C) and appendix F.1.

    They are functions of a place: the image reaches from -1/2 to 1/2 in each direction, and a map
    with a margin beyond that."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, w_dim: int, signal: Signal) -> None:
        super().__init__()
        self.signal = signal
        # Cosine and sine of an angle, not normalised, and a shift in x and y.
        self.transform = _Transform(w_dim, 4)
        self.weight = nn.Parameter(torch.zeros(signal.channels, signal.channels))
        self.register_buffer("frequencies", torch.zeros(signal.channels, 2))
        self.register_buffer("phases", torch.zeros(signal.channels))

    def forward(self, w: Tensor) -> Tensor:
        size, rate = self.signal.size, self.signal.rate
        with in_float32(w.device):  # phases are of whole turns: half precisions would blur them
            t = self.transform(w)
            cosine, sine, right, down = (t / t[:, :2].norm(dim=1, keepdim=True)).split(1, 1)
            fx, fy = self.frequencies.unbind(1)
            # First the image is turned, then it is shifted: rows of [b channels].
            turned_x, turned_y = fx * cosine + fy * sine, fy * cosine - fx * sine
            phases = self.phases - turned_x * right - turned_y * down
            places = (torch.arange(size, device=w.device) + (0.5 - size / 2)) / rate
            along_x = places[:, None] * turned_x[:, None] + phases[:, None]  # [b size channels]
            along_y = places[:, None] * turned_y[:, None]
            waves = (2 * math.pi * (along_y[:, :, None] + along_x[:, None])).sin()
            mixed = F.linear(waves, self.weight / math.sqrt(len(self.weight)))
        return mixed.permute(0, 3, 1, 2)

    def draw(self, random: Generator) -> None:
        """Weights ~ N(0, 1), frequencies evenly over the disc of the band, phases over a turn."""
        nn.init.normal_(self.weight, generator=random)
        with torch.no_grad():
            drawn = torch.empty_like(self.frequencies).normal_(generator=random)
            # exp(-r^2/2) of their lengths r is uniform: so are the squares of the new ones.
            squared = drawn.square().sum(1, keepdim=True)
            lengths = self.signal.cutoff * (-squared / 4).exp()
            self.frequencies.copy_(drawn / squared.sqrt() * lengths)
            self.phases.uniform_(-0.5, 0.5, generator=random)


class _Transform(EqualisedLinear):
    """Of Fourier features: from w, which says nothing yet at the start."""

    def draw(self, random: Generator) -> None:
        """No turn and no shift."""
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            assert self.bias is not None
            self.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))


class AliasFreeConv2d(Drawn):
    """Modulated convolution, bias, and the filtered rectifier: ``x [b inputs size size]``,
    ``w [b w_dim]`` -> ``[b outputs size' size']``. The last one, to RGB, is linear and has neither
    demodulation nor filters. Section 3.2 (D to H), appendix C.3.

    With weights W of unit norm and styles s of unit norm, as in ``modulation.py``,

        y[o] = g d[o] * sum over i of W[o i] * (s[i] x[i])

    g brings x, whatever its size, to unit size: one over the root of the average of its squares.
    """

    up_taps: Tensor
    down_taps: Tensor
    magnitude: Tensor

    def __init__(
        self, a: StyleGAN3Generator, given: Signal, wanted: Signal, *, number: int
    ) -> None:
        super().__init__()
        inputs, outputs = given.channels, wanted.channels
        self.last = number == a.depth
        self.kernel = 1 if self.last else a.kernel
        self.clamp = a.clamp
        self.gain = 1.0 if self.last else HE_GAIN
        self.style = EqualisedLinear(a.w_dim, inputs, start=1.0)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, self.kernel, self.kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("magnitude", torch.ones(()))
        if self.last:
            return
        rate = max(given.rate, wanted.rate) * RECTIFIER_RATE
        self.up, self.down = rate // given.rate, rate // wanted.rate
        design = lowpass.radial if a.radial and number < a.depth - a.critical else lowpass.separable
        up, down = TAPS * self.up, TAPS * self.down
        self.register_buffer("up_taps", lowpass.separable(up, given.cutoff, given.half_width, rate))
        self.register_buffer("down_taps", design(down, wanted.cutoff, wanted.half_width, rate))
        # What is left of the doubled map: as much as its filter needs for the wanted size.
        size = given.size + self.kernel - 1
        needed = (wanted.size - 1) * self.down + down
        self.crop, odd = divmod((size - 1) * self.up + up - needed, 2)
        assert not odd

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        if self.training:
            self._track(x)
        with in_float32(w.device):
            styles, scales = self._scales(self.style(w))
        x = x * styles[:, :, None, None].to(x.dtype)
        # The kernel at every place that it touches the map.
        x = F.conv2d(x, self.weight, padding=self.kernel - 1)
        # The rectifier is homogeneous: its gain is given to what goes into it.
        bias = (self.bias * self.gain).to(x.dtype)[:, None, None]
        x = torch.addcmul(bias, x, scales[:, :, None, None].to(x.dtype))
        if self.last:
            return self._clamped(x)
        x = lowpass.upsample(x, self.up_taps * self.up, self.up, self.crop)
        x = self._clamped(F.leaky_relu_(x, 0.2))
        return lowpass.downsample(x, self.down_taps, self.down)

    def draw(self, random: Generator) -> None:
        """Weight ~ N(0, 1), bias 0, magnitude 1."""
        nn.init.normal_(self.weight, generator=random)
        nn.init.zeros_(self.bias)
        self.magnitude.fill_(1.0)

    def _scales(self, styles: Tensor) -> tuple[Tensor, Tensor]:
        """s ``[b inputs]``, and g d ``[b outputs]``, times the rectifier's gain."""
        gain = self.magnitude.rsqrt()
        if self.last:
            return styles * (gain / math.sqrt(styles.shape[1])), torch.ones_like(self.bias)[None]
        styles = styles * styles.square().mean(1, keepdim=True).rsqrt()
        power = self.weight.square().sum((2, 3))  # |W[o i]|^2, each W[o] of unit mean square
        unit = self.weight.square().mean((1, 2, 3)).rsqrt()
        sizes = (styles.square() @ (power * unit.square()[:, None]).t() + 1e-8).rsqrt()
        return styles, sizes * unit * (gain * self.gain)

    def _clamped(self, x: Tensor) -> Tensor:
        if not self.clamp:
            return x
        # The rectifier's gradient goes by its result.
        return (x.clamp if x.requires_grad else x.clamp_)(-self.clamp, self.clamp)

    @torch.no_grad()
    def _track(self, x: Tensor) -> None:
        """Move the average square of what comes in towards the batch's."""
        weight = 1 - 0.5 ** (len(x) / MAGNITUDE_HALF_LIFE)
        self.magnitude.lerp_(widened(x.detach()).square().mean(), weight)
