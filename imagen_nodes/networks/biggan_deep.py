"""BigGAN-deep: twice as many blocks as BigGAN, each a bottleneck of four convolutions; shortcuts
that drop channels, or add some, and change nothing else; every batch norm takes the whole of z.

Source: Brock, Donahue, Simonyan, "Large Scale GAN Training for High Fidelity Natural Image
Synthesis", 2019, appendix B, figure 16 (blocks) and tables 7 to 9 (layers). A stage of the
generator is a block that keeps everything and one that doubles the resolution; a stage of the
discriminator one that halves it and one that keeps everything.

Of Hugging Face's BigGAN-deep files each tensor of the generator is one of ours, once weight_orig /
(weight_u . weight_orig weight_v) is folded into weight:

    theirs, but for generator.               ours
    embeddings.weight                        embed.weight, transposed
    gen_z                                    linear
    layers.{n}.conv_{k}                      blocks.{i}.convs.{k}
    layers.{n}.bn_{k}.scale, offset          blocks.{i}.norms.{k}.gain, bias
    layers.{n}.bn_{k}.running_means, _vars   blocks.{i}.norms.{k}.norm.running_mean, running_var
    layers.8.snconv1x1_theta, _phi, _g,      attention.64.query, key, value,
      _o_conv, gamma                           out, gamma
    bn, conv_to_rgb                          norm, conv (of its outputs the first three)

i = n, less one behind layer 8, the attention. Their statistics are of 51 truncations, 0 to 1 (the
last): one row is ours, see also :func:`.normalisation.standing_statistics`. ``norm_eps`` is 1e-4.
BigGAN-PyTorch's own BigGANdeep has blocks.{i}.0.conv{k+1}, bn{k+1}, and differs as in biggan.py.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .architecture import Network, required
from .biggan import (
    BigGANDiscriminatorArchitecture,
    BigGANGeneratorArchitecture,
    initialise,
)
from .normalisation import BatchNorm2d, VectorConditionalBatchNorm2d, spectral_norm
from .residual import Norm, Projection, conv1x1, conv3x3, doubled, doubled_conv

# Channels within a block are a quarter of those outside.
RATIO = 4

Depth = Annotated[int, Field(ge=1, le=8)]


class BigGANDeepGenerator(BigGANGeneratorArchitecture):
    """Latents to images by stages of bottleneck blocks, each of which doubles the resolution."""

    kind: Literal["biggan-deep-generator"] = "biggan-deep-generator"
    """Names this architecture in files."""
    z_dim: Annotated[int, Field(ge=1, le=4096)] = 128
    """Length of the latent vector z."""
    class_dim: Annotated[int, Field(ge=1, le=4096)] = 128
    """Length of the class embedding that all batch norms share; unused without classes."""
    depth: Depth = 2
    """Blocks in each stage, the last of which doubles."""

    def build(self) -> BigGANDeepGeneratorNetwork:
        return BigGANDeepGeneratorNetwork(self)


class BigGANDeepDiscriminator(BigGANDiscriminatorArchitecture):
    """Images to one logit each by stages of bottleneck blocks."""

    kind: Literal["biggan-deep-discriminator"] = "biggan-deep-discriminator"
    """Names this architecture in files."""
    depth: Depth = 2
    """Blocks in each stage, the first of which halves."""

    def build(self) -> BigGANDeepDiscriminatorNetwork:
        return BigGANDeepDiscriminatorNetwork(self)


class DeepGeneratorBlock(nn.Module):
    """Four times norm, ReLU and a convolution: 1x1, 3x3, 3x3, 1x1; beside it as many of x's
    channels as are wanted: ``[b inputs h w]``, condition -> ``[b outputs h w]``, or 2h and 2w where
    it doubles."""

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, *, doubles: bool, spectral: bool
    ) -> None:
        super().__init__()
        inner = inputs // RATIO
        self.doubles, self.outputs = doubles, outputs
        self.norms = nn.ModuleList([norm(inputs), norm(inner), norm(inner), norm(inner)])
        self.convs = _bottleneck(inputs, inner, outputs, spectral)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = x
        for k, norm in enumerate(self.norms):
            conv: nn.Conv2d = self.convs[k]  # pyright: ignore[reportAssignmentType]
            h = F.relu(norm(h, condition), inplace=True)
            h = doubled_conv(conv, h) if self.doubles and k == 1 else conv(h)
        x = x[:, : self.outputs]
        return h + (doubled(x) if self.doubles else x)


class DeepDiscriminatorBlock(nn.Module):
    """Four times ReLU and a convolution: 1x1, 3x3, 3x3, 1x1; beside it x and, of a 1x1 convolution,
    as many channels as are wanting: ``[b inputs h w] -> [b outputs h w]``, or h/2 and w/2 where it
    halves, by averages of 2x2, before the last convolution."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool, spectral: bool) -> None:
        super().__init__()
        self.halve = halve
        self.convs = _bottleneck(inputs, outputs // RATIO, outputs, spectral)
        wanting = outputs - inputs
        self.shortcut = conv1x1(inputs, wanting, spectral) if wanting else None

    def forward(self, x: Tensor) -> Tensor:
        first, *middle, last = self.convs
        h = first(F.relu(x))
        for conv in middle:
            h = conv(F.relu(h, inplace=True))
        h = F.relu(h, inplace=True)
        if self.halve:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.shortcut is not None:
            x = torch.cat([x, self.shortcut(x)], dim=1)
        return last(h) + x


def _bottleneck(inputs: int, inner: int, outputs: int, spectral: bool) -> nn.ModuleList:
    return nn.ModuleList(
        [
            conv1x1(inputs, inner, spectral),
            conv3x3(inner, inner, spectral),
            conv3x3(inner, inner, spectral),
            conv1x1(inner, outputs, spectral),
        ]
    )


class BigGANDeepGeneratorNetwork(Network):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels resolution resolution]`` in -1..1."""

    def __init__(self, architecture: BigGANDeepGenerator) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.embed = nn.Embedding(a.classes, a.class_dim) if a.classes else None
        condition = a.z_dim + (a.class_dim if a.classes else 0)
        self.linear = spectral_norm(nn.Linear(condition, 16 * a.widths[0]), a.spectral_norm)
        norm = partial(
            VectorConditionalBatchNorm2d,
            inputs=condition,
            eps=a.norm_eps,
            spectral=a.spectral_norm,
        )
        self.blocks = nn.ModuleList()
        for inputs, outputs in pairwise(a.widths):
            for n in range(a.depth):
                last = n == a.depth - 1
                self.blocks.append(
                    DeepGeneratorBlock(
                        inputs,
                        outputs if last else inputs,
                        norm,
                        doubles=last,
                        spectral=a.spectral_norm,
                    )
                )
        self.attention = a.attentions(a.widths[1:])
        self.norm = BatchNorm2d(a.widths[-1], a.norm_eps)
        self.conv = conv3x3(a.widths[-1], a.channels, a.spectral_norm)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = z
        if self.embed is not None:
            condition = torch.cat([z, self.embed(required(labels, "generator"))], dim=1)
        x = self.linear(condition).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = block(x, condition)
            if block.doubles and x.shape[2] in self.architecture.attention:
                x = self.attention[str(x.shape[2])](x)
        return self.conv(F.relu(self.norm(x), inplace=True)).tanh()

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`.biggan.initialise`."""
        initialise(self, random)


