"""Translation tasks: what their losses are, written out plainly; trainings from end to end."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main
from imagen_nodes.checkpoint import Card, Model, Training
from imagen_nodes.errors import DataError
from imagen_nodes.evaluation import translation
from imagen_nodes.evaluation.compare import read_picture
from imagen_nodes.evaluation.evaluator import Evaluator
from imagen_nodes.evaluation.features import mobilenet
from imagen_nodes.evaluation.paired import lpips_network, psnr_rgb, ssim_y
from imagen_nodes.images import to_network, to_pixels
from imagen_nodes.networks.resnet_generator import ResNetGenerator
from imagen_nodes.training.data import pictures
from imagen_nodes.training.data.dataset import Dataset
from imagen_nodes.training.losses import feature_matching, patch_nce
from imagen_nodes.training.presets import PRESETS
from imagen_nodes.training.randomness import Numbers
from imagen_nodes.training.task import Batch, Moment
from imagen_nodes.training.tasks import unpaired
from imagen_nodes.training.tasks.translate import Translate
from imagen_nodes.training.tasks.unpaired import Contrast, Cycle
from imagen_nodes.training.windows import windows

UNET = {"kind": "unet-generator", "width": 4, "depth": 3, "resolution": 32, "norm": "instance"}
PLAIN = {**UNET, "dropout": 0.0}
RESNET = {"width": 4, "blocks": 2, "resolution": 32}
RESIDUAL_UNET = {"kind": "residual-unet", "widths": [8, 8, 8], "blocks": 1, "bias": True}
JUDGE = {"width": 8, "depth": 1, "norm": "instance"}
PAIRS = {"generator": PLAIN, "discriminator": {**JUDGE, "channels": 6}, "read": 32}
KINDS = {"generator": RESNET, "discriminator": JUDGE, "read": 40, "window": 32}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def moment(seed=0, graphs=True):
    return Moment(0, 4, Numbers(torch.Generator().manual_seed(seed)), {}, graphs)


def built(task):
    networks = {name: a.build() for name, a in task.architectures.items()}
    for name, network in networks.items():
        network.initialise(torch.Generator().manual_seed(len(name)))
    return networks


def step(task, networks, images, seed=0, graphs=True):
    """All updates of a step; nothing is updated."""
    return list(task.losses(networks, Batch(images, None), moment(seed, graphs)))


# ------------------------------------------------------------------------ losses


def test_feature_matching():
    """Wang et al. 2018, equation 4: of every stage but the logits, over two scales."""
    sizes = [(2, 8, 9, 9), (2, 4, 5, 5), (2, 1, 3, 3)]
    maps = [
        [[noise(*s, seed=9 * k + i) for i, s in enumerate(sizes)] for _ in "ab"] for k in (0, 1)
    ]
    real, fake = maps
    wanted = 0.0
    for of_real, of_fake in zip(real, fake, strict=True):
        for i in range(2):
            wanted += float((of_real[i] - of_fake[i]).abs().mean()) / 2
    assert float(feature_matching(real, fake)) == pytest.approx(wanted, rel=1e-5)
    of = [[x.requires_grad_() for x in maps] for maps in real]
    made = [[x.requires_grad_() for x in maps] for maps in fake]
    feature_matching(of, made).backward()
    assert of[0][0].grad is None
    assert made[0][0].grad is not None


def test_patch_nce():
    """Park et al. 2020, equation 2: -log of the right one's share, place by place."""
    queries, keys = (F.normalize(noise(2, 5, 7, seed=s), dim=2) for s in (0, 1))
    wanted = []
    for picture in range(2):
        for place in range(5):
            shares = [
                math.exp(float(queries[picture, place] @ keys[picture, other]) / 0.1)
                for other in range(5)
            ]
            wanted.append(-math.log(shares[place] / sum(shares)))
    found = patch_nce(queries, keys, 0.1)
    assert float(found) == pytest.approx(np.mean(wanted), rel=1e-5)
    keys.requires_grad_()
    queries.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(patch_nce(queries, keys, 0.1), found), "in float32 there too"
    patch_nce(queries, keys, 0.1).backward()
    assert keys.grad is None


