"""Networks of other programs: what spandrel knows is loaded, nothing that a file brings is run."""

import argparse
import io
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from imagen_nodes import checkpoint, foreign, super_resolution
from imagen_nodes.errors import CheckpointError
from imagen_nodes.folders import shipped
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.tiles import Sizes

MODELS = Path(__file__).parent / "data" / "golden" / "models" / "upscale_models"


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def dncnn():
    from spandrel.architectures.DnCNN import DnCNN

    return DnCNN(in_nc=1, out_nc=1, nc=8, nb=9, act_mode="R")


def span():
    from spandrel.architectures.SPAN import SPAN

    return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)


def swinir():
    from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(
        img_size=16, window_size=8, embed_dim=12, depths=[1], num_heads=[2], mlp_ratio=2.0,
        upsampler="pixelshuffledirect", upscale=2,
    )  # fmt: skip


@pytest.mark.parametrize(("build", "name", "task", "scale", "channels"), [
    (dncnn, "DnCNN", "restoration", 1, 1),
    (span, "SPAN", "super-resolution", 2, 3),
    (swinir, "SwinIR", "super-resolution", 2, 3),
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # spandrel's SwinIR
def test_known_formats(build, name, task, scale, channels, suffix, tmp_path):
    torch.manual_seed(0)
    network = build().eval()
    path = tmp_path / f"mine{suffix}"
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"params": state}, path)
    model = foreign.open_model(path)
    assert (model.name, model.card.title, model.card.task) == (path.name, "mine", task)
    assert model.architecture.name == name
    described = model.architecture.pictures
    assert (described.scale, described.channels, described.outputs) == (scale, channels, channels)
    # Of SwinIR, too, which spandrel advises to run whole: 2,048 px of it would take 64 GiB.
    assert described.tile == 512
    assert not model.network.training
    x = noise(1, channels, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), network(x).clamp(0, 1))


def test_size_requirements_come_along():
    model = foreign.open_model(MODELS / "tiny_esrgan_x2.safetensors")
    assert model.architecture.pictures.sizes == Sizes(minimum=2)


def test_inpainting_networks_take_a_mask(monkeypatch):
    from spandrel.architectures.LaMa import LaMa

    torch.manual_seed(0)
    with torch.device("meta"):
        network = LaMa(in_nc=4, out_nc=3)
    state = {
        key: torch.zeros_like(value, device="cpu") for key, value in network.state_dict().items()
    }
    monkeypatch.setattr(foreign, "tensors", lambda path: state)
    model = foreign.open_model(Path("big-lama.pth"))
    described = model.architecture.pictures
    assert (model.card.task, described.masked, described.channels) == ("inpainting", True, 3)
    assert described.sizes == Sizes(multiple=8, minimum=16)
    with torch.inference_mode():
        filled = model.network(torch.cat((noise(1, 3, 16, 16), noise(1, 1, 16, 16)), 1))
    assert filled.shape == (1, 3, 16, 16)


def test_networks_with_an_order_of_their_own_run(monkeypatch):
    """GFPGAN views its maps, and has weights of five axes: neither goes in channels_last. It takes
    and gives -1..1."""
    from spandrel.architectures.GFPGAN import GFPGAN

    with torch.device("meta"):
        network = GFPGAN(
            out_size=512, num_style_feat=512, channel_multiplier=2, decoder_load_path=None,
            fix_decoder=False, num_mlp=8, input_is_latent=True, different_w=True, narrow=1,
            sft_half=True,
        )  # fmt: skip
    state = {
        key: torch.zeros_like(value, device="cpu") for key, value in network.state_dict().items()
    }
    state["stylegan_decoder.to_rgbs.6.bias"] += 0.5
    monkeypatch.setattr(foreign, "tensors", lambda path: state)
    model = foreign.open_model(Path("GFPGANv1.4.pth"))
    assert model.card.task == "face restoration"
    image, seen = noise(1, 8, 12, 3), []
    model.network.model.register_forward_pre_hook(lambda module, x: seen.append(x[0]))
    result = super_resolution.restore(LocalHost(device="cpu"), model, image)
    torch.testing.assert_close(result, torch.full_like(image, 0.75), atol=1e-3, rtol=0)
    assert len(seen) == 1
    assert seen[0].shape == (1, 3, 512, 512)
    torch.testing.assert_close(seen[0][:, :, :8, :12], image.movedim(3, 1) * 2 - 1)
    # Of one size alone: a larger picture is brought to it, and its result back.
    large = noise(1, 640, 600, 3)
    result = super_resolution.restore(LocalHost(device="cpu"), model, large)
    torch.testing.assert_close(result, torch.full_like(large, 0.75), atol=1e-3, rtol=0)
    assert seen[1].shape == (1, 3, 512, 512)


