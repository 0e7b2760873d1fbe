"""The weights that ship, on a picture: what they are for, they do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from imagen_nodes import cards, checkpoint
from imagen_nodes.colour import matched, statistics
from imagen_nodes.evaluation.paired import lpips_network, psnr_rgb, psnr_y
from imagen_nodes.evaluation.restoration import by_nearest
from imagen_nodes.folders import files, shipped
from imagen_nodes.foreign import describe
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.inpainting import inpaint
from imagen_nodes.style_transfer import transfer
from imagen_nodes.super_resolution import enlarge, restore
from imagen_nodes.training.degradation import Photo, Shrink
from imagen_nodes.training.masks import masked
from imagen_nodes.training.perceptual import features_network
from imagen_nodes.training.randomness import Numbers
from imagen_nodes.training.tasks.style import distances
from imagen_nodes.translation import translate

WEIGHTS = shipped("weights")
HOST = LocalHost(device="cpu")
# Bytes: of a file (the first generator is a little larger), of all.
LARGEST, ALL, FIRST = 6_000_000, 60_000_000, "dcgan-cifar10"


def picture():
    """IMAGE of a painting, 192x224 px."""
    with Image.open(Path(__file__).parent / "data" / "pearl.png") as opened:
        return torch.from_numpy(np.asarray(opened.convert("RGB")).copy()).float()[None] / 255


def network(image):
    return image.movedim(3, 1) * 2 - 1


def test_sizes_and_cards():
    found = files([WEIGHTS], [".safetensors"])
    assert sum(path.stat().st_size for path in found.values()) < ALL
    for path in found.values():
        assert path.stat().st_size < LARGEST or path.stem == FIRST
        card = checkpoint.inspect(path).card
        assert card.licence
        assert card.description
        if path.parent.name != "metrics":
            assert card.quality
            assert card.training
            assert card.thumbnail
    assert cards.overview(WEIGHTS) == (WEIGHTS / "README.md").read_text()


def test_super_resolution_is_nearer_than_bicubic():
    model = checkpoint.load(WEIGHTS / "sr-x4-fidelity.safetensors")
    clean = picture()
    small = Shrink().apply(clean.movedim(3, 1), 4, Numbers(torch.Generator()))
    with torch.inference_mode():
        found = enlarge(HOST, model, small.movedim(1, 3))
    plain = F.interpolate(small, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1)
    ours = float(psnr_y(network(found), network(clean), 4))
    assert ours > float(psnr_y(plain * 2 - 1, network(clean), 4)) + 1


def test_texture_that_is_made_up_looks_nearer():
    clean = picture()
    small = Shrink().apply(clean.movedim(3, 1), 4, Numbers(torch.Generator()))
    judge, found = lpips_network(), {}
    with torch.inference_mode():
        for kind in ("fidelity", "gan"):
            model = checkpoint.load(WEIGHTS / f"sr-x4-{kind}.safetensors")
            made = enlarge(HOST, model, small.movedim(1, 3))
            found[kind] = float(judge(network(made), network(clean)))
    assert found["gan"] < 0.8 * found["fidelity"]


def test_what_photographs_went_through_is_taken_out():
    clean = picture()
    small = Photo().apply(clean.movedim(3, 1), 4, Numbers(torch.Generator().manual_seed(0)))
    model = checkpoint.load(WEIGHTS / "sr-x4-photo.safetensors")
    plain = F.interpolate(small, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1)
    with torch.inference_mode():
        made = enlarge(HOST, model, small.movedim(1, 3))
        ours, theirs = (
            float(lpips_network()(x, network(clean))) for x in (network(made), plain * 2 - 1)
        )
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("kind", ["fidelity", "gan", "photo"])
def test_stock_loaders_take_the_weights(kind):
    """As *Load Upscale Model* reads them: by their tensors' names, with spandrel."""
    path = WEIGHTS / f"sr-x4-{kind}.safetensors"
    descriptor = describe(path)
    assert (descriptor.architecture.id, descriptor.scale) == ("Compact", 4)
    x = picture().movedim(3, 1)[:, :, :40, :50]
    with torch.inference_mode():
        ours = checkpoint.load(path).network(x).clamp(0, 1)
        torch.testing.assert_close(descriptor(x), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("sigma", "gain"), [(15, 5.5), (25, 7.5), (50, 9.5)])
