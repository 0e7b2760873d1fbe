"""Files of other programs: each format in small, with random weights, against its own
arithmetic."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, signal, special
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main
from imagen_nodes.importers.formats import FORMATS

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Of constants, which are no weights.
FIXED = re.compile("filt|[Kk]ernel|dct")


def varied(network: nn.Module, size: float = 0.3) -> nn.Module:
    """Every tensor random, variances positive."""
    generator = random(7)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not FIXED.search(name):
            value = torch.randn(tensor.shape, generator=generator) * size
            tensor.copy_(value.abs() + 0.5 if "var" in name else value)
    return network.eval()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(*options: str, file: str = "theirs.pth") -> nn.Module:
    assert main(["import", file, "-o", "ours.safetensors", *options]) == 0
    return checkpoint.load(Path("ours.safetensors")).network


def close(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.detach().abs().max())
    assert scale > 0.01
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-4 * scale)


# ---------------------------------------------------------------- DCGAN


def tutorial(channels: int = 3, bias: bool = False, norm: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 20
    for i, outputs in enumerate((32, 16, 8)):
        step = (1, 0) if i == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, *step, bias=bias))
        layers += [nn.BatchNorm2d(outputs)] * norm + [nn.ReLU(True)]
        inputs = outputs
    return nn.Sequential(*layers, nn.ConvTranspose2d(8, channels, 4, 2, 1, bias=bias), nn.Tanh())


class Tutorial(nn.Module):
    """As PyTorch's tutorial has it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.main = tutorial(**options)


@pytest.mark.parametrize(
    "options", [{}, {"channels": 1}, {"bias": True, "norm": False}, {"bias": True}]
)
@pytest.mark.parametrize("how", ["main", "bare", "module", "in a dictionary", "whole"])
def test_dcgan(place: Path, options: dict[str, Any], how: str) -> None:
    network = varied(Tutorial(**options))
    state = network.state_dict()
    bare = {name.removeprefix("main."): tensor for name, tensor in state.items()}
    written: Any = {
        "main": state,
        "bare": bare,
        "module": {f"module.{name}": tensor for name, tensor in state.items()},
        "in a dictionary": {"epoch": 3, "netG": state, "netD": nn.Conv2d(3, 8, 4).state_dict()},
        "whole": network,
    }[how]
    torch.save(written, "theirs.pth")
    z = torch.randn(3, 20, generator=random())
    ours = imported()
    close(ours(z), network.main(z[:, :, None, None]))
    header = checkpoint.inspect(Path("ours.safetensors"))
    assert header.card.architecture["resolution"] == 32
    assert header.card.task == "generate"


@pytest.mark.parametrize("product", [False, True])
def test_a_dcgan_with_classes(place: Path, product: bool) -> None:
    network = varied(tutorial())
    length = 20 if product else 6
    label = nn.Embedding(4, length)
    state = {"label_emb.weight": label.weight, **network.state_dict()}
    torch.save(state, "theirs.pth")
    y = torch.tensor([3, 0])
    z = torch.randn(2, 20 if product else 14, generator=random())
    given = z * label(y) if product else torch.cat([z, label(y)], 1)
    close(imported()(z, y), network(given[:, :, None, None]))
    assert checkpoint.inspect(Path("ours.safetensors")).card.class_names == ("0", "1", "2", "3")


def test_the_layers_of_a_dcgan_can_be_told(place: Path, capsys: Any) -> None:
    """28 px: 7, 14, 28."""
    network = varied(
        nn.Sequential(
            nn.ConvTranspose2d(10, 16, 7, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 4, 2, 1, bias=False), nn.Tanh(),
        )
    )  # fmt: skip
    torch.save(network.state_dict(), "theirs.pth")
    z = torch.randn(2, 10, generator=random())
    close(imported()(z), network(z[:, :, None, None]))
    assert "layers are taken to be 7/1/0, 4/2/1, 4/2/1; --layers sets others" in (
        capsys.readouterr().out
    )
    network[3].stride = network[3].padding = (1, 1)
    close(imported("--layers", "7/1/0,4/1/1,4/2/1")(z), network(z[:, :, None, None]))
    assert "note" not in capsys.readouterr().out
    for layers, text in (
        ("7/1/0", "1 layers, the file has 3"),
        ("7/1/0,5/1/1,4/2/1", "its kernels are 7, 4, 4"),
        ("7,4,4", "'7' is not kernel/stride/padding"),
    ):
        assert main(["import", "theirs.pth", "-o", "x.safetensors", "--layers", layers]) == 2
        assert text in capsys.readouterr().err


# ---------------------------------------------------------------- StyleGAN2


def normalised(x: Tensor) -> Tensor:
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])
FILTER = FILTER[:, None] * FILTER / 64