def test_windows():
    images, other = noise(3, 3, 12, 10), noise(3, 1, 12, 10, seed=1)
    whole = torch.cat([images, other], 1)
    a, b = windows([images, other], 8, Numbers(torch.Generator().manual_seed(0)))
    (c,) = windows([whole], 8, Numbers(torch.Generator().manual_seed(0)))
    assert torch.equal(torch.cat([a, b], 1), c)
    places = {
        next(
            (y, x) for y in range(5) for x in range(3)
            if torch.equal(images[i, :, y : y + 8, x : x + 8], a[i])
        )
        for i in range(3)
    }  # fmt: skip
    assert len(places) > 1
    assert torch.equal(windows([images], 8, None)[0], images[:, :, 2:10, 1:9])


# ------------------------------------------------------------------------ pairs


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("loss", "generator"), [("bce", PLAIN), ("mse", RESIDUAL_UNET), ("relativistic", PLAIN)]
)
def test_paired_losses(side, loss, generator, graphs):
    fields = {"input": side, "loss": loss, "generator": generator, "window": 32}
    task = Translate.model_validate({**PAIRS, **fields})
    networks, images = built(task), noise(2, 3, 32, 64)
    first, second = step(task, networks, images, graphs=graphs)
    given, target = images.chunk(2, 3) if side == "left" else reversed(images.chunk(2, 3))
    made = networks["generator"](given)
    judge = networks["discriminator"]
    (real,), (fake,) = judge(torch.cat([given, target], 1)), judge(torch.cat([given, made], 1))
    if loss == "bce":
        wanted = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        wanted = wanted + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        game = F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    elif loss == "relativistic":
        wanted, game = F.softplus(fake - real).mean(), F.softplus(real - fake).mean()
    else:
        wanted, game = (
            ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2,
            ((fake - 1) ** 2).mean() / 2,
        )
    torch.testing.assert_close(first.losses["discriminator"], wanted)
    torch.testing.assert_close(second.losses["generator"], game)
    torch.testing.assert_close(second.losses["l1"], 100 * (made - target).abs().mean())
    assert (first.networks, second.networks) == (("discriminator",), ("generator",))
    error = ((made - target) / 2).square().mean((1, 2, 3))
    torch.testing.assert_close(second.signals["PSNR"], (-10 * error.log10()).mean())


def test_the_window():
    """Its own, the generator's resolution, or 256 px."""
    assert Translate.model_validate(PAIRS).side == 32
    assert Translate.model_validate({**PAIRS, "window": 16}).side == 16
    fields = {"generator": RESIDUAL_UNET, "read": 286}
    assert Translate.model_validate({**PAIRS, **fields}).side == 256
    task = Translate.model_validate({**PAIRS, **fields, "window": 64, "l1_weight": 1})
    networks, images = built(task), noise(2, 3, 64, 286).repeat(1, 1, 1, 2)
    _, update = step(task, networks, images)
    # A new one gives the picture back, and of these both sides are alike.
    assert update.losses["l1"] == 0


def test_scales_and_features():
    judge = {**JUDGE, "channels": 6, "scales": 2}
    fields = {"discriminator": judge, "feature_weight": 10, "l1_weight": 0, "perceptual_weight": 2}
    task = Translate.model_validate({**PAIRS, **fields})
    networks, images = built(task), noise(2, 3, 32, 64)
    first, second = step(task, networks, images)
    given, target = images.chunk(2, 3)
    made, judge = networks["generator"](given), networks["discriminator"]
    real, fake = (judge.features(torch.cat([given, x], 1)) for x in (target, made))
    wanted = sum(
        F.softplus(-r[-1]).mean() + F.softplus(f[-1]).mean()
        for r, f in zip(real, fake, strict=True)
    )
    torch.testing.assert_close(first.losses["discriminator"], wanted)
    game = sum(F.softplus(-f[-1]).mean() for f in fake)
    torch.testing.assert_close(second.losses["generator"], game)
    torch.testing.assert_close(second.losses["features"], 10 * feature_matching(real, fake))
    # Of 32 px, which LPIPS takes at least, none are left out.
    torch.testing.assert_close(second.losses["lpips"], 2 * lpips_network()(made, target).mean())
    assert set(second.losses) == {"generator", "features", "lpips"}
    assert all(p.requires_grad for p in judge.parameters())