def traced(network, path):
    """A TorchScript archive of a network within another module, as LaMa is published."""

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network

        def forward(self, x):
            return self.model(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(Wrapped().eval(), torch.zeros(1, 1, 16, 16))
        torch.jit.save(program, str(path))


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_of_a_program_the_tensors_are_taken(suffix, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, path = dncnn().eval(), tmp_path / f"x{suffix}"
    traced(network, path)
    for name in ("jit.load", "load"):  # neither runs a program, nor tries to
        monkeypatch.setattr(f"torch.{name}", None)
    found = foreign.tensors(path)
    wanted = {f"model.{name}": value for name, value in network.state_dict().items()}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_ours_are_loaded_by_their_card():
    model = foreign.open_model(shipped("weights") / "dcgan-cifar10.safetensors")
    assert model.card.task == "generate"
    assert model.architecture.pictures is None


# ---------------------------------------------------------------- what is refused


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.mkdir, (self.target,)


def program(path):
    """A TorchScript archive, which is code."""

    class Twice(torch.nn.Module):
        def forward(self, x):
            return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Twice()), str(path))


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())


def compressed(path):
    """An archive of torch's whose zeros take next to no room."""
    file = io.BytesIO()
    torch.save({"params": dncnn().state_dict(), "x": torch.zeros(10**6)}, file)
    with zipfile.ZipFile(file) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            made.writestr(name, given.read(name))


HOSTILE = {
    "a pickle": lambda path, bomb: path.write_bytes(pickle.dumps(bomb)),
    "a pickle in torch's zip": lambda path, bomb: torch.save({"params": bomb}, path),
    "a pickle in torch's old stream": lambda path, bomb: torch.save(
        {"params": bomb}, path, _use_new_zipfile_serialization=False
    ),
    "beside good tensors": lambda path, bomb: torch.save(
        {"params": dncnn().state_dict(), "x": bomb}, path
    ),
    "a program": lambda path, bomb: program(path),
    "a tar": lambda path, bomb: tar(path),
    "compressed": lambda path, bomb: compressed(path),
    "settings of a training": lambda path, bomb: torch.save(argparse.Namespace(a=1), path),
    "nothing": lambda path, bomb: path.write_bytes(b""),
    "text": lambda path, bomb: path.write_text("<!DOCTYPE html>" * 99),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".PTH"])
@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_in_a_file_is_run(what, suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    HOSTILE[what](path, Bomb(tmp_path / "ran"))
    with pytest.raises(CheckpointError) as info:
        foreign.open_model(path)
    assert str(info.value).startswith(f"{path}: cannot be read as tensors alone, and nothing else")
    assert "Get the plain weights" in str(info.value)
    assert not (tmp_path / "ran").exists()


def test_the_bomb_is_one(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(("name", "content", "message"), [
    ("x.pth", {"some.weight": torch.zeros(2)}, "of no network that spandrel knows"),
    ("x.safetensors", {"some.weight": torch.zeros(2)}, "without an Imagen card"),
    ("x.pth", torch.zeros(3), "expected a dictionary of tensors"),
    ("x.pth", {"body.0.weight": torch.zeros(2), "body.1.weight": torch.zeros(2)},
     "do not make up the network that they look like"),
    ("x.pkl", {}, "a pickle, which can run code"),
    ("none.pth", None, "no such file"),
    ("none.safetensors", None, "no such file"),
])  # fmt: skip
def test_what_is_no_network_of_pictures(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        foreign.open_model(path)


def test_they_are_neither_built_nor_trained_from_their_description():
    model = foreign.open_model(MODELS / "tiny_compact_x4.safetensors")
    with pytest.raises(CheckpointError, match="a RealESRGAN Compact is built from its own file"):
        model.architecture.build()
    with pytest.raises(CheckpointError, match="not trained here"):
        model.network.initialise(torch.Generator())
    with pytest.raises(CheckpointError, match="without an Imagen card"):
        checkpoint.load(MODELS / "tiny_compact_x4.safetensors")
