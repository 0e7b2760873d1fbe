"""BigGAN files, of Hugging Face and BigGAN-PyTorch, and mimicry's SNGAN and SAGAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from .importing import (
    close,
    imported,
    random,
    varied,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")
SN = tuple(f"snconv1x1_{name}" for name in ("theta", "phi", "g", "o_conv"))


class DeepNorm(nn.Module):
    """Hugging Face's batch norm of 51 truncations."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.register_buffer("running_means", torch.zeros(51, channels))
        self.register_buffer("running_vars", torch.ones(51, channels))
        if condition:
            self.scale = spectral_norm(nn.Linear(condition, channels, bias=False))
            self.offset = spectral_norm(nn.Linear(condition, channels, bias=False))
        else:
            self.weight, self.bias = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        mean, var = self.running_means[-1], self.running_vars[-1]
        if not hasattr(self, "scale"):
            return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, 1e-4)
        x = F.batch_norm(x, mean, var, None, None, False, 0.0, 1e-4)
        gain, bias = (f(c)[:, :, None, None] for f in (self.scale, self.offset))
        return x * (1 + gain) + bias


class DeepBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        inner = inputs // 4
        self.up, self.outputs = up, outputs
        for k, (a, b, size) in enumerate(
            ((inputs, inner, 1), (inner, inner, 3), (inner, inner, 3), (inner, outputs, 1))
        ):
            setattr(self, f"bn_{k}", DeepNorm(a, 12))
            conv = nn.Conv2d(a, b, size, padding=size // 2)
            setattr(self, f"conv_{k}", spectral_norm(conv))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = x
        for k in range(4):
            h = F.relu(getattr(self, f"bn_{k}")(h, c))
            if self.up and k == 1:
                h = F.interpolate(h, scale_factor=2)
            h = getattr(self, f"conv_{k}")(h)
        x = x[:, : self.outputs]
        return h + (F.interpolate(x, scale_factor=2) if self.up else x)


class Attention(nn.Module):
    def __init__(self, c: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names, self.gamma = names, nn.Parameter(torch.zeros(1))
        for name, (a, b) in zip(
            names, ((c, c // 8), (c, c // 8), (c, c // 2), (c // 2, c)), strict=True
        ):
            setattr(self, name, spectral_norm(nn.Conv2d(a, b, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g, o = (getattr(self, name) for name in self.names)
        query = theta(x).flatten(2)
        key, value = (F.max_pool2d(f(x), 2).flatten(2) for f in (phi, g))
        weights = torch.softmax(query.transpose(1, 2) @ key, -1)
        return x + self.gamma * o((value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))


class Deep(nn.Module):
    """64 px: 16, 16, 8, 4, 2 channels times 8; attention at 16 px."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Linear(3, 5, bias=False)
        self.generator = nn.Module()
        g = self.generator
        widths = [128, 128, 64, 32, 16]
        g.gen_z = spectral_norm(nn.Linear(12, 16 * 128))
        layers: list[nn.Module] = []
        for i in range(4):
            layers.append(DeepBlock(widths[i], widths[i], False))
            layers.append(DeepBlock(widths[i], widths[i + 1], True))
            if i == 1:
                layers.append(Attention(64, SN))
        g.layers = nn.ModuleList(layers)
        g.bn = DeepNorm(16, 0)
        g.conv_to_rgb = spectral_norm(nn.Conv2d(16, 16, 3, padding=1))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        c = torch.cat([z, self.embeddings(F.one_hot(y, 3).float())], 1)
        g = self.generator
        x = g.gen_z(c).view(-1, 4, 4, 128).permute(0, 3, 1, 2)
        for layer in g.layers:
            x = layer(x) if isinstance(layer, Attention) else layer(x, c)
        return torch.tanh(g.conv_to_rgb(F.relu(g.bn(x, c)))[:, :3])


def test_biggan_deep_of_hugging_face(place: Path) -> None:
    network = varied(Deep())
    torch.save(network.state_dict(), "pytorch_model.bin")
    ours = imported(file="pytorch_model.bin")
    z, y = torch.randn(2, 7, generator=random()), torch.tensor([2, 0])
    close(ours(z, y), network(z, y))


class SN0(nn.Module):
    """BigGAN-PyTorch's spectral norm, around a layer."""

    def __init__(self, kind: type, *sizes: int, **options: Any) -> None:
        super().__init__()
        layer = kind(*sizes, **options)
        self.weight, self.bias = layer.weight, layer.bias
        self.padding = getattr(layer, "padding", 0)
        self.register_buffer("u0", torch.zeros(1, len(self.weight)))
        self.register_buffer("sv0", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        v = F.normalize(self.u0 @ matrix, eps=1e-12)
        u = F.normalize(v @ matrix.t(), eps=1e-12)
        weight = self.weight / (v @ matrix.t() @ u.t())[0, 0]
        if weight.ndim == 2:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class Stored(nn.Module):
    def __init__(self, channels: int, gain: nn.Module | None, bias: nn.Module | None) -> None:
        super().__init__()
        self.gain = gain or nn.Parameter(torch.zeros(channels))
        self.bias = bias or nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.register_buffer("accumulation_counter", torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, False, 0.0, 1e-5)
        if y is None:
            return x * self.gain[:, None, None] + self.bias[:, None, None]
        gain, bias = (f(y)[:, :, None, None] for f in (self.gain, self.bias))
        return x * (1 + gain) + bias


class Block(nn.Module):
    def __init__(self, c: int, condition: int, classes: int) -> None:
        super().__init__()
        for k in (1, 2):
            gain, bias = (
                SN0(nn.Linear, condition, c, bias=False) if condition else nn.Embedding(classes, c)
                for _ in range(2)
            )
            setattr(self, f"bn{k}", Stored(c, gain, bias))
            setattr(self, f"conv{k}", SN0(nn.Conv2d, c, c, 3, padding=1))
        self.conv_sc = SN0(nn.Conv2d, c, c, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.interpolate(F.relu(self.bn1(x, y)), scale_factor=2)
        h = self.conv2(F.relu(self.bn2(self.conv1(h), y)))
        return h + self.conv_sc(F.interpolate(x, scale_factor=2))


class Big(nn.Module):
    """32 px: four times 8 channels; with a shared embedding hierarchical, and attention."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.hierarchical = shared
        if shared:
            self.shared = nn.Embedding(3, 5)
        self.linear = SN0(nn.Linear, 2 if shared else 8, 16 * 32)
        blocks: list[nn.Module] = []
        for i in range(3):
            block: list[nn.Module] = [Block(32, 7 if shared else 0, 3)]
            if shared and i == 1:
                block.append(Attention0(32))
            blocks.append(nn.ModuleList(block))
        self.blocks = nn.ModuleList(blocks)
        self.output_layer = nn.Sequential(
            Stored(32, None, None), nn.ReLU(), SN0(nn.Conv2d, 32, 3, 3, padding=1)
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        ys = [labels] * 3
        if self.hierarchical:
            z, *parts = z.split(2, 1)
            ys = [torch.cat([self.shared(labels), part], 1) for part in parts]
        x = self.linear(z).view(len(z), -1, 4, 4)
        for y, block in zip(ys, self.blocks, strict=True):
            x = block[0](x, y)
            x = block[1](x) if len(block) > 1 else x
        return torch.tanh(self.output_layer(x))


class Attention0(Attention):
    def __init__(self, c: int) -> None:
        super().__init__(c, ("theta", "phi", "g", "o"))
        for name, (a, b) in zip(
            self.names, ((c, c // 8), (c, c // 8), (c, c // 2), (c // 2, c)), strict=True
        ):
            setattr(self, name, SN0(nn.Conv2d, a, b, 1, bias=False))


@pytest.mark.parametrize("shared", [False, True])
def test_biggan_of_biggan_pytorch(place: Path, shared: bool) -> None:
    network = varied(Big(shared))
    torch.save(network.state_dict(), "G_ema.pth")
    ours = imported(file="G_ema.pth")
    z, y = torch.randn(2, 8, generator=random()), torch.tensor([2, 0])
    close(ours(z, y), network(z, y))


class Conditional(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, affine=False)
        self.embed = nn.Embedding(classes, 2 * channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain, bias = self.embed(y)[:, :, None, None].chunk(2, 1)
        return gain * self.bn(x) + bias


class MimicryBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.c_sc = nn.Conv2d(inputs, outputs, 1)
        self.b1, self.b2 = (
            Conditional(c, classes) if classes else nn.BatchNorm2d(c) for c in (inputs, outputs)
        )

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        def up(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

        given = () if y is None else (y,)
        h = self.c1(up(F.relu(self.b1(x, *given))))
        return self.c2(F.relu(self.b2(h, *given))) + self.c_sc(up(x))


class Mimicry(nn.Module):
    """32 px."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(6, 16 * 32)
        self.block2 = MimicryBlock(32, 32, classes)
        self.block3 = MimicryBlock(32, 16, classes)
        self.block4 = MimicryBlock(16, 8, classes)
        self.b5, self.c5 = nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.l1(z).view(len(z), -1, 4, 4)
        for block in (self.block2, self.block3, self.block4):
            x = block(x, y)
        return torch.tanh(self.c5(F.relu(self.b5(x))))


@pytest.mark.parametrize("classes", [0, 3])
def test_sngan_of_mimicry(place: Path, classes: int) -> None:
    network = varied(Mimicry(classes))
    content = {"model_state_dict": network.state_dict(), "global_step": 5}
    torch.save(content | {"optimizer_state_dict": {"state": {}}}, "netG_5_steps.pth")
    ours = imported(file="netG_5_steps.pth")
    z, y = torch.randn(2, 6, generator=random()), torch.tensor([2, 0]) if classes else None
    close(ours(z, y), network(z, y))


class MimicrySN(SN0):
    """mimicry's spectral norm: BigGAN-PyTorch's under other names."""

    def __init__(self, kind: type, *sizes: int, **options: Any) -> None:
        super().__init__(kind, *sizes, **options)
        self.register_buffer("sn_u", self._buffers.pop("u0"))
        self.register_buffer("sn_sigma", self._buffers.pop("sv0"))

    @property
    def u0(self) -> Tensor:
        return self.sn_u


class MimicrySAGAN(Mimicry):
    """32 px, attention at 16."""

    def __init__(self) -> None:
        super().__init__(3)
        self.l1 = MimicrySN(nn.Linear, 6, 16 * 32)
        self.block3 = MimicryBlock(32, 16, 3)
        for block, (a, b) in (
            (self.block2, (32, 32)), (self.block3, (32, 16)), (self.block4, (16, 8))
        ):  # fmt: skip
            block.c1 = MimicrySN(nn.Conv2d, a, b, 3, 1, 1)
            block.c2 = MimicrySN(nn.Conv2d, b, b, 3, 1, 1)
            block.c_sc = MimicrySN(nn.Conv2d, a, b, 1)
        self.c5 = MimicrySN(nn.Conv2d, 8, 3, 3, 1, 1)
        self.attn_block = Attention(16, ("theta", "phi", "g", "o"))
        for name, (a, b) in zip(
            self.attn_block.names, ((16, 2), (16, 2), (16, 8), (8, 16)), strict=True
        ):
            setattr(self.attn_block, name, MimicrySN(nn.Conv2d, a, b, 1, bias=False))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.block2(self.l1(z).view(len(z), -1, 4, 4), y)
        x = self.block4(self.attn_block(self.block3(x, y)), y)
        return torch.tanh(self.c5(F.relu(self.b5(x))))


def test_sagan_of_mimicry(place: Path) -> None:
    network = varied(MimicrySAGAN())
    torch.save({"model_state_dict": network.state_dict()}, "netG_5_steps.pth")
    ours = imported(file="netG_5_steps.pth")
    assert list(ours.attention) == ["16"]
    z, y = torch.randn(2, 6, generator=random()), torch.tensor([2, 0])
    close(ours(z, y), network(z, y))
