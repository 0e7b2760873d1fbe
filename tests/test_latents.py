"""Latents: drawn, labelled, walked along."""

import base64
import json
import math
import time

import numpy as np
import pytest
import torch

from imagen_nodes import checkpoint, generation, latents
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.folders import shipped
from imagen_nodes.latents import Latents
from imagen_nodes.networks.dcgan import DCGANGenerator

CLASSES = ("airplane", "automobile", "bird", "cat", "deer")


def drawn(count=3, seed=0, **options):
    return latents.sample(count, 16, seed, **options)


def test_truncated_values_are_drawn_again_and_the_others_stay():
    plain, near = drawn(50), drawn(50, truncation=0.7)
    assert near.z.abs().max() <= 0.7
    within = plain.z.abs() <= 0.7
    assert torch.equal(plain.z[within], near.z[within])
    assert not torch.equal(plain.z[~within], near.z[~within])
    # Number i depends on its seed alone.
    assert torch.equal(drawn(1, 49, truncation=0.7).z, near.z[49:])
    # The distribution is that of a truncated normal: its variance in closed form.
    many = latents.sample(200, 200, 7, truncation=1.0).z
    phi, mass = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erf(1 / math.sqrt(2))
    assert float(many.var()) == pytest.approx(1 - 2 * phi / mass, rel=0.02)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("way", ["linear", "spherical"])
def test_a_walk_meets_its_latents(way, loop):
    given = drawn(3)
    walk = latents.interpolate(given, 5, way, loop)
    assert walk.count == (15 if loop else 11)
    torch.testing.assert_close(walk.z[0:11:5][: 3 if not loop else 2], given.z[: 3 - loop])
    torch.testing.assert_close(walk.z[10], given.z[2])
    middle = walk.z[1:5]
    assert (middle - given.z[0]).norm(dim=1).diff().gt(0).all()


def test_linear_and_spherical_by_hand():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 5.0])
    given = Latents(torch.stack([a, b]))
    half = latents.interpolate(given, 2, "linear", False).z[1]
    torch.testing.assert_close(half, torch.tensor([1.5, 2.5]))
    half = latents.interpolate(given, 2, "spherical", False).z[1]
    torch.testing.assert_close(half, torch.full((2,), 4 / math.sqrt(2)))  # 45 degrees, length 4
    third = latents.interpolate(given, 3, "spherical", False).z[1]
    angle = math.atan2(third[1], third[0])
    assert angle == pytest.approx(math.pi / 6)
    assert float(third.norm()) == pytest.approx(3 + 2 / 3)


@pytest.mark.parametrize("other", [[3.0, 0.0], [-3.0, 0.0], [0.0, 0.0]])
def test_directions_without_an_angle(other):
    """The same, opposite, or none at all."""
    given = Latents(torch.tensor([[3.0, 0.0], other]))
    walk = latents.interpolate(given, 4, "spherical", True)
    assert walk.z.isfinite().all()


def test_classes_change_halfway_and_w_is_walked_along():
    given = drawn(2, classes=5)
    walk = latents.interpolate(given, 4, "spherical", False)
    assert walk.labels.tolist() == [0, 0, 1, 1, 1]
    w = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    walk = latents.interpolate(Latents(None, None, w), 2, "linear", False)
    assert walk.z is None
    torch.testing.assert_close(walk.w[1], w.mean(0))


def test_one_latent_is_no_walk():
    with pytest.raises(DataError, match="interpolation needs two or more"):
        latents.interpolate(drawn(1), 4, "linear", True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cat", [3]),
        (" Cat , bird,", [3, 2]),
        ("0, 3-4", [0, 3, 4]),
        ("all", [0, 1, 2, 3, 4]),
        ("deer, all", [4, 0, 1, 2, 3, 4]),
    ],
)
def test_classes_by_name_and_number(text, found):
    assert latents.classes_of(text, CLASSES, 5) == found


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("tench, Tinca tinca", ("tench, Tinca tinca", "goldfish, Carassius auratus"), [0]),
        ("goldfish,carassius auratus, 0", ("tench, Tinca tinca", "goldfish, Carassius auratus"),
         [1, 0]),
        ("2", ("1", "10", "2", "3"), [2]),
        ("1-3", ("1", "10", "2", "3"), [0, 2, 3]),
        ("3-3", ("a", "b", "c", "d"), [3]),
    ],
)  # fmt: skip
def test_names_with_commas_and_of_digits(text, names, found):
    assert latents.classes_of(text, names, len(names)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1-99999999999", "no class 5. "),
        ("dog", "no class 'dog'. There are 5: 0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer"),
        ("5", "no class 5. There are 5: 0 airplane"),
        ("3-9", "no class 5. "),
        ("3-x", "no class '3-x'. "),
        ("", "no class given. "),
        ("4-3", "no class given. "),
    ],
)
def test_unknown_classes(text, message):
    with pytest.raises(DataError) as info:
        latents.classes_of(text, CLASSES, 5)
    assert str(info.value).startswith(message)
    with pytest.raises(DataError, match="There are 0 to 4"):
        latents.classes_of("9", (), 5)


