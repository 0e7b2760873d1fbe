"""Residual blocks of SNGAN, SAGAN and BigGAN, with their resampling.

Source: Gulrajani et al., "Improved Training of Wasserstein GANs", 2017, appendix F; in the form of
Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018, figure 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import required
from .layers import SelfAttention, spread
from .normalisation import ClassConditionalBatchNorm2d, spectral_norm

Upsampling = Literal["nearest", "bilinear"]
Norm = Callable[[int], nn.Module]
"""Makes a norm of so many channels, called with ``(x [b c h w], condition)``."""

# Side of the smaller map, px, from which convolution and resampling are one: measured, float32 and
# bfloat16, one core. Below, adding up the weight costs what it saves.
FUSED = 16


class GeneratorBlock(nn.Module):
    """Twice norm, ReLU and a 3x3 convolution, the first on the doubled map; beside it a 1x1
    convolution, doubled: ``[b inputs h w]``, condition -> ``[b outputs 2h 2w]``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: Norm,
        *,
        upsampling: Upsampling = "nearest",
        spectral: bool = False,
    ) -> None:
        super().__init__()
        self.upsampling: Upsampling = upsampling
        self.norm1 = norm(inputs)
        self.conv1 = conv3x3(inputs, outputs, spectral)
        self.norm2 = norm(outputs)
        self.conv2 = conv3x3(outputs, outputs, spectral)
        self.shortcut = conv1x1(inputs, outputs, spectral)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = F.relu(self.norm1(x, condition), inplace=True)
        h = doubled_conv(self.conv1, h, self.upsampling)
        h = F.relu(self.norm2(h, condition), inplace=True)
        # A 1x1 convolution and doubling may change places: a quarter of the work.
        return self.conv2(h) + doubled(self.shortcut(x), self.upsampling)


class DiscriminatorBlock(nn.Module):
    """Twice ReLU and a 3x3 convolution; beside it a 1x1 convolution where channels or size change:
    ``[b inputs h w] -> [b outputs h w]``, or h/2 and w/2 where it halves, by averages of 2x2.

    ``first`` leaves out the first ReLU, which images do not need.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        halve: bool,
        first: bool = False,
        spectral: bool = True,
    ) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1 = conv3x3(inputs, hidden, spectral)
        self.conv2 = conv3x3(hidden, outputs, spectral)
        changes = halve or inputs != outputs
        self.shortcut = conv1x1(inputs, outputs, spectral) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x if self.first else F.relu(x)), inplace=True)
        h = halved_conv(self.conv2, h) if self.halve else self.conv2(h)
        x = F.avg_pool2d(x, 2) if self.halve else x
        return h + (x if self.shortcut is None else self.shortcut(x))


class Projection(nn.Module):
    """The sum over positions to one logit, plus, where there are classes, how far it points to what
    is typical of the class: ``x [b c h w]``, ``labels [b]`` -> ``[b]``.

    Source: Miyato & Koyama, "cGANs with Projection Discriminator", 2018, equation 4.
    """

    def __init__(self, channels: int, classes: int, *, spectral: bool) -> None:
        super().__init__()
        self.linear = spectral_norm(nn.Linear(channels, 1), spectral)
        self.embed = spectral_norm(nn.Embedding(classes, channels), spectral) if classes else None

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        features = F.relu(x).sum((2, 3))
        logits = self.linear(features)[:, 0]
        if self.embed is None:
            return logits
        return logits + (self.embed(required(labels, "discriminator")) * features).sum(1)


def conv3x3(inputs: int, outputs: int, spectral: bool) -> nn.Conv2d:
    """Keeps the size; with a bias."""
    return spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1), spectral)


def conv1x1(inputs: int, outputs: int, spectral: bool) -> nn.Conv2d:
    """With a bias."""
    return spectral_norm(nn.Conv2d(inputs, outputs, 1), spectral)


def neutralise(network: nn.Module) -> None:
    """Set all that is not a weight such that it changes nothing: biases, norms, attention."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, ClassConditionalBatchNorm2d):
            module.initialise()
        elif isinstance(module, SelfAttention):
            nn.init.zeros_(module.gamma)


# ---- Resampling ---------------------------------------------------------------------------------


def doubled(x: Tensor, upsampling: Upsampling = "nearest") -> Tensor:
    """``[b c h w] -> [b c 2h 2w]``."""
    centred = None if upsampling == "nearest" else False
    return F.interpolate(x, scale_factor=2.0, mode=upsampling, align_corners=centred)


def doubled_conv(conv: nn.Conv2d, x: Tensor, upsampling: Upsampling = "nearest") -> Tensor:
    """``conv``, a 3x3, of the doubled map. Where pixels repeat, taps meet the same one: of large
    maps, a transposed convolution with their sums does 4 products for 9."""
    if upsampling != "nearest" or min(x.shape[2:]) < FUSED:
        return conv(doubled(x, upsampling))
    kernel = spread(conv.weight.flip(2, 3)).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def halved_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv``, a 3x3, and of the result averages of 2x2; of large maps in one convolution of
    stride 2, which does 4 products for 9."""
    if min(x.shape[2:]) < 2 * FUSED:
        return F.avg_pool2d(conv(x), 2)
    return F.conv2d(x, spread(conv.weight) / 4, conv.bias, stride=2, padding=1)