def test_the_same_values_are_dropped_both_times():
    """Without graphs the picture is made twice: once to be judged, once to learn."""
    task = Translate.model_validate({**PAIRS, "generator": {**UNET, "dropout": 0.5}})
    networks, images = built(task), noise(2, 3, 32, 64)
    whole, parts = (step(task, networks, images, graphs=graphs) for graphs in (True, False))
    for a, b in zip(whole, parts, strict=True):
        assert a.losses.keys() == b.losses.keys()
        for name in a.losses:
            torch.testing.assert_close(a.losses[name], b.losses[name])
    other = step(task, networks, images, seed=1)
    assert other[1].losses["l1"] != whole[1].losses["l1"]


# ------------------------------------------------------------------------ two kinds


@pytest.mark.parametrize("generator", [RESNET, RESIDUAL_UNET])
@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("source", ["first", "second"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_contrast(identity, source, seed, generator):
    fields = {"identity": identity, "source": source, "mirrored": True, "contrast_weight": 3}
    fields["generator"] = generator
    task = Contrast.model_validate({**KINDS, **fields, "read": 32, "heads": 8, "places": 2000})
    networks, images = built(task), noise(4, 3, 32, 32)
    first, second = step(task, networks, images, seed)
    a, b = images[0::2], images[1::2]
    if source == "second":
        a, b = b, a
    generator, judge = networks["generator"], networks["discriminator"]
    given = torch.cat([a, b]) if identity else a
    random = Numbers(torch.Generator().manual_seed(seed))
    random.uniform(4, 2)  # windows
    turned = random.shared(1)[0] < 0.5
    made = generator(given.flip(3) if turned else given)
    (real,), (fake,) = judge(b), judge(made[:2])
    wanted = ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2
    torch.testing.assert_close(first.losses["discriminator"], wanted)
    torch.testing.assert_close(second.losses["generator"], ((fake - 1) ** 2).mean())
    # With every place of every map, their order does not matter.
    losses = []
    maps = generator.features(given), generator.features(made)
    for head, key, query in zip(networks["heads"].heads, *maps, strict=True):
        query = query.flip(3) if turned else query
        k, q = (F.normalize(head(x.flatten(2).transpose(1, 2)), dim=2) for x in (key, query))
        losses.append(patch_nce(q, k, 0.07))
    torch.testing.assert_close(second.losses["contrast"], 3 * sum(losses) / len(losses))
    assert second.networks == ("generator", "heads")
    assert {len(x) for x in (made,)} == {4 if identity else 2}


def test_places_are_drawn_anew():
    task = Contrast.model_validate({**KINDS, "read": 32, "places": 2, "heads": 8})
    networks, images = built(task), noise(2, 3, 32, 32)
    steps = [step(task, networks, images, seed)[1] for seed in range(4)]
    assert len({float(update.losses["contrast"].detach()) for update in steps}) == 4


def test_cycle():
    task = Cycle.model_validate({**KINDS, "read": 32})
    networks, images = built(task), noise(4, 3, 32, 32)
    *judged, last = step(task, networks, images)
    a, b = images[0::2], images[1::2]
    there, back = networks["generator"], networks["back"]
    fakes = {"discriminator": (b, there(a)), "discriminator-back": (a, back(b))}
    for update, (name, (real, fake)) in zip(judged, fakes.items(), strict=True):
        (r,), (f,) = networks[name](real), networks[name](fake)
        assert update.networks == (name,)
        torch.testing.assert_close(
            update.losses[name], ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2
        )
    wanted = {
        "generator": ((networks["discriminator"](there(a))[0] - 1) ** 2).mean(),
        "back": ((networks["discriminator-back"](back(b))[0] - 1) ** 2).mean(),
        "cycle": 10 * (back(there(a)) - a).abs().mean(),
        "cycle back": 10 * (there(back(b)) - b).abs().mean(),
        "identity": 5 * (there(b) - b).abs().mean(),
        "identity back": 5 * (back(a) - a).abs().mean(),
    }
    assert last.losses.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(last.losses[name], value)
    assert last.networks == ("generator", "back")


@pytest.mark.parametrize("task", [Contrast.model_validate(KINDS), Cycle.model_validate(KINDS)])
def test_parts_compute_the_same(task):
    networks, images = built(task), noise(4, 3, 40, 40)
    for a, b in zip(
        step(task, networks, images), step(task, networks, images, graphs=False), strict=True
    ):
        for name in a.losses:
            torch.testing.assert_close(a.losses[name], b.losses[name])


# ------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    ("task", "fields", "text"),
    [
        (Translate, {"generator": {**PLAIN, "resolution": 36}}, "takes multiples of 8 px"),
        (Translate, {"read": 24}, "read: 24 px, less than the 32 px of generator.resolution"),
        (
            Translate,
            {"discriminator": JUDGE},
            "channels is 3; it sees input and result together, 6",
        ),
        (Translate, {"discriminator": None}, "without one adversarial_weight is 0"),
        (Translate, {"generator": {**PLAIN, "outputs": 1}}, "input and target have as many"),
        (Translate, {"loss": "wasserstein"}, "needs a penalty"),
        (Translate, {"window": 20}, "window is 20 px; this generator takes multiples of 8 px"),
        (
            Translate,
            {"generator": RESIDUAL_UNET},
            "read: 32 px, less than the 256 px of window",
        ),
        (
            Translate,
            {"generator": {**RESIDUAL_UNET, "noise_map": True}, "window": 32},
            "here there is no noise",
        ),
        (Contrast, {"window": 30}, "window is 30 px; this generator takes multiples of 4 px"),
        (Contrast, {"loss": "relativistic"}, "compares pictures in pairs"),
        (Cycle, {"discriminator": {**JUDGE, "depth": 5}}, "needs 96 px, it would see 32"),
        (Cycle, {"discriminator": {**JUDGE, "channels": 1}}, "both kinds have as many"),
        (Contrast, {"generator": {**RESNET, "dropout": 0.5}}, "dropout: takes 0"),
        (Cycle, {"generator": {**RESNET, "enhancers": 1}}, "local enhancers are for paired"),
        (Cycle, {"generator": {**RESIDUAL_UNET, "noise_map": True}}, "here there is no noise"),
    ],
)
def test_refused(task, fields, text):
    base = PAIRS if task is Translate else KINDS
    with pytest.raises(ValidationError, match=text):
        task.model_validate({**base, **fields})


def test_without_a_discriminator():
    fields = {"discriminator": None, "adversarial_weight": 0}
    task = Translate.model_validate({**PAIRS, **fields})
    (update,) = step(task, built(task), noise(2, 3, 32, 64))
    assert set(update.losses) == {"l1"}


# ------------------------------------------------------------------------ trainings


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder, size in (
        ("pairs/train", (80, 40)),
        ("two/trainA", (40, 40)),
        ("two/trainB", (48, 40)),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(5):
            small = random.integers(0, 256, (5, 6, 3), np.uint8)
            Image.fromarray(small).resize(size).save(tmp_path / folder / f"{i}.png")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


NARROW = {"task.read": 40, "task.discriminator.depth": 1}
RESOLUTION = {"task.generator.resolution": 32, "task.generator.width": 4}
WINDOW = {"task.window": 32}
SMALL = {
    "facades": {"task.generator.widths": "[8,8,8]", "task.generator.middle": 1, **WINDOW},
    "facades, pix2pix's U-Net": {"task.generator": json.dumps(UNET)},
    "facades-hd": {"task.generator.blocks": 1, **RESOLUTION},
    "monet": {"task.generator.widths": "[8,8,8]", "task.generator.middle": 1, **WINDOW},
    "monet-cycle": {"task.generator.blocks": 1, "task.generator.width": 4, **WINDOW},
}


@pytest.mark.parametrize("preset", SMALL)
def test_trainings(place, preset):
    fields = SMALL[preset] | NARROW
    data = "pairs" if preset.startswith("facades") else "two"
    options = [f"--set={name}={value}" for name, value in fields.items()]
    options += ["--set=task.discriminator.width=8", "--kimg=0.012", "--set=precision=float32"]
    run = ["train", preset.split(",")[0], "--data", data, "--run", "run", *options]
    assert main([*run, "--set=sample_kimg=0.004", "--set=snapshot_kimg=0.004"]) == 0
    (path,) = (place / "run" / "snapshots").glob("*-000000.safetensors")
    model = checkpoint.load(path)
    assert model.card.task == "translation"
    assert model.card.value_range == (-1, 1)
    assert (place / "run" / "samples" / "000000.png").is_file()
    assert model.network(noise(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    line = json.loads((place / "run" / "stats.jsonl").read_text().splitlines()[-1])
    assert all(math.isfinite(value) for value in line["losses"].values())


def test_a_training_goes_on_exactly(place):
    """Networks that are stepped together, and dropout, are part of what is resumed."""
    for preset in ("facades", "monet"):
        fields = SMALL[preset] | NARROW
        data = "pairs" if preset == "facades" else "two"
        options = [f"--set={name}={value}" for name, value in fields.items()]
        options += ["--set=precision=float32", "--set=snapshot_kimg=0.008"]
        for run, lengths in (("whole", ["0.016"]), ("parts", ["0.008", "0.016"])):
            folder = f"{preset}-{run}"
            start = ["--data", data, "--run", folder]
            for kimg in lengths:
                assert main(["train", preset, *start, *options, "--kimg", kimg]) == 0
                start = ["--resume", folder]
        states = [
            torch.load(place / f"{preset}-{run}" / "state-000000016.pt", weights_only=True)
            for run in ("whole", "parts")
        ]
        for name in states[0]["networks"]:
            for key, tensor in states[0]["networks"][name].items():
                assert torch.equal(tensor, states[1]["networks"][name][key]), (name, key)


# ------------------------------------------------------------------------ evaluation


@pytest.fixture
def weights(place):
    """A network that leaves pictures nearly as they are, for 32 px."""
    architecture = ResNetGenerator(width=4, blocks=0, resolution=32, norm="none")
    network = built(Contrast.model_validate(KINDS | {"generator": architecture}))["generator"]
    card = Card(title="Small", architecture=architecture.model_dump(), task="translation")
    checkpoint.save(place / "small.safetensors", card, network)
    return network


def test_evaluate_pairs(place, weights, capsys):
    pixels = noise(2, 24, 48, 3).add(1).mul(127).byte().numpy()
    (place / "some").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(place / "some" / f"{i}.png")
    command = ["evaluate", "small.safetensors", "--data", "some", "--json"]
    assert main([*command, "--input", "right", "--save"]) == 0
    found = json.loads(capsys.readouterr().out)
    images = torch.from_numpy(pixels).movedim(3, 1).float().div(127.5).sub(1)
    target, given = images.chunk(2, 3)
    with torch.no_grad():
        made = to_network(to_pixels(weights(given)))
    for figures, x in ((found["figures"], made), (found["without"], given)):
        values = {figure["metric"]: figure["value"] for figure in figures}
        distance = float(lpips_network()(x, target).mean())
        assert values["LPIPS-squeeze"] == pytest.approx(distance, abs=1e-3)
        assert values["PSNR-RGB"] == pytest.approx(float(psnr_rgb(x, target).mean()), abs=1e-3)
        assert values["SSIM"] == pytest.approx(float(ssim_y(x, target).mean()), abs=1e-3)
        assert figures[0]["samples"] == 2
    card = checkpoint.inspect(place / "small.safetensors").card
    assert [figure.metric for figure in card.quality] == ["LPIPS-squeeze", "PSNR-RGB", "SSIM"]
    Image.new("RGB", (41, 24)).save(place / "some" / "odd.png")
    assert main(["evaluate", "small.safetensors", "--data", "some/odd.png"]) == 1
    assert "For pictures that are no pairs give --target" in capsys.readouterr().err
    for option, what in (
        (["--ensemble"], "--ensemble is for networks that restore or enlarge"),
        (["--noise", "0"], "--noise is for networks that restore or enlarge"),
        (["--neighbours", "n.png"], "--neighbours is for networks that generate images"),
        (["--samples", "9"], "--samples is for networks that generate images"),
        (["--cache", "c"], "--cache is for networks that generate images, or translate them to"),
    ):
        assert main(["evaluate", "small.safetensors", "--data", "some", *option]) == 2
        assert what in capsys.readouterr().err


def test_a_grey_network_is_evaluated_on_the_luma():
    architecture = ResNetGenerator(width=4, blocks=1, resolution=32, channels=1)
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    for parameter in network.parameters():
        parameter.data *= 10  # beyond a flat grey
    card = Card(title="Grey", architecture=architecture.model_dump(), task="translation")
    model, given = Model("grey.safetensors", card, architecture, network), noise(2, 3, 32, 32)
    luma = (given * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    call = translation.by_network(model, architecture.pictures, torch.device("cpu"))
    with torch.inference_mode():
        found, wanted = call(given), network(luma).clamp(-1, 1)
    assert wanted.std() > 0.05
    torch.testing.assert_close(found, wanted.expand(-1, 3, -1, -1), rtol=0, atol=1e-4)


def test_evaluate_sets(place, weights, capsys):
    command = ["evaluate", "small.safetensors", "--data", "two/trainA"]
    assert main([*command, "--target", "two/trainB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [figure["metric"] for figure in found["figures"]][:2] == [
        "FD-MobileNetV2", "KID-MobileNetV2"
    ]  # fmt: skip
    assert found["figures"][0]["reference"] == "5 images of trainB, of trainA"
    assert found["figures"][0]["value"] != found["without"][0]["value"]
    assert "do not determine the covariance" in found["warnings"][0]
    assert main([*command, "--target", "two/trainA"]) == 0
    shown = capsys.readouterr().out
    assert "FD-MobileNetV2" in shown
    assert "5 pictures, against 5 images of trainA" in shown


def test_too_few_to_be_compared_as_a_set(place, weights, capsys):
    (place / "few").mkdir()
    for file in sorted((place / "two/trainA").iterdir())[:3]:
        (place / "few" / file.name).write_bytes(file.read_bytes())
    command = ["evaluate", "small.safetensors", "--data", "few", "--target", "two/trainB"]
    assert main(command) == 1
    assert "few: 3 pictures; a set to compare takes 4 or more" in capsys.readouterr().err


def test_a_photograph_with_a_second_picture_in_it(place, weights, capsys):
    """As phones write them: no animation."""
    first, second = (Image.new("RGB", (64, 32), colour) for colour in ("red", "blue"))
    first.save(place / "phone.jpg", "MPO", save_all=True, append_images=[second])
    found = read_picture(place / "phone.jpg")
    assert found.shape == (1, 3, 32, 64)
    assert found[0, 0].min() > 0.9
    first.save(place / "film.gif", save_all=True, append_images=[second])
    with pytest.raises(DataError, match="an animation; give single pictures"):
        read_picture(place / "film.gif")


def test_what_was_trained_on_two_kinds_is_evaluated_so(place, weights, capsys, monkeypatch):
    """On whole pictures at the side that they were read at."""
    sides = []
    monkeypatch.setattr(
        "imagen_nodes.training.data.opening.decode",
        lambda content, size, *more: sides.append(size) or pictures.decode(content, size, *more),
    )
    file = place / "small.safetensors"
    card = checkpoint.inspect(file).card
    recipe = Contrast.model_validate(KINDS | {"read": 44}).model_dump(mode="json")
    training = Training(recipe={"task": recipe}, data="two", images=10, nimg=1)
    checkpoint.recard(file, card.model_copy(update={"training": training}))
    command = ["evaluate", "small.safetensors", "--data", "two/trainA"]
    assert main([*command, "--target", "two/trainB"]) == 0
    assert set(sides) == {(44, 44)}
    capsys.readouterr()
    assert main(command) == 2
    assert "which are no pairs: give those of the kind that it makes" in capsys.readouterr().err


# ------------------------------------------------------------------------ presets, previews


def test_the_presets_are_small():
    for name in ("facades", "facades-hd", "monet", "monet-cycle"):
        task = PRESETS[name].task
        with torch.device("meta"):
            generator = task.architectures["generator"].build()
            assert sum(p.numel() for p in generator.parameters()) < 3e6


def test_previews():
    pairs = Translate.model_validate({**PAIRS, "input": "right"})
    images = noise(3, 3, 32, 64)
    generator = built(pairs)["generator"].eval()
    shown = pairs.preview(generator, 2, torch.Generator(), Batch(images, None))
    assert shown.shape == (2, 32, 96, 3)
    as_image = images[:2].movedim(1, 3).add(1).div(2)
    torch.testing.assert_close(shown[:, :, :32], as_image[:, :, 32:])
    torch.testing.assert_close(shown[:, :, 64:], as_image[:, :, :32])
    kinds = Contrast.model_validate({**KINDS, "source": "second", "read": 32})
    images = noise(6, 3, 32, 32)
    generator = built(kinds)["generator"].eval()
    shown = kinds.preview(generator, 2, torch.Generator(), Batch(images, None))
    assert shown.shape == (2, 32, 64, 3)
    torch.testing.assert_close(shown[:, :, :32], images[[1, 3]].movedim(1, 3).add(1).div(2))


def test_measuring():
    pixels = noise(12, 40, 40, 3).add(1).mul(127).byte().numpy()
    pairs = Dataset("p", np.concatenate([pixels, 255 - pixels[::-1] // 2], 2))
    task = Translate.model_validate({**PAIRS, "read": 40, "input": "right"})
    network = built(task)["generator"].eval()
    figures = task.measuring(pairs, torch.device("cpu"), 100, 3)(network)
    # The middle of pairs from all over the data.
    chosen = to_network(torch.from_numpy(pairs.images[[0, 5, 11]]))
    target, given = (x[:, :, 4:36, 4:36] for x in chosen.chunk(2, 3))
    with torch.inference_mode():
        made = to_network(to_pixels(network(given)))
        ways = (lpips_network(), psnr_rgb, ssim_y)
        wanted = [float(way(made, target).mean()) for way in ways]
    assert [f.metric for f in figures] == ["LPIPS-squeeze", "PSNR-RGB", "SSIM"]
    assert [f.value for f in figures] == pytest.approx(wanted, abs=1e-3)
    assert {(f.samples, f.reference) for f in figures} == {(3, "pairs of p")}
    kinds = Dataset("k", pixels, np.array([0, 1, 1] * 4), ("trainA", "trainB"))
    task = Contrast.model_validate({**KINDS, "source": "second"})
    measure = task.measuring(kinds, torch.device("cpu"), 100, 100)
    figures = measure(built(task)["generator"].eval())
    assert figures[0].metric == "FD-MobileNetV2"
    assert (figures[0].samples, figures[0].reference) == (8, "4 images of trainA of k")
    assert task.measuring(kinds, torch.device("cpu"), 2, 2) is None


def test_measuring_leaves_large_sets_in_their_file():
    images = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    labels = np.repeat([0, 1], [8, 12])
    data = Dataset("k", images, labels, ("trainA", "trainB"))
    for kind, count, wanted in ((0, 100, range(8)), (1, 5, range(8, 20, 3)), (1, 1, [8])):
        part = unpaired._of_kind(data, kind, count)
        assert part.images.ravel().tolist() == list(wanted)
        assert np.shares_memory(part.images, images)
    mixed = unpaired._of_kind(Dataset("k", images, np.arange(20) % 3 % 2, ("a", "b")), 1, 4)
    assert mixed.images.ravel().tolist() == [1, 7, 13, 19]
    assert mixed.name == "b of k"


def test_measuring_pictures_of_a_side_that_the_network_does_not_take():
    """Padded, and cut, as the node does: 286 px, which tasks have by default, too."""
    task = Contrast.model_validate(KINDS | {"read": 43})
    pixels = noise(12, 43, 43, 3).add(1).mul(127).byte().numpy()
    kinds = Dataset("k", pixels, np.arange(12) % 2, ("trainA", "trainB"))
    network = built(task)["generator"].eval()
    (figure, *_) = task.measuring(kinds, torch.device("cpu"), 100, 100)(network)
    assert figure.metric == "FD-MobileNetV2"
    evaluator = Evaluator(mobilenet(torch.device("cpu")), Dataset("b", pixels[1::2]))
    with torch.inference_mode():
        x = F.pad(to_network(torch.from_numpy(pixels[::2])), (0, 1, 0, 1), "reflect")
        made = to_pixels(network(x)[:, :, :43, :43])
    wanted, *_ = evaluator.compare(evaluator.features_of(iter([made]), 6))
    assert figure.value == pytest.approx(wanted.value, rel=1e-3)
