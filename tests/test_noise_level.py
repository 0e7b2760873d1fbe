"""How strong a picture's noise is, and whether it has JPEG's blocks, told from the picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from imagen_nodes.noise_level import JPEG_MARK, has_blocks, noise_level, noise_map
from imagen_nodes.training.degradation import jpeg

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def pearl():
    """A painting, cracks and canvas and all, kept without loss."""
    with Image.open(DATA / "pearl.png") as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(h=160, w=200, low=0.1, high=0.9):
    """Smooth shades and hard edges, ``[3 h w]``."""
    x = F.interpolate(torch.rand(1, 3, 8, 10, generator=random()), (h, w), mode="bicubic")[0]
    x[:, h // 3 : h // 2, w // 4 : w // 2] = torch.tensor([0.9, 0.2, 0.4]).view(3, 1, 1)
    return low + (high - low) * x.clamp(0, 1)


def noisy(x, sigma, clipped=True, seed=1):
    x = x + sigma / 255 * torch.randn(x.shape, generator=random(seed))
    return x.clamp(0, 1).mul(255).round().div(255) if clipped else x


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("sigma", [3, 10, 25, 50])
def test_the_deviation(sigma, clipped):
    found = 255 * noise_level(noisy(picture(), sigma, clipped))
    assert found == pytest.approx(sigma, rel=0.1)


def test_a_grey_picture():
    grey = noisy(picture()[:1], 15)
    assert 255 * noise_level(grey) == pytest.approx(15, rel=0.1)
    assert noise_level(grey.expand(3, -1, -1)) == noise_level(grey)


SEPIA = torch.tensor([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("sigma", [25, 50])
def test_a_toned_picture(pearl, sigma, quality):
    """Its channels' noise is one, of another strength in each; lowest where values are cut off."""
    grey = noisy(0.7 * pearl.mean(0, keepdim=True), sigma, clipped=False)
    toned = (SEPIA.sum(1).view(3, 1, 1) * grey).clamp(0, 1).mul(255).round().div(255)
    toned = toned if quality is None else compressed(toned, quality)
    wanted = float(SEPIA.sum(1).mean()) * sigma
    assert 255 * noise_level(toned) == pytest.approx(wanted, rel=0.2)


@pytest.mark.parametrize("sigma", [0, 5, 25])
def test_little_colour_is_no_tone(pearl, sigma):
    """Where channels' noise is independent it is not that of their mean, which is weaker."""
    pale = pearl.mean(0, keepdim=True).lerp(pearl, 0.1)
    found = 255 * noise_level(noisy(pale, sigma))
    assert found == pytest.approx(sigma, rel=0.1, abs=4)


def test_a_clean_picture_has_little():
    assert 255 * noise_level(picture().mul(255).round().div(255)) < 1
    assert noise_level(torch.full((3, 64, 64), 0.5)) == 0
    assert noise_level(torch.ones(3, 64, 64)) == 0


def test_where_most_of_it_is_cut_off():
    """A white page: half of its noise is not there."""
    page = picture(200, 200)
    page[:, :, 60:] = 1
    assert 255 * noise_level(noisy(page, 20)) == pytest.approx(20, rel=0.12)


def test_texture_is_no_noise(pearl):
    assert 255 * noise_level(pearl) < 4
    assert 255 * noise_level(noisy(pearl, 15)) == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize("tone", [0.2, 0.5])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_grounds_of_one_tone_are_no_clean_picture(pearl, tone, share):
    """Bars, margins and what cut-outs lie on have no noise, and the picture between has."""
    x = noisy(pearl, 25)
    height = round(x.shape[1] / (1 - share))
    padded = torch.full((3, height, x.shape[2]), tone)
    padded[:, : x.shape[1]] = x
    alone = noise_level(x) * 255
    assert noise_level(padded) * 255 == pytest.approx(alone, rel=0.1)
    clean = torch.full_like(padded, tone)
    clean[:, : x.shape[1]] = pearl
    assert noise_level(clean) * 255 < 5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("across", [False, True])
