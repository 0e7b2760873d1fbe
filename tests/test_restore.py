"""Restoring pictures: tiles, the task's losses, a training from end to end, and how its result is
evaluated."""

import io
import itertools
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from imagen_nodes import checkpoint, tiles
from imagen_nodes.__main__ import main
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.evaluation import restoration
from imagen_nodes.evaluation.paired import lpips_network, psnr_rgb, psnr_y, ssim_y
from imagen_nodes.foreign import describe
from imagen_nodes.networks.compact import Compact
from imagen_nodes.networks.residual_unet import ResidualUNet
from imagen_nodes.noise_level import JPEG_MARK, noise_level
from imagen_nodes.training import degradation
from imagen_nodes.training.data import Dataset, Stream, open_data, opening
from imagen_nodes.training.data.pictures import cut, starts, tiles_in
from imagen_nodes.training.degradation import Shrink
from imagen_nodes.training.loop import beginning
from imagen_nodes.training.measuring import Measuring
from imagen_nodes.training.randomness import Numbers
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.task import Batch, Moment
from imagen_nodes.training.tasks.pictures import lpips, patches
from imagen_nodes.training.tasks.restore import Restore

from .smooth_pictures import numbers, smooth

COMPACT = Path(__file__).parent / "data/golden/models/upscale_models/tiny_compact_x4.safetensors"
SMALL = {
    "generator": {"kind": "compact", "scale": 2, "width": 8, "depth": 1},
    "tile": 32,
    "patch": 16,
}


