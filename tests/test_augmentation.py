"""Expanding a labelled folder: the verb, the node, and what decides which pictures are kept."""

import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from imagen_nodes import checkpoint, generation, latents, styles
from imagen_nodes.__main__ import main
from imagen_nodes.augmentation import classes, expand, judging, manifest, transforms
from imagen_nodes.augmentation.settings import Settings
from imagen_nodes.checkpoint import Card
from imagen_nodes.errors import CheckpointError, DataError, RunError, StorageError, UsageError
from imagen_nodes.folders import shipped
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.networks.dcgan import DCGANDiscriminator
from imagen_nodes.networks.multi_scale import MultiScaleDiscriminator
from imagen_nodes.networks.sngan import SNGANDiscriminator
from imagen_nodes.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Generator

WEIGHTS = shipped("weights") / "cgan-cifar10.safetensors"


def random(seed=0):
    return np.random.RandomState(seed)


def write_pictures(folder, names=("cat", "ship"), count=5, size=(32, 32), suffix="png"):
    """``count`` pictures of noise a class; their pixels by class."""
    found = {}
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = random(k).randint(0, 256, (count, size[1], size[0], 3)).astype(np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / name / f"{i}.{suffix}")
        found[name] = pixels
    return found


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(WEIGHTS)


@pytest.fixture
def data(tmp_path):
    write_pictures(tmp_path / "data")
    return tmp_path / "data"


def augment(model, data, out, discriminator=None, listen=lambda event: None, **settings):
    host = LocalHost(device="cpu", listen=listen)
    given = Settings(**{"per_class": 2, "copy_distance": 0, "duplicate_distance": 0} | settings)
    return expand.augment(host, model, data, out, given, discriminator)


def saved(name, architecture, seed=0, **fields):
    """A network with random weights, as its file gives it."""
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(seed))
    network.eval().requires_grad_(False)
    card = Card(title=name, architecture=architecture.model_dump(), task="test", **fields)
    return checkpoint.Model(f"{name}.safetensors", card, architecture, network)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def sizes(folder):
    """Of all pictures, width and height."""
    return {pixels(path).shape[1::-1] for path in folder.rglob("*.png")}


# ---- what is written -----------------------------------------------------------------------------


def test_the_folder_and_its_manifest(model, data, tmp_path):
    real = write_pictures(data)
    events = []
    report = augment(model, data, tmp_path / "out", listen=events.append)
    header, lines = manifest.read(tmp_path / "out")
    assert header["weights"] == manifest.weights(model)
    assert (header["score"], header["discriminator"], header["size"]) == ("realism", None, [32, 32])
    assert header["data"]["name"] == "data"
    assert header["data"]["pictures"] == 10
    assert header["settings"]["per_class"] == 2
    assert header["classes"] == [
        {"name": "cat", "folder": "cat", "generator": 3},
        {"name": "ship", "folder": "ship", "generator": 8},
    ]
    # Every file is in it, and nothing else is there.
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert files == {line["file"] for line in lines} | {"manifest.jsonl"}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert [line["origin"] for line in lines] == (["real"] * 5 + ["generated"] * 2) * 2
    for line in lines[:5]:
        number = int(line["source"].removeprefix("cat/").removesuffix(".png"))
        assert np.array_equal(pixels(tmp_path / "out" / line["file"]), real["cat"][number])
    assert (report.total("real"), report.total("generated"), report.total("drawn")) == (10, 4, 16)
    assert report.preview.shape == (4, 32, 32, 3)
    assert events[-1]["done"] == events[-1]["total"]


