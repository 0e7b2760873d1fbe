"""Style transfer: AdaIN against plainly written formulas, any size, colours, the node."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from imagen_nodes import checkpoint, colour, style_transfer
from imagen_nodes.checkpoint import Card, Model
from imagen_nodes.errors import Cancelled, CheckpointError, DataError, UsageError
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.networks.adain import AdaIN, Moments, adapted, mixed, moments
from imagen_nodes.networks.compact import Compact
from imagen_nodes.networks.residual_adain import ResidualAdaIN
from imagen_nodes.networks.vgg import VGGFeatures
from imagen_nodes.runner import Runner

SMALL = {"widths": (4, 6, 8, 10), "decoder_widths": (4, 6, 8)}


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch):
    monkeypatch.setattr("imagen_nodes.devices.is_fast_in_bfloat16", lambda device: False)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def model(architecture=None, **fields):
    architecture = architecture or AdaIN.model_validate(SMALL | fields)
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    network.requires_grad_(False).eval()
    described = architecture.model_dump(mode="json")
    card = Card(
        title="Small", architecture=described, task="style transfer", value_range=(0.0, 1.0)
    )
    return Model("small.safetensors", card, architecture, network)


def transfer(model, image, style, *arguments, host=None, **options):
    styles = style if isinstance(style, list) else [(style, 1.0)]
    with torch.inference_mode():
        return style_transfer.transfer(
            host or LocalHost(device="cpu"), model, image, styles, *arguments, **options
        )


# ---------------------------------------------------------------- the formulas, written out


def conv(state, name, x):
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])


def features(state, x, prefix="encoder."):
    """Of VGG-19 as far as its last stage."""
    x = F.conv2d(x, state[f"{prefix}first.weight"], state[f"{prefix}first.bias"])
    found = []
    for stage in range(5):
        x = F.max_pool2d(x, 2) if stage else x
        layer = 0
        while (name := f"{prefix}stages.{stage}.{layer}") + ".weight" in state:
            x = torch.relu(conv(state, name, x))
            if layer == 0:
                found.append(x)
            layer += 1
    return found


def decoded(state, t, slope=0.2):
    """The authors' decoder, but for the slope."""
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("decoder.")})
    assert numbers == [0, 3, 5, 7, 9, 12, 14, 17, 19]
    for number in numbers:
        t = conv(state, f"decoder.{number}", t)
        t = t if number == 19 else torch.maximum(t, slope * t)
        if number in (0, 9, 14):
            t = t.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return t


def statistics(x):
    """Huang & Belongie 2017, equations 5 and 6 (over n - 1, as in the programs of this)."""
    values = x.flatten(2).double()
    mean = values.mean(2)
    variance = (values - mean[..., None]).square().sum(2) / (values.shape[2] - 1)
    return mean.float()[..., None, None], (variance + 1e-5).sqrt().float()[..., None, None]


def stylised(network, content, style):
    state = network.state_dict()
    f, s = (features(state, x)[-1] for x in (content, style))
    (mu, sigma), (mu_s, sigma_s) = statistics(f), statistics(s)
    return decoded(state, sigma_s * (f - mu) / sigma + mu_s)