def test_labels_in_turns_and_every():
    given = drawn(3, classes=5)
    turns = latents.labelled(given, [4, 2], every=False)
    assert turns.labels.tolist() == [4, 2, 4]
    assert torch.equal(turns.z, given.z)
    every = latents.labelled(given, [4, 2], every=True)
    assert every.labels.tolist() == [4, 2] * 3
    assert torch.equal(every.z, given.z.repeat_interleave(2, 0))


def test_a_sheet_of_classes_from_the_weights_that_ship(runner):
    """One latent as ship and as horse: other images, each that of its own label."""
    model = checkpoint.load(shipped("weights") / "cgan-cifar10.safetensors")
    workflow = {
        "model": {
            "class_type": "ImagenLoadCheckpoint",
            "inputs": {"name": "cgan-cifar10.safetensors"},
        },
        "noise": {
            "class_type": "ImagenSampleNoise",
            "inputs": {"model": ["model", 0], "seed": 5, "count": 2},
        },
        "labels": {
            "class_type": "ImagenClassLabels",
            "inputs": {"model": ["model", 0], "latent": ["noise", 0], "classes": "ship, horse",
                       "arrange": "every"},
        },
        "images": {
            "class_type": "ImagenGenerate",
            "inputs": {"model": ["model", 0], "latent": ["labels", 0], "noise": "constant"},
        },
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["images", 0], "filename_prefix": "x"},
        },
    }  # fmt: skip
    image = runner.run(workflow)["images"]["image"]
    assert image.shape == (4, 32, 32, 3)
    z = torch.from_numpy(np.random.RandomState(5).randn(1, 100)).float()
    with torch.inference_mode():
        wanted = model.network(z.repeat(2, 1), torch.tensor([8, 7]))
    torch.testing.assert_close(image[:2].movedim(3, 1), (wanted + 1) / 2, atol=1e-5, rtol=0)


def test_labels_where_there_are_none():
    def model(classes):
        architecture = DCGANGenerator(resolution=16, width=8, classes=classes)
        card = checkpoint.Card(title="x", architecture=architecture.model_dump(), task="generate")
        return checkpoint.Model("x.safetensors", card, architecture, architecture.build())

    with pytest.raises(CheckpointError, match="is unconditional: it takes no class labels"):
        generation.label(model(0), drawn(), "1", False)
    w = Latents(None, None, torch.zeros(1, 6, 8))
    with pytest.raises(CheckpointError, match="in which the class is settled"):
        generation.label(model(3), w, "1", False)


# ------------------------------------------------------------------------ files


@pytest.mark.parametrize("kind", ["z", "w"])
@pytest.mark.parametrize("classes", [0, 5])
def test_files_hold_latents(tmp_path, kind, classes):
    given = drawn(3, classes=classes)
    if kind == "w":
        given = Latents(None, given.labels, torch.randn(3, 6, 8))
    (tmp_path / "a.safetensors").write_bytes(latents.to_bytes(given))
    found = latents.load(tmp_path / "a.safetensors")
    assert (found.z is None) == (kind == "w")
    assert torch.equal(found.values, given.values)
    assert (found.labels is None) == (not classes)
    assert found.labels is None or torch.equal(found.labels, given.labels)


@pytest.mark.parametrize(
    ("tensors", "metadata", "text"),
    [
        ({"z": torch.zeros(1, 4)}, None, "not a file of latents. Use one that"),
        ({"z": torch.zeros(1, 4), "w": torch.zeros(1, 2, 4)}, "1", "not a file of latents"),
        ({"z": torch.zeros(4)}, "1", "not a file of latents"),
        (
            {"z": torch.zeros(2, 4), "labels": torch.zeros(1).long()},
            "1",
            "its labels do not belong",
        ),
        ({"z": torch.zeros(1, 4), "labels": torch.zeros(1)}, "1", "its labels do not belong"),
        ({"weight": torch.zeros(1, 4)}, "1", "not a file of latents"),
    ],
)
def test_files_that_are_none(tmp_path, tensors, metadata, text):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {latents.FILE_KEY: metadata} if metadata else None)
    with pytest.raises(DataError) as info:
        latents.load(path)
    assert text in str(info.value)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="that can be read"):
        latents.load(path)