def test_a_generated_picture_is_that_of_its_seed_and_class(model, data, tmp_path, runner):
    """Sample Noise, Class Labels, Generate, Save Image draw it again."""
    augment(model, data, tmp_path / "out", seed=7, truncation=1.5)
    _, lines = manifest.read(tmp_path / "out")
    line = [line for line in lines if line["origin"] == "generated" and line["class"] == "ship"][1]
    assert (line["truncation"], line["psi"]) == (1.5, 1)
    workflow = {
        "1": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": WEIGHTS.name}},
        "2": {
            "class_type": "ImagenSampleNoise",
            "inputs": {"model": ["1", 0], "seed": line["seed"], "count": 1, "truncation": 1.5},
        },
        "3": {
            "class_type": "ImagenClassLabels",
            "inputs": {
                "model": ["1", 0],
                "latent": ["2", 0],
                "classes": "ship",
                "arrange": "in turns",
            },
        },
        "4": {"class_type": "ImagenGenerate", "inputs": {"model": ["1", 0], "latent": ["3", 0]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
    }
    (file,) = runner.run(workflow)["5"].files
    assert np.array_equal(pixels(file), pixels(tmp_path / "out" / line["file"]))


def test_scores_and_neighbours_are_those_of_a_plain_reference(model, data, tmp_path):
    augment(model, data, tmp_path / "out", per_class=8, oversample=1)
    _, lines = manifest.read(tmp_path / "out")
    from imagen_nodes.evaluation.features import mobilenet_network

    network = mobilenet_network()

    def features(found):
        stacked = np.stack([pixels(tmp_path / "out" / line["file"]) for line in found])
        x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            return network(x).double().numpy()

    cats = [line for line in lines if line["class"] == "cat"]
    reals = [line for line in cats if line["origin"] == "real"]
    fakes = [line for line in cats if line["origin"] == "generated"]
    real, fake = features(reals), features(fakes)
    between = np.sort(np.linalg.norm(real[:, None] - real[None], axis=2), axis=1)
    usual, radii = np.sort(between[:, 1])[(len(real) - 1) // 2], between[:, 3]
    few = radii <= np.sort(radii)[(len(radii) - 1) // 2]
    for line, feature in zip(fakes, fake, strict=True):
        distances = np.linalg.norm(real - feature, axis=1)
        assert line["nearest"] == reals[distances.argmin()]["source"]
        assert line["distance"] == pytest.approx(distances.min() / usual, rel=1e-3)
        assert line["score"] == pytest.approx((radii[few] / distances[few]).max(), rel=1e-3)
    scores = [line["score"] for line in fakes]
    assert scores == sorted(scores, reverse=True)
    # All that were drawn are kept: no two classes share a latent.
    seeds = [line["seed"] for line in lines if line["origin"] == "generated"]
    assert sorted(seeds) == list(range(16))


def test_the_same_call_writes_the_same_bytes(model, data, tmp_path):
    for out in "ab":
        augment(model, data, tmp_path / out, flip=True, cutout=0.5)
    for file in (tmp_path / "a").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_changed_copies_of_the_real_pictures(model, data, tmp_path):
    real = write_pictures(data)
    report = augment(model, data, tmp_path / "out", flip=True, altered=3)
    _, lines = manifest.read(tmp_path / "out")
    copies = [line for line in lines if line["origin"] == "altered"]
    assert len(copies) == report.total("altered") == 30
    kinds = set()
    for line in copies:
        name, file = line["source"].split("/")
        original = real[name][int(file.removesuffix(".png"))]
        copy = pixels(tmp_path / "out" / line["file"])
        mirrored = np.array_equal(copy, original[:, ::-1])
        assert mirrored or np.array_equal(copy, original)
        kinds.add(mirrored)
    assert kinds == {True, False}


def test_changed_copies_are_those_of_their_seeds(model, data, tmp_path):
    """As the nodes Random Crop, Random Colour and Cutout make them, one after another."""
    real = write_pictures(data)
    augment(model, data, tmp_path / "out", altered=3, crop=0.3, colour=0.4, cutout=0.5, seed=9)
    copies = [line for line in manifest.read(tmp_path / "out")[1] if line["origin"] == "altered"]
    for line in copies:
        name, file = line["source"].split("/")
        image = torch.from_numpy(real[name][int(file.removesuffix(".png"))])[None] / 255
        image = transforms.random_crop(image, line["seed"], 0.3)
        image = transforms.random_colour(image, line["seed"], 0.4)
        image = transforms.cutout(image, line["seed"], 0.5)
        wanted = (image[0] * 255).byte().numpy()
        assert np.array_equal(pixels(tmp_path / "out" / line["file"]), wanted)
    assert len({line["seed"] for line in copies}) == len(copies) == 30


def test_only_generated_and_some_classes(model, data, tmp_path):
    report = augment(model, data, tmp_path / "out", only_generated=True, classes="ship", flip=True)
    _, lines = manifest.read(tmp_path / "out")
    assert [(line["class"], line["origin"]) for line in lines] == [("ship", "generated")] * 2
    assert report.total("real") == 0
    assert report.notes[-1] == "no pictures of cat, so no folder: labels count those left"
    assert ImageFolder(tmp_path / "out").classes == ["ship"]


def test_pictures_of_several_sizes_are_resized_to_the_generators_and_it_is_said(
    model, data, tmp_path
):
    Image.fromarray(random().randint(0, 256, (40, 64, 3)).astype(np.uint8)).save(data / "cat/z.png")
    report = augment(model, data, tmp_path / "out")
    assert report.notes == ["the real pictures differ in size: resized, and cropped, to 32x32 px"]
    assert sizes(tmp_path / "out") == {(32, 32)}


def test_generated_pictures_are_resized_to_the_datas_one_size_and_it_is_said(model, tmp_path):
    real = write_pictures(tmp_path / "data", size=(48, 48))
    report = augment(model, tmp_path / "data", tmp_path / "out")
    assert report.notes == ["the generated pictures are 32x32 px: resized to 48x48 px"]
    assert sizes(tmp_path / "out") == {(48, 48)}
    assert np.array_equal(pixels(tmp_path / "out/cat/real-000000.png"), real["cat"][0])


def test_names_that_are_no_text(model, data, tmp_path):
    """As old archives have them; and with what elsewhere ends a line."""
    names = [os.fsdecode(b"caf\xe9.png"), "a\u2028b.png"]
    for name, file in zip(names, sorted((data / "cat").iterdir()), strict=False):
        file.rename(data / "cat" / name)
    augment(model, data, tmp_path / "out")
    sources = {line.get("source", "") for line in manifest.read(tmp_path / "out")[1]}
    assert {"cat/caf\\xe9.png", "cat/a\u2028b.png"} < sources


def test_it_is_heard_of_while_it_reads(model, data, tmp_path):
    heard = []
    augment(model, data, tmp_path / "out", listen=lambda event: heard.append(event["total"]))
    assert heard[0] == 10, "pictures that are read"


def test_a_size_of_ones_own(model, data, tmp_path):
    report = augment(model, data, tmp_path / "out", size=16)
    assert sizes(tmp_path / "out") == {(16, 16)}
    assert report.notes == ["the generated pictures are 32x32 px: resized to 16x16 px"]


def test_labelled_arrays(model, tmp_path):
    """Without file names, and with numbers for classes."""
    labels = np.arange(40) % 10
    images = random().randint(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    report = augment(model, tmp_path / "data.npz", tmp_path / "out", classes="3")
    assert report.notes == ["the data's classes are numbers, taken for the generator's labels"]
    header, lines = manifest.read(tmp_path / "out")
    assert header["classes"][3] == {"name": "3", "folder": "3", "generator": 3}
    found = [line for line in lines if line["origin"] == "generated"]
    assert {line["nearest"] for line in found} <= {"#3", "#13", "#23", "#33"}
    first = next(line for line in lines if line["source"] == "#13")
    assert np.array_equal(pixels(tmp_path / "out" / first["file"]), images[13])


def test_styles_are_truncated(data, tmp_path):
    """As Truncate does it; judged by a discriminator that compares the images of a batch."""
    fields = {"resolution": 32, "width_base": 256, "width_max": 8, "classes": 2}
    generator = StyleGAN2Generator(z_dim=8, w_dim=8, **fields)
    small = saved("small", generator, class_names=("cat", "ship"))
    judge = saved("judge", StyleGAN2Discriminator(**fields))
    augment(small, data, tmp_path / "out", judge, psi=0.5, seed=3)
    _, lines = manifest.read(tmp_path / "out")
    line = next(k for k in lines if k["class"] == "ship" and k["origin"] == "generated")
    host = LocalHost(device="cpu")
    with torch.inference_mode():
        latent = latents.sample(1, 8, line["seed"]).with_labels(torch.tensor([1]))
        image = generation.generate(host, small, styles.truncate(host, small, latent, 0.5, 0))
    wanted = (image[0] * 255).byte().numpy()
    assert np.array_equal(pixels(tmp_path / "out" / line["file"]), wanted)
    assert line["psi"] == 0.5


# ---- what is kept --------------------------------------------------------------------------------


def test_copies_and_duplicates_are_dropped():
    # On a line: the best is a copy, the second is kept, the third is a duplicate of it.
    features = torch.tensor([[0.1], [2.0], [2.1], [5.0], [9.0]])
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0])
    distances = torch.tensor([0.1, 2.0, 2.1, 5.0, 9.0])
    picked = judging.pick(features, scores, distances, 2, 0.5, 0.25)
    assert (picked.indices, picked.copies, picked.duplicates) == ([1, 3], 1, 1)
    picked = judging.pick(features, scores, distances, 9, 0, 0)
    assert picked.indices == [0, 1, 2, 3, 4]


def test_many_are_picked_as_a_plain_loop_does():
    """Over the borders of the parts that are compared at a time."""
    random = torch.Generator().manual_seed(0)
    features, scores = (torch.rand(700, n, generator=random) for n in (2, 1))
    distances = torch.rand(700, generator=random)
    picked = judging.pick(features, scores[:, 0], distances, 300, 0.2, 0.03)
    wanted, copies, duplicates = [], 0, 0
    for i in scores[:, 0].argsort(descending=True).tolist():
        if distances[i] < 0.2:
            copies += 1
        elif any((features[i] - features[j]).norm() < 0.03 for j in wanted):
            duplicates += 1
        else:
            wanted.append(i)
        if len(wanted) == 300:
            break
    assert (picked.indices, picked.copies, picked.duplicates) == (wanted, copies, duplicates)
    assert copies > 50
    assert duplicates > 50


def test_a_real_picture_among_the_generated_ones_is_a_copy():
    real = judging.Real.of(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)))
    distances, nearest = real.nearest(real.features[3:4] + 1e-4)
    assert int(nearest) == 3
    assert float(distances) < 0.01
    assert float(real.realism(real.features.mean(0, keepdim=True) + 100)) < 0.1


def test_too_few_pass_and_it_is_said(model, data, tmp_path):
    report = augment(model, data, tmp_path / "out", duplicate_distance=10, copy_distance=0)
    assert report.total("generated") == 2
    assert report.notes[0] == (
        "cat: 1 generated pictures instead of 2: of 8 drawn 0 are copies and 7 duplicates. With a "
        "higher oversample more are drawn"
    )


def test_none_passes(model, data, tmp_path):
    with pytest.raises(DataError, match="none of 16 pictures is kept"):
        augment(model, data, tmp_path / "out", copy_distance=10)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_real_pictures_that_repeat_others_are_compared_with_once(model, data, tmp_path):
    """Where most occur twice, the nearest other one is at 0: everything would be far from all."""
    for file in sorted(data.rglob("*.png")):
        shutil.copy(file, file.with_name(f"{file.stem}x.png"))
    report = augment(model, data, tmp_path / "twice", per_class=4, oversample=1)
    assert report.total("real") == 20
    assert report.notes[0] == "cat: 5 real pictures repeat others, and are compared with once"
    for file in data.rglob("*x.png"):
        file.unlink()
    augment(model, data, tmp_path / "once", per_class=4, oversample=1)
    found, wanted = (
        [
            (line["file"], line["nearest"], line["distance"], line["score"])
            for line in manifest.read(tmp_path / name)[1]
            if line["origin"] == "generated"
        ]
        for name in ("twice", "once")
    )
    assert found == wanted
    for file in sorted((data / "ship").glob("*.png"))[1:]:
        shutil.copy(data / "ship" / "0.png", file)
    with pytest.raises(DataError, match=r"4 different real ones or more; ship has 1\. Add"):
        augment(model, data, tmp_path / "few")
    assert not (tmp_path / "few").exists()


@pytest.mark.parametrize(
    "architecture",
    [
        DCGANDiscriminator(resolution=32, width=8, classes=10),
        SNGANDiscriminator(resolution=32, width=8),
        MultiScaleDiscriminator(scales=2, finest=DCGANDiscriminator(resolution=32, width=8)),
        DCGANDiscriminator(resolution=32, width=8, classes=10, conditioning="auxiliary"),
    ],
    ids=["conditional", "unconditional", "scales", "classifier"],
)
def test_a_discriminator_judges(architecture, model, data, tmp_path):
    judge = saved("judge", architecture)
    augment(model, data, tmp_path / "out", judge, per_class=8, oversample=2)
    header, lines = manifest.read(tmp_path / "out")
    assert header["score"] == "discriminator"
    assert header["discriminator"]["name"] == "judge.safetensors"
    ships = [k for k in lines if k["class"] == "ship" and k["origin"] == "generated"]
    stacked = np.stack([pixels(tmp_path / "out" / line["file"]) for line in ships])
    x, labels = torch.from_numpy(stacked).permute(0, 3, 1, 2) / 127.5 - 1, torch.full((8,), 8)
    with torch.no_grad():
        if architecture.kind == "dcgan-discriminator" and architecture.classifies:
            real, kinds = judge.network.classify(x)
            wanted = torch.sigmoid(real).log() + torch.softmax(kinds, 1)[:, 8].log()
        else:
            wanted = judge.network(x, labels if architecture.classes else None)
            wanted = wanted.mean(1) if wanted.ndim == 2 else wanted
    found = torch.tensor([line["score"] for line in ships])
    # The files have 8 bits, and are cut.
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02)
    assert found.tolist() == sorted(found.tolist(), reverse=True)