def test_adain():
    network = model().network
    content, style = noise(2, 3, 32, 48), noise(2, 3, 40, 16, seed=1) ** 2
    with torch.no_grad():
        found = network(content, style)
        wanted = stylised(network, content, style)
    assert found.shape == content.shape
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_result_has_the_style_of_the_style():
    content, style = noise(1, 5, 7, 9), noise(1, 5, 4, 3, seed=1) * 3
    found = moments(adapted(content, moments(style)))
    for ours, theirs in zip(found, moments(style), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_mixed_styles_decode_as_the_mean_of_their_features():
    content, a, b = noise(1, 5, 7, 9), noise(1, 5, 4, 3, seed=1), noise(1, 5, 6, 6, seed=2) * 2
    style = mixed([moments(a), moments(b)], [0.25, 0.75])
    wanted = 0.25 * adapted(content, moments(a)) + 0.75 * adapted(content, moments(b))
    torch.testing.assert_close(adapted(content, style), wanted)


def test_a_single_position_has_no_deviation():
    found = moments(torch.ones(1, 2, 1, 1))
    assert isinstance(found, Moments)
    torch.testing.assert_close(found.deviation, torch.full((1, 2, 1, 1), 1e-5).sqrt())


def test_vgg_features():
    a = VGGFeatures(widths=(4, 6, 8, 10, 12))
    network = a.build()
    network.initialise(torch.Generator().manual_seed(0))
    x = noise(1, 3, 50, 37)
    assert network.smallest == 32
    for ours, theirs in zip(network(x), features(network.state_dict(), x, ""), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_real_sizes():
    """VGG-19's encoder as far as relu4_1, and the decoder of Huang & Belongie."""
    a = AdaIN(widths=(64, 128, 256, 512), decoder_widths=(64, 128, 256))
    with torch.device("meta"):
        network = a.build()
    assert sum(p.numel() for p in network.decoder.parameters()) == 3_505_219
    assert sum(p.numel() for p in network.encoder.parameters()) == 3_505_740


# ---------------------------------------------------------------- pictures


def plainly(model, image, style):
    """Of sizes that the network takes."""
    with torch.inference_mode():
        found = model.network(image.movedim(3, 1), style.movedim(3, 1))
    return found.movedim(1, 3).clamp(0, 1)


def test_each_picture_by_itself():
    small, image, style = model(), noise(3, 32, 40, 3), noise(1, 24, 16, 3, seed=1)
    found = transfer(small, image, style)
    torch.testing.assert_close(found, plainly(small, image, style), rtol=0, atol=1e-5)
    assert torch.equal(found[1:2], transfer(small, image[1:2], style))
    assert torch.equal(found, transfer(small, image, style))


RESIDUAL = ResidualAdaIN(widths=(8, 16), decoder_widths=(8, 8, 16), decoder_blocks=(0, 1), middle=1)


@pytest.mark.parametrize(("architecture", "tile"), [(None, 160), (RESIDUAL, 192)])
def test_tiles_do_not_show(architecture, tile, monkeypatch):
    """And statistics are those of the whole picture: a gradient has others in every tile."""
    ramp = torch.linspace(0, 1, 640)[None, None, :, None] * noise(1, 320, 1, 3)
    small, style = model(architecture), noise(1, 400, 320, 3, seed=1)
    monkeypatch.setattr(style_transfer, "TILE", 2048)
    whole = transfer(small, ramp, style, style_size=0)
    monkeypatch.setattr(style_transfer, "TILE", tile)
    windows = []
    encode = small.network.encode
    monkeypatch.setattr(
        small.network, "encode", lambda x: (windows.append(x.shape[3]), encode(x))[1]
    )
    found = transfer(small, ramp, style, style_size=0)
    assert len(windows) > 10
    assert max(windows) <= tile
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)


def test_out_of_memory_means_smaller_tiles(monkeypatch):
    """In px, down to 64, for wide networks, whose tiles are small from the first, too."""
    small, windows = model(widths=(40, 6, 8, 10)), []
    encode = small.network.encode

    def encoding(x):
        windows.append(max(x.shape[2:]))
        if windows[-1] > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return encode(x)

    monkeypatch.setattr(small.network, "encode", encoding)
    image, style, most = noise(1, 600, 40, 3), noise(1, 64, 64, 3, seed=1), 64
    assert transfer(small, image, style).shape == image.shape
    assert sorted({*windows}) == [64, 128, 248, 336]  # of 64, 128, 256 and 512 at most
    most = 0
    with pytest.raises(DataError, match="even in tiles of 64 px: DefaultCPUAllocator"):
        transfer(small, image, style)


def test_networks_that_see_far():
    """Their tiles are as large as that takes."""
    deep = ResidualAdaIN(
        widths=(64, 64, 96, 128), decoder_widths=(64, 64, 96, 128), blocks=8,
        decoder_blocks=(8, 8, 8), middle=8,
    )  # fmt: skip
    tiling = style_transfer._tiling(deep)
    assert tiling.overlap * style_transfer.STRIDE >= 2 * deep.reach
    assert tiling.tile > tiling.overlap


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (13, 7), (33, 20)])
@pytest.mark.parametrize("colours", ["style", "matched", "luminance"])
def test_any_size(size, colours):
    found = transfer(model(), noise(1, *size, 3), noise(1, 1, 1, 3, seed=1), colours=colours)
    assert found.shape == (1, *size, 3)
    assert found.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("of_style", [1, 3, 4])
