"""Checkpoints: what goes in comes out, and everything else is refused with a reason."""

from __future__ import annotations

import errno
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imagen_nodes import cards, checkpoint
from imagen_nodes.checkpoint import CARD_KEY, Card, Measurement, Training
from imagen_nodes.errors import CheckpointError, StorageError
from imagen_nodes.networks import ARCHITECTURES
from imagen_nodes.networks.architecture import Architecture
from imagen_nodes.networks.biggan import BigGANDiscriminator, BigGANGenerator
from imagen_nodes.networks.biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator
from imagen_nodes.networks.compact import Compact
from imagen_nodes.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from imagen_nodes.networks.gated import GatedInpainting
from imagen_nodes.networks.lightweight import LightweightGenerator
from imagen_nodes.networks.lucid_stylegan2 import LucidStyleGAN2Generator
from imagen_nodes.networks.patch import PatchDiscriminator
from imagen_nodes.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from imagen_nodes.networks.resnet_generator import ResNetGenerator
from imagen_nodes.networks.sngan import SNGANDiscriminator, SNGANGenerator
from imagen_nodes.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator
from imagen_nodes.networks.stylegan3 import StyleGAN3Generator
from imagen_nodes.networks.unet_discriminator import UNetDiscriminator
from imagen_nodes.networks.unet_generator import UNetGenerator

SMALL = DCGANGenerator(resolution=16, width=8, z_dim=8)
# What makes an architecture small, and gives it all of its parts; none: it is as it is.
PARTS = {"resolution": 16, "width": 8, "attention": (4,), "classes": 3}
RESIDUAL = {"width": 8, "width_max": 16, "attention": (16,), "classes": 3, "spectral_norm": True}
BIGGAN = {"width": 8, "attention": (16,), "classes": 3}
STYLEGAN2 = {"resolution": 16, "width_base": 1024, "width_max": 8, "classes": 3}
FIELDS = {
    DCGANGenerator: PARTS,
    DCGANDiscriminator: PARTS,
    SNGANGenerator: RESIDUAL,
    SNGANDiscriminator: RESIDUAL,
    Compact: {"width": 8, "depth": 2, "scale": 2},
    PatchDiscriminator: {"width": 8, "scales": 2, "norm": "spectral"},
    UNetDiscriminator: {"width": 8},
    R3GANGenerator: {"widths": (32, 16, 16, 16), "classes": 3},
    BigGANGenerator: BIGGAN,
    BigGANDiscriminator: BIGGAN,
    BigGANDeepGenerator: BIGGAN,
    BigGANDeepDiscriminator: BIGGAN,
    StyleGAN2Generator: STYLEGAN2,
    StyleGAN2Discriminator: STYLEGAN2,
    StyleGAN3Generator: STYLEGAN2,
    GatedInpainting: {"width": 8},
    UNetGenerator: {"width": 8},
    ResNetGenerator: {"width": 8},
    R3GANDiscriminator: {"widths": (32, 16, 16, 16), "classes": 3, "class_dim": 8},
    LucidStyleGAN2Generator: {"resolution": 16, "z_dim": 8, "width": 4, "attention": (8,)},
    LightweightGenerator: {"resolution": 128, "z_dim": 8, "width_max": 16, "attention": (16,)},
}


def card(**fields: Any) -> Card:
    return Card.model_validate(
        {"title": "Small", "architecture": SMALL.model_dump(mode="json"), "task": "generate"}
        | fields
    )


def network() -> nn.Module:
    built = SMALL.build()
    built.initialise(torch.Generator().manual_seed(0))
    return built


@pytest.fixture
def good(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "good.safetensors", card(), network())
    return tmp_path / "good.safetensors"


