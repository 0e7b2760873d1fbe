"""PatchGAN: discriminators that judge every patch of a picture, one logit each, at any size.

    conv c -> w, conv w -> 2w, conv 2w -> 4w (kernel 4, stride 2), conv -> 8w, conv -> 1 (stride 1)

with leaky ReLUs between, and no normalisation in the first and the last. Source: Isola et al.,
"Image-to-Image Translation with Conditional Adversarial Networks", 2017, section 3.2.2 and appendix
6.1.2: three strided convolutions see 70 px. Several of them at halved sizes, and their features for
feature matching: Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with
Conditional GANs" (pix2pixHD), 2018, section 3.2.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import Architecture, Network
from .dcgan import initialise
from .normalisation import InstanceNorm2d, spectral_norm

Norm = Literal["batch", "instance", "spectral", "none"]


class PatchDiscriminator(Architecture):
    """Pictures to logits of their patches, at one scale or several."""

    kind: Literal["patch-discriminator"] = "patch-discriminator"
    """Names this architecture in files."""
    channels: Annotated[int, Field(ge=1, le=64)] = 3
    """Channels of what is judged: with a condition beside the image (pix2pix), those of both."""
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 64
    """Channels of the first convolution; doubled by each further one."""
    width_max: Annotated[int, Field(ge=8, le=2048, multiple_of=8)] = 512
    """No convolution has more channels than this."""
    depth: Annotated[int, Field(ge=1, le=8)] = 3
    """Strided convolutions: 1, 2, 3, 4 see 16, 34, 70, 142 px."""
    norm: Norm = "batch"
    """Of all convolutions but the first and the last; spectral: of all weights."""
    scales: Annotated[int, Field(ge=1, le=4)] = 1
    """Discriminators, each of a picture of half the size of the one before; pix2pixHD has 3."""

    @property
    def receptive_field(self) -> int:
        """Side of the patch that a logit of the first scale judges, px."""
        side = 1
        for stride in (1, 1, *[2] * self.depth):  # from the logit back to the picture
            side = (side - 1) * stride + 4
        return side

    @property
    def smallest(self) -> int:
        """Side of the smallest picture that has a logit, px."""
        return 3 * 2**self.depth * 2 ** (self.scales - 1)

    def build(self) -> PatchDiscriminatorNetwork:
        return PatchDiscriminatorNetwork(self)


class PatchDiscriminatorNetwork(Network):
    """``[b channels h w]`` -> a list of logits ``[b 1 h' w']`` a scale, the finest first; positive:
    real. Pictures are ``smallest`` px or more, in whatever range the images are."""

    def __init__(self, architecture: PatchDiscriminator) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_scale(architecture) for _ in range(architecture.scales))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [features[-1] for features in self.features(images)]

    def features(self, images: Tensor) -> list[list[Tensor]]:
        """A list a scale of what each stage gives, from the first feature map to the logits: what
        feature matching compares."""
        found: list[list[Tensor]] = []
        for i, stages in enumerate(self.scales):
            if i:
                images = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
            x, maps = images, list[Tensor]()
            for stage in stages.children():
                x = stage(x)
                maps.append(x)
            found.append(maps)
        return found

    def initialise(self, random: Generator) -> None:
        """Weights ~ N(0, 0.02), batch norm gains ~ N(1, 0.02), biases 0 (Isola et al., 6.2)."""
        initialise(self, random)


def _scale(a: PatchDiscriminator) -> nn.Sequential:
    widths = [min(a.width * 2**i, a.width_max) for i in range(a.depth + 1)]
    stages = [nn.Sequential(_conv(a.channels, widths[0], 2, a.norm), nn.LeakyReLU(0.2))]
    for i in range(a.depth):
        conv = _conv(widths[i], widths[i + 1], 2 if i < a.depth - 1 else 1, a.norm)
        norm = {"batch": nn.BatchNorm2d, "instance": InstanceNorm2d}.get(a.norm)
        layers = [conv, *([norm(widths[i + 1])] if norm else []), nn.LeakyReLU(0.2)]
        stages.append(nn.Sequential(*layers))
    return nn.Sequential(*stages, _conv(widths[-1], 1, 1, a.norm))


def _conv(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Conv2d:
    return spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, 1), norm == "spectral")
