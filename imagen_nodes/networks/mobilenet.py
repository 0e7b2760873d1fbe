"""MobileNetV2's features: what sets of images are compared in, where no Inception network is.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018; the layers
are torchvision's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture, Network

SIDE = 128
# Of ImageNet's RGB in 0..1, by channel: torchvision's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MobileNetV2Features(Architecture):
    """The 1,280 features before the classifier, averaged over space. Convolutions are kept in
    float16, all else in float32."""

    kind: Literal["mobilenet-v2-features"] = "mobilenet-v2-features"
    """Names this architecture in files."""

    def build(self) -> MobileNetV2FeaturesNetwork:
        return MobileNetV2FeaturesNetwork()


class MobileNetV2FeaturesNetwork(Network):
    """``[b 3 h w]`` in -1..1 -> ``[b 1280]`` float32: resized to 128 px, bilinear and antialiased.
    Call ``float()`` on it before it is used."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.features = mobilenet_v2(weights=None).features
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                module.half()

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().add(1).div(2)
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return self.features((x - mean) / std).mean((2, 3))

    def initialise(self, random: Generator) -> None:
        """He's initial weights, as torchvision draws them."""
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                weight = torch.empty(module.weight.shape)
                nn.init.kaiming_normal_(weight, mode="fan_out", generator=random)
                module.weight.data.copy_(weight)
