"""AdaIN files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main

from .importing import (
    close,
    imported,
    random,
    varied,
)


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
        ("vgg.pth", (), r"^error: vgg\.pth: an encoder of AdaIN: give the decoder's"),
    ):
        assert main(["import", file, "-o", "ours.safetensors", *options]) == 1
        assert re.search(text, capsys.readouterr().err)
    assert not Path("ours.safetensors").exists()
    assert main(["import", "theirs.pth", "--info", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["networks"]
    assert found["format"] == "AdaIN of pytorch-AdaIN"
    assert "give that too, with --encoder" in found["needs"]
    assert main(["import", "theirs.pth", "--info"]) == 0
    assert "give that too, with --encoder" in capsys.readouterr().out