def resampled(x: Tensor, up: int, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """upfirdn2d: zeros between, zeros around, the filter."""
    b, c, h, w = x.shape
    y = x.new_zeros(b, c, h, up, w, up)
    y[:, :, :, 0, :, 0] = x
    y = F.pad(y.view(b, c, h * up, w * up), (pad[0], pad[1], pad[0], pad[1]))
    return F.conv2d(y, (FILTER * gain).expand(c, 1, 4, 4), groups=c)


def modulated(x: Tensor, weight: Tensor, style: Tensor, up: bool, demodulate: bool) -> Tensor:
    """A kernel for each image, in groups."""
    b, c, h, w = x.shape
    kernel = weight[None] * style[:, None, :, None, None]
    if demodulate:
        kernel = kernel * (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, b * c, h, w)
    if up:
        kernel = kernel.transpose(1, 2).flatten(0, 1)
        x = F.conv_transpose2d(x, kernel, stride=2, groups=b)
        return resampled(x.view(b, -1, *x.shape[2:]), 1, (1, 1), 4.0)
    x = F.conv2d(x, kernel.flatten(0, 1), padding=weight.shape[2] // 2, groups=b)
    return x.view(b, -1, h, w)


class Holder(nn.Module):
    """Parameters and buffers, by dotted names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], buffers: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in {**{n: torch.zeros(s) for n, s in shapes.items()}, **buffers}.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            if name in buffers:
                module.register_buffer(last, value)
            else:
                module.register_parameter(last, nn.Parameter(value))


WIDTHS = {4: 12, 8: 12, 16: 6}


def nvidia_shapes(classes: int, residual: bool = False) -> Holder:
    shapes: dict[str, tuple[int, ...]] = {}
    buffers = {"mapping.w_avg": torch.zeros(10)}
    for i, inputs in enumerate((8 + 10 * bool(classes), 10)):
        shapes |= {f"mapping.fc{i}.weight": (10, inputs), f"mapping.fc{i}.bias": (10,)}
    if classes:
        shapes |= {"mapping.embed.weight": (10, classes), "mapping.embed.bias": (10,)}
    shapes["synthesis.b4.const"] = (12, 4, 4)
    for side, width in WIDTHS.items():
        block, below = f"synthesis.b{side}", WIDTHS.get(side // 2, width)
        buffers[f"{block}.resample_filter"] = FILTER
        for conv, inputs in (("conv0", below), ("conv1", width)):
            if side == 4 and conv == "conv0":
                continue
            name = f"{block}.{conv}"
            shapes |= {
                f"{name}.weight": (width, inputs, 3, 3), f"{name}.bias": (width,),
                f"{name}.affine.weight": (inputs, 10), f"{name}.affine.bias": (inputs,),
                f"{name}.noise_strength": (),
            }  # fmt: skip
            buffers |= {
                f"{name}.noise_const": torch.zeros(side, side), f"{name}.resample_filter": FILTER
            }  # fmt: skip
        if residual and side > 4:
            shapes[f"{block}.skip.weight"] = (width, below, 1, 1)
        if not residual or side == 16:
            shapes |= {
                f"{block}.torgb.weight": (3, width, 1, 1), f"{block}.torgb.bias": (3,),
                f"{block}.torgb.affine.weight": (width, 10), f"{block}.torgb.affine.bias": (width,),
            }  # fmt: skip
    return Holder(shapes, buffers)


def nvidia(w: dict[str, Tensor], z: Tensor, labels: Any, clamp: float = 0.0) -> Tensor:
    """The generator of stylegan2-ada-pytorch."""

    def dense(x: Tensor, name: str, lr: float = 1.0) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.linear(x, weight * lr / math.sqrt(weight.shape[1]), w[f"{name}.bias"] * lr)

    def act(x: Tensor, gain: float = 1.0) -> Tensor:
        x = F.leaky_relu(x, 0.2) * math.sqrt(2) * gain
        return x.clamp(-clamp * gain, clamp * gain) if clamp else x

    x = normalised(z)
    if labels is not None:
        one_hot = F.one_hot(labels, w["mapping.embed.weight"].shape[1]).float()
        x = torch.cat([x, normalised(dense(one_hot, "mapping.embed"))], 1)
    for i in range(2):
        x = F.leaky_relu(dense(x, f"mapping.fc{i}", 0.01), 0.2) * math.sqrt(2)
    v, image = x, None
    x = w["synthesis.b4.const"][None].expand(len(z), -1, -1, -1)
    residual = "synthesis.b16.skip.weight" in w
    for side in WIDTHS:
        block = f"synthesis.b{side}"
        gain = math.sqrt(0.5) if residual and side > 4 else 1.0
        if gain != 1:
            skip = w[f"{block}.skip.weight"] / math.sqrt(x.shape[1])
            past = F.conv2d(resampled(x, 2, (2, 1), 4.0), skip) * gain
        for conv in ("conv0", "conv1") if side > 4 else ("conv1",):
            name = f"{block}.{conv}"
            style = dense(v, f"{name}.affine")
            x = modulated(x, w[f"{name}.weight"], style, conv == "conv0", True)
            x = x + w[f"{name}.noise_const"] * w[f"{name}.noise_strength"]
            last = gain if conv == "conv1" else 1.0
            x = act(x + w[f"{name}.bias"][:, None, None], last)
        x = x + past if gain != 1 else x
        if f"{block}.torgb.weight" in w:
            style = dense(v, f"{block}.torgb.affine") / math.sqrt(x.shape[1])
            own = modulated(x, w[f"{block}.torgb.weight"], style, False, False)
            own = own + w[f"{block}.torgb.bias"][:, None, None]
            own = own.clamp(-clamp, clamp) if clamp else own
            image = own if image is None else resampled(image, 2, (2, 1), 4.0) + own
    assert image is not None
    return image


class Persistent:
    """Pickles as ``torch_utils.persistence`` has it: with its source, which must not be run."""

    def __init__(self, name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class", "version": 6, "module_src": "raise SystemExit('run')",
            "class_name": name, "state": state,
        }  # fmt: skip

    def __reduce__(self) -> Any:
        module = sys.modules["torch_utils.persistence"]
        return module._reconstruct_persistent_obj, (self.meta,)


@pytest.fixture
def persistence(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: object) -> None:
        raise SystemExit("run")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)


def persistent(network: nn.Module, **arguments: Any) -> Persistent:
    """``network`` with its parts as such objects."""
    state = dict(network.__dict__)
    state["_modules"] = {name: persistent(m) for name, m in network._modules.items()}
    return Persistent("Generator", state | {"_init_kwargs": arguments})


@pytest.mark.usefixtures("persistence")
@pytest.mark.parametrize(
    ("classes", "residual", "clamp"), [(0, False, 0), (3, False, 0.8), (0, True, 0)]
)
def test_nvidias_pickles(place: Path, classes: int, residual: bool, clamp: float) -> None:
    network = varied(nvidia_shapes(classes, residual), 0.7)
    kwargs = {"synthesis_kwargs": {"conv_clamp": clamp or None, "num_fp16_res": 4}}
    content = {
        "G": persistent(varied(nvidia_shapes(classes, residual), 0.1), **kwargs),
        "D": None,
        "G_ema": persistent(network, **kwargs),
        "training_set_kwargs": {"path": "x"},
    }
    Path("theirs.pkl").write_bytes(pickle.dumps(content))
    ours = imported(file="theirs.pkl")
    z = torch.randn(2, 8, generator=random())
    labels = torch.tensor([2, 0]) if classes else None
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close(ours(z, labels), nvidia(w, z, labels, clamp))
    assert torch.equal(ours.w_avg, network.mapping.w_avg)
    card = checkpoint.inspect(Path("ours.safetensors")).card
    assert card.description == (
        "Imported from theirs.pkl (StyleGAN2 of NVIDIA's PyTorch code, G_ema)."
    )


class EasyDict(dict[str, Any]):
    """In which NVIDIA's code keeps arguments."""


@pytest.mark.usefixtures("persistence")
def test_nvidias_arguments_in_their_own_dictionaries(place: Path) -> None:
    network = varied(nvidia_shapes(0), 0.7)
    kwargs = {"synthesis_kwargs": EasyDict(conv_clamp=0.8, num_fp16_res=4)}
    Path("theirs.pkl").write_bytes(pickle.dumps({"G_ema": persistent(network, **kwargs)}))
    assert imported(file="theirs.pkl").synthesis.blocks["16"].conv1.clamp == 0.8


# ---------------------------------------------------------------- StyleGAN3

SMALL_3 = {"num_layers": 5, "channel_base": 200, "channel_max": 12, "margin_size": 4}


def stylegan3_layers(radial: bool) -> list[dict[str, Any]]:
    """16 px: number, channels, size, rate, cutoff and half of the transition band of each."""
    layers = []
    for i in range(6):
        share = min(i / 3, 1)
        cutoff, stopband = 2 * 4**share, 2**2.1 * (8 * 2**0.3 / 2**2.1) ** share
        rate = int(2 ** math.ceil(math.log2(min(2 * stopband, 16))))
        channels = 3 if i == 5 else min(round(100 / cutoff), 12)
        size = 16 if i > 3 else rate + 8
        half_width = max(stopband, rate / 2) - cutoff
        layers.append({
            "name": f"synthesis.L{i}_{size}_{channels}", "channels": channels, "size": size,
            "rate": rate, "cutoff": cutoff, "half_width": half_width,
            "radial": radial and i < 3,
        })  # fmt: skip
    return layers


def stylegan3_filter(layer: dict[str, Any], factor: int, radial: bool, rate: int) -> Tensor:
    taps, cutoff, width = 6 * factor, layer["cutoff"], 2 * layer["half_width"]
    if not radial:
        return torch.tensor(signal.firwin(taps, cutoff, width=width, fs=rate)).float()
    x = (np.arange(taps) - (taps - 1) / 2) / rate
    r = np.hypot(*np.meshgrid(x, x))
    f = special.j1(2 * cutoff * (np.pi * r)) / (np.pi * r)
    beta = signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2)))
    f *= np.outer(np.kaiser(taps, beta), np.kaiser(taps, beta))
    return torch.tensor(f / f.sum()).float()


