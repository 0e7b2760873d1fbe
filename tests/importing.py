"""What tests of importers share: networks of random weights in other programs' names, files of
them, and operations that several formats have."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main

# Of constants, which are no weights.
FIXED = re.compile("filt|[Kk]ernel|dct")
FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0])
FILTER = FILTER[:, None] * FILTER / 64


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(network: nn.Module, size: float = 0.3) -> nn.Module:
    """Every tensor random, variances positive."""
    generator = random(7)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not FIXED.search(name):
            value = torch.randn(tensor.shape, generator=generator) * size
            tensor.copy_(value.abs() + 0.5 if "var" in name else value)
    return network.eval()


def imported(*options: str, file: str = "theirs.pth") -> nn.Module:
    assert main(["import", file, "-o", "ours.safetensors", *options]) == 0
    return checkpoint.load(Path("ours.safetensors")).network


def close(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.detach().abs().max())
    assert scale > 0.01
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-4 * scale)


def normalised(x: Tensor) -> Tensor:
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


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


def persistent(network: nn.Module, **arguments: Any) -> Persistent:
    """``network`` with its parts as such objects."""
    state = dict(network.__dict__)
    state["_modules"] = {name: persistent(m) for name, m in network._modules.items()}
    return Persistent("Generator", state | {"_init_kwargs": arguments})


class EasyDict(dict[str, Any]):
    """In which NVIDIA's code keeps arguments."""