def test_saved_and_loaded_in_workflows(runner, tmp_path):
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    model = node("ImagenLoadCheckpoint", name="dcgan-cifar10.safetensors")
    noise = node("ImagenSampleNoise", model=["1", 0], seed=4, count=2)
    save = node("ImagenSaveLatents", latent=["2", 0], filename_prefix="mine/x")
    (file,) = runner.run({"1": model, "2": noise, "3": save})["3"].files
    assert file == tmp_path / "output" / "mine" / "x_00001_.safetensors"
    name = "mine/x_00001_.safetensors [output]"
    assert name in runner.host.choices("latents")
    walk = node("ImagenInterpolateLatents", latent=["1", 0], frames=2, way="linear", loop=False)
    again = node("ImagenSaveLatents", latent=["2", 0], filename_prefix="mine/x")
    year = node("ImagenSaveLatents", latent=["2", 0], filename_prefix="%year%/x")
    results = runner.run({"1": model, "2": noise, "3": year})
    assert results["3"].files[0].parent.name == time.strftime("%Y")
    results = runner.run({"1": node("ImagenLoadLatents", name=name), "2": walk, "3": again})
    assert torch.equal(results["1"]["latent"].z, latents.sample(2, 100, 4).z)
    assert results["3"].files[0].name == "x_00002_.safetensors"


def test_pictures_carry_latents(runner, tmp_path):
    """Of Generate, also where its result was there from the last run; and of which of several."""

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    prompt = {
        "1": node("ImagenLoadCheckpoint", name="cgan-cifar10.safetensors"),
        "2": node("ImagenSampleNoise", model=["1", 0], seed=4, count=3),
        "3": node("ImagenGenerate", model=["1", 0], latent=["2", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="a"),
    }
    for prefix in ("a", "b"):
        prompt["4"]["inputs"]["filename_prefix"] = prefix
        files = runner.run(prompt)["4"].files
        assert len(files) == 3
        for file in files:
            found = latents.load(file)
            assert torch.equal(found.z, latents.sample(3, 100, 4).z)
            assert found.labels.tolist() == [4, 5, 6]
    load = node("ImagenLoadLatents", name="b_00002_.png [output]", number=2)
    prompt |= {"5": load, "6": node("ImagenGenerate", model=["1", 0], latent=["5", 0])}
    prompt["7"] = node("SaveImage", images=["6", 0], filename_prefix="c")
    results = runner.run(prompt)
    assert torch.equal(results["6"]["image"], results["3"]["image"][1:2])
    (file,) = results["7"].files
    assert latents.load(file, "6").count == 1
    assert latents.load(file, "3").count == 3
    with pytest.raises(DataError, match=r"carries the latents of nodes 3, 6: say which \(node\)"):
        latents.load(file)
    with pytest.raises(DataError, match="no latents of node 9"):
        latents.load(file, "9")
    with pytest.raises(DataError, match="number 4: there are 3 latents"):
        latents.pick(latents.load(file, "3"), 4)


def test_many_latents_do_not_travel(tmp_path):
    class Host:
        found = None

        def carry(self, kind, value):
            self.found = kind, value

    host = Host()
    latents.carry(host, latents.sample(160, 512, 1))
    assert host.found is None
    latents.carry(host, latents.sample(120, 512, 1))
    assert host.found[0] == latents.FILE_KEY
    w = latents.sample(100, 512, 1).z[:, None].expand(-1, 10, -1)  # one style a picture
    latents.carry(host, Latents(None, None, w))
    path = carrying(tmp_path, json.dumps({"1": [host.found[1]]}))
    assert torch.equal(latents.load(path).w, w)


def carrying(folder, text):
    """A PNG that carries ``text``; None: nothing."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    if text is not None:
        texts.add_text(latents.FILE_KEY, text)
    path = folder / "a.png"
    Image.new("RGB", (2, 2)).save(path, pnginfo=texts)
    return path


def test_latents_that_were_carried_at_first(tmp_path):
    """As they are, not compressed."""
    content = latents.to_bytes(latents.sample(2, 8, 1))
    (tmp_path / "a.safetensors").write_bytes(content)
    content = base64.b64encode((tmp_path / "a.safetensors").read_bytes()).decode()
    path = carrying(tmp_path, json.dumps({"1": [content]}))
    assert torch.equal(latents.load(path).z, latents.sample(2, 8, 1).z)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "this picture carries no latents. Use one that Save Image wrote"),
        ("[]", "the latents that it carries are damaged"),
        ("{}", "this picture carries no node's latents"),
        ('{"1": []}', "the latents that it carries are damaged"),
        ('{"1": ["A"]}', "the latents that it carries are damaged"),
        ('{"1": ["AAAA"]}', "not a file of latents that can be read"),
        ('{"1": ["H4sIAAAA"]}', "the latents that it carries are damaged: cut off, or too long"),
        ('{"1": ["H4v/AAAA"]}', "the latents that it carries are damaged: Error -3"),
    ],
)
def test_pictures_that_carry_none(tmp_path, text, message):
    path = carrying(tmp_path, text)
    with pytest.raises(DataError) as info:
        latents.load(path)
    assert message in str(info.value)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="a damaged PNG"):
        latents.load(path)


def test_files_stay_in_their_folders(runner, tmp_path):
    from imagen_nodes.errors import UsageError

    with pytest.raises(UsageError, match="latents are read there only"):
        runner.host.latents("../secret.safetensors")
    with pytest.raises(DataError, match="no such file of latents"):
        runner.host.latents("none.safetensors")