# ---- classes -------------------------------------------------------------------------------------


def test_classes_by_name_number_and_order():
    names = ("Airplane", "polar-bear", "cat")
    assert classes.matched(("POLAR_BEAR", "cat"), (0, 1), names, 3) == ({0: 1, 1: 2}, "")
    found, note = classes.matched(("0", "2"), (0, 1), names, 3)
    assert found == {0: 0, 1: 2}
    assert "numbers" in note
    found, note = classes.matched(("a", "b", "c"), (0, 2), names, 3)
    assert found == {0: 0, 2: 2}
    assert note.endswith("taken in order, a = Airplane, c = cat")


def test_an_unknown_class():
    with pytest.raises(
        DataError, match=r"^fish: no such class in the generator, which has 3: x, y"
    ):
        classes.matched(("fish", "x"), (0, 1), ("x", "y", "z"), 3)
    assert classes.matched(("fish", "x"), (1,), ("x", "y", "z"), 3)[0] == {1: 0}
    with pytest.raises(DataError, match="which has 3: 0 to 2"):
        classes.matched(("a", "b"), (0, 1), (), 3)
    for beyond in ("10", "12"):
        with pytest.raises(DataError, match=f"^0, {beyond}: no such class .* has 10: 0 to 9"):
            classes.matched(("0", beyond), (0, 1), (), 10)
    with pytest.raises(DataError, match=r"^bird: no such class"):
        # Nor in order, where another class, which is not chosen, is known by its name.
        classes.matched(("bird", "car"), (0,), ("automobile", "car"), 2)