def write_pictures(folder, count=6, size=(48, 40)):
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(smooth(count, 64)):
        pixels = picture[:, : size[1], : size[0]].permute(1, 2, 0).mul(255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


# ------------------------------------------------------------------------ tiles


def test_tiles_are_the_picture_itself():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    tiles = cut(Image.fromarray(pixels), (32, 32), 3)
    places = [(y, x) for y in starts(70, 32) for x in starts(100, 32)]
    assert len(tiles) == len(places) == 4 * 6
    for tile, (y, x) in zip(tiles, places, strict=True):
        assert np.array_equal(tile, pixels[y : y + 32, x : x + 32])


@pytest.mark.parametrize("length", [32, 33, 48, 100, 321])
def test_tiles_reach_everywhere_and_overlap_by_half(length):
    found = starts(length, 32)
    assert (found[0], found[-1]) == (0, length - 32)
    assert all(0 < b - a <= 16 for a, b in itertools.pairwise(found))


def test_the_number_of_tiles_is_known_from_the_header(tmp_path):
    picture = Image.new("RGB", (80, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    content = (tmp_path / "turned.jpg").read_bytes()
    with Image.open(io.BytesIO(content)) as opened:
        assert tiles_in(lambda: content, (40, 20)) == len(cut(opened, (40, 20), 3)) == 3 * 4
    assert tiles_in(lambda: b"nothing", (32, 32)) == 0


@pytest.mark.parametrize("cached", [False, True])
def test_a_data_set_of_tiles(place, monkeypatch, cached):
    Image.new("RGB", (31, 90)).save(place / "pictures" / "narrow.png")
    monkeypatch.setenv("IMAGEN_CACHE", str(place / "cache"))
    if cached:
        monkeypatch.setattr(opening, "SMALL", 0)
    found = open_data(place / "pictures", 32, 3, tiles=True)
    whole = open_data(place / "pictures", 32, 3)
    assert found.images.shape == (6 * 2 * 2, 32, 32, 3)
    assert found.names[:5] == ("0.png",) * 4 + ("1.png",)
    assert found.skipped == ("narrow.png: 31x90 px, smaller than a tile of 32x32",)
    assert len(whole.images) == 7  # another cache
    pixels = np.asarray(Image.open(place / "pictures" / "1.png"))
    assert np.array_equal(found.images[7], pixels[-32:, -32:])


def test_classes_are_those_of_the_pictures(tmp_path):
    for name in "ab":
        write_pictures(tmp_path / name, 2)
    found = open_data(tmp_path, 32, 3, tiles=True)
    assert found.labels.tolist() == [0] * 8 + [1] * 8


def test_a_set_of_pixels_too_small_for_tiles(tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((5, 16, 16, 3), np.uint8))
    with pytest.raises(DataError, match="its pictures are 16x16 px, smaller than a tile"):
        open_data(tmp_path / "set.npz", 32, 3, tiles=True)


# ------------------------------------------------------------------------ losses


class Repeat(nn.Module):
    """Twice the size, and a bias to learn."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        return F.interpolate(x, scale_factor=2) + self.bias


class Mean(nn.Module):
    """One logit an image; of squares, since a smaller picture has the same mean."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return x.square().mean((1, 2, 3), keepdim=True) * self.gain


def updates(task, networks, images):
    moment = Moment(0, len(images), numbers(), {})
    return list(task.losses(networks, Batch(images * 2 - 1, None), moment))


def value(tensor):
    return float(tensor.detach())


@pytest.mark.parametrize("pixel", ["l1", "charbonnier", "mse", "psnr"])
def test_the_pixel_loss_is_the_one_it_names(pixel):
    task = Restore.model_validate(
        SMALL | {"patch": 32, "turn": False, "pixel": pixel, "pixel_weight": 3}
    )
    clean = smooth(2, 32)
    (update,) = updates(task, {"generator": Repeat()}, clean)
    small = F.interpolate(clean, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    result = F.interpolate(small.mul(255).round().div(255), scale_factor=2) + 0.1
    error = (result - clean).abs()
    expected = {
        "l1": error,
        "mse": error**2,
        "charbonnier": (error**2 + 1e-6).sqrt(),
        "psnr": 10 * ((error**2).mean((1, 2, 3)) + 1e-6).log10(),
    }[pixel]
    assert value(update.losses[pixel]) == pytest.approx(3 * value(expected.mean()), rel=1e-4)
    psnr = -10 * torch.log10((result.clamp(0, 1) - clean).square().mean((1, 2, 3))).mean()
    assert value(update.signals["PSNR"]) == pytest.approx(value(psnr), rel=1e-4)


@pytest.mark.parametrize("loss", ["bce", "relativistic"])
def test_the_game_and_the_perceptual_loss(loss):
    fields = {"adversarial_weight": 0.5, "perceptual_weight": 2, "patch": 32, "turn": False}
    d = {"discriminator": {"kind": "unet-discriminator"}, "loss": loss}
    task = Restore.model_validate(SMALL | fields | d)
    networks = {"generator": Repeat(), "discriminator": Mean()}
    clean = smooth(2, 32)
    judge, restore = updates(task, networks, clean)
    assert (judge.network, restore.network) == ("discriminator", "generator")
    result = networks["generator"](Shrink().apply(clean, 2, numbers()))
    real, fake = ((x * 2 - 1).square().mean((1, 2, 3)) * 2 for x in (clean, result))
    if loss == "bce":
        expected, game = F.softplus(-real).mean() + F.softplus(fake).mean(), F.softplus(-fake)
    else:
        expected, game = F.softplus(fake - real).mean(), F.softplus(real - fake)
    assert value(judge.losses["discriminator"]) == pytest.approx(value(expected), rel=1e-4)
    expected = 0.5 * game.mean()
    assert value(restore.losses["generator"]) == pytest.approx(value(expected), rel=1e-4)
    expected = 2 * lpips_network()(result * 2 - 1, clean * 2 - 1).mean()
    assert value(restore.losses["lpips"]) == pytest.approx(value(expected), rel=1e-3)
    sum(restore.losses.values()).backward()
    assert networks["generator"].bias.grad is not None
    assert networks["discriminator"].gain.grad is None


def test_pictures_are_made_worse_in_float32():
    """Whatever the networks run in."""
    fields = {"degradation": {"kind": "photo"}, "patch": 32, "turn": False}
    task, clean, seen = Restore.model_validate(SMALL | fields), smooth(2, 32), []
    network = Repeat()
    network.register_forward_pre_hook(lambda module, x: seen.append(x[0]))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            updates(task, {"generator": network}, clean)
    assert torch.equal(*seen)


def test_lpips_begins_anywhere_in_the_first_pixels():
    """A network that is always judged in the same phase learns a grid."""
    a, b = smooth(2, 64) * 2 - 1, torch.zeros(2, 3, 64, 64)
    network = lpips_network()
    found = {value(lpips(a, b, Numbers(torch.Generator().manual_seed(i)))) for i in range(4)}
    assert len(found) == 4
    shares = torch.Generator().manual_seed(7)
    down, right = (int(16 * share) for share in torch.rand(2, generator=shares).tolist())
    expected = network(a[:, :, down:, right:], b[:, :, down:, right:]).mean()
    assert (down, right) != (0, 0)
    assert value(lpips(a, b, Numbers(torch.Generator().manual_seed(7)))) == pytest.approx(
        value(expected)
    )


def test_patches_are_windows_and_their_turned_ones():
    tiles = torch.arange(32 * 32.0).view(1, 1, 32, 32).expand(40, 3, 32, 32)
    found = patches(tiles, 16, numbers(), turn=True)
    corners = set()
    for patch in found[:, 0]:
        step = patch[0, 1] - patch[0, 0]
        patch = patch if step == 1 else patch.t()
        y, x = divmod(int(patch[0, 0]), 32)
        assert torch.equal(patch, tiles[0, 0, y : y + 16, x : x + 16])
        corners.add((y, x, int(step)))
    assert len(corners) > 30
    assert {step for *_, step in corners} == {1, 32}


UNET = {"kind": "residual-unet", "widths": [8, 8, 8], "blocks": 1, "middle": 1}


class Seeing(nn.Module):
    """Gives the picture back, and keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return x[:, :3] + self.bias


@pytest.mark.parametrize("jpeg_mark", [False, True])
def test_a_network_that_is_told_of_the_noise(jpeg_mark):
    """And of JPEG's blocks."""
    noise = {"kind": "noise", "sigma": [10, 50], "jpeg": 0.3, "noisy": 0.5}
    net = UNET | {"noise_map": True, "jpeg_mark": jpeg_mark}
    fields = {"generator": net, "degradation": noise, "turn": False}
    task = Restore.model_validate(SMALL | fields | {"patch": 32})
    clean, network = smooth(8, 32), Seeing()
    (update,) = updates(task, {"generator": network}, clean)
    (x,) = network.seen
    random = numbers()
    patches(clean, 32, random, turn=False)
    seen, sigma, blocks = task.degradation.told(clean, 1, random)
    assert 0 < int(blocks.sum()) < 8
    if jpeg_mark:
        sigma[blocks] = JPEG_MARK
    assert torch.equal(x[:, :3], seen)
    assert torch.equal(x[:, 3], sigma.view(8, 1, 1).expand(8, 32, 32))
    assert value(update.losses["charbonnier"]) == pytest.approx(
        value(((seen - clean) ** 2 + 1e-6).sqrt().mean()), rel=1e-4
    )


def clean_patches(**fields):
    noise = {"kind": "noise", "sigma": [0, 0], "clipped": 0}
    task = {"generator": UNET, "degradation": noise, "turn": False} | fields
    network = Seeing()
    updates(Restore.model_validate(SMALL | task), {"generator": network}, smooth(60, 32))
    return network.seen[0]


def test_patches_are_made_grey():
    seen = clean_patches(grey=0.5)
    grey = (seen == seen[:, :1]).flatten(1).all(1)
    assert 15 < int(grey.sum()) < 45
    plain = clean_patches()
    assert torch.equal(seen[~grey], plain[~grey])
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    wanted = (plain[grey] * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(seen[grey], wanted, rtol=0, atol=1e-5)


def test_patches_are_tinted():
    """Each channel by a curve that rises or falls: the order of its values stays or turns."""
    seen, plain = clean_patches(tinted=0.5), clean_patches()
    tinted = ~(seen == plain).flatten(1).all(1)
    assert 15 < int(tinted.sum()) < 45
    assert 0 <= seen.min() < seen.max() <= 1
    falling = []
    for one, other in zip(seen[tinted].flatten(0, 1), plain[tinted].flatten(0, 1), strict=True):
        steps = one.flatten()[other.flatten().argsort()].diff()
        assert bool((steps <= 1e-6).all()) or bool((steps >= -1e-6).all())
        falling.append(bool(steps.sum() < 0))
    assert 0.3 < np.mean(falling) < 0.7


def test_patches_are_halved():
    seen, plain = clean_patches(halved=1.0), clean_patches(patch=32)
    assert seen.shape == (60, 3, 16, 16)
    torch.testing.assert_close(seen, F.avg_pool2d(plain, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"patch": 17}, "patch: 17 px of tiles of 32; takes multiples of 2 px"),
        ({"patch": 64}, "the patch at most as large as the tile"),
        (
            {"generator": {"kind": "residual-unet"}, "patch": 18},
            r"takes multiples of 4 px \(residual-unet\)",
        ),
        (
            {"generator": {"kind": "compact", "scale": 1}},
            "shrink, but the generator enlarges nothing",
        ),
        ({"perceptual_weight": 1}, "needs RGB and patches of 32 px"),
        ({"adversarial_weight": 1}, "without one adversarial_weight is 0"),
        ({"discriminator": {"kind": "unet-discriminator"}}, "with one it is more"),
        (
            {"discriminator": {"kind": "unet-discriminator", "channels": 1}}
            | {"adversarial_weight": 1},
            "discriminator.channels is 1, generator.channels is 3",
        ),
        (
            {"discriminator": {"kind": "patch-discriminator"}, "adversarial_weight": 1},
            "with this discriminator a multiple of 8, 24 or more",
        ),
        (
            {"discriminator": {"kind": "unet-discriminator"}, "adversarial_weight": 1}
            | {"loss": "wasserstein"},
            "needs a penalty that this task does not have",
        ),
        ({"degradation": {"kind": "noise", "sigma": [30, 20]}}, "sigma: 30.0 to 20.0"),
        ({"degradation": {"kind": "noise", "common": [30, 20]}}, "common: 30.0 to 20.0"),
        ({"generator": UNET | {"noise_map": True}}, "the degradation shrink knows nothing"),
        ({"generator": UNET | {"jpeg_mark": True}}, "jpeg_mark: is a value of the noise map"),
        ({"pixel_weight": 0}, "there is nothing to learn"),
        ({"halved": 0.5, "patch": 32}, "windows of twice the patch, 64 px, of tiles of 32"),
    ],
)
def test_what_does_not_fit_together(fields, text):
    with pytest.raises(ValidationError, match=text):
        Restore.model_validate(SMALL | fields)


# ------------------------------------------------------------------------ a training and its result


@pytest.mark.parametrize(("share", "name", "samples"), [(0.1, "p, held out", 24), (0, "p", 100)])
def test_measured_on_pictures_that_were_not_trained_on(share, name, samples):
    recipe = Recipe(name="r", task=Restore.model_validate(SMALL), held_out=share)
    images = np.random.default_rng(0).integers(0, 256, (240, 32, 32, 3), np.uint8)
    names = tuple(f"{i // 6}.png" for i in range(240))
    data = Stream(Dataset("p", images, names=names), seed=0, flip=False, held_out=share)
    measure = Measuring(recipe, data, torch.device("cpu")).measure
    with torch.inference_mode():
        figure, *_ = measure(recipe.task.generator.build())
    assert (figure.reference, figure.samples) == (f"tiles of {name}", samples)


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({}, "PSNR-Y"),
        ({"generator": UNET, "degradation": {"kind": "noise", "sigma": [0, 0]}}, "PSNR-RGB"),
        ({"perceptual_weight": 1, "patch": 32}, "LPIPS-squeeze"),
        (
            {"adversarial_weight": 1, "discriminator": {"kind": "unet-discriminator"}},
            "LPIPS-squeeze",
        ),
    ],
)
def test_the_figures_of_a_training(fields, first):
    """Of tiles from all over the data; of enlarged ones without a border, as papers do."""
    task = Restore.model_validate(SMALL | fields)
    pixels = smooth(7, 32).mul(255).round().byte().movedim(1, 3).numpy()

    def network(seen):
        return F.interpolate(seen, scale_factor=task.scale) + 0.1

    figures = task.measuring(Dataset("p", pixels), torch.device("cpu"), 100, 3)(network)
    clean = torch.from_numpy(pixels[[0, 3, 6]]).movedim(3, 1) / 255
    seen = Shrink().apply(clean, 2, numbers()) if task.scale == 2 else clean
    x, y = network(seen).clamp(0, 1).mul(255).round() / 127.5 - 1, clean * 2 - 1
    crop = 2 if task.scale == 2 else 0
    expected = {
        "PSNR-Y": psnr_y(x, y, crop),
        "PSNR-RGB": psnr_rgb(x, y, crop),
        "SSIM": ssim_y(x, y, crop),
        "LPIPS-squeeze": lpips_network()(x, y),
    }
    assert figures[0].metric == first
    assert {f.metric: f.value for f in figures} == pytest.approx(
        {metric: value(values.mean()) for metric, values in expected.items()}, rel=1e-4
    )
    assert {(f.samples, f.reference) for f in figures} == {(3, "tiles of p")}


def test_previews():
    """What the network sees, what it makes of it, the original."""
    task, clean = Restore.model_validate(SMALL | {"patch": 32, "turn": False}), smooth(3, 32)
    shown = task.preview(Repeat(), 2, torch.Generator(), Batch(clean * 2 - 1, None))
    seen = F.interpolate(Shrink().apply(clean[:2], 2, numbers()), scale_factor=2)
    wanted = torch.cat([seen, (seen + 0.1).clamp(0, 1), clean[:2]], 3)
    # What is rounded to 8 bits may be rounded otherwise.
    torch.testing.assert_close(shown, wanted.movedim(1, 3), rtol=0, atol=1.01 / 255)


def begin(run, *options, **fields):
    made = {"name": "small", "task": {"kind": "restore", **SMALL}, "batch": 4, "kimg": 0.048}
    made |= {"log_kimg": 0.012, "precision": "float32", "held_out": 0} | fields
    Path("small.json").write_text(json.dumps(made))
    return main(["train", "small.json", "--data", "pictures", "--run", run, *options])


def test_from_pictures_to_the_node_and_to_others(place, capsys):
    assert begin("run", metric_kimg=0.024, sample_kimg=0.024) == 0
    out = capsys.readouterr().out
    assert "data: 24 images of pictures" in out
    assert "measured after 0.0 kimg: PSNR-Y" in out
    with Image.open("run/samples/000000.png") as sheet:
        assert sheet.size == (4 * 3 * 16, 4 * 16)
    lines = [json.loads(line) for line in Path("run/stats.jsonl").read_text().splitlines()]
    assert set(lines[-1]["losses"]) == {"charbonnier"}
    assert lines[-1]["losses"]["charbonnier"] < lines[0]["losses"]["charbonnier"]
    best = Path("run/snapshots/small-best.safetensors")
    card = checkpoint.inspect(best).card
    assert (card.task, card.value_range) == ("super-resolution", (0.0, 1.0))
    assert card.description.startswith("A compact that enlarges pictures 2 times, trained on 24")
    assert card.quality[0].metric == "PSNR-Y"
    assert card.training.selection == "the best PSNR-Y of the training"
    # Stock programs read it by its tensors' names.
    descriptor = describe(best)
    assert (descriptor.architecture.id, descriptor.scale) == ("Compact", 2)
    x = smooth(1, 20)
    with torch.inference_mode():
        ours = checkpoint.load(best).network(x).clamp(0, 1)
        torch.testing.assert_close(descriptor(x), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("noise_map", [False, True])
def test_a_denoiser_from_pictures_to_a_file(place, capsys, noise_map):
    """The residual U-Net: its tiles, previews, card and figures."""
    net = UNET | {"noise_map": noise_map}
    task = {"kind": "restore", "generator": net, "degradation": {"kind": "noise"}}
    task |= {"tile": 32, "patch": 16}
    optimiser = {"lr": 2e-3}
    assert begin("run", task=task, optimiser=optimiser, metric_kimg=0.024, kimg=0.2) == 0
    lines = [json.loads(line) for line in Path("run/stats.jsonl").read_text().splitlines()]
    assert lines[-1]["losses"]["charbonnier"] < 0.9 * lines[0]["losses"]["charbonnier"]
    path = "run/snapshots/small-best.safetensors"
    best = checkpoint.load(Path(path))
    assert (best.card.task, best.card.quality[0].metric) == ("restoration", "PSNR-RGB")
    assert best.card.description.startswith("A residual-unet that restores pictures")
    assert best.architecture == ResidualUNet.model_validate(net)
    evaluated = {
        words: evaluation(capsys, [path, "--data", "pictures", "--noise", "25", *words])
        for words in ((), ("--told",), ("--unclipped",), ("--told", "--unclipped"), ("--ensemble",))
        if noise_map or "--told" not in words
    }
    for words, found in evaluated.items():
        figures = []
        clean = [
            torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1)[None] / 255
            for p in sorted(Path("pictures").iterdir())
        ]
        degrade = degradation.degradation_of(best, 25, clipped="--unclipped" not in words)
        for i, x in enumerate(clean):
            seen = degrade(x, i)
            assert bool((seen < 0).any()) == ("--unclipped" in words)
            if noise_map:
                level = 25 / 255 if "--told" in words else noise_level(seen[0])
                seen = torch.cat([seen, torch.full_like(seen[:, :1], level)], 1)
            with torch.inference_mode():
                clamped = restored_by(best.network)
                y = (tiles.ensemble(clamped) if "--ensemble" in words else clamped)(seen)
                y = y.mul(255).round().div(255)
            figures.append(float(psnr_rgb(y * 2 - 1, x * 2 - 1, 0)))
        assert found == pytest.approx(np.mean(figures), abs=1e-3)
    if noise_map:
        assert evaluated["--told",] != evaluated[()]
    else:
        assert main(["evaluate", path, "--data", "pictures", "--noise", "25", "--told"]) == 2
        assert "--told is for networks that are told" in capsys.readouterr().err
    assert len({evaluated[()], evaluated["--unclipped",], evaluated["--ensemble",]}) == 3


def restored_by(network):
    return lambda x: network(x).clamp(0, 1)


def evaluation(capsys, words):
    capsys.readouterr()
    assert main(["evaluate", *words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    return next(x["value"] for x in figures if x["metric"] == "PSNR-RGB")


def test_a_compact_needs_no_kind():
    """As recipes had it before there were others."""
    task = Restore.model_validate({"generator": {"scale": 2, "width": 8}})
    assert task.generator == Compact(scale=2, width=8)
    assert Restore.model_validate_json(task.model_dump_json()) == task


def test_a_training_is_resumed_exactly(place, capsys):
    gan = {"kind": "patch-discriminator", "depth": 1, "width": 8, "norm": "spectral"}
    game = {"discriminator": gan, "adversarial_weight": 0.1, "loss": "relativistic"}
    task = {"kind": "restore", **SMALL, "degradation": {"kind": "noise"}, **game}
    begin("whole", task=task)
    begin("half", "--kimg", "0.024", task=task)
    assert main(["train", "--resume", "half", "--kimg", "0.048"]) == 0
    whole, half = (
        torch.load(sorted(Path(run).glob("state-*.pt"))[-1], weights_only=True)
        for run in ("whole", "half")
    )
    for network in ("generator", "discriminator"):
        for name, tensor in whole["networks"][network].items():
            assert torch.equal(tensor, half["networks"][network][name])


def test_no_pictures_are_read_for_an_examination_that_is_none(place, monkeypatch):
    asked, batch = [], Stream.batch
    monkeypatch.setattr(Stream, "batch", lambda self, i, n: asked.append(n) or batch(self, i, n))
    begin("run", sample_kimg=0.024)
    assert set(asked) == {4, 64}  # steps, and the pictures that samples are chosen from


def test_begin_with_weights(place, capsys):
    begin("first")
    first = next(Path("first/snapshots").glob("*.safetensors"))
    assert begin("second", "--kimg", "0.004", begin_with=str(first)) == 0
    network, task = checkpoint.load(first), Restore.model_validate(SMALL)
    found = beginning(str(first), task.generator)
    assert torch.equal(found["body.0.weight"], network.network.state_dict()["body.0.weight"])
    capsys.readouterr()
    other = Restore.model_validate(SMALL | {"generator": SMALL["generator"] | {"width": 16}})
    with pytest.raises(CheckpointError, match=r"of another network \(width: 8, not 16\)"):
        beginning(str(first), other.generator)
    assert begin("third", begin_with="nothing.safetensors") == 1
    assert "no weights 'nothing.safetensors'. There is: " in capsys.readouterr().err


def test_a_run_goes_on_without_the_weights_that_it_began_with(place, capsys):
    begin("first")
    first = next(Path("first/snapshots").glob("*.safetensors"))
    for run, lengths in (("whole", ["0.016"]), ("parts", ["0.008", "0.016"])):
        assert begin(run, "--kimg", lengths[0], begin_with=str(first)) == 0
        if len(lengths) > 1:
            first.rename("moved.safetensors")
            assert main(["train", "--resume", run, "--kimg", lengths[1]]) == 0
    states = [
        torch.load(sorted(Path(run).glob("state-*.pt"))[-1], weights_only=True)["networks"]
        for run in ("whole", "parts")
    ]
    for name, tensor in states[0]["generator"].items():
        assert torch.equal(tensor, states[1]["generator"][name]), name
    # Back to its beginning, where there is no state, it has to be there.
    for state in Path("parts").glob("state-*.pt"):
        state.unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "parts", "--kimg", "0.02"]) == 1
    assert f"{first}: no such file" in capsys.readouterr().err


def test_evaluate(place, capsys):
    begin("run")
    weights = str(next(Path("run/snapshots").glob("*.safetensors")))
    write_pictures(place / "odd", 3, (51, 49))
    capsys.readouterr()
    assert main(["evaluate", weights, "--data", "odd", "--json", "--save"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = checkpoint.load(Path(weights))
    sums = {"figures": torch.zeros(4), "without": torch.zeros(4)}
    for i in range(3):
        pixels = np.asarray(Image.open(place / "odd" / f"{i}.png"))[:48, :50]
        clean = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
        small = Shrink().apply(clean, 2, numbers())
        with torch.inference_mode():
            ways = {
                "figures": model.network(small),
                "without": F.interpolate(small, scale_factor=2, mode="bicubic", antialias=True),
            }
            for name, result in ways.items():
                x, y = result.clamp(0, 1).mul(255).round() / 127.5 - 1, clean * 2 - 1
                figures = [psnr_y(x, y, 2), psnr_rgb(x, y, 2), ssim_y(x, y, 2)]
                sums[name] += torch.cat([*figures, lpips_network()(x, y)]) / 3
    for name, expected in sums.items():
        values = [figure["value"] for figure in found[name]]
        assert values == pytest.approx(expected.tolist(), rel=1e-3)
    assert found["figures"][0]["reference"] == "odd"
    saved = checkpoint.inspect(Path(weights)).card.quality
    assert [figure.value for figure in saved] == [f["value"] for f in found["figures"]]
    more = ["--noise", "10", "--jpeg", "30", "--ensemble"]
    assert main(["evaluate", weights, "--data", "odd", *more, "--save"]) == 0
    otherwise = "odd, noise of 10/255, JPEG of quality 30, ensemble"
    assert f"means of 3 pictures of {otherwise}" in capsys.readouterr().out
    assert main(["evaluate", weights, "--data", "odd", "--save"]) == 0
    both = checkpoint.inspect(Path(weights)).card.quality
    assert [figure.reference for figure in both] == 4 * [otherwise] + 4 * ["odd"]
    assert both[4:] == saved


def test_an_exactly_restored_picture_counts_as_100_db():
    """Infinite, it would hide the others; off by 51/255 everywhere is 13.98 dB."""
    pictures = [torch.full((1, 3, 20, 20), level) for level in (0.2, 0.4)]

    def restore(seen):
        return torch.full_like(seen, 0.2)

    found = restoration.figures(restore, lambda clean, i: clean, pictures, 0, "x")
    values = {figure.metric: figure.value for figure in found}
    assert values["PSNR-RGB"] == pytest.approx((100 + 13.979) / 2, abs=1e-3)
    assert 50 < values["PSNR-Y"] < 60


def test_noise_and_jpeg_are_what_files_have():
    card = checkpoint.Card(title="small", architecture=UNET, task="restoration")
    model = types.SimpleNamespace(architecture=ResidualUNet.model_validate(UNET), card=card)
    x = smooth(1, 40)
    noisy = degradation.degradation_of(model, 20)(x, 3)
    for sigma, given in ((None, x), (20, noisy)):
        file = io.BytesIO()
        pixels = given[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=30)
        wanted = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255
        found = degradation.degradation_of(model, sigma, 30)(x, 3)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_file_without_a_card_gets_none(place, capsys):
    """Which would name a network that no card can build; the file stays as it is."""
    shutil.copy(COMPACT, "other.safetensors")
    write_pictures(place / "odd", 1, (51, 49))
    assert main(["evaluate", "other.safetensors", "--data", "odd", "--save"]) == 2
    assert "--save: other.safetensors is a file of another program" in capsys.readouterr().err
    assert Path("other.safetensors").read_bytes() == COMPACT.read_bytes()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--data", "nothing"], "nothing: no pictures there"),
        (["--data", "tiny"], "8x8 px; needs 17 px each way"),
        (["--data", "pictures", "--noise", "300"], "--noise takes a deviation of 0 to 255"),
        (["--data", "pictures", "--jpeg", "0"], "--jpeg takes a quality of 1 to 100"),
        (
            ["--data", "pictures", "--noise", "9", "--jpeg", "9", "--unclipped"],
            "--unclipped: a JPEG file cuts its values; leave --jpeg or this out",
        ),
        (["--data", "pictures", "--told"], "--told is about the noise that --noise SIGMA adds"),
    ],
)
def test_what_cannot_be_evaluated(place, capsys, words, text):
    begin("run")
    write_pictures(place / "tiny", 1, (9, 9))
    weights = str(next(Path("run/snapshots").glob("*.safetensors")))
    assert main(["evaluate", weights, *words]) != 0
    assert text in capsys.readouterr().err


def test_bicubic_of_published_quality():
    """Enlarging by pixels of a gradient gives it back."""
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    found = restoration.by_bicubic(2)(Shrink().apply(ramp, 2, numbers()))
    assert float((found - ramp)[..., 8:-8, 8:-8].abs().max()) < 1 / 255
