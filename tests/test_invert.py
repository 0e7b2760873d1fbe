"""Invert and Inpaint by Inversion: latents of pictures, on the weights that ship."""

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes import checkpoint, generation, inversion
from imagen_nodes.checkpoint import Card, Model
from imagen_nodes.errors import Cancelled, CheckpointError, DataError
from imagen_nodes.folders import shipped
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.networks.compact import Compact
from imagen_nodes.networks.dcgan import DCGANGenerator
from imagen_nodes.networks.progan import ProGANGenerator
from imagen_nodes.networks.stylegan2 import StyleGAN2Generator
from imagen_nodes.networks.stylegan3 import StyleGAN3Generator

HOST = LocalHost(device="cpu")
STYLES = {
    "resolution": 16, "width_base": 256, "width_max": 16, "mapping_layers": 2, "z_dim": 12,
    "w_dim": 8,
}  # fmt: skip
WEIGHTS = "cgan-cifar10.safetensors"


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(shipped("weights") / WEIGHTS)


def model_of(architecture):
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    network.requires_grad_(False).eval()
    card = Card(title="x", architecture=architecture.model_dump(mode="json"), task="generate")
    return Model("x.safetensors", card, architecture, network)


def drawn(model, latent):
    with torch.inference_mode():
        return generation.generate(HOST, model, latent)


def error(a, b):
    return float((a - b).square().mean())


def test_a_generated_picture_is_found_again(model):
    """Nearer than the best of many random ones, which is where the search begins; in inference
    mode, as nodes run."""
    latent = generation.label(model, generation.sample(model, 1000, 1), "ship", False)
    image = drawn(model, latent)
    with torch.inference_mode():
        found = inversion.invert(HOST, model, image, steps=60, labels="ship", perceptual=0.0)
        again = inversion.invert(HOST, model, image, steps=60, labels="ship", perceptual=0.0)
    assert torch.equal(found.z, again.z)
    assert found.labels.tolist() == [8]
    best = min(
        error(
            image, drawn(model, generation.label(model, generation.sample(model, s, 1), "8", False))
        )
        for s in range(20)
    )
    assert error(image, drawn(model, found)) < best / 3


@pytest.mark.parametrize("architecture", [
    StyleGAN2Generator.model_validate(STYLES),
    StyleGAN3Generator.model_validate(STYLES | {"depth": 4}),
])  # fmt: skip
def test_of_styles_it_finds_w(architecture):
    small = model_of(architecture)
    image = drawn(small, generation.sample(small, 5, 2))
    found = inversion.invert(HOST, small, image, steps=40, perceptual=0.0)
    assert found.z is None
    assert found.w.shape == (2, 6, 8)
    result = drawn(small, found)
    for i in range(2):
        average = drawn(small, generation.sample(small, 50, 8))
        assert error(image[i], result[i]) < min(error(image[i], x) for x in average)


def test_the_perceptual_loss_is_lpips(model):
    from imagen_nodes.evaluation.paired import lpips_network

    judge = inversion._Judge(2.0, torch.device("cpu"))
    a, b = (torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    seen = torch.ones(1, 1, 40, 40)
    wanted = (a - b).square().mean() + 2 * lpips_network()(a, b)[0]
    torch.testing.assert_close(judge(a, b, seen)[0], wanted.detach())
    seen[..., :20] = 0
    half = (a - b)[..., 20:].square().mean() + 2 * lpips_network()(a * seen, b * seen)
    torch.testing.assert_close(judge(a, b, seen), half.detach())


def test_what_is_masked_has_no_say(model):
    image = drawn(model, generation.sample(model, 0, 1))
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:20, 8:20] = 1
    other = image.clone()
    other[:, 8:20, 8:20] = 0.5
    first, second = (
        inversion.invert(HOST, model, x, mask, steps=5, labels="0") for x in (image, other)
    )
    assert torch.equal(first.z, second.z)