def test_channels(channels, of_style):
    image, style = noise(1, 16, 16, channels), noise(1, 16, 16, of_style, seed=1)
    found = transfer(model(), image, style)
    if channels == 4:
        assert torch.equal(found[..., 3], image[..., 3])
    rgb = style[..., :3].expand(-1, -1, -1, 3)
    if of_style == 4:  # on white
        rgb = rgb * style[..., 3:] + 1 - style[..., 3:]
    wanted = plainly(model(), image[..., :3].expand(-1, -1, -1, 3), rgb)
    torch.testing.assert_close(found[..., :3], wanted, rtol=0, atol=1e-5)


def test_strength():
    """0 is the picture itself; between, features lie between (equation 14), and what the decoder
    cannot show of the picture comes back."""
    small, image, style = model(), noise(1, 32, 32, 3), noise(1, 24, 24, 3, seed=1)
    assert torch.equal(transfer(small, image, style, 0.0), image)
    torch.testing.assert_close(transfer(small, image, style, 1e-6), image, rtol=0, atol=1e-4)
    with torch.no_grad():
        state = small.network.state_dict()
        f, s = (features(state, x.movedim(3, 1))[-1] for x in (image, style))
        (mu, sigma), (mu_s, sigma_s) = statistics(f), statistics(s)
        t = sigma_s * (f - mu) / sigma + mu_s
        lost = image.movedim(3, 1) - decoded(state, f)
        wanted = (decoded(state, 0.6 * f + 0.4 * t) + 0.6 * lost).clamp(0, 1).movedim(1, 3)
    torch.testing.assert_close(transfer(small, image, style, 0.4), wanted, rtol=0, atol=1e-4)


def test_styles_are_mixed_by_their_weights():
    small, image = model(), noise(1, 32, 32, 3)
    a, b = noise(1, 24, 24, 3, seed=1), noise(2, 16, 32, 3, seed=2) ** 3
    one = transfer(small, image, a)
    assert torch.equal(transfer(small, image, [(a, 0.5), (b, 0.0)]), one)
    found = transfer(small, image, [(a, 1.0), (b, 3.0)])
    with torch.no_grad():
        state = small.network.state_dict()
        f = features(state, image.movedim(3, 1))[-1]
        mu, sigma = statistics(f)
        t = 0
        for picture, share in ((a, 0.25), (b[:1], 0.375), (b[1:], 0.375)):
            mu_s, sigma_s = statistics(features(state, picture.movedim(3, 1))[-1])
            t = t + share * (sigma_s * (f - mu) / sigma + mu_s)
        wanted = decoded(state, t).clamp(0, 1).movedim(1, 3)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_values_beyond_0_and_1_are_clamped(strength):
    small, image, style = model(), noise(2, 16, 16, 4) * 3 - 1, noise(1, 16, 16, 3, seed=1) * 3 - 1
    found = transfer(small, image, style, strength)
    assert torch.equal(found, transfer(small, image.clamp(0, 1), style.clamp(0, 1), strength))


def test_large_style_pictures_are_reduced():
    small, image, style = model(), noise(1, 32, 32, 3), noise(1, 64, 128, 3, seed=1)
    half = F.interpolate(style.movedim(3, 1), (32, 64), mode="bicubic", antialias=True)
    half = half.clamp(0, 1).movedim(1, 3)
    found = transfer(small, image, style, style_size=32)
    torch.testing.assert_close(found, plainly(small, image, half), rtol=0, atol=1e-5)
    whole = transfer(small, image, style, style_size=0)
    assert torch.equal(whole, transfer(small, image, style, style_size=64))


