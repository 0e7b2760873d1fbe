"""LPIPS on SqueezeNet: how different two pictures look.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
2018, section 3 and equation 1; version 0.1 of the authors' heads. The layers below them are those
of torchvision's SqueezeNet 1.1 (Iandola et al., "SqueezeNet", 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from .architecture import Architecture, Network

# The authors' shift and scale of RGB in -1..1, by channel.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Maps are compared after these layers, and have so many channels there.
STAGES = {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}
# Below this, px, nothing is left for the last pooling layer.
SMALLEST = 17


class LPIPSSqueeze(Architecture):
    """LPIPS v0.1 on SqueezeNet 1.1. The weights of its convolutions are kept in float16, their
    biases and the heads in float32."""

    kind: Literal["lpips-squeeze"] = "lpips-squeeze"
    """Names this architecture in files."""

    def build(self) -> LPIPSSqueezeNetwork:
        return LPIPSSqueezeNetwork()


class LPIPSSqueezeNetwork(Network):
    """Two batches ``[b 3 h w]`` in -1..1, of 17 px or more -> distances ``[b]`` from 0 (identical)
    to about 1. Differentiable. Call ``float()`` on it before it is used."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1

        self.features = squeezenet1_1(weights=None).features
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.Parameter(module.weight.half())
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in STAGES.values())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distance = a.new_zeros(len(a))
        for stage, head in zip(self._stages(torch.cat([a, b])), self.heads, strict=True):
            x, y = stage.chunk(2)
            distance = distance + head((x - y).square()).mean((1, 2, 3))
        return distance

    def _stages(self, x: Tensor) -> Iterator[Tensor]:
        """The maps to compare, of unit length at each position."""
        shift, scale = (x.new_tensor(values).view(3, 1, 1) for values in (SHIFT, SCALE))
        x = (x - shift) / scale
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in STAGES:
                # Not a plain root, whose gradient is infinite where no unit is active.
                yield x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)

    def initialise(self, random: Generator) -> None:
        """He's initial weights, as torchvision draws them; heads uniform in 0..1, as none of the
        trained ones is negative."""
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                weight = torch.empty(module.weight.shape)
                nn.init.kaiming_uniform_(weight, generator=random)
                module.weight.data.copy_(weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for head in self.heads:
            assert isinstance(head, nn.Conv2d)
            nn.init.uniform_(head.weight, generator=random)