class BigGANDeepDiscriminatorNetwork(Network):
    """``[b channels resolution resolution]`` in -1..1, ``labels [b]`` -> logits ``[b]``;
    positive: real."""

    def __init__(self, architecture: BigGANDeepDiscriminator) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        widths = a.widths
        self.conv = conv3x3(a.channels, widths[0], a.spectral_norm)
        self.stages = nn.ModuleList()
        for s, (inputs, outputs) in enumerate(pairwise(widths)):
            blocks = [
                DeepDiscriminatorBlock(
                    outputs if n else inputs,
                    outputs,
                    halve=n == 0 and s < len(a.sides),
                    spectral=a.spectral_norm,
                )
                for n in range(a.depth)
            ]
            self.stages.append(nn.Sequential(*blocks))
        self.attention = a.attentions(widths[1 : len(a.sides) + 1])
        self.head = Projection(widths[-1], a.classes, spectral=a.spectral_norm)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        a = self.architecture
        x = self.conv(images)
        for s, stage in enumerate(self.stages):
            x = stage(x)
            if s < len(a.sides) and a.sides[s] in a.attention:
                x = self.attention[str(a.sides[s])](x)
        return self.head(x, labels)

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: see :func:`.biggan.initialise`."""
        initialise(self, random)


class Pair(NamedTuple):
    """A generator and its discriminator."""

    generator: BigGANDeepGenerator
    discriminator: BigGANDeepDiscriminator


def _pair(resolution: int) -> Pair:
    fields = {"resolution": resolution, "width": 128, "attention": (64,), "classes": 1000}
    return Pair(
        BigGANDeepGenerator.model_validate(fields), BigGANDeepDiscriminator.model_validate(fields)
    )


# The paper's, on ImageNet: ch 128, z 128, shared embedding 128, attention at 64 px.
PRESETS: dict[str, Pair] = {f"biggan-deep-{side}": _pair(side) for side in (128, 256, 512)}
