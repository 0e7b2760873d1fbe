"""What makes clean pictures into those that are restored."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes.training import degradation
from imagen_nodes.training.degradation import Noise, Photo, Shrink, qualities

from .smooth_pictures import numbers, smooth


def test_shrinking_is_pillows_bicubic():
    x = smooth(1, 64)
    small = Shrink().apply(x, 4, numbers())
    picture = Image.fromarray(x[0].permute(1, 2, 0).mul(255).round().byte().numpy())
    pillows = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC)) / 255
    assert np.abs(small[0].permute(1, 2, 0).numpy() - pillows).max() < 1.01 / 255
    assert torch.equal(small.mul(255).round().div(255), small)


def test_noise_has_the_deviation_that_it_says():
    x = torch.full((400, 3, 16, 16), 0.5)
    fixed = Noise(sigma=(25, 25)).apply(x, 1, numbers())
    assert float((fixed - x).std() * 255) == pytest.approx(25, rel=0.02)
    varied = (Noise(sigma=(10, 50)).apply(x, 1, numbers()) - x).flatten(1).std(1) * 255
    assert 8 < varied.min() < 14
    assert 46 < varied.max() < 54


def test_strengths_that_are_met_most():
    _, sigma, _ = Noise(sigma=(0, 50), common=(10, 20)).told(smooth(1000, 2), 1, numbers())
    sigma = sigma * 255
    assert 0 <= sigma.min() < 2 < 48 < sigma.max() <= 50
    # Half of them, and a fifth of the others.
    assert float(((sigma > 10) & (sigma < 20)).float().mean()) == pytest.approx(0.6, abs=0.05)


def test_what_is_told_of_the_noise():
    """Its deviation; of compressed pictures none."""
    x = smooth(40, 32)
    made = Noise(sigma=(5, 20), jpeg=0.5, clipped=0)
    seen, sigma, blocks = made.told(x, 1, numbers())
    assert torch.equal(seen, made.apply(x, 1, numbers()))
    compressed = sigma == 0
    assert torch.equal(blocks, compressed)
    assert 10 < int(compressed.sum()) < 30
    found = (seen - x)[~compressed].flatten(1).std(1)
    torch.testing.assert_close(found, sigma[~compressed], rtol=0.1, atol=0)
    assert 5 / 255 <= float(sigma[~compressed].min()) < float(sigma.max()) <= 20 / 255


def test_noise_before_compression():
    """Of which some part is told."""
    x = torch.full((200, 3, 16, 16), 0.5)
    fields = {"sigma": (20, 20), "jpeg": 0.5, "quality": (95, 95)}
    seen, sigma, _ = Noise.model_validate(fields | {"noisy": 0.5}).told(x, 1, numbers())
    plain, other, blocks = Noise.model_validate(fields).told(x, 1, numbers())
    compressed = other == 0
    # Blocks of this quality cannot always be found.
    assert 30 < int(blocks.sum()) < 70 < int(compressed.sum())
    assert not blocks[~compressed].any()
    assert torch.equal(seen[~compressed], plain[~compressed])
    assert torch.equal(sigma[~compressed], other[~compressed])
    noise = (seen - x).flatten(1).std(1) * 255
    both = compressed & (noise > 5)
    assert 30 < int(both.sum()) < 70
    assert float((sigma[compressed & ~both]).max()) == 0
    told = sigma[both] * 255
    assert 0 < told.min() < 3 < 17 < told.max() < 20
    # Compression keeps most of it, at this quality.
    assert float(noise[both].mean()) == pytest.approx(14, abs=4)


def test_noise_as_files_have_it_and_as_papers_do():
    x = smooth(60, 16)
    seen = Noise(sigma=(25, 25), clipped=0.5).apply(x, 1, numbers())
    whole = ((seen * 255).round() / 255 - seen).abs().flatten(1).amax(1) < 1e-6
    assert 15 < int(whole.sum()) < 45
    assert 0 <= seen[whole].min() < seen[whole].max() <= 1
    assert seen[~whole].min() < 0
    assert seen[~whole].max() > 1


def test_noise_that_is_the_same_in_all_channels():
    x = torch.full((60, 3, 8, 8), 0.5)
    noise = Noise(sigma=(25, 25), grey=0.5, clipped=0).apply(x, 1, numbers()) - x
    alike = (noise == noise[:, :1]).flatten(1).all(1)
    assert 15 < int(alike.sum()) < 45
    assert float(noise[alike].std() * 255) == pytest.approx(25, rel=0.05)
    correlation = torch.corrcoef(noise[~alike].transpose(0, 1).flatten(1))
    assert float((correlation - torch.eye(3)).abs().max()) < 0.1


def test_compression_is_pillows():
    x = smooth(3, 32)
    found = degradation.jpeg(x, torch.tensor([10, 50, 90]))
    for image, clean, quality in zip(found, x, (10, 50, 90), strict=True):
        file = io.BytesIO()
        pixels = clean.permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        assert np.array_equal(
            image.permute(1, 2, 0).mul(255).round().byte().numpy(), np.asarray(Image.open(file))
        )
    compressed = Noise(sigma=(0, 0), jpeg=1, quality=(10, 10)).apply(x, 1, numbers())
    assert torch.equal(compressed[:1], found[:1])


def test_blur_is_a_gaussian():
    x = torch.zeros(1, 1, 31, 31)
    x[0, 0, 15, 15] = 1
    found = degradation.blurred(x, torch.tensor([2.0]))[0, 0]
    offsets = torch.arange(31) - 15
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float((found.sum(0) * offsets**2).sum()) == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_photographs(scale):
    x = smooth(3, 64)
    found = Photo().apply(x, scale, numbers())
    assert found.shape == (3, 3, 64 // scale, 64 // scale)
    assert 0 <= found.min() < found.max() <= 1
    assert torch.equal(found, Photo().apply(x, scale, numbers()))
    assert not torch.equal(found, Photo().apply(x, scale, numbers(1)))


def test_photographs_have_been_through_it_twice(monkeypatch):
    """Blurred, resized, made noisy, compressed: first from the whole size, then from the small."""
    seen = {name: [] for name in ("blurred", "resized", "jpeg")}

    def watched(name, function):
        def call(images, given, *more):
            seen[name].append(given)
            return function(images, given, *more)

        monkeypatch.setattr(degradation, name, call)

    for name in seen:
        watched(name, getattr(degradation, name))
    flat, noise = torch.full((1, 3, 128, 128), 0.5), []
    for seed in range(40):
        noise.append(255 * float(Photo().apply(flat, 4, numbers(seed)).std()))
    assert [len(calls) for calls in seen.values()] == [80, 120, 80]
    sides = torch.tensor(seen["resized"])[:, 0].view(40, 3)
    assert 19 <= sides[:, 0].min() < 40 < 160 < sides[:, 0].max() <= 192
    assert 16 <= sides[:, 1].min() < 25 < 33 < sides[:, 1].max() <= 38
    assert set(sides[:, 2].tolist()) == {32}
    quality = torch.cat(seen["jpeg"])
    assert 30 <= quality.min() < 45 < 80 < quality.max() <= 95
    # A median of 7 steps, in a tenth of the pictures more than 14.
    assert 4 < sorted(noise)[20] < 11
    assert sorted(noise)[36] > 11


@pytest.mark.parametrize("made", [Noise(jpeg=0.5, noisy=0.5, grey=0.5, clipped=0.5), Photo()])
def test_parts_of_a_batch_are_degraded_as_the_whole(made):
    x = smooth(4, 32)
    whole = made.apply(x, 2, numbers())
    parts = [made.apply(x[2 * i : 2 * i + 2], 2, numbers(0, i, 2)) for i in range(2)]
    # JPEG rounds what differs in the last bits to different steps.
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0.05)
    assert (torch.cat(parts) - whole).abs().mean() < 1e-4


def test_each_blur_is_that_of_its_picture_alone():
    x, sigma = torch.rand(2, 3, 24, 24), torch.tensor([0.3, 3.0])
    found = degradation.blurred(x, sigma)
    alone = [degradation.blurred(x[i : i + 1], sigma[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-6)
    assert (found[0] - x[0]).abs().max() < 0.02


def test_qualities_from_the_least_to_the_greatest():
    for low, high in ((10, 12), (100, 100)):
        found = qualities(numbers(), 3000, (low, high))
        values, counts = found.unique(return_counts=True)
        assert values.tolist() == list(range(low, high + 1))
        assert counts.min() > 900