def test_classes_of_one_name():
    names = ("crane", "dog", "Crane")
    assert classes.matched(names, (0, 1, 2), names, 3) == ({0: 0, 1: 1, 2: 2}, "")
    found, note = classes.matched(("dog", "crane"), (0, 1), names, 3)
    assert found == {0: 1, 1: 0}
    assert note == "2 of the generator's classes are named crane: number 0 is taken"


def test_folders_are_told_apart_from_those_of_others():
    assert classes.folders(("a_b-2", "a_b", "a:b")) == ("a_b-2", "a_b", "a_b-2-2")


def test_names_of_folders():
    names = ("tench, Tinca", "a/b", "a:b", "..", "CON ", "A_B", "Manifest.jsonl")
    assert classes.folders(names) == (
        *("tench, Tinca", "a_b", "a_b-2", "class", "CON", "A_B-5", "Manifest.jsonl-6"),
    )


# ---- what is refused -----------------------------------------------------------------------------


def test_an_unconditional_generator(data, tmp_path):
    other = checkpoint.load(shipped("weights") / "dcgan-cifar10.safetensors")
    with pytest.raises(CheckpointError, match="is unconditional: it cannot draw pictures of a"):
        augment(other, data, tmp_path / "out")
    judge = saved("judge", DCGANDiscriminator(resolution=32, width=8))
    with pytest.raises(CheckpointError, match="does not generate images"):
        augment(judge, data, tmp_path / "out")