def test_masks():
    small, image, style = model(), noise(2, 32, 32, 3), noise(1, 24, 24, 3, seed=1)
    full = transfer(small, image, style)
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    found = transfer(small, image, style, mask=mask)
    assert torch.equal(found[:, 16:], image[:, 16:])
    torch.testing.assert_close(found[:, :16], full[:, :16])
    # Half the size: resized, as ComfyUI does.
    small_mask = transfer(small, image, style, mask=mask[:, ::2, ::2])
    assert torch.equal(small_mask[:, 17:], image[:, 17:])
    with pytest.raises(DataError, match=r"3 masks for 2 pictures"):
        transfer(small, image, style, mask=mask.expand(3, -1, -1))
    assert torch.equal(transfer(small, image, style, mask=mask * 0), image)
    each = torch.stack([torch.ones(32, 32), torch.zeros(32, 32)])
    found = transfer(small, image, style, mask=each)
    assert torch.equal(found[0], full[0])
    assert torch.equal(found[1], image[1])
    with pytest.raises(DataError, match="the mask holds NaN"):
        transfer(small, image, style, mask=mask * float("nan"))


# ---------------------------------------------------------------- colours


def test_matched_colours_have_mean_and_covariance():
    mix = torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.15, 0.05], [0.05, 0.0, 0.1]])
    content = noise(1, 20, 30, 3) @ mix + 0.35
    style = noise(1, 40, 10, 3, seed=1) * torch.tensor([0.8, 0.3, 0.5])
    found = colour.matched(style, colour.statistics(content))
    for pixels in (found, content):
        assert 0.01 < float(pixels.min()) < float(pixels.max()) < 0.99  # nothing was clamped
    torch.testing.assert_close(found.mean((0, 1, 2)), content.mean((0, 1, 2)))
    torch.testing.assert_close(
        torch.cov(found.view(-1, 3).T), torch.cov(content.view(-1, 3).T), rtol=0.01, atol=1e-5
    )


def test_matched_colours_are_those_of_each_picture():
    small, style = model(), noise(1, 24, 24, 3, seed=1)
    image = torch.cat([0.1 + 0.3 * noise(1, 32, 32, 3), 1 - 0.5 * noise(1, 32, 32, 3, seed=2) ** 2])
    found = transfer(small, image, style, colours="matched")
    for i, picture in enumerate(image.split(1)):
        own = colour.matched(style, colour.statistics(picture))
        torch.testing.assert_close(found[i : i + 1], transfer(small, picture, own))
        assert torch.equal(found[i : i + 1], transfer(small, picture, style, colours="matched"))
    assert float((found - transfer(small, image, style)).abs().amax((1, 2, 3)).min()) > 0.01


def test_luminance_alone_changes():
    """I and Q of YIQ stay."""
    image, style = 0.4 + 0.2 * noise(1, 32, 32, 3), 0.4 + 0.2 * noise(1, 24, 24, 3, seed=1)
    small = model()
    # So that nothing is clamped.
    small.network.decoder[19].weight.mul_(0.01)
    small.network.decoder[19].bias.fill_(0.5)
    found = transfer(small, image, style, colours="luminance")
    yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
    )
    before, after = image @ yiq.T, found @ yiq.T
    torch.testing.assert_close(after[..., 1:], before[..., 1:], rtol=0, atol=1e-3)
    assert not torch.allclose(after[..., 0], before[..., 0], atol=1e-2)
    # The network saw greys, the style's with the picture's mean and deviation.
    y, s = (x @ yiq[0] for x in (image, style))
    s = (s - s.mean()) / s.std(correction=0) * y.std(correction=0) + y.mean()
    grey = [x[..., None].expand(-1, -1, -1, 3) for x in (y, s.clamp(0, 1))]
    wanted = plainly(small, *grey) @ yiq[0]
    torch.testing.assert_close(after[..., 0], wanted, rtol=0, atol=1e-4)


