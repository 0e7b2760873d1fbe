"""Modulated convolutions: the layers of StyleGAN2's synthesis network.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, section 2.2.
With styles s, one an input channel, and a 3x3 weight W, equations 1 to 3 are

    W'[o i k]  = s[i] W[o i k]                         modulation
    W''[o i k] = W'[o i k] d[o],  d[o] = 1 / sqrt(sum of W'[o i k]^2 over i, k + 1e-8)

and every image of a batch is convolved with its own W''. Since s scales what goes in and d what
comes out, the same is

    y[o] = d[o] * sum over i of W[o i] * (s[i] x[i]),  d[o]^-2 = sum over i of s[i]^2 |W[o i]|^2

with one weight for the whole batch. Upsampling is a transposed convolution, then the filter: the
transposed kernel has 9 products an input pixel; folded into one kernel the two would have 36. On a
CPU in half precision it is done as a plain convolution of 16 products, whose outputs are the four
pixels that come of each: twice as fast there, and slower in float32 and on the way back.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .equalised import HE_GAIN, Drawn, EqualisedLinear, in_float32
from .fused import state_of
from .resampling import smooth

Noise = Literal["constant", "random", "none"]
"""What is added to each layer: a fixed map, the same for all images; new values; nothing."""


class Normals(Protocol):
    """Where random noise is drawn from."""

    def normal(self, count: int, /, *shape: int) -> Tensor:
        """``[count *shape]`` ~ N(0, 1)."""
        ...


class StyledConv2d(Drawn):
    """Modulated 3x3 convolution, noise, bias, leaky rectifier: ``x [b inputs h w]``,
    ``w [b w_dim]``, ``noise [b 1 h w]`` (none: without) -> ``[b outputs h w]``.

    Args:
        size: height and width of the output, px.
        up: double the size.
        gain: of the output, beside the rectifier's.
        clamp: outputs, but for ``gain``, are held within +- this; 0: not at all.
        float32: of images in half precision, all but the convolution and its filter is in float32.
    """

    noise: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        size: tuple[int, int],
        *,
        up: bool,
        gain: float = 1.0,
        clamp: float = 0.0,
        float32: bool = False,
    ) -> None:
        super().__init__()
        self.style = EqualisedLinear(w_dim, inputs, start=1.0)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.zeros(size))
        self.up = up
        self.gain = gain * HE_GAIN
        self.clamp = clamp * gain
        self.float32 = float32
        self._frozen: _Frozen | None = None

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        frozen = self._as_frozen(x)
        with in_float32(w.device):
            styles = self.style(w)
            scales = self._demodulation(styles, frozen) * self.gain
        wide = self.float32 and frozen is not None
        x = x * styles[:, :, None, None].to(torch.float32 if wide else x.dtype)
        if frozen is not None:
            x = frozen.convolved(x)
            x = x.float() if wide else x
        elif self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = smooth(x, padding=1, gain=4.0)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        # The rectifier is homogeneous: its gain is given to what goes into it.
        bias = (self.bias * self.gain).to(x.dtype)[:, None, None]
        x = torch.addcmul(bias, x, scales[:, :, None, None].to(x.dtype))
        if noise is not None:
            x.add_((noise * (self.noise_strength * self.gain)).to(x.dtype))
        x = _clamp(F.leaky_relu_(x, 0.2), self.clamp)
        return x if frozen is None else x.to(frozen.kernel.dtype)

    def noise_map(self, kind: Noise, count: int, random: Normals | None) -> Tensor | None:
        """``[count 1 h w]``: of ``kind``, drawn from ``random`` where it is random; none: from
        torch's own generator."""
        if kind == "none":
            return None
        if kind == "constant":
            return self.noise.expand(count, 1, -1, -1)
        shape = (1, *self.noise.shape)
        if random is None:
            return torch.randn(count, *shape, device=self.noise.device)
        return random.normal(count, *shape).to(self.noise)

    def draw(self, random: Generator) -> None:
        """Weight and constant noise ~ N(0, 1), bias and noise strength 0."""
        nn.init.normal_(self.weight, generator=random)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.noise_strength)
        self.noise.normal_(generator=random)

    def _as_frozen(self, x: Tensor) -> _Frozen | None:
        """The weight made ready, where that pays: kept for as long as it does not change."""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return None
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if dtype.itemsize >= 4:
            return None
        key = (state_of(self.weight), dtype)
        if self._frozen is None or self._frozen.key != key:
            self._frozen = _Frozen(self.weight, dtype, self.up)
        return self._frozen

    def _demodulation(self, styles: Tensor, frozen: _Frozen | None) -> Tensor:
        """d ``[b outputs]``."""
        # |W[o i]|^2
        power = self.weight.square().sum((2, 3)) if frozen is None else frozen.power
        return (styles.square() @ (power.t()) + 1e-8).rsqrt()