def stylegan3_shapes(radial: bool, classes: int) -> Holder:
    layers = stylegan3_layers(radial)
    first, kernel = layers[0]["channels"], 1 if radial else 3
    shapes: dict[str, tuple[int, ...]] = {
        "synthesis.input.weight": (first, first), "synthesis.input.affine.weight": (4, 10),
        "synthesis.input.affine.bias": (4,),
    }  # fmt: skip
    buffers = {
        "mapping.w_avg": torch.zeros(10), "synthesis.input.transform": torch.eye(3),
        "synthesis.input.freqs": torch.zeros(first, 2),
        "synthesis.input.phases": torch.zeros(first),
    }  # fmt: skip
    for i, inputs in enumerate((8 + 10 * bool(classes), 10)):
        shapes |= {f"mapping.fc{i}.weight": (10, inputs), f"mapping.fc{i}.bias": (10,)}
    if classes:
        shapes |= {"mapping.embed.weight": (10, classes), "mapping.embed.bias": (10,)}
    given = layers[0]
    for layer in layers:
        name, inputs, last = layer["name"], given["channels"], layer is layers[-1]
        k = 1 if last else kernel
        shapes |= {
            f"{name}.weight": (layer["channels"], inputs, k, k),
            f"{name}.bias": (layer["channels"],),
            f"{name}.affine.weight": (inputs, 10), f"{name}.affine.bias": (inputs,),
        }  # fmt: skip
        buffers[f"{name}.magnitude_ema"] = torch.ones(())
        if not last:
            rate = 2 * max(given["rate"], layer["rate"])
            up, down = rate // given["rate"], rate // layer["rate"]
            buffers[f"{name}.up_filter"] = stylegan3_filter(given, up, False, rate)
            buffers[f"{name}.down_filter"] = stylegan3_filter(layer, down, layer["radial"], rate)
        given = layer
    return Holder(shapes, buffers)


def upfirdn(x: Tensor, f: Tensor, up: int, down: int, pad: tuple[int, int], gain: float) -> Tensor:
    b, c, h, w = x.shape
    y = x.new_zeros(b, c, h, up, w, up)
    y[:, :, :, 0, :, 0] = x
    y = F.pad(y.view(b, c, h * up, w * up), (pad[0], pad[1], pad[0], pad[1]))
    f = f if f.ndim == 2 else f[:, None] * f
    return F.conv2d(y, (f * gain).flip(0, 1).expand(c, 1, -1, -1), groups=c)[..., ::down, ::down]


def stylegan3(w: dict[str, Tensor], radial: bool, z: Tensor, labels: Any, clamp: float) -> Tensor:
    """The generator of the stylegan3 repository."""

    def dense(x: Tensor, name: str, lr: float = 1.0) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.linear(x, weight * lr / math.sqrt(weight.shape[1]), w[f"{name}.bias"] * lr)

    v = normalised(z)
    if labels is not None:
        one_hot = F.one_hot(labels, 3).float()
        v = torch.cat([v, normalised(dense(one_hot, "mapping.embed"))], 1)
    for i in range(2):
        v = F.leaky_relu(dense(v, f"mapping.fc{i}", 0.01), 0.2) * math.sqrt(2)
    layers = stylegan3_layers(radial)
    given, b = layers[0], len(z)
    t = dense(v, "synthesis.input.affine")
    t = t / t[:, :2].norm(dim=1, keepdim=True)
    turn, shift = torch.eye(3).repeat(b, 1, 1), torch.eye(3).repeat(b, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = t[:, 0], -t[:, 1], t[:, 1], t[:, 0]
    shift[:, 0, 2], shift[:, 1, 2] = -t[:, 2], -t[:, 3]
    matrix = turn @ shift
    freqs = w["synthesis.input.freqs"][None]
    phases = w["synthesis.input.phases"] + (freqs @ matrix[:, :2, 2:])[..., 0]
    freqs = freqs @ matrix[:, :2, :2]
    theta = torch.eye(2, 3)[None] * (0.5 * given["size"] / given["rate"])
    grid = F.affine_grid(theta, [1, 1, given["size"], given["size"]], align_corners=False)
    x = torch.einsum("hwi,bci->bhwc", grid[0], freqs) + phases[:, None, None]
    weight = w["synthesis.input.weight"]
    x = (x * 2 * math.pi).sin() @ weight.t() / math.sqrt(len(weight))
    x = x.permute(0, 3, 1, 2)
    for layer in layers:
        name, last = layer["name"], layer is layers[-1]
        style, weight = dense(v, f"{name}.affine"), w[f"{name}.weight"]
        if last:
            style = style / math.sqrt(x.shape[1])
        else:
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
            style = style * style.square().mean().rsqrt()
        kernels = weight[None] * style[:, None, :, None, None]
        if not last:
            kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        kernels = kernels * w[f"{name}.magnitude_ema"].rsqrt()
        padding = weight.shape[2] - 1
        y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=padding, groups=b)
        x = y.view(b, -1, *y.shape[2:]) + w[f"{name}.bias"][:, None, None]
        if last:
            return x.clamp(-clamp, clamp) * 0.25
        up_filter, down_filter = w[f"{name}.up_filter"], w[f"{name}.down_filter"]
        rate = 2 * max(given["rate"], layer["rate"])
        up, down = rate // given["rate"], rate // layer["rate"]
        total = (layer["size"] - 1) * down + 1 - (given["size"] + padding) * up
        total += len(up_filter) + len(down_filter) - 2
        low = (total + up) // 2
        x = upfirdn(x, up_filter, up, 1, (low, total - low), up**2)
        x = (F.leaky_relu(x, 0.2) * math.sqrt(2)).clamp(-clamp, clamp)
        x = upfirdn(x, down_filter, 1, down, (0, 0), 1.0)
        given = layer
    raise AssertionError


@pytest.mark.usefixtures("persistence")
@pytest.mark.parametrize(("radial", "classes", "clamp"), [(False, 0, 256), (True, 3, 0.9)])
def test_stylegan3(place: Path, radial: bool, classes: int, clamp: float) -> None:
    network = varied(stylegan3_shapes(radial, classes), 0.7)
    for name, tensor in network.state_dict().items():
        if name.endswith("magnitude_ema"):
            tensor.abs_().add_(0.5)
        elif name.endswith("input.transform"):
            tensor.copy_(torch.eye(3))
    kwargs = {**SMALL_3, "img_resolution": 16, "mapping_kwargs": EasyDict(num_layers=2)}
    kwargs |= {"conv_clamp": clamp} if clamp != 256 else {}
    Path("theirs.pkl").write_bytes(pickle.dumps({"G_ema": persistent(network, **kwargs)}))
    ours = imported(file="theirs.pkl")
    z = torch.randn(2, 8, generator=random())
    labels = torch.tensor([2, 0]) if classes else None
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close(ours(z, labels), stylegan3(w, radial, z, labels, clamp))
    assert torch.equal(ours.w_avg, network.mapping.w_avg)
    assert "StyleGAN3 of NVIDIA's PyTorch code, G_ema" in (
        checkpoint.inspect(Path("ours.safetensors")).card.description
    )


@pytest.mark.usefixtures("persistence")
def test_a_stylegan3_of_another_kind(place: Path, capsys: Any) -> None:
    network = varied(stylegan3_shapes(False, 0), 0.7)
    network.synthesis.input.transform[0, 2] = 0.5
    for kwargs, text in (
        (SMALL_3 | {"lrelu_upsampling": 4}, "lrelu_upsampling is 4, not 2"),
        (SMALL_3 | {"margin_size": 6}, "layers whose sizes follow another rule"),
        (SMALL_3, "a transform of its own at the input"),
    ):
        Path("theirs.pkl").write_bytes(pickle.dumps({"G_ema": persistent(network, **kwargs)}))
        assert main(["import", "theirs.pkl", "-o", "ours.safetensors"]) == 1
        assert f"StyleGAN3 of NVIDIA's PyTorch code: {text}" in capsys.readouterr().err


class Network:
    """Pickles as ``dnnlib.tflib.network.Network`` does: its state, in which source text lies."""

    def __init__(self, variables: dict[str, Tensor], **components: Network) -> None:
        self.state = {
            "version": 4, "static_kwargs": {}, "build_module_src": "raise SystemExit('run')",
            "components": components,
            "variables": [(name, value.numpy()) for name, value in variables.items()],
        }  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.state


