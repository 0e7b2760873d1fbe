"""Upscaling as ComfyUI does it, beyond what its golden vectors show: several tiles, batches,
errors."""

from pathlib import Path

import pytest
import torch

from imagen_nodes.errors import Cancelled, CheckpointError, DataError, RunError, WorkflowError
from imagen_nodes.foreign import describe
from imagen_nodes.graph.builtin import BUILTIN, tiled
from imagen_nodes.graph.node import registry
from imagen_nodes.runner import Runner

MODELS = Path(__file__).parent / "data" / "golden" / "models"
NODE = registry(BUILTIN)["ImageUpscaleWithModel"]


class Host:
    """As much of a host as the node asks for."""

    device = torch.device("cpu")

    def __init__(self):
        self.steps = []

    def progress(self, done, total):
        self.steps.append((done, total))


class Brightness:
    """Stands for a network: repeats pixels, and adds what depends on the tile's own size."""

    scale, input_channels = 2, 3

    def to(self, device):
        self.device = device

    def __call__(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) + 1 / x.shape[3]


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def plainly(image, tile, overlap=32):
    """ComfyUI's tiled scaling of :class:`Brightness`, a pixel at a time along each axis."""
    _, h, w, _ = image.shape

    def weights(length):
        ramp = overlap * 2
        rise = torch.ones(length)
        if ramp < length:
            for i in range(length):
                for distance in (i, length - 1 - i):
                    rise[i] *= min(distance + 1, ramp) / ramp
        return rise

    def starts(side):
        return [0] if side <= tile else range(0, side - overlap, tile - overlap)

    total, mass = torch.zeros(h * 2, w * 2, 3), torch.zeros(h * 2, w * 2, 1)
    for y in starts(h):
        for x in starts(w):
            part = image[0, y : y + tile, x : x + tile]
            value = part.repeat_interleave(2, 0).repeat_interleave(2, 1) + 1 / part.shape[1]
            mask = weights(len(value))[:, None, None] * weights(value.shape[1])[None, :, None]
            total[2 * y : 2 * y + len(value), 2 * x : 2 * x + value.shape[1]] += value * mask
            mass[2 * y : 2 * y + len(value), 2 * x : 2 * x + value.shape[1]] += mask
    return (total / mass).clamp(0, 1)[None]


@pytest.mark.parametrize(("h", "w"), [(40, 1100), (530, 520), (20, 20)])
def test_tiles_are_mixed_as_comfyui_mixes_them(h, w):
    image = noise(1, h, w, 3)
    found = tiled.upscaled(Host(), Brightness(), image)
    if max(h, w) <= 512:
        assert torch.equal(found, plainly(image, 512))
    torch.testing.assert_close(found, plainly(image, 512), rtol=0, atol=1e-6)


def test_batches_and_progress():
    host, batch = Host(), noise(3, 8, 600, 3)
    found = tiled.upscaled(host, Brightness(), batch)
    assert found.shape == (3, 16, 1200, 3)
    assert torch.equal(found[1:2], tiled.upscaled(Host(), Brightness(), batch[1:2]))
    assert host.steps == [(i, 6) for i in range(1, 7)]


def test_the_input_is_kept():
    image = noise(2, 9, 8, 3)
    before = image.clone()
    descriptor = describe(MODELS / "upscale_models" / "tiny_compact_x4.safetensors")
    with torch.inference_mode():
        result = NODE.run(Host(), {"upscale_model": descriptor, "image": image})
    assert result.outputs[0].shape == (2, 36, 32, 3)
    assert torch.equal(image, before)


def test_out_of_memory_means_smaller_tiles():
    class Small(Brightness):
        def __call__(self, x):
            if max(x.shape) > 128:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().__call__(x)

    image = noise(1, 8, 300, 3)
    found = tiled.upscaled(Host(), Small(), image)
    torch.testing.assert_close(found, plainly(image, 128), rtol=0, atol=1e-6)

    class Smaller(Brightness):
        def __call__(self, x):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(DataError, match=r"even in tiles of 128 px: .* can't allocate memory"):
        tiled.upscaled(Host(), Smaller(), image)


def test_cancelling_moves_the_network_back():
    class Cancelling(Host):
        def progress(self, done, total):
            raise Cancelled("cancelled")

    network = Brightness()
    with pytest.raises(Cancelled):
        tiled.upscaled(Cancelling(), network, noise(1, 8, 8, 3))
    assert network.device == "cpu"


def test_other_channels_are_said():
    with pytest.raises(ValueError, match="the network takes 3 channels, the image has 4"):
        tiled.upscaled(Host(), Brightness(), noise(1, 8, 8, 4))


def prompt(name):
    return {
        "load": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": name}},
        "image": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 6, "batch_size": 1,
                                                         "color": 255}},
        "scale": {"class_type": "ImageUpscaleWithModel",
                  "inputs": {"upscale_model": ["load", 0], "image": ["image", 0]}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["scale", 0]}},
    }  # fmt: skip


@pytest.mark.parametrize("folder", [MODELS, MODELS / "upscale_models"])
def test_files_are_found_as_in_comfyui(folder, tmp_path):
    runner = Runner(output=tmp_path, weights=[folder])
    assert "tiny_compact_x4.safetensors" in runner.host.choices("upscale_models")
    results = runner.run(prompt("tiny_compact_x4.safetensors"))
    assert results["scale"]["IMAGE"].shape == (1, 24, 32, 3)


def test_files_that_are_none(tmp_path):
    runner = Runner(output=tmp_path / "out", weights=[tmp_path])
    with pytest.raises(WorkflowError, match=r"there is no 'none\.pth'"):
        runner.check(prompt("none.pth"))
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(RunError, match="of no network that spandrel knows"):
        runner.run(prompt("x.pth"))
    with pytest.raises(CheckpointError, match="no weights 'none'"):
        runner.host.upscale_model("none")


def test_a_network_that_needs_a_mask_is_refused(monkeypatch, tmp_path):
    class Masked:
        purpose = "Inpainting"

    monkeypatch.setattr("imagen_nodes.foreign.describe", lambda path: Masked())
    runner = Runner(output=tmp_path, weights=[MODELS])
    with pytest.raises(RunError, match="needs a mask"):
        runner.run(prompt("tiny_compact_x4.safetensors"))
