"""Files of pix2pix, CycleGAN, CUT, pix2pixHD and AnimeGANv2: each in small, with random weights,
against its own arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main

from .importing import close, imported, random, varied


def norm_layer(norm: str, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "old":  # instance norm of torch 0.3
        return nn.InstanceNorm2d(channels, track_running_stats=True)
    return nn.InstanceNorm2d(channels)


def picture_norms(network: nn.Module) -> nn.Module:
    """As the authors test: with the statistics of the one picture."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            module.train()
            module.momentum = 0.0
    return network


def pictures(*size: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, *size, generator=random()) * 2 - 1


# ---------------------------------------------------------------- U-Net


class Level(nn.Module):
    def __init__(self, outer: int, inner: int, inside: nn.Module | None, norm: str) -> None:
        super().__init__()
        bias = norm != "batch"
        down = nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)
        up = nn.ConvTranspose2d(inner * (2 if inside else 1), outer, 4, 2, 1, bias=bias)
        layers = [nn.LeakyReLU(0.2, True), down]
        layers += [norm_layer(norm, inner), inside] if inside else []
        layers += [nn.ReLU(True), up, norm_layer(norm, outer)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class Outside(nn.Module):
    def __init__(self, channels: int, width: int, inside: nn.Module, norm: str) -> None:
        super().__init__()
        down = nn.Conv2d(channels, width, 4, 2, 1, bias=norm != "batch")
        up = nn.ConvTranspose2d(2 * width, 3, 4, 2, 1)
        self.model = nn.Sequential(down, inside, nn.ReLU(True), up, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UNet(nn.Module):
    """The authors' names: ``model.model.1.model.3.model. ...``."""

    def __init__(self, channels: int = 3, width: int = 6, depth: int = 5, norm: str = "batch"):
        super().__init__()
        widths = [min(width * 2**i, 4 * width) for i in range(depth)]
        inside = None
        for outer, inner in zip(widths[-2::-1], widths[:0:-1], strict=True):
            inside = Level(outer, inner, inside, norm)
        assert inside
        self.model = Outside(channels, width, inside, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize("norm", ["batch", "instance", "old"])
@pytest.mark.parametrize("how", ["plain", "module", "in a dictionary"])
def test_unet(place: Path, norm: str, how: str, capsys: Any) -> None:
    theirs = varied(UNet(channels=1 if norm == "batch" else 3, norm=norm))
    state = theirs.state_dict()
    written: Any = {
        "plain": state,
        "module": {f"module.{name}": tensor for name, tensor in state.items()},
        "in a dictionary": {"netG": state, "netD": nn.Conv2d(6, 8, 4).state_dict()},
    }[how]
    torch.save(written, "theirs.pth")
    x = pictures(64, 32, channels=1 if norm == "batch" else 3)
    with torch.no_grad():
        ours = imported()
        close(ours(x), picture_norms(theirs)(x))
        said = capsys.readouterr().out
        assert ("statistics is taken to be picture" in said) == (norm == "batch")
        if norm == "batch":
            close(imported("--set", "statistics=stored")(x), theirs.eval()(x))
            assert "statistics" not in capsys.readouterr().out
    card = checkpoint.inspect(Path("ours.safetensors")).card
    assert (card.task, card.architecture["resolution"]) == ("translation", 256)


# ---------------------------------------------------------------- ResNet


class Block(nn.Module):
    def __init__(self, width: int, norm: str, padding: str, dropout: bool, bias: bool, name: str):
        super().__init__()
        self.name = name
        layers: list[nn.Module] = []
        for i in range(2):
            edge = 0
            if padding == "zero":
                edge = 1
            else:
                pad = nn.ReflectionPad2d if padding == "reflect" else nn.ReplicationPad2d
                layers.append(pad(1))
            layers += [nn.Conv2d(width, width, 3, padding=edge, bias=bias), norm_layer(norm, width)]
            layers += [nn.ReLU(True)] * (i == 0) + [nn.Dropout(0.5)] * (dropout and i == 0)
        setattr(self, name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        return x + getattr(self, self.name)(x)


class Blur(nn.Module):
    """CUT's, with its constant filter in the file; written as what it amounts to."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3, 3, 1] if up else [1.0, 2, 1])
        kernel = taps[:, None] * taps / taps.sum() ** 2 * (4 if up else 1)
        self.register_buffer("filt", kernel.expand(channels, 1, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        kernel, groups = self.get_buffer("filt"), x.shape[1]
        if not self.up:
            return F.conv2d(F.pad(x, [1] * 4, "reflect"), kernel, stride=2, groups=groups)
        x = F.pad(x, [1] * 4, "replicate")
        return F.conv_transpose2d(x, kernel, stride=2, padding=2, groups=groups)[:, :, 1:-1, 1:-1]


class ResNet(nn.Module):
    def __init__(
        self,
        width: int = 4,
        blocks: int = 2,
        halvings: int = 2,
        norm: str = "instance",
        padding: str = "reflect",
        dropout: bool = False,
        resampling: str = "strided",
        name: str = "conv_block",
        always_bias: bool = False,
    ) -> None:
        super().__init__()
        bias = norm != "batch" or always_bias
        w = width
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7, bias=bias)]
        layers += [norm_layer(norm, w), nn.ReLU(True)]
        for _ in range(halvings):
            stride = 1 if resampling == "blurred" else 2
            layers += [nn.Conv2d(w, 2 * w, 3, stride, 1, bias=bias), norm_layer(norm, 2 * w)]
            layers += [nn.ReLU(True), *[Blur(2 * w, False)] * (resampling == "blurred")]
            w *= 2
        layers += [Block(w, norm, padding, dropout, bias, name) for _ in range(blocks)]
        for _ in range(halvings):
            if resampling == "strided":
                layers.append(nn.ConvTranspose2d(w, w // 2, 3, 2, 1, 1, bias=bias))
            else:
                up = Blur(w, True) if resampling == "blurred" else nn.Upsample(scale_factor=2)
                layers += [up, nn.Conv2d(w, w // 2, 3, 1, 1, bias=bias)]
            layers += [norm_layer(norm, w // 2), nn.ReLU(True)]
            w //= 2
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {"blocks": 2, "down": "strided", "up": "transposed"}),
        ({"norm": "old", "blocks": 3}, {"blocks": 3, "affine": False}),
        ({"norm": "batch", "dropout": True}, {"dropout": 0.5, "affine": True}),
        ({"resampling": "blurred"}, {"down": "blurred", "up": "blurred"}),
        ({"resampling": "nearest", "name": "block"}, {"up": "nearest"}),
        ({"padding": "zero"}, {"padding": "zero"}),
        ({"padding": "zero", "dropout": True}, {"padding": "zero", "dropout": 0.5}),
        ({"halvings": 4, "width": 2, "norm": "batch", "always_bias": True}, {"halvings": 4}),
    ],
)
def test_resnet(place: Path, options: dict[str, Any], fields: dict[str, Any]) -> None:
    theirs = varied(ResNet(**options))
    torch.save({f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}, "t.pth")
    x = pictures(32, 48)
    with torch.no_grad():
        close(imported(file="t.pth")(x), picture_norms(theirs)(x))
    found = checkpoint.inspect(Path("ours.safetensors")).card.architecture
    assert fields.items() <= found.items()


def test_what_a_file_does_not_say_can_be_said(place: Path, capsys: Any) -> None:
    theirs = varied(ResNet(padding="replicate"))
    torch.save(theirs.state_dict(), "theirs.pth")
    x = pictures(16, 16)
    with torch.no_grad():
        close(imported("--set", "padding=replicate", "--set", "resolution=128")(x), theirs(x))
    assert "note" not in capsys.readouterr().out
    assert checkpoint.inspect(Path("ours.safetensors")).card.architecture["resolution"] == 128
    for setting, text in (
        ("padding=mirror", "takes reflect or replicate"),
        ("statistics=stored", "ResNet does not leave that open"),
        ("resolution=large", "takes a whole number"),
        ("resolution=10000", "--set resolution=10000: Input should be less than or equal to 4096"),
        ("resolution", "takes NAME=VALUE"),
    ):
        assert main(["import", "theirs.pth", "-o", "o.safetensors", "--set", setting]) == 2
        assert text in capsys.readouterr().err
    torch.save(theirs.state_dict(), "theirs-too.pth")
    for option, value in (("--encoder", "theirs-too.pth"), ("--layers", "7/1/0")):
        assert main(["import", "theirs.pth", "-o", "o.safetensors", option, value]) == 2
        assert f"{option}: a file of CycleGAN's, CUT's" in capsys.readouterr().err
    assert not Path("o.safetensors").exists()


def test_of_several_networks_it_says_which_is_taken(place: Path, capsys: Any) -> None:
    both = {"netG_A2B": ResNet().state_dict(), "netG_B2A": ResNet().state_dict()}
    torch.save(both, "both.pth")
    assert main(["import", "both.pth", "-o", "ours.safetensors"]) == 0
    _, source, note, *_ = capsys.readouterr().out.splitlines()
    kind = "CycleGAN's, CUT's or pix2pixHD's ResNet"
    assert source == f"from both.pth, netG_A2B: {kind}"
    assert note == f"note: there is more in it, which --network takes: netG_B2A ({kind})"
    assert main(["import", "both.pth", "-o", "o.safetensors", "--network", "netG_B2A"]) == 0
    assert "--network" not in capsys.readouterr().out


def test_other_filters_are_another_network(place: Path, capsys: Any) -> None:
    theirs = ResNet(resampling="blurred")
    theirs.model[7].filt += 0.1
    torch.save(theirs.state_dict(), "theirs.pth")
    assert main(["import", "theirs.pth", "-o", "ours.safetensors"]) == 1
    assert "a filter of other values in 7" in capsys.readouterr().err


class Enhanced(nn.Module):
    """pix2pixHD's LocalEnhancer."""

    def __init__(self, width: int = 2, count: int = 1, label_channels: int = 5) -> None:
        super().__init__()
        self.count = count
        whole = ResNet(width * 2**count, 1, 2, always_bias=True).model
        whole[1] = nn.Conv2d(label_channels, width * 2**count, 7)
        self.model = whole[:-3]
        for n in range(1, count + 1):
            w = width * 2 ** (count - n)
            down = [nn.ReflectionPad2d(3), nn.Conv2d(label_channels, w, 7), norm_layer("", w)]
            down += [nn.ReLU(True), nn.Conv2d(w, 2 * w, 3, 2, 1), norm_layer("", 2 * w)]
            up = [Block(2 * w, "", "reflect", False, True, "conv_block") for _ in range(2)]
            up += [nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1), norm_layer("", w), nn.ReLU(True)]
            if n == count:
                up += [nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()]
            setattr(self, f"model{n}_1", nn.Sequential(*down, nn.ReLU(True)))
            setattr(self, f"model{n}_2", nn.Sequential(*up))

    def forward(self, x: Tensor) -> Tensor:
        sizes = [x]
        for _ in range(self.count):
            sizes.append(F.avg_pool2d(sizes[-1], 3, 2, 1, count_include_pad=False))
        y = self.model(sizes[-1])
        for n in range(1, self.count + 1):
            down, up = getattr(self, f"model{n}_1"), getattr(self, f"model{n}_2")
            y = up(down(sizes[self.count - n]) + y)
        return y


@pytest.mark.parametrize("count", [1, 2])
def test_enhancers(place: Path, count: int) -> None:
    theirs = varied(Enhanced(count=count))
    torch.save(theirs.state_dict(), "theirs.pth")
    x = pictures(32, 64, channels=5)
    with torch.no_grad():
        close(imported()(x), theirs(x))


# ---------------------------------------------------------------- AnimeGANv2


class Anime(nn.Module):
    """bryandlee's names; a third of the width."""

    def __init__(self, w: int = 4) -> None:
        super().__init__()

        def layer(i: int, o: int, k: int = 3, pad: Any = 1, stride: int = 1, groups: int = 1):
            conv = nn.Conv2d(i, o, k, stride, groups=groups, bias=groups > 1)
            return nn.Sequential(
                nn.ReflectionPad2d(pad), conv, nn.GroupNorm(1, o), nn.LeakyReLU(0.2)
            )

        class Inverted(nn.Module):
            def __init__(self, i: int, o: int) -> None:
                super().__init__()
                self.same = i == o
                self.layers = nn.Sequential(
                    layer(i, 2 * i, 1, 0), layer(2 * i, 2 * i, groups=2 * i),
                    nn.Conv2d(2 * i, o, 1, bias=False), nn.GroupNorm(1, o),
                )  # fmt: skip

            def forward(self, x: Tensor) -> Tensor:
                return x + self.layers(x) if self.same else self.layers(x)

        half = (0, 1, 0, 1)
        s = nn.Sequential
        self.block_a = s(layer(3, w, 7, 3), layer(w, 2 * w, 3, half, 2), layer(2 * w, 2 * w))
        self.block_b = s(layer(2 * w, 4 * w, 3, half, 2), layer(4 * w, 4 * w))
        inner = (Inverted(4 * w, 8 * w), Inverted(8 * w, 8 * w))
        self.block_c = s(layer(4 * w, 4 * w), *inner, layer(8 * w, 4 * w))
        self.block_d = s(layer(4 * w, 4 * w), layer(4 * w, 4 * w))
        self.block_e = s(layer(4 * w, 2 * w), layer(2 * w, 2 * w), layer(2 * w, w, 7, 3))
        self.out_layer = s(nn.Conv2d(w, 3, 1, bias=False), nn.Tanh())

    def forward(self, x: Tensor, align: bool) -> Tensor:
        def double(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align)

        x = self.block_c(self.block_b(self.block_a(x)))
        return self.out_layer(self.block_e(double(self.block_d(double(x)))))


@pytest.mark.parametrize("align", [True, False])
def test_animegan(place: Path, align: bool, capsys: Any) -> None:
    theirs = varied(Anime())
    torch.save(theirs.state_dict(), "theirs.pt")
    x = pictures(24, 32)
    options = () if align else ("--set", "align_corners=false")
    with torch.no_grad():
        close(imported(*options, file="theirs.pt")(x), theirs(x, align))
    assert ("align_corners is taken to be true" in capsys.readouterr().out) == align


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("network", "kind", "extra", "said"),
    [
        (UNet, "pix2pix's U-Net", "model.model.99.extra.weight", "99.extra.weight"),
        (ResNet, "CycleGAN's, CUT's or pix2pixHD's ResNet", "model.99.extra.weight", "99.extra"),
        (Enhanced, "pix2pixHD with local enhancers", "model.99.extra.weight", "model.99.extra"),
        (Anime, "AnimeGANv2", "block_f.0.1.weight", "block_f.0.1.weight"),
    ],
)
def test_a_layer_more_is_another_network(
    place: Path, network: type[nn.Module], kind: str, extra: str, said: str, capsys: Any
) -> None:
    torch.save({**network().state_dict(), extra: torch.zeros(2, 2)}, "theirs.pth")
    assert main(["import", "theirs.pth", "-o", "ours.safetensors"]) == 1
    assert f"  {kind}: no use for {said}" in capsys.readouterr().err
    assert not Path("ours.safetensors").exists()