def header_and_rest(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Put the file back together with its header changed."""
    header, rest = header_and_rest(path)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def recard(path: Path, **fields: Any) -> None:
    """Change fields of the card."""

    def change(header: dict[str, Any]) -> None:
        metadata = header["__metadata__"]
        metadata[CARD_KEY] = json.dumps(json.loads(metadata[CARD_KEY]) | fields)

    rewrite(path, change)


# ---------------------------------------------------------------- round trip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(architecture: type[Architecture], tmp_path: Path) -> None:
    described = architecture.model_validate(FIELDS.get(architecture, {}))
    built = described.build()
    built.initialise(torch.Generator().manual_seed(0))
    # As it leaves the trainer: strides are no part of the file.
    built.to(memory_format=torch.channels_last)
    saved = card(architecture=described.model_dump(mode="json"), class_names=("a", "b", "c"))
    checkpoint.save(tmp_path / "x.safetensors", saved, built)
    model = checkpoint.load(tmp_path / "x.safetensors")
    assert model.card == saved
    assert model.architecture == described
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    weights = model.network.state_dict()
    assert weights.keys() == built.state_dict().keys()
    for name, value in built.state_dict().items():
        assert torch.equal(weights[name], value), name


def test_half_precision_in_the_file_is_float32_in_the_network(tmp_path: Path) -> None:
    built, paths = SMALL.build(), [tmp_path / f"{name}.safetensors" for name in ("whole", "half")]
    built.initialise(torch.Generator().manual_seed(0))
    for half, path in enumerate(paths):
        checkpoint.save(path, card(), built, half=bool(half))
    assert paths[1].stat().st_size < 0.6 * paths[0].stat().st_size
    size = paths[1].stat().st_size
    checkpoint.recard(paths[1], card(title="Better"))
    assert checkpoint.inspect(paths[1]).card.title == "Better"
    assert abs(paths[1].stat().st_size - size) < 64
    found = checkpoint.load(paths[1]).network.state_dict()
    for name, value in built.state_dict().items():
        wanted = value.half().float() if value.dtype == torch.float32 else value
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], wanted), name


def test_the_whole_card_comes_back(tmp_path: Path) -> None:
    training = Training(
        recipe={"name": "x", "batch": 64, "optimiser": {"lr": 2e-4}},
        data="set.zip",
        images=50_000,
        nimg=1_000_000,
        losses={"generator": 1.5},
        selection="lowest FD",
    )
    quality = (Measurement(metric="FD", value=12.5, samples=5000, reference="test set"),)
    full = card(
        description="Two words.",
        class_names=("a", "ü"),
        training=training,
        quality=quality,
        licence="Apache-2.0",
        thumbnail="data:image/png;base64,AAAA",
        created="2026-01-02",
    )
    checkpoint.save(tmp_path / "x.safetensors", full, network())
    assert checkpoint.inspect(tmp_path / "x.safetensors").card == full
    metadata = header_and_rest(tmp_path / "x.safetensors")[0]["__metadata__"]
    assert metadata["modelspec.architecture"] == "imagen-nodes/dcgan-generator"
    assert metadata["modelspec.resolution"] == "16x16"
    assert metadata["modelspec.thumbnail"] == full.thumbnail
    assert metadata["modelspec.license"] == "Apache-2.0"
    assert metadata["modelspec.date"] == "2026-01-02"
    assert all(isinstance(value, str) for value in metadata.values())


def test_inspect_lists_tensors(good: Path) -> None:
    header = checkpoint.inspect(good)
    expected = network().state_dict()
    assert {n: info.shape for n, info in header.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }
    assert header.tensors["main.0.weight"].dtype == "F32"
    assert header.tensors["main.1.num_batches_tracked"].dtype == "I64"
    assert header.parameters == sum(tensor.numel() for tensor in expected.values())


def test_inspect_reads_the_header_alone_without_torch(good: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from imagen_nodes.checkpoint import inspect;"
        f"print(inspect(Path({str(good)!r})).card.title, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout == "Small False\n"


def test_kinds_are_a_file_format() -> None:
    assert [a.model_fields["kind"].default for a in ARCHITECTURES] == [
        "dcgan-generator",
        "dcgan-discriminator",
        "mobilenet-v2-features",
        "sngan-generator",
        "sngan-discriminator",
        "compact",
        "patch-discriminator",
        "unet-discriminator",
        "progan-generator",
        "progan-discriminator",
        "r3gan-generator",
        "r3gan-discriminator",
        "multi-scale-discriminator",
        "lpips-squeeze",
        "biggan-generator",
        "biggan-discriminator",
        "biggan-deep-generator",
        "biggan-deep-discriminator",
        "stylegan2-generator",
        "stylegan2-discriminator",
        "convolution-stack-generator",
        "gated-inpainting",
        "residual-unet",
        "adain",
        "residual-adain",
        "vgg-features",
        "unet-generator",
        "resnet-generator",
        "animegan-generator",
        "patch-heads",
        "stylegan3-generator",
        "lucid-stylegan2-generator",
        "lightweight-generator",
    ]


def test_a_failed_save_keeps_the_old_file(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = good.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"good\.safetensors: cannot be written: No space left"):
        checkpoint.save(good, card(title="other"), network())
    assert good.read_bytes() == before
    assert list(good.parent.iterdir()) == [good]


# ---------------------------------------------------------------- files that cannot be used


def refused(path: Path) -> str:
    """The message; loading and inspecting must agree on everything that the header says."""
    with pytest.raises(CheckpointError) as info:
        checkpoint.load(path)
    message = str(info.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_missing(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.safetensors") == "no such file"


def test_no_permission(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    assert refused(good) == "cannot be read: Permission denied"


def test_a_cards_words_stay_in_their_line(good: Path, tmp_path: Path) -> None:
    model = checkpoint.load(good)
    title = "a | b\n\n# heading \x1b[31m"
    card = model.card.model_copy(update={"title": title})
    checkpoint.save(tmp_path / "x" / "odd.safetensors", card, model.network)
    page = cards.overview(tmp_path / "x")
    assert "| title | a \\| b  # heading  [31m |\n" in page
    shown = cards.describe(checkpoint.inspect(tmp_path / "x" / "odd.safetensors"))
    assert "\x1b" not in shown + page


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    assert refused(tmp_path / "x.safetensors") == "no such file"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".ckpt", ".bin", ".PTH"])
def test_a_pickle_is_not_opened(tmp_path: Path, suffix: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path / "ran").mkdir, ()

    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps(Bomb()))
    message = refused(path)
    assert "a pickle" in message
    assert "Use a .safetensors file" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 500, -20_000, -1])
def test_truncated(good: Path, kept: int) -> None:
    content = good.read_bytes()
    good.write_bytes(content[:kept])
    assert refused(good).startswith("truncated: ")


def test_too_long(good: Path) -> None:
    good.write_bytes(good.read_bytes() + b"more")
    assert "its size is not that of the tensors" in refused(good)


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + b"x" * 1000,
        b"Some text that is longer than eight characters",
        struct.pack("<Q", 4) + b"{{{{" + b"x" * 100,
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc" + b"x" * 100,
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 2**63) + b"{}",
    ],
)
def test_not_safetensors(good: Path, content: bytes) -> None:
    good.write_bytes(content)
    message = refused(good)
    assert "not a safetensors file" in message or "not a valid safetensors file" in message


@pytest.mark.parametrize("length", [100_000_001, 10**12, 2**64 - 1])
def test_an_absurd_header_length(good: Path, length: int) -> None:
    good.write_bytes(struct.pack("<Q", length) + good.read_bytes()[8:])
    assert refused(good) == f"not a safetensors file (its header would be {length} bytes long)"


def test_absurd_tensors(good: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["main.0.weight"]["shape"] = [2**62, 2**62]

    rewrite(good, change)
    assert "overflow" in refused(good)


def test_no_card(good: Path) -> None:
    rewrite(good, lambda header: header["__metadata__"].pop(CARD_KEY))
    assert "without an Imagen card" in refused(good)
    rewrite(good, lambda header: header.pop("__metadata__"))
    assert "without an Imagen card" in refused(good)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', "[" * 50_000])
def test_a_card_that_is_none(good: Path, text: str) -> None:
    rewrite(good, lambda header: header["__metadata__"].update({CARD_KEY: text}))
    assert refused(good).startswith("its card is not valid:\n")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"title": 3}, "title: Input should be a valid string"),
        ({"extra": 3}, "extra: Extra inputs are not permitted"),
        ({"architecture": {}}, "an architecture needs its kind"),
        ({"created": "yesterday"}, "created: String should match"),
    ],
)
def test_a_wrong_card_names_the_field(good: Path, fields: dict[str, Any], words: str) -> None:
    recard(good, **fields)
    assert words in refused(good)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "vqgan-generator"}, "'vqgan-generator'"),
        ({"resolution": 1 << 40}, "must be one of 8, 16, 32, 64, 128, 256"),
        ({"width": 10**9}, "width: Input should be less than or equal to 512"),
        ({"z_dim": 10**12}, "z_dim: Input should be less than or equal to 4096"),
        ({"classes": 10**15}, "classes: Input should be less than or equal to 100000"),
        ({"z_dim": "os.system"}, "z_dim: Input should be a valid integer"),
        ({"import": "os"}, "import: Extra inputs are not permitted"),
    ],
)
def test_an_absurd_architecture(good: Path, fields: dict[str, Any], words: str) -> None:
    recard(good, architecture=SMALL.model_dump(mode="json") | fields)
    message = refused(good)
    assert message.startswith("its card names an architecture that cannot be built:\n")
    assert words in message


def test_the_largest_architecture_is_compared_without_being_built(good: Path) -> None:
    """Every field at its limit would be gigabytes of weights; nothing is allocated for them."""
    largest = DCGANGenerator(
        resolution=256,
        width=512,
        width_max=2048,
        z_dim=4096,
        classes=100_000,
        class_dim=1024,
        attention=(4, 8, 16, 32, 64, 128),
    )
    recard(good, architecture=largest.model_dump(mode="json"))
    assert "do not fit the dcgan-generator" in refused(good)


def test_tensors_of_another_shape(good: Path) -> None:
    wider = SMALL.model_copy(update={"z_dim": 9})
    recard(good, architecture=wider.model_dump(mode="json"))
    assert refused(good) == (
        "1 of its tensors do not fit the dcgan-generator that its card describes:\n"
        "main.0.weight: is F32 [8 16 4 4], expected F32 [9 16 4 4]"
    )


def test_missing_and_unknown_tensors(good: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["other.weight"] = header.pop("main.0.weight")

    rewrite(good, change)
    message = refused(good)
    assert message.startswith("2 of its tensors do not fit")
    assert "missing: main.0.weight F32 [8 16 4 4]" in message
    assert "unknown: other.weight" in message


def test_a_wrong_dtype(good: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["main.1.weight"]["dtype"] = "I32"

    rewrite(good, change)
    assert "main.1.weight: is I32 [16], expected F32 [16]" in refused(good)


def test_many_misfits_are_counted(good: Path) -> None:
    discriminator = DCGANDiscriminator(resolution=16, width=8)
    recard(good, architecture=discriminator.model_dump(mode="json"))
    message = refused(good)
    assert message.count("\n") == 9
    assert message.endswith(" more")


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"x\.safetensors: cannot be written: No space left"):
        checkpoint.save(tmp_path / "x.safetensors", card(), network())
    assert list(tmp_path.iterdir()) == []
