"""Files of other programs: choosing among what is in them, errors, and the DCGAN family. Of each
format a network in small, with random weights, against its own arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main
from imagen_nodes.importers.formats import FORMATS

from .importing import (
    close,
    imported,
    random,
    varied,
)


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