def test_styles_that_are_not_there(model, data, tmp_path):
    with pytest.raises(CheckpointError, match="has no styles, which psi is for"):
        augment(model, data, tmp_path / "out", psi=0.7)


@pytest.mark.parametrize(
    ("architecture", "text"),
    [
        (DCGANDiscriminator(resolution=64, width=8), "resolution 64, the generator's have 32"),
        (DCGANDiscriminator(width=8, channels=1), "channels 1, the generator's have 3"),
        (DCGANDiscriminator(width=8, classes=3), "classes 3, the generator's have 10"),
    ],
)
def test_a_discriminator_of_another_generator(architecture, text, model, data, tmp_path):
    with pytest.raises(CheckpointError, match=text):
        augment(model, data, tmp_path / "out", saved("judge", architecture))
    with pytest.raises(CheckpointError, match="which does not judge images"):
        augment(model, data, tmp_path / "out", model)


def test_a_discriminator_whose_scores_are_nan(model, data, tmp_path):
    judge = saved("judge", DCGANDiscriminator(resolution=32, width=8))
    with torch.no_grad():
        next(judge.network.parameters()).fill_(math.nan)
    with pytest.raises(CheckpointError, match=r"judge\.safetensors: scores of .* are NaN"):
        augment(model, data, tmp_path / "out", judge)
    assert not (tmp_path / "out").exists()