def test_a_line_of_one_pixel(pearl, channels, across):
    line = pearl[:channels, 40:41].repeat(1, 1, 8)
    line = line.transpose(1, 2) if across else line
    line = line.expand(3, -1, -1)
    clean = noise_level(line) * 255
    assert clean < 5
    assert noise_level(noisy(line, 25, clipped=False)[:channels].expand(3, -1, -1)) * 255 > 15


def test_a_texture_in_every_direction_is_left_out():
    """As fur: its values know nothing of one another, like noise's."""
    x = picture()
    x[:, :, 130:] += 0.08 * torch.randn(3, 160, 70, generator=random(3))
    assert 255 * noise_level(noisy(x, 10)) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("level", [0.1, 0.2, 0.8])
def test_what_was_cut_off_is_counted(level):
    x = torch.full((3, 160, 200), level)
    assert 255 * noise_level(noisy(x, 50)) == pytest.approx(50, rel=0.1)


def test_black_and_white_is_not_what_was_left_of_noise(pearl):
    """Of a dithered picture: a deviation of more than its values have would blur it."""
    dithered = (pearl > torch.rand(pearl.shape, generator=random())).float()
    assert noise_level(dithered) < 0.75


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "known"), [
    ((1, 1), False), ((4, 4), False), ((5, 5), False), ((2, 40), False), ((1, 20000), True),
    ((20000, 1), True), ((12, 12), False), ((24, 24), True),
])  # fmt: skip
def test_small_pictures(size, known, channels):
    found = 255 * noise_level(noisy(torch.full((channels, *size), 0.5), 20))
    assert found == pytest.approx(20, rel=0.2) if known else found >= 0


def test_many_pixels_cost_no_more(monkeypatch):
    seen = []
    monkeypatch.setattr("imagen_nodes.noise_level._smallest", lambda x: seen.append(x.shape) or 0.0)
    noise_level(torch.rand(3, 2000, 1500))
    assert all(count < 3 * 2**14 and size == 147 for count, size in seen)


def compressed(x, quality):
    return jpeg(x[None], torch.tensor([quality]))[0]


@pytest.mark.parametrize("before", [0, 10, 25])
@pytest.mark.parametrize("quality", [10, 30, 50])
def test_blocks_are_found(pearl, quality, before):
    """Of noisy pictures too, and where they do not begin at the corner."""
    found = compressed(noisy(pearl, before), quality)
    assert has_blocks(found)
    assert has_blocks(found[:, 3:, 5:])
    assert has_blocks(found[:1])


@pytest.mark.parametrize("sigma", [0, 2, 10, 25, 50])
def test_noise_is_no_blocks(pearl, sigma):
    assert not has_blocks(noisy(pearl, sigma))
    assert not any(has_blocks(noisy(picture(), sigma, seed=seed)) for seed in range(20))


def test_too_small_for_blocks_or_without_any():
    assert not has_blocks(torch.rand(3, 1, 1))
    assert not has_blocks(compressed(noisy(picture(), 25)[:, :32], 10))
    assert not has_blocks(torch.full((3, 64, 64), 0.5))


def test_a_map_says_what_is_found(pearl):
    """Of each picture, for a network that is told of blocks; what somebody says goes before."""
    clean, blocks = pearl[:, :160, :160], compressed(pearl[:, :160, :160], 20)
    both = torch.stack([noisy(clean, 20), blocks])
    found = noise_map(both, None, jpeg_mark=True)
    assert found.shape == (2, 1, 160, 160)
    assert found[0].unique().tolist() == pytest.approx([noise_level(both[0])])
    assert found[1].unique().tolist() == pytest.approx([JPEG_MARK])
    # Noise on top of blocks is noise; what JPEG leaves of noise is JPEG's.
    later = noise_map(noisy(blocks, 15)[None], None, jpeg_mark=True)
    assert has_blocks(noisy(blocks, 15))
    assert 255 * float(later.mean()) == pytest.approx(15, abs=1.5)
    before = noise_map(compressed(noisy(clean, 25), 20)[None], None, jpeg_mark=True)
    assert before.unique().tolist() == pytest.approx([JPEG_MARK])
    plain = noise_map(both, None)
    assert plain[1].unique().tolist() == pytest.approx([noise_level(blocks)])
    said = noise_map(both, 0.1, jpeg_mark=True)
    assert said.unique().tolist() == pytest.approx([0.1])