def test_denoising(sigma, gain):
    model = checkpoint.load(WEIGHTS / "denoise.safetensors")
    clean = picture()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = (clean + noise * sigma / 255).clamp(0, 1).mul(255).round().div(255)
    with torch.inference_mode():
        found = restore(HOST, model, noisy)
        unchanged = restore(HOST, model, clean)
    before, after = (float(psnr_rgb(network(x), network(clean))) for x in (noisy, found))
    assert after > before + gain
    # A clean picture stays what it is.
    assert float(psnr_rgb(network(unchanged), network(clean))) > 34


def test_a_picture_takes_on_a_style():
    """Nearer to the style than with its colours alone, and still the picture."""
    model = checkpoint.load(WEIGHTS / "style.safetensors")
    content = picture()
    with Image.open(Path(__file__).parent.parent / "examples/input/great-wave.jpg") as opened:
        style = torch.from_numpy(np.asarray(opened).copy()).float()[None] / 255
    features = features_network(torch.device("cpu"))

    def losses(result):
        of, a, b = (x.movedim(3, 1) for x in (result, content, style))
        return [float(loss) for loss in distances(of, a, b, features)]

    with torch.inference_mode():
        found = losses(transfer(HOST, model, content, [(style, 1.0)]))
        recoloured = losses(matched(content, statistics(style)))
        other = losses(content.flip(2))
    assert found[0] < 0.5 * recoloured[0]
    assert found[1] < other[1]


def test_holes_are_filled_in_better_than_by_the_nearest_pixel():
    model = checkpoint.load(WEIGHTS / "inpaint.safetensors")
    clean = picture()
    seen = masked(0.2)(clean.movedim(3, 1), 0)
    with torch.inference_mode():
        found = inpaint(HOST, model, clean, seen[:, 3])
        plain = by_nearest(seen)
        judge = lpips_network()
        ours, theirs = (float(judge(x, network(clean))) for x in (network(found), plain * 2 - 1))
    assert ours < 0.8 * theirs
    assert torch.equal(found[seen[:, 3] == 0], clean[seen[:, 3] == 0])


def test_classes_are_told_apart():
    """By the mean colour of what is drawn: ships lie in the blue, frogs in the green."""
    model = checkpoint.load(WEIGHTS / "cgan-cifar10.safetensors")
    z = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ship, frog = (model.network(z, torch.full((64,), n)).mean((0, 2, 3)) for n in (8, 6))
    assert ship[2] - ship[0] > frog[2] - frog[0] + 0.1


def test_a_map_becomes_a_front():
    """Windows are darker than the wall around them, which is of no colour of the map's."""
    model = checkpoint.load(WEIGHTS / "facades.safetensors")
    wall, window = (torch.tensor(c) / 255 for c in ((0.0, 48, 255), (0.0, 128, 255)))
    plan = wall.expand(1, 256, 256, 3).clone()
    plan[:, 100:160, 60:100] = plan[:, 100:160, 150:190] = window
    with torch.inference_mode():
        found = translate(HOST, model, plan)
    front, glass = found[0, 20:80, 40:220].mean((0, 1)), found[0, 105:155, 65:95].mean((0, 1))
    assert float(glass.mean()) < float(front.mean()) - 0.05
    assert float((front - wall).abs().max()) > 0.2


def test_monet_keeps_what_is_there_and_changes_its_colours():
    model = checkpoint.load(WEIGHTS / "photo-to-monet.safetensors")
    clean = picture()
    with torch.inference_mode():
        found = translate(HOST, model, clean)
    assert found.shape == clean.shape
    lumas = [x.movedim(3, 1).mean(1).flatten() for x in (found, clean)]
    assert float(torch.corrcoef(torch.stack(lumas))[0, 1]) > 0.8
    assert float((found - clean).abs().mean()) > 0.05