def test_data_without_classes_and_with_too_few_pictures(model, data, tmp_path):
    with pytest.raises(DataError, match="its pictures have no classes"):
        augment(model, data / "cat", tmp_path / "out")
    for i in range(2, 5):
        (data / "cat" / f"{i}.png").unlink()
    with pytest.raises(DataError, match="by 4 different real ones or more; cat has 2"):
        augment(model, data, tmp_path / "out")
    assert augment(model, data, tmp_path / "out", classes="ship").total("generated") == 2
    with pytest.raises(DataError, match=r"no class 'frog'\. There are 2: 0 cat, 1 ship"):
        augment(model, data, tmp_path / "other", classes="frog")


def test_a_folder_that_is_taken(model, data, tmp_path):
    (tmp_path / "out").mkdir()
    augment(model, data, tmp_path / "out")  # an empty one is not
    with pytest.raises(UsageError, match="is a folder that is not empty, which nothing is written"):
        augment(model, data, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        augment(model, data, tmp_path / "file")
    with pytest.raises(UsageError, match="lies in the data"):
        augment(model, data, data / "out")


def test_nothing_is_left_after_ctrl_c_or_a_full_disk(model, data, tmp_path, monkeypatch):
    def stop(event):
        if event["done"] > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment(model, data, tmp_path / "out", listen=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        augment(model, data, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_nothing_is_left_after_sigterm(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image.Image, "save", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    call = ["augment", str(data), "--weights", WEIGHTS.name, "-o", str(tmp_path / "out")]
    assert main([*call, "--per-class", "1"]) == 130
    assert capsys.readouterr().err.endswith("error: cancelled\n")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert signal.getsignal(signal.SIGTERM) == before


# ---- the verb and the node -----------------------------------------------------------------------


def test_the_verb(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = ["augment", "data", "--weights", WEIGHTS.name, "-o", "out", "--per-class", "2"]
    assert main([*call, "--copy-distance", "0", "--flip", "--classes", "cat"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split() == ["cat", "5", "5", "2", "8", "0", "0"]
    assert shown.out.endswith("out: 10 real, 10 changed copies, 2 generated\n")
    assert manifest.read(tmp_path / "out")[0]["discriminator"] is None
    judge = saved("judge", DCGANDiscriminator(resolution=32, width=8))
    checkpoint.save(tmp_path / judge.name, judge.card, judge.network)
    call = [*call[:-3], "other", "--per-class", "2", "--discriminator", judge.name]
    assert main([*call, "--copy-distance", "0", "--json"]) == 0
    header, _ = manifest.read(tmp_path / "other")
    assert (header["score"], header["discriminator"]["name"]) == ("discriminator", judge.name)
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == "other"
    assert [kind["generated"] for kind in found["classes"]] == [2, 2]


def test_wrong_calls(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = ["augment", "data", "--weights", WEIGHTS.name, "-o", "out"]
    assert main([*call, "--per-class", "0", "--crop", "a"]) == 2
    error = capsys.readouterr().err
    assert "error: --per-class: Input should be greater than or equal to 1 (got '0')" in error
    assert "--crop: Input should be a valid number" in error
    assert main(["augment", "data", "--weights", "cats.safetensors", "-o", "out"]) == 1
    assert "no weights 'cats.safetensors'. There is: cgan-cifar10" in capsys.readouterr().err
    assert main(["augment", "nowhere", "--weights", WEIGHTS.name, "-o", "out"]) == 1
    assert "nowhere: no such folder or file" in capsys.readouterr().err


def workflow(**inputs):
    return {
        "1": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": WEIGHTS.name}},
        "2": {
            "class_type": "ImagenAugmentDataset",
            "inputs": {
                **{name: field.default for name, field in Settings.model_fields.items()},
                "model": ["1", 0],
                "data": "pets",
                "folder_prefix": "sets/pets",
                "per_class": 2,
                "copy_distance": 0.0,
                "duplicate_distance": 0.0,
                **inputs,
            },
        },
    }


def test_the_node(runner, tmp_path):
    write_pictures(tmp_path / "input" / "pets")
    results = runner.run(workflow())
    folder = tmp_path / "output" / "sets" / "pets_00001"
    assert results["2"]["folder"] == str(folder)
    assert results["2"]["image"].shape == (4, 32, 32, 3)
    assert results["2"]["image"].dtype == torch.float32
    header, lines = manifest.read(folder)
    assert set(header["settings"]) == set(Settings.model_fields)
    assert len(lines) == 14
    (output,) = [event for event in runner.events if event["event"] == "output"]
    assert output["text"] == [f"{folder}: 10 real, 4 generated"]
    # Nothing has changed, so nothing is written; then something has.
    runner.run(workflow())
    assert [p.name for p in folder.parent.iterdir()] == ["pets_00001"]
    write_pictures(tmp_path / "input" / "pets", names=("frog",))
    runner.run(workflow())
    assert len(manifest.read(folder.parent / "pets_00002")[1]) == 21
    results = runner.run(workflow(data="sets/pets_00001 [output]", only_generated=True))
    assert len(manifest.read(folder.parent / "pets_00003")[1]) == 4


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"data": "../data"}, "leaves the input folder"),
        ({"data": "dogs"}, "no such folder or file of pictures in the input folder"),
        ({"folder_prefix": "../x"}, "are saved in"),
        ({"per_class": 0}, "per_class"),
    ],
)
def test_the_node_stays_in_its_folders(inputs, text, runner, tmp_path, data):
    write_pictures(tmp_path / "input" / "pets")
    with pytest.raises((RunError, UsageError, DataError), match=text):
        runner.run(workflow(**inputs))
    assert not list((tmp_path / "output").rglob("*.png"))


def test_links_that_lead_out_are_refused(runner, tmp_path, data):
    write_pictures(tmp_path / "input" / "pets")
    (tmp_path / "input" / "pets" / "cat" / "9.png").symlink_to(data / "cat" / "0.png")
    with pytest.raises((RunError, UsageError), match=r"its 9\.png leads out of the input folder"):
        runner.run(workflow())


# ---- the changes ---------------------------------------------------------------------------------


def batch(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


CHANGES = {
    "flip": lambda x, seed: transforms.random_flip(x, seed),
    "crop": lambda x, seed: transforms.random_crop(x, seed, 0.3),
    "colour": lambda x, seed: transforms.random_colour(x, seed, 0.4),
    "cutout": lambda x, seed: transforms.cutout(x, seed, 0.5),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("channels", [3, 4])
def test_an_image_depends_on_its_own_seed_alone(name, channels):
    change, images = CHANGES[name], batch(6, 12, 10, channels)
    before = images.clone()
    found = change(images, 5)
    assert torch.equal(images, before)
    assert found.shape == images.shape
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert not torch.equal(found, images)
    for i in range(6):
        assert torch.equal(change(images[i : i + 1], 5 + i)[0], found[i])


def test_the_nodes_change_a_batch_image_by_image():
    """With what they are given and no more in memory; it can be stopped between two."""
    from imagen_nodes.nodes.augment import Cutout, RandomColour, RandomCrop, RandomFlip

    images, steps = batch(6, 12, 10, 4), []
    nodes = {
        "flip": RandomFlip(image=images, seed=5),
        "crop": RandomCrop(image=images, seed=5, crop=0.3),
        "colour": RandomColour(image=images, seed=5, strength=0.4),
        "cutout": Cutout(image=images, seed=5, size=0.5),
    }
    for name, node in nodes.items():
        found = node.run(LocalHost(listen=steps.append)).image
        assert torch.equal(found, CHANGES[name](images, 5))
    assert [step["done"] for step in steps] == 4 * list(range(6))
    for wrong, text in ((images[:0], "holds no picture"), (images / 0, "image 0 .* holds NaN")):
        with pytest.raises(DataError, match=text):
            RandomFlip(image=wrong).run(LocalHost())


def test_flip():
    images = batch(200, 4, 6, 3)
    found = transforms.random_flip(images, 1)
    mirrored = [torch.equal(a, b.flip(1)) for a, b in zip(found, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(found, images, strict=True)]
    assert sum(mirrored) + sum(same) == 200
    assert 70 < sum(mirrored) < 130
    assert torch.equal(transforms.random_flip(images, 1, 1.0), images.flip(2))
    assert torch.equal(transforms.random_flip(images, 1, 0.0), images)


def test_crop_is_a_window_of_a_ramp():
    """Of pictures whose value is their place, a window has evenly spaced values."""
    ramp = torch.linspace(0, 1, 101)[None, None, :, None].expand(20, 101, -1, 3)
    found = transforms.random_crop(ramp, 3, 0.4)
    rows = found[:, 50, 1:-1, 0]
    steps = rows.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=2e-4)
    sides = steps.mean(1) * 100
    assert float(sides.min()) >= 0.6 - 1e-3
    assert float(sides.max()) <= 1 + 1e-3
    assert float(sides.max() - sides.min()) > 0.2
    assert torch.equal(transforms.random_crop(ramp, 3, 0.0), ramp)


def test_colour_keeps_alpha_and_0_changes_nothing():
    images = batch(3, 5, 5, 4)
    assert torch.equal(transforms.random_colour(images, 2, 0.5)[..., 3], images[..., 3])
    assert torch.equal(transforms.random_colour(images, 2, 0.0), images)
    grey = batch(3, 5, 5, 1).expand(-1, -1, -1, 3)
    found = transforms.random_colour(grey, 2, 0.5)
    torch.testing.assert_close(found[..., 0], found[..., 2])


def test_cutout_is_a_grey_box_of_its_size():
    # All levels of 8 bits, none of which is the grey of the box.
    levels = random().randint(0, 256, (50, 20, 30, 4)).astype(np.float32)
    images = torch.from_numpy(levels) / 255
    found = transforms.cutout(images, 0, 0.4)
    assert torch.equal(found[..., 3], images[..., 3])
    cut = (found[..., :3] == 0.5).all(3)
    assert torch.equal(found[~cut], images[~cut])
    sizes = set()
    for box in cut:
        rows, columns = box.any(1).nonzero()[:, 0], box.any(0).nonzero()[:, 0]
        height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
        assert int(box.sum()) == height * width
        sizes.add((height, width))
    assert max(sizes) == (8, 12)
    assert len({tuple(box.nonzero()[0].tolist()) for box in cut}) > 30
    assert torch.equal(transforms.cutout(images, 0, 0.0), images)
