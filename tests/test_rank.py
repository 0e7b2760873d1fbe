"""Rank by Discriminator, and the export of discriminators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes import checkpoint, images, ranking
from imagen_nodes.__main__ import main
from imagen_nodes.checkpoint import Card, Model, Training
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.latents import Latents
from imagen_nodes.networks import DCGANDiscriminator, DCGANGenerator, StyleGAN2Discriminator
from imagen_nodes.networks.architecture import Architecture
from imagen_nodes.networks.multi_scale import MultiScaleDiscriminator
from imagen_nodes.runner import Runner

HOST = LocalHost(device="cpu")
PLAIN = DCGANDiscriminator(resolution=16, width=8, norm="none")


def model_of(architecture: Architecture, loss: str = "") -> Model:
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    network.requires_grad_(False).eval()
    recipe = {"task": {"loss": loss}}
    training = Training(recipe=recipe, data="x", images=1, nimg=1) if loss else None
    kind = architecture.model_dump(mode="json")
    card = Card(title="x", architecture=kind, task="discriminate", training=training)
    return Model("d.safetensors", card, architecture, network)


def pictures(count: int, side: int = 16, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, side, side, channels, generator=generator)


def test_the_best_come_first_with_their_probabilities() -> None:
    model, given = model_of(PLAIN), pictures(11)
    before = given.clone()
    image, scores = ranking.best(HOST, model, given, 4)
    with torch.inference_mode():
        wanted = model.network(given.permute(0, 3, 1, 2) * 2 - 1).sigmoid()
    order = wanted.argsort(descending=True)[:4]
    assert torch.equal(image, given[order])
    torch.testing.assert_close(torch.tensor(scores), wanted[order], atol=1e-5, rtol=0)
    assert torch.equal(given, before)
    everything, scores = ranking.best(HOST, model, given)
    assert len(everything) == len(scores) == 11
    assert scores == sorted(scores, reverse=True)


def test_a_score_does_not_depend_on_the_others() -> None:
    model, given = model_of(PLAIN), pictures(9)
    together = ranking.scores(HOST, model, given)
    assert torch.equal(ranking.scores(HOST, model, given[8:]), together[8:])


def test_what_compares_pictures_sees_several() -> None:
    """Each group of a minibatch standard deviation is full, also of the last few."""
    a = StyleGAN2Discriminator(resolution=16, width_base=256, width_max=16, mapping_layers=2)
    model, given = model_of(a), pictures(10)
    found = ranking.scores(HOST, model, given)
    x = given.permute(0, 3, 1, 2) * 2 - 1
    with torch.inference_mode():
        first = model.network(x[:8])
        last = model.network(torch.cat([x[8:], x[:6]]))[:2]
    torch.testing.assert_close(found, torch.cat([first, last]).sigmoid())


def test_squared_error_has_learned_the_scores_themselves() -> None:
    given = pictures(5)
    model = model_of(PLAIN, "mse")
    with torch.inference_mode():
        wanted = model.network(given.permute(0, 3, 1, 2) * 2 - 1).clamp(0, 1)
    torch.testing.assert_close(ranking.scores(HOST, model, given), wanted)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_sizes_and_channels(channels: int) -> None:
    model = model_of(PLAIN.model_copy(update={"channels": channels}))
    given = pictures(3, 20)
    image, _ = ranking.best(HOST, model, given, 1)
    assert image.shape == (1, 20, 20, 3)
    small = images.resized(given, (16, 16), "bicubic")
    x = (
        small.mean(3, keepdim=True)
        if channels == 1
        else torch.cat([small, torch.ones(3, 16, 16, 1)], 3)
    )
    with torch.inference_mode():
        wanted = model.network(x.permute(0, 3, 1, 2) * 2 - 1).sigmoid()
    torch.testing.assert_close(ranking.scores(HOST, model, given), wanted)


def test_grey_pictures_have_three_equal_colours() -> None:
    model, grey = model_of(PLAIN), pictures(3, channels=1)
    wanted = ranking.scores(HOST, model, grey.expand(-1, -1, -1, 3))
    torch.testing.assert_close(ranking.scores(HOST, model, grey), wanted)


def test_an_auxiliary_classifier_is_asked_too() -> None:
    """The score is the probability of real and of the class."""
    a = PLAIN.model_copy(update={"classes": 3, "conditioning": "auxiliary"})
    model, given = model_of(a), pictures(2)
    with torch.inference_mode():
        logits, classes = model.network.classify(given.permute(0, 3, 1, 2) * 2 - 1)
    wanted = logits.sigmoid() * classes.softmax(1)[[0, 1], [1, 2]]
    torch.testing.assert_close(ranking.scores(HOST, model, given, "1, 2"), wanted)


def test_of_several_scales_the_mean() -> None:
    finest = DCGANDiscriminator(resolution=32, width=8, norm="none")
    model = model_of(MultiScaleDiscriminator(scales=2, finest=finest))
    given = pictures(3, 32)
    with torch.inference_mode():
        wanted = model.network(given.permute(0, 3, 1, 2) * 2 - 1).mean(1).sigmoid()
    torch.testing.assert_close(ranking.scores(HOST, model, given), wanted)


def test_classes() -> None:
    """Of a label in turns, or those of the latents."""
    model = model_of(PLAIN.model_copy(update={"classes": 3}))
    given = pictures(4)
    labels = torch.tensor([2, 1, 2, 1])
    with torch.inference_mode():
        wanted = model.network(given.permute(0, 3, 1, 2) * 2 - 1, labels).sigmoid()
    torch.testing.assert_close(ranking.scores(HOST, model, given, "2, 1"), wanted)
    latent = Latents(torch.zeros(4, 8), labels)
    torch.testing.assert_close(ranking.scores(HOST, model, given, "0", latent), wanted)
    for call, text in (
        (lambda: ranking.scores(HOST, model, given, "7"), "no class 7"),
        (lambda: ranking.scores(HOST, model, given[:2], "0", latent), "4 latents for 2 pictures"),
        (
            lambda: ranking.scores(HOST, model, given, "0", Latents(torch.zeros(4, 8), labels + 2)),
            "the latents are of class 4, d.safetensors has 3",
        ),
    ):
        with pytest.raises(DataError, match=text):
            call()


def test_what_cannot_be_judged() -> None:
    generator = model_of(DCGANGenerator(resolution=16, width=8))
    with pytest.raises(CheckpointError) as caught:
        ranking.best(HOST, generator, pictures(2))
    assert str(caught.value) == (
        "d.safetensors holds a dcgan-generator, which does not judge images. Load a discriminator: "
        "`imagen-nodes export RUN` writes that of a training, `imagen-nodes import FILE "
        "--network D` that of another program's file"
    )
    wrong = (
        (pictures(0), "no picture"),
        (pictures(1) / 0 * 0, "NaN"),
        (pictures(1, channels=5), "pictures of 5 channels; takes grey"),
    )
    for broken, text in wrong:
        with pytest.raises(DataError, match=text):
            ranking.best(HOST, model_of(PLAIN), broken)


# ---------------------------------------------------------------- the export


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short training on noise."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(12):
        pixels = draw.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "run"


def trained(run: Path, *options: str) -> None:
    small = [
        "task.generator.resolution=16", "task.discriminator.resolution=16",
        "task.generator.width=8", "task.discriminator.width=8", "batch=4", "kimg=0.008",
        "precision=float32", *options,
    ]  # fmt: skip
    sets = [part for option in small for part in ("--set", option)]
    arguments = ["train", "dcgan-cifar10", "--data", "pictures", "--run", str(run), *sets]
    assert main(arguments) == 0


def test_a_trainings_discriminator_ranks_what_its_generator_draws(run: Path, capsys: Any) -> None:
    trained(run)
    assert main(["export", str(run)]) == 0
    path = run / "snapshots" / "dcgan-cifar10-discriminator.safetensors"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    model = checkpoint.load(path)
    state = torch.load(max(run.glob("state-*.pt")), weights_only=True)
    wanted = state["networks"]["discriminator"]
    assert all(torch.equal(t, wanted[name]) for name, t in model.network.state_dict().items())
    assert model.card.task == "discriminate"
    assert model.card.title == "dcgan-cifar10 discriminator"
    assert model.card.training is not None
    assert model.card.training.nimg == 8

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    generator = sorted((run / "snapshots").glob("dcgan-cifar10-0*.safetensors"))[0].name
    workflow = {
        "g": node("ImagenLoadCheckpoint", name=generator),
        "d": node("ImagenLoadCheckpoint", name=path.name),
        "z": node("ImagenSampleNoise", model=["g", 0], seed=0, count=10),
        "drawn": node("ImagenGenerate", model=["g", 0], latent=["z", 0]),
        "best": node(
            "ImagenRankByDiscriminator", model=["d", 0], image=["drawn", 0], count=3, label="0"
        ),
        "shown": node("PreviewAny", source=["best", 1]),
        "save": node("SaveImage", images=["best", 0], filename_prefix="x"),
    }
    runner = Runner(output=run / "output", weights=[run / "snapshots"], device="cpu")
    results = runner.run(workflow)
    found = ranking.scores(HOST, model, results["drawn"]["image"]).sort(descending=True).values[:3]
    assert results["best"]["scores"] == ", ".join(f"{score:.4f}" for score in found.tolist())
    assert len(results["save"].files) == 3


def test_what_cannot_be_exported(run: Path, capsys: Any) -> None:
    trained(run)
    for options, code, text in (
        (["--network", "generator"], 2, "its average is in"),
        (["--network", "critic"], 2, "dcgan-cifar10 trains discriminator beside the generator"),
        (["-o", "d.pth"], 2, "takes the name of a .safetensors file"),
    ):
        assert main(["export", str(run), *options]) == code
        assert text in capsys.readouterr().err
    assert main(["export", "nowhere"]) == 1
    assert "no run to resume" in capsys.readouterr().err
    for state in run.glob("state-*.pt"):
        state.unlink()
    assert main(["export", str(run)]) == 1
    assert "it has no state yet" in capsys.readouterr().err


def test_networks_that_still_grow_are_not_exported(run: Path, capsys: Any) -> None:
    small = {"resolution": 16, "width_base": 64, "width_max": 8}
    fields = [
        "task=" + str({
            "generator": {"kind": "progan-generator", **small},
            "discriminator": {"kind": "progan-discriminator", **small},
            "growth": {"start": 4, "hold_kimg": 0.004, "fade_kimg": 0.004},
        }).replace("'", '"'),
        "batch=4", "kimg=0.008", "precision=float32",
    ]  # fmt: skip
    sets = [part for field in fields for part in ("--set", field)]
    train = ["train", "dcgan-cifar10", "--data", "pictures", "--run", str(run), *sets]
    assert main(train) == 0
    assert main(["export", str(run), "-o", "d.safetensors"]) == 1
    assert "its networks are still growing, at" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--kimg", "0.04"]) == 0
    assert main(["export", str(run), "-o", "d.safetensors"]) == 0
    assert checkpoint.load(Path("d.safetensors")).network.resolution == 16
