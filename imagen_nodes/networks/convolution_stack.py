"""A generator that is a plain stack of transposed convolutions, layer by layer as somebody built
it: what the many copies of DCGAN's tutorials are (``importers/dcgan.py``).

    z [b z_dim], with a class embedding -> (transposed convolution, batch norm, ReLU) ... -> tanh

Source of the shape: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", 2015, section 3.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ..spec import Spec
from .architecture import GeneratorArchitecture, Network, required
from .dcgan import initialise
from .layers import DoublingConv2d

Channels = Annotated[int, Field(ge=1, le=8192)]


class StackLayer(Spec):
    """A transposed convolution and what follows it."""

    outputs: Channels
    """Channels of its result."""
    kernel: Annotated[int, Field(ge=1, le=16)] = 4
    """Side of its kernel, px."""
    stride: Annotated[int, Field(ge=1, le=4)] = 2
    """How many times as large its result is, about."""
    padding: Annotated[int, Field(ge=0, le=8)] = 1
    """What is cut off each border of the result, px."""
    output_padding: Annotated[int, Field(ge=0, le=3)] = 0
    """What is added to it at the right and below, px."""
    bias: bool = False
    """Whether it has one."""
    norm: bool = True
    """Whether a batch norm follows."""

    def side(self, side: int) -> int:
        """Of the result, px."""
        return (side - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding

    @property
    def doubles(self) -> bool:
        """Whether it is the layer of DCGAN."""
        return (self.kernel, self.stride, self.padding, self.output_padding) == (4, 2, 1, 0)


class ConvolutionStackGenerator(GeneratorArchitecture):
    """Latents to images by the layers that it lists."""

    kind: Literal["convolution-stack-generator"] = "convolution-stack-generator"
    """Names this architecture in files."""
    resolution: Annotated[int, Field(ge=4, le=1024)] = 64
    """Side of the square images, px: what the layers come to."""
    channels: Annotated[int, Field(ge=1, le=4)] = 3
    """Image channels: 1 grey, 3 RGB, 4 RGBA."""
    z_dim: Channels = 100
    """Length of the latent vector z."""
    classes: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of classes; 0: unconditional."""
    class_dim: Annotated[int, Field(ge=0, le=8192)] = 0
    """Length of the class embedding."""
    conditioning: Literal["beside", "product"] = "beside"
    """How the class embedding enters: behind z, or multiplied with it."""
    layers: Annotated[tuple[StackLayer, ...], Field(min_length=1, max_length=32)] = (
        StackLayer(outputs=512, stride=1, padding=0),
        StackLayer(outputs=256),
        StackLayer(outputs=128),
        StackLayer(outputs=64),
        StackLayer(outputs=3, norm=False),
    )
    """From one position to the image, a ReLU behind each but the last, which has a tanh; by default
    those of PyTorch's tutorial."""

    @model_validator(mode="after")
    def _layers_come_to_it(self) -> Self:
        side = 1
        for layer in self.layers:
            side = layer.side(side)
            if side < 1:
                raise ValueError("layers: nothing is left of the maps after padding")
        found = side, self.layers[-1].outputs
        if found != (self.resolution, self.channels):
            raise ValueError(
                f"layers: they give images of {side} px and {found[1]} channels, not "
                f"{self.resolution} px and {self.channels}"
            )
        if self.conditioning == "product" and self.classes and self.class_dim != self.z_dim:
            raise ValueError(
                f"class_dim is {self.class_dim}; as a product it is z_dim, {self.z_dim}"
            )
        return self

    @property
    def inputs(self) -> int:
        """Channels of the first layer."""
        if not self.classes or self.conditioning == "product":
            return self.z_dim
        return self.z_dim + self.class_dim

    def width_at(self, side: int) -> int:
        """Channels of the maps of ``side`` px; of the first larger ones where there are none."""
        at = 1
        for layer in self.layers:
            at = layer.side(at)
            if at >= side:
                return layer.outputs
        return self.channels

    def build(self) -> ConvolutionStackGeneratorNetwork:
        return ConvolutionStackGeneratorNetwork(self)


class ConvolutionStackGeneratorNetwork(Network):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels resolution resolution]`` in -1..1."""

    def __init__(self, architecture: ConvolutionStackGenerator) -> None:
        super().__init__()
        a = architecture
        self.conditioning = a.conditioning
        self.embed = nn.Embedding(a.classes, a.class_dim) if a.classes else None
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs = a.inputs
        for layer in a.layers:
            if layer.doubles:
                conv: nn.Module = DoublingConv2d(inputs, layer.outputs, bias=layer.bias)
            else:
                conv = nn.ConvTranspose2d(
                    inputs,
                    layer.outputs,
                    layer.kernel,
                    layer.stride,
                    layer.padding,
                    layer.output_padding,
                    bias=layer.bias,
                )
            self.convs.append(conv)
            self.norms.append(nn.BatchNorm2d(layer.outputs) if layer.norm else nn.Identity())
            inputs = layer.outputs

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            condition = self.embed(required(labels, "generator"))
            product = self.conditioning == "product"
            z = z * condition if product else torch.cat([z, condition], 1)
        x = z[:, :, None, None]
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            x = F.relu(norm(conv(x)))
        return torch.tanh(self.norms[-1](self.convs[-1](x)))

    def initialise(self, random: Generator) -> None:
        """New weights from ``random``: those of DCGAN; class embeddings ~ N(0, 1)."""
        initialise(self, random)
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, generator=random)
