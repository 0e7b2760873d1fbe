"""Every node of pictures, with the weights that ship, on pictures that nobody expects."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from imagen_nodes import checkpoint
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.folders import shipped
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.nodes import NODES

HOST = LocalHost(device="cpu")
# Of each node's id: its weights, what else it takes, and how much larger its result is.
NETWORKS = {
    "SuperResolve": ("sr-x4-fidelity", {}, 4),
    "Denoise": ("denoise", {}, 1),
    "Inpaint": ("inpaint", {}, 1),
    "InpaintByInversion": ("dcgan-cifar10", {"steps": 2}, 1),
    "StyleTransfer": ("style", {}, 1),
    "Translate": ("photo-to-monet", {}, 1),
}
CHANGES = ["RandomFlip", "RandomCrop", "RandomColour", "Cutout"]
MODELS = {}


def load(weights):
    if weights not in MODELS:
        MODELS[weights] = checkpoint.load(shipped("weights") / f"{weights}.safetensors")
    return MODELS[weights]


def run(name, image, weights=None):
    kind = next(node for node in NODES if node.id == f"Imagen{name}")
    inputs = {"image": image}
    if name in NETWORKS:
        own, more, _ = NETWORKS[name]
        inputs |= more | {"model": load(weights or own)}
    if name.startswith("Inpaint"):
        inputs["mask"] = torch.zeros(1, *image.shape[1:3])
        inputs["mask"][:, :, : image.shape[2] // 2] = 1
    if name == "StyleTransfer":
        inputs["style"] = torch.rand(1, 40, 40, 3)
    with torch.inference_mode():
        return kind(**inputs).run(HOST)[0]


@pytest.mark.parametrize("name", [*NETWORKS, *CHANGES])
@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_points_and_lines(name, size):
    image = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(0))
    found = run(name, image)
    factor = NETWORKS[name][2] if name in NETWORKS else 1
    assert found.shape == (1, factor * size[0], factor * size[1], 3)
    assert found.isfinite().all()
    assert run(name, image[..., :1].expand(-1, -1, -1, 3)).isfinite().all()


@pytest.mark.parametrize("name", [*NETWORKS, *CHANGES])
def test_alpha_and_numbers_that_are_none(name):
    image = torch.rand(2, 24, 20, 4, generator=torch.Generator().manual_seed(0))
    found = run(name, image)
    factor = NETWORKS[name][2] if name in NETWORKS else 1
    assert found.shape == (2, factor * 24, factor * 20, 4)
    if factor == 1 and name not in ("RandomFlip", "RandomCrop"):
        assert torch.equal(found[..., 3], image[..., 3])
    image[1, 3, 4, 0] = float("nan")
    with pytest.raises(DataError, match=r"image 1 of the batch .* holds NaN or infinity"):
        run(name, image)


@pytest.mark.parametrize("name", [*NETWORKS, *CHANGES])
@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_refused(name, channels):
    with pytest.raises(DataError, match=f"pictures of {channels} channels; takes grey"):
        run(name, torch.rand(1, 16, 16, channels))


def test_masks_as_other_packs_give_them():
    """Without an axis for the batch, with one for channels, and of truth values."""
    fill = next(node for node in NODES if node.id == "ImagenInpaint")
    image = torch.rand(1, 24, 20, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 24, 20)
    mask[:, 5:9, 5:9] = 1
    found = [
        fill(model=load("inpaint"), image=image, mask=given).run(HOST).image
        for given in (mask, mask[0], mask[:, None], mask > 0)
    ]
    assert not torch.equal(found[0], image)
    assert all(torch.equal(other, found[0]) for other in found[1:])


@pytest.mark.parametrize(("value", "text"), [
    (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), "values as float32, 0..1 in pictures, got uint8"),
    (np.zeros((1, 8, 8, 3), np.float32), "a torch tensor of 4 axes, got ndarray"),
    (torch.zeros(8, 8, 3), "a tensor of 4 axes, got 3"),
])  # fmt: skip
def test_what_is_no_image_is_refused(value, text):
    kind = next(node for node in NODES if node.id == "ImagenDenoise")
    with pytest.raises(ValidationError, match=text):
        kind(model=load("denoise"), image=value)
    with pytest.raises(ValidationError, match="expected the output of Load Checkpoint, got str"):
        kind(model="denoise", image=torch.zeros(1, 8, 8, 3))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(0, 8), (8, 0)])
def test_pictures_of_nothing(name, size):
    with pytest.raises(DataError, match=f"pictures of {size[1]}x{size[0]} px hold nothing"):
        run(name, torch.zeros(1, *size, 3))


def test_a_mask_of_nothing():
    kind = next(node for node in NODES if node.id == "ImagenInpaint")
    node = kind(model=load("inpaint"), image=torch.zeros(1, 8, 8, 3), mask=torch.zeros(1, 0, 8))
    with pytest.raises(DataError, match="the mask is of 8x0 px"):
        node.run(HOST)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_other_nodes_are_refused(name):
    own = NETWORKS[name][0]
    # Both restore, so that either takes the other's; a factor of 1 is checked elsewhere.
    kin = {"sr-x4-fidelity", "denoise"} if own in ("sr-x4-fidelity", "denoise") else {own}
    for other in {weights for weights, _, _ in NETWORKS.values()} - kin:
        with pytest.raises(CheckpointError, match=rf"{other}\.safetensors holds a "):
            run(name, torch.rand(1, 16, 16, 3), other)