class _Frozen:
    """What a layer needs of a weight that is not trained: ``power [outputs inputs]``, float32, and
    the kernel in ``dtype``."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, up: bool) -> None:
        self.key = (state_of(weight), dtype)
        self.power = weight.square().sum((2, 3))
        kernel = weight.detach().to(dtype)
        self.up = up
        self.kernel = (_four_phases(kernel) if up else kernel).contiguous(
            memory_format=torch.channels_last
        )

    def convolved(self, x: Tensor) -> Tensor:
        """``[b inputs h w] -> [b outputs h w]``, or twice as large and smoothed."""
        x = F.conv2d(x.to(self.kernel.dtype), self.kernel, padding=1)
        if not self.up:
            return x
        # One row and column of zeros more than of the transposed convolution, at the end.
        b, _, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(b, h, w, 2, 2, -1).transpose(2, 3)
        x = x.reshape(b, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)
        return smooth(x, padding=1, gain=4.0)[:, :, :-1, :-1]


def _four_phases(kernel: Tensor) -> Tensor:
    """``[o i 3 3]`` of a transposed convolution of stride 2 -> ``[4o i 2 2]`` of a plain one, whose
    outputs are those at (even, even), (even, odd), ... of each pixel: of it and of the one before,
    even places take the taps 0 and 2, odd ones the tap 1."""
    found = kernel.new_zeros(2, 2, *kernel.shape[:2], 2, 2)
    places = (((2, 0), (0, 1)), ((1,), (1,)))
    for row, (taps, at) in enumerate(places):
        for column, (taps_across, at_across) in enumerate(places):
            for k, y in zip(taps, at, strict=True):
                for k_across, x in zip(taps_across, at_across, strict=True):
                    found[row, column, :, :, y, x] = kernel[:, :, k, k_across]
    return found.flatten(0, 2)


class ToImage(Drawn):
    """Modulated 1x1 convolution without demodulation, and bias: ``x [b inputs h w]``,
    ``w [b w_dim]`` -> ``[b channels h w]`` in float32."""

    def __init__(self, inputs: int, channels: int, w_dim: int, *, clamp: float = 0.0) -> None:
        super().__init__()
        self.style = EqualisedLinear(w_dim, inputs, start=1.0)
        self.weight = nn.Parameter(torch.zeros(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 1 / math.sqrt(inputs)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with in_float32(w.device):
            styles = self.style(w) * self.scale
        # A matrix [inputs channels] for each image: few channels, so x is read once and not copied.
        matrices = styles[:, :, None] * self.weight[:, :, 0, 0].t()
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)
        images = torch.baddbmm(self.bias.to(x.dtype), rows, matrices.to(x.dtype)).float()
        return _clamp(images.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2), self.clamp)

    def draw(self, random: Generator) -> None:
        """Weight ~ N(0, 1), bias 0."""
        nn.init.normal_(self.weight, generator=random)
        nn.init.zeros_(self.bias)


def _clamp(x: Tensor, limit: float) -> Tensor:
    return x.clamp(-limit, limit) if limit else x
