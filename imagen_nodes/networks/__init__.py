"""Networks: one file per family. ``ARCHITECTURES`` lists what a card can name."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from .adain import AdaIN
from .animegan import AnimeGANGenerator
from .architecture import Architecture
from .biggan import BigGANDiscriminator, BigGANGenerator
from .biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator
from .compact import Compact
from .convolution_stack import ConvolutionStackGenerator
from .dcgan import DCGANDiscriminator, DCGANGenerator
from .gated import GatedInpainting
from .lightweight import LightweightGenerator
from .lucid_stylegan2 import LucidStyleGAN2Generator
from .mobilenet import MobileNetV2Features
from .multi_scale import MultiScaleDiscriminator
from .patch import PatchDiscriminator
from .patch_heads import PatchHeads
from .progan import ProGANDiscriminator, ProGANGenerator
from .r3gan import R3GANDiscriminator, R3GANGenerator
from .residual_adain import ResidualAdaIN
from .residual_unet import ResidualUNet
from .resnet_generator import ResNetGenerator
from .sngan import SNGANDiscriminator, SNGANGenerator
from .squeezenet import LPIPSSqueeze
from .stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from .stylegan3 import StyleGAN3Generator
from .unet_discriminator import UNetDiscriminator
from .unet_generator import UNetGenerator
from .vgg import VGGFeatures

AnyArchitecture = Annotated[
    DCGANGenerator
    | DCGANDiscriminator
    | MobileNetV2Features
    | SNGANGenerator
    | SNGANDiscriminator
    | Compact
    | PatchDiscriminator
    | UNetDiscriminator
    | ProGANGenerator
    | ProGANDiscriminator
    | R3GANGenerator
    | R3GANDiscriminator
    | MultiScaleDiscriminator
    | LPIPSSqueeze
    | BigGANGenerator
    | BigGANDiscriminator
    | BigGANDeepGenerator
    | BigGANDeepDiscriminator
    | StyleGAN2Generator
    | StyleGAN2Discriminator
    | ConvolutionStackGenerator
    | GatedInpainting
    | ResidualUNet
    | AdaIN
    | ResidualAdaIN
    | VGGFeatures
    | UNetGenerator
    | ResNetGenerator
    | AnimeGANGenerator
    | PatchHeads
    | StyleGAN3Generator
    | LucidStyleGAN2Generator
    | LightweightGenerator,
    Field(discriminator="kind"),
]

# The union's members: of AnyArchitecture the first part is the union, the second how to tell them.
ARCHITECTURES: tuple[type[Architecture], ...] = get_args(get_args(AnyArchitecture)[0])