def test_grey_pictures_stay_grey_where_colours_are_kept():
    grey = noise(1, 32, 32, 1).expand(-1, -1, -1, 3)
    found = transfer(model(), grey, noise(1, 24, 24, 3, seed=1), colours="luminance")
    torch.testing.assert_close(found[..., 0], found[..., 2])
    # A grey picture's covariance is of rank one: the style becomes grey.
    style = colour.matched(noise(1, 24, 24, 3, seed=1), colour.statistics(grey))
    torch.testing.assert_close(style[..., 0], style[..., 2], rtol=0, atol=1e-4)


# ---------------------------------------------------------------- what cannot be used


def test_what_cannot_be_used_is_refused():
    small, image, style = model(), noise(1, 32, 32, 3), noise(1, 24, 24, 3)
    with pytest.raises(DataError, match=r"style 2: pictures of 2 channels; takes grey \(1\)"):
        transfer(small, image, [(style, 1.0), (noise(1, 8, 8, 2), 1.0)])
    with pytest.raises(DataError, match=r"^pictures of 5 channels"):
        transfer(small, noise(1, 8, 8, 5), style)
    broken = image.clone()
    broken[0, 1, 2] = float("nan")
    with pytest.raises(DataError, match=r"^image 0 of the batch .* holds NaN"):
        transfer(small, broken, style)
    with pytest.raises(DataError, match=r"style 1: image 0 of the batch .* holds NaN"):
        transfer(small, image, broken)
    with pytest.raises(UsageError, match="all styles have the weight 0"):
        transfer(small, image, [(style, 0.0)])
    with pytest.raises(DataError, match=r"^the batch holds no picture"):
        transfer(small, image[:0], style)
    with pytest.raises(DataError, match="style 1: the batch holds no picture"):
        transfer(small, image, style[:0])
    other = model(Compact(width=8, depth=1))
    with pytest.raises(CheckpointError, match=r"a compact .* does not transfer styles"):
        transfer(other, image, style)


def test_it_can_be_cancelled():
    class Host(LocalHost):
        def progress(self, done, total, preview=None):
            seen.append((done, total))
            if len(seen) == 3:
                raise Cancelled("stop")

    seen = []
    with pytest.raises(Cancelled):
        transfer(model(), noise(2, 32, 32, 3), noise(1, 24, 24, 3), host=Host(device="cpu"))
    # A style is encoded, then each of two pictures is encoded and decoded.
    assert {total for _, total in seen} == {5}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) == 3


def test_the_workflow(tmp_path):
    """Load Image twice, Load Checkpoint, Style Transfer, Save Image."""
    for folder in ("input", "weights"):
        (tmp_path / folder).mkdir()
    small = model()
    checkpoint.save(tmp_path / "weights" / "style.safetensors", small.card, small.network)
    pixels = [
        np.random.RandomState(i).randint(0, 256, size).astype(np.uint8)
        for i, size in enumerate([(19, 24, 3), (40, 17, 3)])
    ]
    for name, picture in zip("ab", pixels, strict=True):
        Image.fromarray(picture).save(tmp_path / "input" / f"{name}.png")
    inputs = {"strength": 0.5, "colours": "matched", "style_size": 32, "weight": 2.0}
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "b.png"}},
        "3": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": "style.safetensors"}},
        "4": {
            "class_type": "ImagenStyleTransfer",
            "inputs": {
                "model": ["3", 0],
                "image": ["1", 0],
                "style": ["2", 0],
                "style_2": ["1", 0],
                **{f"weight_{n}": 1.0 for n in (2, 3, 4)},
                **inputs,
            },
        },
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "s"}},
    }
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    runner = Runner(
        input=tmp_path / "input", output=tmp_path / "output", weights=[tmp_path / "weights"]
    )
    (file,) = runner.run(tmp_path / "workflow.json")["5"].files
    a, b = (torch.from_numpy(x / 255.0).float()[None] for x in pixels)
    wanted = transfer(small, a, [(b, 2.0), (a, 1.0)], 0.5, "matched", 32)[0]
    difference = np.asarray(Image.open(file)).astype(int) - (wanted * 255).byte().numpy()
    assert np.abs(difference).max() <= 1