@pytest.mark.parametrize(
    ("residual", "classes", "clamp", "first"),
    [
        (False, 0, None, False),
        (True, 0, None, False),
        (True, 3, 0.8, False),
        (False, 3, None, True),
    ],
)
def test_nvidias_tensorflow_pickles(
    place: Path, residual: bool, classes: int, clamp: float | None, first: bool
) -> None:
    """``first``: labels as in the first release."""
    r = random(11)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=r)

    mapping = {}
    embedded = (8 if first else 10) * bool(classes)
    for i, inputs in enumerate((8 + embedded, 10)):
        mapping |= {f"Dense{i}/weight": drawn(inputs, 10), f"Dense{i}/bias": drawn(10)}
    if first:
        mapping["LabelConcat/weight"] = drawn(classes, 8)
    elif classes:
        mapping |= {"LabelEmbed/weight": drawn(classes, 10), "LabelEmbed/bias": drawn(10)}
    synthesis = {"4x4/Const/const": drawn(1, 12, 4, 4), "lod": drawn()}
    number = 0
    for side, width in WIDTHS.items():
        below = WIDTHS.get(side // 2, width)
        convs = [("Conv", width)] if side == 4 else [("Conv0_up", below), ("Conv1", width)]
        for conv, inputs in convs:
            name = f"{side}x{side}/{conv}"
            synthesis |= {
                f"{name}/weight": drawn(3, 3, inputs, width), f"{name}/bias": drawn(width),
                f"{name}/noise_strength": drawn(), f"noise{number}": drawn(1, 1, side, side),
                f"{name}/mod_weight": drawn(10, inputs), f"{name}/mod_bias": drawn(inputs),
            }  # fmt: skip
            number += 1
        if residual and side > 4:
            synthesis[f"{side}x{side}/Skip/weight"] = drawn(1, 1, below, width)
        if not residual or side == 16:
            name = f"{side}x{side}/ToRGB"
            synthesis |= {
                f"{name}/weight": drawn(1, 1, width, 3), f"{name}/bias": drawn(3),
                f"{name}/mod_weight": drawn(10, width), f"{name}/mod_bias": drawn(width),
            }  # fmt: skip
    whole = Network(
        {"dlatent_avg": drawn(10)}, mapping=Network(mapping), synthesis=Network(synthesis)
    )
    whole.state["static_kwargs"] = {"label_size": classes, "conv_clamp": clamp}
    content = pickle.dumps((None, None, whole), protocol=2)
    name = f"c{Network.__module__}\nNetwork\n".encode()
    assert name in content
    Path("theirs.pkl").write_bytes(content.replace(name, b"cdnnlib.tflib.network\nNetwork\n"))
    ours = imported(file="theirs.pkl")
    z, labels = drawn(2, 8), torch.tensor([2, 0]) if classes else None
    close(ours(z, labels), tensorflow(mapping, synthesis, z, labels, clamp))


def tensorflow(
    mapping: dict[str, Tensor],
    w: dict[str, Tensor],
    z: Tensor,
    labels: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    """The first releases' operations: matrices [in out], kernels [h w in out]."""
    v = normalised(z)
    if labels is not None and "LabelConcat/weight" in mapping:
        v = normalised(torch.cat([z, mapping["LabelConcat/weight"][labels]], 1))
    elif labels is not None:
        embed = mapping["LabelEmbed/weight"] / math.sqrt(3)
        v = torch.cat([v, normalised(embed[labels] + mapping["LabelEmbed/bias"])], 1)

    def clamped(x: Tensor, gain: float = 1.0) -> Tensor:
        return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)

    for i in (0, 1):
        weight = mapping[f"Dense{i}/weight"]
        x = v @ (weight * 0.01 / math.sqrt(len(weight))) + mapping[f"Dense{i}/bias"] * 0.01
        v = F.leaky_relu(x, 0.2) * math.sqrt(2)
    x, image, number = w["4x4/Const/const"].expand(len(z), -1, -1, -1), None, 0
    residual = "16x16/Skip/weight" in w

    def modulated_tf(x: Tensor, name: str, up: bool, demodulate: bool) -> Tensor:
        weight = w[f"{name}/weight"]
        style = v @ (w[f"{name}/mod_weight"] / math.sqrt(10)) + w[f"{name}/mod_bias"] + 1
        kernels = weight[None] * style[:, None, None, :, None] / math.sqrt(weight[..., 0].numel())
        if demodulate:
            kernels = kernels * (kernels.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        images = []
        for one, kernel in zip(x, kernels.permute(0, 4, 3, 1, 2), strict=True):
            one = one[None]
            if up:  # zeros between the pixels, and the kernel as it is
                b, c, h, side = one.shape
                spread = one.new_zeros(b, c, 2 * h - 1, 2 * side - 1)
                spread[:, :, ::2, ::2] = one
                y = resampled(F.conv2d(spread, kernel, padding=2), 1, (1, 1), 4.0)
            else:
                y = F.conv2d(one, kernel, padding=kernel.shape[2] // 2)
            images.append(y)
        return torch.cat(images)

    for side in WIDTHS:
        past = None
        if residual and side > 4:
            skip = w[f"{side}x{side}/Skip/weight"]
            past = F.conv2d(
                resampled(x, 2, (2, 1), 4.0), skip.permute(3, 2, 0, 1) / math.sqrt(x.shape[1])
            )
        for conv in ("Conv",) if side == 4 else ("Conv0_up", "Conv1"):
            name = f"{side}x{side}/{conv}"
            x = modulated_tf(x, name, conv == "Conv0_up", True)
            x = x + w[f"noise{number}"] * w[f"{name}/noise_strength"]
            x = F.leaky_relu(x + w[f"{name}/bias"][:, None, None], 0.2) * math.sqrt(2)
            x = clamped(x)
            number += 1
        x = x if past is None else (x + past) * math.sqrt(0.5)
        if f"{side}x{side}/ToRGB/weight" in w:
            own = modulated_tf(x, f"{side}x{side}/ToRGB", False, False)
            own = clamped(own + w[f"{side}x{side}/ToRGB/bias"][:, None, None])
            image = own if image is None else resampled(image, 2, (2, 1), 4.0) + own
    assert image is not None
    return image


def rosinality_shapes() -> Holder:
    shapes: dict[str, tuple[int, ...]] = {"input.input": (1, 12, 4, 4)}
    buffers: dict[str, Tensor] = {}
    for i, inputs in enumerate((8, 8), 1):
        shapes |= {f"style.{i}.weight": (8, inputs), f"style.{i}.bias": (8,)}
    convs = {"conv1": (12, 12), "convs.0": (12, 12), "convs.1": (12, 12), "convs.2": (12, 6)}
    convs["convs.3"] = (6, 6)
    for n, (name, (inputs, outputs)) in enumerate(convs.items()):
        shapes |= {
            f"{name}.conv.weight": (1, outputs, inputs, 3, 3),
            f"{name}.conv.modulation.weight": (inputs, 8),
            f"{name}.conv.modulation.bias": (inputs,),
            f"{name}.noise.weight": (1,), f"{name}.activate.bias": (outputs,),
        }  # fmt: skip
        side = 4 << ((n + 1) // 2)
        buffers[f"noises.noise_{n}"] = torch.zeros(1, 1, side, side)
        if name in ("convs.0", "convs.2"):
            buffers[f"{name}.conv.blur.kernel"] = FILTER * 4
    for name, inputs in (("to_rgb1", 12), ("to_rgbs.0", 12), ("to_rgbs.1", 6)):
        shapes |= {
            f"{name}.bias": (1, 3, 1, 1), f"{name}.conv.weight": (1, 3, inputs, 1, 1),
            f"{name}.conv.modulation.weight": (inputs, 8),
            f"{name}.conv.modulation.bias": (inputs,),
        }  # fmt: skip
    return Holder(shapes, buffers)


def rosinality(w: dict[str, Tensor], z: Tensor) -> Tensor:
    def equal(x: Tensor, name: str, lr: float) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.linear(x, weight * lr / math.sqrt(weight.shape[1]), w[f"{name}.bias"] * lr)

    v = normalised(z)
    for i in (1, 2):
        v = F.leaky_relu(equal(v, f"style.{i}", 0.01), 0.2) * math.sqrt(2)
    x, image = w["input.input"].expand(len(z), -1, -1, -1), None
    for n, name in enumerate(("conv1", "convs.0", "convs.1", "convs.2", "convs.3")):
        weight = w[f"{name}.conv.weight"][0]
        scaled = weight / math.sqrt(weight[0].numel())
        style = equal(v, f"{name}.conv.modulation", 1.0)
        x = modulated(x, scaled, style, n in (1, 3), True)
        x = x + w[f"noises.noise_{n}"] * w[f"{name}.noise.weight"]
        bias = w[f"{name}.activate.bias"][:, None, None]
        x = F.leaky_relu(x + bias, 0.2) * math.sqrt(2)
        if n % 2 == 0:
            rgb = "to_rgb1" if n == 0 else f"to_rgbs.{n // 2 - 1}"
            style = equal(v, f"{rgb}.conv.modulation", 1.0)
            weight = w[f"{rgb}.conv.weight"][0] / math.sqrt(x.shape[1])
            own = modulated(x, weight, style, False, False) + w[f"{rgb}.bias"]
            image = own if image is None else resampled(image, 2, (2, 1), 4.0) + own
    assert image is not None
    return image


@pytest.mark.parametrize("average", [False, True])
def test_rosinalitys_checkpoints(place: Path, average: bool, capsys: Any) -> None:
    import argparse

    network = varied(rosinality_shapes(), 0.7)
    content: dict[str, Any] = {
        "g": rosinality_shapes().state_dict(),
        "g_ema": network.state_dict(),
        "args": argparse.Namespace(size=16),
        "ada_aug_p": 0.0,
    }
    if average:
        content["latent_avg"] = torch.randn(8, generator=random(3))
    torch.save(content, "theirs.pth")
    ours = imported()
    z = torch.randn(2, 8, generator=random())
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close(ours(z), rosinality(w, z))
    if average:
        assert torch.equal(ours.w_avg, content["latent_avg"])
    else:
        assert "no average of w" in capsys.readouterr().out
        many = ours.mapping(torch.randn(20_000, 8, generator=random(9))).mean(0)
        torch.testing.assert_close(ours.w_avg, many, rtol=0.2, atol=0.05)


# ---------------------------------------------------------------- BigGAN


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


SN = tuple(f"snconv1x1_{name}" for name in ("theta", "phi", "g", "o_conv"))


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


# ---------------------------------------------------------------- mimicry


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


# ---------------------------------------------------------------- R3GAN


def r3gan_shapes() -> Holder:
    widths = {0: 32, 1: 16, 2: 16}
    shapes: dict[str, tuple[int, ...]] = {"EmbeddingLayer.weight": (4, 3)}
    buffers: dict[str, Tensor] = {}
    shapes |= {"MainLayers.0.Layers.0.Basis": (32, 4, 4)}
    shapes |= {"MainLayers.0.Layers.0.LinearLayer.weight": (32, 10)}
    for s, width in widths.items():
        if s and widths[s - 1] != width:
            shapes[f"MainLayers.{s}.Layers.0.LinearLayer.Layer.weight"] = (
                width,
                widths[s - 1],
                1,
                1,
            )
        if s:
            buffers[f"MainLayers.{s}.Layers.0.Resampler.Kernel"] = FILTER
        for i in (1, 2):
            block = f"MainLayers.{s}.Layers.{i}"
            shapes |= {
                f"{block}.LinearLayer1.Layer.weight": (2 * width, width, 1, 1),
                f"{block}.LinearLayer2.Layer.weight": (2 * width, 16, 3, 3),
                f"{block}.LinearLayer3.Layer.weight": (width, 2 * width, 1, 1),
                f"{block}.NonLinearity1.Bias": (2 * width,),
                f"{block}.NonLinearity2.Bias": (2 * width,),
            }  # fmt: skip
    shapes["AggregationLayer.Layer.weight"] = (3, 16, 1, 1)
    return Holder(shapes, buffers)


def r3gan(w: dict[str, Tensor], z: Tensor, y: Tensor) -> Tensor:
    given = torch.cat([z, F.one_hot(y, 3).float() @ w["EmbeddingLayer.weight"].t()], 1)
    x = given @ w["MainLayers.0.Layers.0.LinearLayer.weight"].t()
    x = x[:, :, None, None] * w["MainLayers.0.Layers.0.Basis"]
    for s in range(3):
        change = f"MainLayers.{s}.Layers.0.LinearLayer.Layer.weight"
        x = F.conv2d(x, w[change]) if change in w else x
        x = resampled(x, 2, (2, 1), 4.0) if s else x
        for i in (1, 2):
            block = f"MainLayers.{s}.Layers.{i}"
            h = F.conv2d(x, w[f"{block}.LinearLayer1.Layer.weight"])
            h = F.leaky_relu(h + w[f"{block}.NonLinearity1.Bias"][:, None, None], 0.2)
            weight = w[f"{block}.LinearLayer2.Layer.weight"]
            h = F.conv2d(h, weight, padding=1, groups=len(weight) // 16)
            h = F.leaky_relu(h + w[f"{block}.NonLinearity2.Bias"][:, None, None], 0.2)
            x = x + F.conv2d(h, w[f"{block}.LinearLayer3.Layer.weight"])
    return F.conv2d(x, w["AggregationLayer.Layer.weight"])


def test_r3gan(place: Path) -> None:
    network = nn.Module()
    network.Model = varied(r3gan_shapes())
    with Path("theirs.pkl").open("wb") as file:
        pickle.dump({"G": nn.Module(), "D": nn.Module(), "G_ema": network, "cur_nimg": 5}, file)
    ours = imported(file="theirs.pkl")
    z, y = torch.randn(2, 6, generator=random()), torch.tensor([2, 0])
    w = {**dict(network.Model.named_parameters()), **dict(network.Model.named_buffers())}
    close(ours(z, y), r3gan(w, z, y))


# ---------------------------------------------------------------- choosing, and errors


def test_info(place: Path, capsys: Any) -> None:
    torch.save(
        {"netD": {"0.weight": torch.zeros(8, 3, 4, 4)}, "netG": tutorial().state_dict()}, "x.pth"
    )
    assert main(["import", "x.pth", "--info"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a torch zip archive\nnetG: DCGAN, a stack of transposed convolutions\n")
    assert "netD: no known format\n  1 tensors, 384 values\n  0.weight [8, 3, 4, 4]" in out
    assert main(["import", "x.pth", "--info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [network["place"] for network in found["networks"]] == ["netG", "netD"]
    assert list(place.iterdir()) == [place / "x.pth"]


def test_which_network(place: Path, capsys: Any) -> None:
    first, second = varied(tutorial()), varied(tutorial(), 0.1)
    torch.save({"netG": first.state_dict(), "netG_ema": second.state_dict()}, "theirs.pth")
    z = torch.randn(1, 20, generator=random())
    close(imported()(z), second(z[:, :, None, None]))  # the average, unless asked for
    close(imported("--network", "netG")(z), first(z[:, :, None, None]))
    assert main(["import", "theirs.pth", "-o", "x.safetensors", "--network", "netX"]) == 1
    assert "at 'netX'. There is: 'netG_ema', 'netG'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 4), nn.Conv2d(8, 1, 4)), "like a discriminator alone"),
        (nn.Linear(3, 4), "no known format. Its tensors begin with weight [4, 3], bias [4]"),
        ({"epoch": 3}, "with no named tensors in it"),
        (print, "Nothing of it was run"),
    ],
)
def test_what_cannot_be_imported(place: Path, capsys: Any, content: Any, text: str) -> None:
    content = content.state_dict() if isinstance(content, nn.Module) else content
    torch.save(content, "theirs.pth")
    assert main(["import", "theirs.pth", "-o", "ours.safetensors"]) == 1
    err = capsys.readouterr().err
    assert text in err
    assert "Traceback" not in err
    assert not Path("ours.safetensors").exists()
    if "no known format" in err:
        assert all(name in err for name in FORMATS)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "give either -o OUT.safetensors, or --info"),
        (["-o", "x.pth"], "-o x.pth: takes the name of a .safetensors file"),
        (["--info", "-o", "x.safetensors"], "give either -o"),
    ],
)
def test_a_wrong_call(place: Path, capsys: Any, words: list[str], text: str) -> None:
    assert main(["import", "theirs.pth", *words]) == 2
    assert text in capsys.readouterr().err


def test_damaged_names(place: Path, capsys: Any) -> None:
    """Tensors of a format's names, in shapes that cannot be."""
    state = rosinality_shapes().state_dict()
    state["convs.3.conv.weight"] = torch.zeros(3)
    torch.save({"g_ema": state}, "theirs.pth")
    assert main(["import", "theirs.pth", "-o", "ours.safetensors"]) == 1
    assert "no known format" in capsys.readouterr().err


# ---------------------------------------------------------------- AdaIN


def padded(inputs: int, outputs: int, *, last: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3)]
    return layers if last else [*layers, nn.ReLU()]


def adain_decoder(w: int = 16) -> nn.Sequential:
    """As naoto0804's net.py has it, narrower."""
    double = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(
        *padded(8 * w, 4 * w), double, *padded(4 * w, 4 * w), *padded(4 * w, 4 * w),
        *padded(4 * w, 4 * w), *padded(4 * w, 2 * w), double, *padded(2 * w, 2 * w),
        *padded(2 * w, w), double, *padded(w, w), *padded(w, 3, last=True),
    )  # fmt: skip


def adain_encoder(w: int = 16) -> nn.Sequential:
    """As far as relu4_4, where vgg_normalised.pth goes on to relu5_4."""
    pool = nn.MaxPool2d(2, 2, 0, ceil_mode=True)
    return nn.Sequential(
        nn.Conv2d(3, 3, 1), *padded(3, w), *padded(w, w), pool, *padded(w, 2 * w),
        *padded(2 * w, 2 * w), pool, *padded(2 * w, 4 * w), *padded(4 * w, 4 * w),
        *padded(4 * w, 4 * w), *padded(4 * w, 4 * w), pool, *padded(4 * w, 8 * w),
        *padded(8 * w, 8 * w),
    )  # fmt: skip


def their_adain(encoder: nn.Sequential, decoder: nn.Module, c: Tensor, s: Tensor) -> Tensor:
    """Of their function.py: calc_mean_std and adaptive_instance_normalization."""
    relu4_1 = encoder[:31]

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.view(*x.shape[:2], -1)
        deviation = (values.var(dim=2) + 1e-5).sqrt().view(*x.shape[:2], 1, 1)
        return values.mean(dim=2).view(*x.shape[:2], 1, 1), deviation

    f, (mean, deviation) = relu4_1(c), statistics(relu4_1(s))
    own_mean, own_deviation = statistics(f)
    return decoder((f - own_mean) / own_deviation * deviation + mean)


@pytest.mark.parametrize("how", ["bare", "module", "in a dictionary"])
def test_adain(place: Path, how: str) -> None:
    encoder, decoder = varied(adain_encoder(), 0.1), varied(adain_decoder(), 0.1)
    assert isinstance(encoder, nn.Sequential)
    state = decoder.state_dict()
    written: Any = {
        "bare": state,
        "module": {f"module.{name}": tensor for name, tensor in state.items()},
        "in a dictionary": {"iter": 3, "decoder": state},
    }[how]
    torch.save(written, "theirs.pth")
    torch.save(encoder.state_dict(), "vgg_normalised.pth")
    network = imported("--encoder", "vgg_normalised.pth")
    c, s = torch.rand(1, 3, 32, 40, generator=random()), torch.rand(1, 3, 48, 16)
    with torch.no_grad():
        close(network(c, s), their_adain(encoder, decoder, c, s))
    card = checkpoint.inspect(Path("ours.safetensors")).card
    assert card.task == "style transfer"
    assert card.architecture["widths"] == [16, 32, 64, 128]
    assert card.architecture["decoder_widths"] == [16, 32, 64]


def test_adain_takes_two_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(adain_decoder().state_dict(), "theirs.pth")
    torch.save(adain_encoder().state_dict(), "vgg.pth")
    torch.save(adain_encoder(8).state_dict(), "other.pth")
    for file, options, text in (
        ("theirs.pth", (), "give that too, with --encoder vgg_normalised.pth"),
        ("theirs.pth", ("--encoder", "theirs.pth"), "no sequence of VGG-19's layers"),
        ("theirs.pth", ("--encoder", "other.pth"), "features of 128 channels, but .* have 64"),
        ("theirs.pth", ("--encoder", "none.pth"), "none.pth: no such file"),
        ("vgg.pth", (), "an encoder: give the decoder's file"),
    ):
        assert main(["import", file, "-o", "ours.safetensors", *options]) == 1
        assert re.search(text, capsys.readouterr().err)
    assert not Path("ours.safetensors").exists()


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


# ---------------------------------------------------------------- pytorch_GAN_zoo


def zoo_shapes() -> Holder:
    """16 px: 12, 12 and 8 channels."""
    shapes: dict[str, tuple[int, ...]] = {
        "formatLayer": (16 * 12, 6),
        "groupScale0.0": (12, 12, 3, 3),
    }
    for i, (inputs, outputs) in enumerate(((12, 12), (12, 8))):
        shapes[f"scaleLayers.{i}.0"] = (outputs, inputs, 3, 3)
        shapes[f"scaleLayers.{i}.1"] = (outputs, outputs, 3, 3)
    for i, inputs in enumerate((12, 12, 8)):
        shapes[f"toRGBLayers.{i}"] = (3, inputs, 1, 1)
    parts = {f"{name}.module.weight": shape for name, shape in shapes.items()}
    return Holder(parts | {f"{n}.module.bias": shape[:1] for n, shape in shapes.items()}, {})


def zoo(w: dict[str, Tensor], z: Tensor) -> Tensor:
    def layer(x: Tensor, name: str) -> Tensor:
        weight, bias = w[f"{name}.module.weight"], w[f"{name}.module.bias"]
        scale = math.sqrt(2 / weight[0].numel())
        if weight.ndim == 2:
            return F.linear(x, weight, bias) * scale
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2) * scale

    x = normalised(F.leaky_relu(layer(normalised(z), "formatLayer"), 0.2).view(len(z), -1, 4, 4))
    x = normalised(F.leaky_relu(layer(x, "groupScale0.0"), 0.2))
    for i in range(2):
        x = F.interpolate(x, scale_factor=2)
        for k in (0, 1):
            x = normalised(F.leaky_relu(layer(x, f"scaleLayers.{i}.{k}"), 0.2))
    return layer(x, "toRGBLayers.2")


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_progressive_gan_of_the_zoo(place: Path, alpha: float, capsys: Any) -> None:
    network = varied(zoo_shapes())
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    config = {"alpha": alpha, "lossMode": "WGANGP", "categoryVectorDim": 0}
    torch.save({"config": config, "netG": zoo_shapes().state_dict(), "avgG": state}, "theirs.pth")
    ours = imported()
    z = torch.randn(2, 6, generator=random())
    close(ours(z), zoo(dict(network.named_parameters()), z))
    assert ("still being faded in" in capsys.readouterr().out) == (alpha > 0)
    for wrong, text in (
        ({"lossMode": "DCGAN"}, "a tanh at its end"), ({"categoryVectorDim": 4}, "classes, which"),
    ):  # fmt: skip
        torch.save({"config": config | wrong, "avgG": state}, "theirs.pth")
        assert main(["import", "theirs.pth", "-o", "ours.safetensors"]) == 1
        assert f"progressive GAN of pytorch_GAN_zoo: {text}" in capsys.readouterr().err


# ---------------------------------------------------------------- lucidrains


def softened(x: Tensor) -> Tensor:
    """The blur [1 2 1], row by row and column by column, of a mirrored border."""
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


def channel_normed(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    variance = x.var(1, unbiased=False, keepdim=True)
    return (x - x.mean(1, keepdim=True)) / (variance + 1e-5).sqrt() * w[f"{name}.g"] + w[
        f"{name}.b"
    ]


def linearly_attended(
    x: Tensor, w: dict[str, Tensor], name: str, q_name: str, kv_name: str
) -> Tensor:
    """Head by head, ``[b 512 h w]``."""
    query = F.conv2d(x, w[f"{name}.{q_name}.weight"])
    around = F.conv2d(x, w[f"{name}.{kv_name}.net.0.weight"], padding=1, groups=x.shape[1])
    key, value = F.conv2d(around, w[f"{name}.{kv_name}.net.1.weight"]).chunk(2, 1)
    heads = []
    for q, k, v in zip(*(t.flatten(2).split(64, 1) for t in (query, key, value)), strict=True):
        context = torch.einsum("bdn,ben->bde", k.softmax(2), v)
        heads.append(torch.einsum("bdn,bde->ben", q.softmax(1) / 8, context))
    return torch.cat(heads, 1).unflatten(2, x.shape[2:])


def attention_shapes(name: str, c: int, near: bool) -> dict[str, tuple[int, ...]]:
    """In lightweight-gan, with ``near``, the linear part has other names."""
    q, kv = ("to_lin_q", "to_lin_kv") if near else ("to_q", "to_kv")
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.{q}.weight": (512, c, 1, 1), f"{name}.{kv}.net.0.weight": (c, 1, 3, 3),
        f"{name}.{kv}.net.1.weight": (1024, c, 1, 1),
        f"{name}.to_out.weight": (c, 1024 if near else 512, 1, 1), f"{name}.to_out.bias": (c,),
    }  # fmt: skip
    if near:
        shapes |= {f"{name}.to_q.weight": (512, c, 1, 1), f"{name}.to_kv.weight": (1024, c, 1, 1)}
    return shapes


def lucid_shapes(constant: bool, attends: bool) -> Holder:
    """16 px: capacity 4, so 24, 16 and 8 channels."""
    shapes: dict[str, tuple[int, ...]] = {"G.initial_conv.weight": (1,)}
    buffers: dict[str, Tensor] = {}
    for i in (0, 2):
        shapes |= {f"SE.net.{i}.weight": (10, 10), f"SE.net.{i}.bias": (10,)}
    first = (
        {"initial_block": (1, 24, 4, 4)}
        if constant
        else {"to_initial_block.weight": (10, 24, 4, 4)}
    )
    shapes |= {f"GE.{name}": shape for name, shape in first.items()}
    shapes |= {"GE.initial_conv.weight": (24, 24, 3, 3), "GE.initial_conv.bias": (24,)}
    for i, (a, b) in enumerate(((24, 24), (24, 16), (16, 8))):
        block = f"GE.blocks.{i}"
        for k, inputs in ((1, a), (2, b)):
            shapes |= {
                f"{block}.to_style{k}.weight": (inputs, 10), f"{block}.to_style{k}.bias": (inputs,),
                f"{block}.to_noise{k}.weight": (b, 1), f"{block}.to_noise{k}.bias": (b,),
                f"{block}.conv{k}.weight": (b, inputs, 3, 3),
            }  # fmt: skip
        shapes |= {
            f"{block}.to_rgb.to_style.weight": (b, 10), f"{block}.to_rgb.to_style.bias": (b,),
            f"{block}.to_rgb.conv.weight": (3, b, 1, 1),
        }  # fmt: skip
        if i < 2:
            buffers[f"{block}.to_rgb.upsample.1.f"] = torch.tensor([1.0, 2.0, 1.0])
    if attends:
        for k in (0, 1):
            shapes |= {f"GE.attns.1.{k}.fn.norm.{part}": (1, 24, 1, 1) for part in "gb"}
        shapes |= attention_shapes("GE.attns.1.0.fn.fn", 24, False)
        for k, (a, b) in ((0, (24, 48)), (2, (48, 24))):
            name = f"GE.attns.1.1.fn.fn.{k}"
            shapes |= {f"{name}.weight": (b, a, 1, 1), f"{name}.bias": (b,)}
    return Holder(shapes, buffers)


def lucid(w: dict[str, Tensor], z: Tensor, noise: Tensor, lr: float) -> Tensor:
    def layer(x: Tensor, name: str) -> Tensor:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    v = F.normalize(z, dim=1)
    for i in (0, 2):
        v = F.leaky_relu(F.linear(v, w[f"SE.net.{i}.weight"] * lr, w[f"SE.net.{i}.bias"] * lr), 0.2)
    if "GE.initial_block" in w:
        x = w["GE.initial_block"].expand(len(z), -1, -1, -1)
    else:
        x = F.conv_transpose2d(v[:, :, None, None], w["GE.to_initial_block.weight"])
    x, image = layer(x, "GE.initial_conv"), None
    for i in range(3):
        block = f"GE.blocks.{i}"
        if f"GE.attns.{i}.0.fn.norm.g" in w:
            name = f"GE.attns.{i}"
            seen = channel_normed(x, w, f"{name}.0.fn.norm")
            found = linearly_attended(seen, w, f"{name}.0.fn.fn", "to_q", "to_kv")
            x = x + layer(F.gelu(found), f"{name}.0.fn.fn.to_out")
            h = layer(channel_normed(x, w, f"{name}.1.fn.norm"), f"{name}.1.fn.fn.0")
            x = x + layer(F.leaky_relu(h, 0.2), f"{name}.1.fn.fn.2")
        x = up(x) if i else x
        n = noise[: x.shape[2], : x.shape[3], None]
        for k in (1, 2):
            style = layer(v, f"{block}.to_style{k}") + 1
            x = modulated(x, w[f"{block}.conv{k}.weight"], style, False, True)
            x = F.leaky_relu(x + layer(n, f"{block}.to_noise{k}").permute(2, 1, 0), 0.2)
        style = layer(v, f"{block}.to_rgb.to_style") + 1
        own = modulated(x, w[f"{block}.to_rgb.conv.weight"], style, False, False)
        image = own if image is None else image + own
        image = softened(up(image)) if i < 2 else image
    assert image is not None
    return image


@pytest.mark.parametrize(("constant", "attends", "lr"), [(True, False, 0.1), (False, True, 0.6)])
def test_stylegan2_of_lucidrains(
    place: Path, constant: bool, attends: bool, lr: float, capsys: Any
) -> None:
    network = varied(lucid_shapes(constant, attends))
    torch.save({"GAN": network.state_dict(), "version": "1.8.9"}, "model_12.pt")
    if lr != 0.1:
        Path(".config.json").write_text(json.dumps({"image_size": 16, "lr_mlp": lr}))
    ours = imported(file="model_12.pt")
    assert ("lr_mlp is taken to be 0.1" in capsys.readouterr().out) == (lr == 0.1)
    z = torch.randn(2, 10, generator=random())
    # Its images are in 0..1.
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close((ours(z) + 1) / 2, lucid(w, z, ours.synthesis.noise, lr))
    many = ours.mapping(torch.randn(20_000, 10, generator=random(9))).mean(0)
    torch.testing.assert_close(ours.w_avg, many.detach(), rtol=0.2, atol=0.02)


def test_settings_that_cannot_be_read(place: Path, capsys: Any) -> None:
    torch.save({"GAN": lucid_shapes(True, False).state_dict()}, "model_12.pt")
    Path(".config.json").write_text("{")
    assert main(["import", "model_12.pt", "-o", "ours.safetensors"]) == 1
    assert "the settings of model_12.pt cannot be read" in capsys.readouterr().err


def light_shapes(attends: bool, frequencies: bool) -> Holder:
    """128 px: 24 channels, those of 64 px 16 and of 128 px 8."""
    shapes: dict[str, tuple[int, ...]] = {
        "GE.initial_conv.0.weight": (6, 12, 4, 4), "GE.initial_conv.0.bias": (12,),
        "GE.out_conv.weight": (1, 8, 3, 3), "GE.out_conv.bias": (1,), "D.x.weight": (1,),
    }  # fmt: skip
    norms, buffers = {"GE.initial_conv.1": 12}, {}
    widths = [6, 24, 24, 24, 16, 8]
    for i, (a, b) in enumerate(pairwise(widths)):
        name = f"GE.layers.{i}"
        shapes |= {
            f"{name}.0.0.net.0.weight": (4 * a, a, 1, 1), f"{name}.0.0.net.0.bias": (4 * a,),
            f"{name}.0.2.1.weight": (2 * b, a, 4, 4), f"{name}.0.2.1.bias": (2 * b,),
            f"{name}.0.3.weight": (1,),
        }  # fmt: skip
        buffers[f"{name}.0.1.f"] = torch.tensor([1.0, 2.0, 1.0])
        norms[f"{name}.0.4"] = 2 * b
    if frequencies:
        buffers["GE.layers.1.1.dct_weights"] = cosine_transform(24, 16)[None]
    else:
        shapes |= {"GE.layers.1.1.to_k.weight": (1, 24, 1, 1), "GE.layers.1.1.to_k.bias": (1,)}
    hidden = 3 if frequencies else 4
    shapes |= {
        "GE.layers.1.1.net.0.weight": (hidden, 24, 1, 1), "GE.layers.1.1.net.0.bias": (hidden,),
        "GE.layers.1.1.net.2.weight": (8, hidden, 1, 1), "GE.layers.1.1.net.2.bias": (8,),
    }  # fmt: skip
    if attends:
        shapes |= {f"GE.layers.2.2.norm.{part}": (1, 24, 1, 1) for part in "gb"}
        shapes |= attention_shapes("GE.layers.2.2.fn", 24, True)
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        buffers |= {
            f"{name}.running_mean": torch.zeros(width), f"{name}.running_var": torch.ones(width),
            f"{name}.num_batches_tracked": torch.tensor(3),
        }  # fmt: skip
    return Holder(shapes, buffers)


def cosine_transform(channels: int, side: int) -> Tensor:
    """One function of scipy's orthonormal transform a channel: along the rows, then the columns."""
    places = [(0, k) for k in range(8)] + [(k, 0) for k in range(8)]
    found = torch.zeros(channels, side, side)
    for i, (u, v) in enumerate(places):
        one = np.zeros((side, side))
        one[u, v] = 1.0
        for channel in range(i * (channels // 16), (i + 1) * (channels // 16)):
            found[channel] = torch.from_numpy(fft.idctn(one, norm="ortho"))
    return found


def light(w: dict[str, Tensor], z: Tensor, noises: list[Tensor]) -> Tensor:
    def layer(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=padding)

    def normed(x: Tensor, name: str) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"])

    def gated(x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a * b.sigmoid()

    name = "GE.initial_conv.0"
    x = F.conv_transpose2d(z[:, :, None, None], w[f"{name}.weight"], w[f"{name}.bias"])
    x = gated(normed(x, "GE.initial_conv.1"))
    x = x / x.square().sum(1, keepdim=True).sqrt()
    factor = None
    for i, noise in enumerate(noises):
        name = f"GE.layers.{i}"
        if f"{name}.2.norm.g" in w:
            seen = channel_normed(x, w, f"{name}.2.norm")
            found = F.gelu(linearly_attended(seen, w, f"{name}.2.fn", "to_lin_q", "to_lin_kv"))
            query = layer(seen, f"{name}.2.fn.to_q") / 8
            near = torch.zeros_like(query)
            b, _, h, width = near.shape
            key, value = (
                F.pad(t, (1, 1, 1, 1)) for t in layer(seen, f"{name}.2.fn.to_kv").chunk(2, 1)
            )
            for r in range(h):  # position by position, head by head
                for c in range(width):
                    k, v = (
                        t[:, :, r : r + 3, c : c + 3].reshape(b, 8, 64, 9) for t in (key, value)
                    )
                    q = query[:, :, r, c].view(b, 8, 64, 1)
                    weights = (q * k).sum(2, keepdim=True).softmax(3)
                    near[:, :, r, c] = (weights * v).sum(3).flatten(1)
            x = x + layer(torch.cat([found, near], 1), f"{name}.2.fn.to_out")
        x = softened(F.pixel_shuffle(F.silu(layer(x, f"{name}.0.0.net.0")), 2))
        x = layer(F.pad(x, (2, 1, 2, 1)), f"{name}.0.2.1") + w[f"{name}.0.3.weight"] * noise
        x = gated(normed(x, f"{name}.0.4"))
        if i == 1:
            if f"{name}.1.dct_weights" in w:
                seen = torch.einsum("bchw,chw->bc", x, w[f"{name}.1.dct_weights"][0])[..., None]
                seen = seen[..., None]
            else:
                context = layer(x, f"{name}.1.to_k").flatten(2).softmax(2)
                seen = torch.einsum("bin,bcn->bci", context, x.flatten(2))[..., None]
            h = F.leaky_relu(layer(seen, f"{name}.1.net.0"), 0.1)
            factor = layer(h, f"{name}.1.net.2").sigmoid()
        elif i == 4:
            assert factor is not None
            x = x * factor
    return layer(x, "GE.out_conv", 1)


@pytest.mark.parametrize(("attends", "frequencies"), [(False, False), (True, False), (False, True)])
def test_lightweight_gan(place: Path, attends: bool, frequencies: bool, capsys: Any) -> None:
    network = varied(light_shapes(attends, frequencies))
    torch.save({"GAN": network.state_dict(), "version": "1.1", "G_scaler": {}}, "model_3.pt")
    ours = imported(file="model_3.pt")
    z = torch.randn(2, 6, generator=random())
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        found, wanted = ours(z), light(w, z, [b.noise for b in ours.blocks.values()])
    assert found.shape == (2, 1, 128, 128)
    close((found + 1) / 2, wanted)
    if frequencies:
        state = network.state_dict()
        state["GE.layers.1.1.dct_weights"][0, 3] *= 2
        torch.save({"GAN": state, "version": "1.1", "G_scaler": {}}, "model_3.pt")
        assert main(["import", "model_3.pt", "-o", "ours.safetensors"]) == 1
        assert "other frequencies than the usual ones" in capsys.readouterr().err