@pytest.mark.parametrize("shape", ["box", "strokes"])
@pytest.mark.parametrize("size", [(120, 90), (20, 24)])
def test_what_is_masked_has_no_say_at_another_size(model, size, shape):
    """Strokes are thinner than a pixel of what the generator draws."""
    h, w = size
    image = torch.rand(1, h, w, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, h, w)
    if shape == "box":
        mask[:, h // 4 : h // 2, w // 4 : w // 2] = 1
    else:
        mask[:, ::7, :] = 1
    other = torch.where(mask[..., None] > 0, 1 - image, image)
    first, second, unmasked = (
        inversion.invert(HOST, model, x, m, steps=2, perceptual=0.0)
        for x, m in ((image, mask), (other, mask), (other, None))
    )
    assert torch.equal(first.z, second.z)
    assert not torch.equal(first.z, unmasked.z)


def test_what_is_not_masked_is_seen_as_without_a_mask(model):
    """Away from the mask, which is seen in part at its border."""
    image, mask = torch.rand(2, 96, 96, 3), torch.zeros(2, 96, 96)
    mask[:, 30:63] = 1
    mask[1] /= 2
    a = model.architecture
    target, seen = inversion._targets(HOST, a.size, a.channels, image, mask)
    plain, _ = inversion._targets(HOST, a.size, a.channels, image, None)
    assert torch.equal(target[:, :, :7], plain[:, :, :7])
    assert torch.equal(target[:, :, 24:], plain[:, :, 24:])
    torch.testing.assert_close(target[:, :, 9], plain[:, :, 9], rtol=0, atol=0.3)
    rows = seen[:, 0, :, 5]
    assert torch.equal(rows[0, 12:20], torch.zeros(8))
    torch.testing.assert_close(rows[1, 12:20], torch.full((8,), 0.5))
    torch.testing.assert_close(rows[:, 2], torch.ones(2))
    assert 0 < rows[0, 9] < 1
    torch.testing.assert_close(seen.mean((1, 2, 3)), 1 - mask.mean((1, 2)), rtol=0, atol=1e-3)


def test_a_generator_that_has_not_grown_yet():
    """Which draws smaller images than it will."""
    half = model_of(ProGANGenerator(resolution=32, width_base=64, width_max=8, z_dim=8))
    half.network.grow(1.0)
    with torch.inference_mode():
        found = inversion.invert(HOST, half, torch.rand(1, 40, 30, 3), steps=2)
        assert generation.generate(HOST, half, found).shape == (1, 8, 8, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_generators_of_any_channels_fill_pictures_of_any(channels):
    small = model_of(DCGANGenerator(resolution=16, width=8, channels=4))
    from imagen_nodes.nodes.invert import InpaintByInversion

    image, mask = torch.rand(1, 16, 16, channels), torch.zeros(1, 16, 16)
    mask[:, 4:8, 4:8] = 1
    found = InpaintByInversion(model=small, image=image, mask=mask, steps=1).run(HOST).image
    assert found.shape == (1, 16, 16, max(channels, 3))
    assert torch.equal(found[:, 8:, :, :channels], image[:, 8:])
    if channels == 4:
        assert torch.equal(found[..., 3], image[..., 3])


def test_large_generators_try_as_few_at_once_as_they_draw(monkeypatch):
    """And say so where even that is too much."""
    seen, draw = [], inversion._draw

    def drawing(network, values, label):
        seen.append(len(values))
        if len(seen) > 150:
            raise torch.cuda.OutOfMemoryError("no memory")
        return draw(network, values, label)

    monkeypatch.setattr(inversion, "_draw", drawing)
    large = model_of(DCGANGenerator(resolution=256, width=8))
    image = torch.rand(1, 256, 256, 3)
    inversion.invert(HOST, large, image, steps=1, perceptual=0.0)
    assert set(seen) == {1, 2}
    with pytest.raises(DataError, match="out of memory with one image of 256x256 px"):
        inversion.invert(HOST, large, image, steps=1, perceptual=0.0)


def test_the_workflow_fills_in_and_leaves_the_rest(runner, tmp_path, caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[10:30, 12:26, 3] = 0  # a hole: the mask of Load Image
    Image.fromarray(pixels).save(tmp_path / "input" / "a.png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": WEIGHTS}},
        "3": {
            "class_type": "ImagenInpaintByInversion",
            "inputs": {"model": ["2", 0], "image": ["1", 0], "mask": ["1", 1], "steps": 3,
                       "rate": 0.05, "perceptual": 1.0, "label": "frog", "seed": 0},
        },
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    }  # fmt: skip
    results = runner.run(workflow)
    given, found = results["1"]["IMAGE"], results["3"]["image"]
    mask = results["1"]["MASK"][0] > 0
    assert torch.equal(found[0][~mask], given[0][~mask])
    assert not torch.equal(found[0][mask], given[0][mask])
    progress = [e for e in runner.events if e["event"] == "progress" and e["node"] == "3"]
    steps = [(e["done"], e["total"]) for e in progress if e["done"]]
    assert steps[2] == (3, 3)
    assert not caplog.messages  # the mask has the picture's size


def test_a_mask_of_another_size_is_said_once(model, caplog):
    from imagen_nodes.nodes.invert import InpaintByInversion

    mask = torch.zeros(1, 10, 10)
    mask[:, 2:5, 2:5] = 1
    InpaintByInversion(model=model, image=torch.rand(1, 20, 30, 3), mask=mask, steps=1).run(HOST)
    assert caplog.messages == ["a mask of 10x10 px, resized to the picture's 30x20"]


def test_an_empty_mask_changes_nothing(model):
    from imagen_nodes.nodes.invert import InpaintByInversion

    image = torch.rand(1, 20, 20, 3)
    node = InpaintByInversion(model=model, image=image, mask=torch.zeros(1, 20, 20))
    assert node.run(HOST).image is image


def test_pictures_without_a_hole_are_not_searched_for(model, monkeypatch):
    from imagen_nodes.nodes.invert import InpaintByInversion

    image, masks = torch.rand(3, 16, 16, 3), torch.zeros(3, 16, 16)
    masks[1, 4:9, 4:9] = 1
    searched, find = [], inversion._found

    def counted(host, model, image, *given, **options):
        searched.append(image.clone())
        return find(host, model, image, *given, **options)

    monkeypatch.setattr(inversion, "_found", counted)
    with torch.inference_mode():
        found = InpaintByInversion(model=model, image=image, mask=masks, steps=2).run(HOST).image
    assert torch.equal(searched[0], image[1:2])
    changed = (found != image).any(3)
    assert torch.equal(changed, masks > 0)


def test_pictures_keep_their_class_where_others_have_no_hole(monkeypatch):
    seen, find = [], inversion._found

    def noted(host, model, image, mask, numbers, **options):
        seen.append(numbers)
        return find(host, model, image, mask, numbers, **options)

    monkeypatch.setattr(inversion, "_found", noted)
    masks = torch.zeros(3, 16, 16)
    masks[[0, 2], 4:9, 4:9] = 1
    generator = model_of(DCGANGenerator(resolution=16, width=8, classes=3))
    inversion.inpaint(HOST, generator, torch.rand(3, 16, 16, 3), masks, "0,1,2", steps=1)
    assert seen[0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("image", "mask", "text"),
    [
        (torch.zeros(2, 8, 8, 3), torch.zeros(3, 8, 8), "3 masks for 2 pictures"),
        (torch.full((1, 8, 8, 3), float("nan")), torch.zeros(1, 8, 8), "holds NaN"),
    ],
)
def test_an_empty_mask_excuses_nothing(model, image, mask, text):
    from imagen_nodes.nodes.invert import InpaintByInversion

    with pytest.raises(DataError, match=text):
        InpaintByInversion(model=model, image=image, mask=mask).run(HOST)


def test_classes_in_turns():
    generator = model_of(DCGANGenerator(resolution=16, width=8, classes=3))
    with torch.inference_mode():
        found = inversion.invert(HOST, generator, torch.rand(3, 16, 16, 3), steps=1, labels="2,0")
    assert found.labels.tolist() == [2, 0, 2]


def test_fill_blends_and_keeps_alpha():
    image, painted = torch.rand(2, 8, 8, 4), torch.rand(2, 8, 8, 3)
    mask = torch.zeros(1, 8, 8)
    mask[0, 0, 0], mask[0, 0, 1] = 1, 0.25
    found = inversion.fill(image, mask, painted, torch.ones(2, dtype=torch.bool))
    assert torch.equal(found[..., 3], image[..., 3])
    torch.testing.assert_close(found[:, 0, 0, :3], painted[:, 0, 0])
    wanted = image[:, 0, 1, :3] * 0.75 + painted[:, 0, 1] * 0.25
    torch.testing.assert_close(found[:, 0, 1, :3], wanted)
    assert torch.equal(found[:, 1:], image[:, 1:])


def test_grey_generators_and_other_sizes():
    grey = model_of(DCGANGenerator(resolution=16, width=8, channels=1))
    with torch.inference_mode():
        found = inversion.invert(HOST, grey, torch.rand(1, 50, 30, 3), steps=2)
    assert found.z.shape == (1, 100)
    rgba = model_of(DCGANGenerator(resolution=16, width=8, channels=4))
    assert inversion.invert(HOST, rgba, torch.rand(1, 16, 16, 3), steps=2).count == 1


@pytest.mark.parametrize(
    ("image", "mask", "text"),
    [
        (torch.zeros(0, 8, 8, 3), None, "holds no picture"),
        (torch.full((1, 8, 8, 3), float("nan")), None, "holds NaN"),
        (torch.zeros(2, 8, 8, 3), torch.zeros(3, 8, 8), "3 masks for 2 pictures"),
        (torch.zeros(1, 8, 8, 3), torch.full((1, 8, 8), float("nan")), "the mask holds NaN"),
        (torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8), "a mask covers its whole picture"),
        (torch.zeros(1, 40, 40, 3), torch.ones(1, 4, 4), "a mask covers its whole picture"),
    ],
)
def test_pictures_that_do_not_do(model, image, mask, text):
    with pytest.raises(DataError, match=text):
        inversion.invert(HOST, model, image, mask, steps=1)


def test_other_networks_and_classes(model):
    other = model_of(Compact(width=8, depth=1))
    image = torch.zeros(1, 8, 8, 3)
    with pytest.raises(CheckpointError, match="does not generate images"):
        inversion.invert(HOST, other, image, steps=1)
    with pytest.raises(DataError, match=r"no class 'whale'\. There are 10: 0 airplane"):
        inversion.invert(HOST, model, image, steps=1, labels="whale")


def test_a_cancelled_search_stops(model):
    class Host(LocalHost):
        def progress(self, done, total, preview=None):
            assert preview is None or preview.size == (32, 32)
            if done == 3:
                raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        inversion.invert(Host(device="cpu"), model, torch.rand(1, 32, 32, 3), steps=50)
