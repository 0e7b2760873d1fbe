"""Training style transfer: losses against plainly written ones, what is trained, from pictures to
the node."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from imagen_nodes import checkpoint, style_transfer
from imagen_nodes.__main__ import main
from imagen_nodes.folders import METRICS, shipped
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.training import perceptual
from imagen_nodes.training.data import Dataset
from imagen_nodes.training.randomness import Numbers
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.task import Batch, Moment
from imagen_nodes.training.tasks.style import Style, distances

pytest.importorskip("rich")
CPU = torch.device("cpu")
NETWORK = {"kind": "adain", "decoder_widths": [8, 8, 8]}
RESIDUAL = {"kind": "residual-adain", "widths": [8, 8], "decoder_widths": [8, 8, 8], "middle": 1}
SMALL = {"generator": NETWORK, "size": 80, "patch": 64, "warmup_kimg": 0}
JUDGE = {"kind": "patch-discriminator", "width": 8, "depth": 2, "norm": "none"}


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(seed=0):
    return Numbers(torch.Generator().manual_seed(seed))


def built(task):
    """Its networks, as a training begins with them."""
    networks = {}
    for name, architecture in task.architectures.items():
        networks[name] = architecture.build()
        networks[name].initialise(torch.Generator().manual_seed(0))
        state = networks[name].state_dict() | task.pretrained(name)
        networks[name].load_state_dict(state)
    return networks


def value(tensor):
    return float(tensor.detach())


# ---------------------------------------------------------------- losses


def statistics(x):
    values = x.flatten(2).double()
    mean = values.mean(2, keepdim=True)
    return mean[..., 0], ((values - mean).square().sum(2) / (values.shape[2] - 1) + 1e-5).sqrt()


def test_losses():
    a, b = ([noise(2, 3, 4, 5, seed=s), noise(2, 6, 2, 2, seed=s + 1)] for s in (0, 7))
    expected = sum(
        float((x - y).square().mean())
        for p, q in zip(a, b, strict=True)
        for x, y in zip(statistics(p), statistics(q), strict=True)
    )
    assert value(perceptual.style_loss(a, b)) == pytest.approx(expected, rel=1e-4)
    expected = sum(
        float(
            (
                torch.einsum("bchw,bdhw->bcd", p, p) - torch.einsum("bchw,bdhw->bcd", q, q)
            ).square().mean()
        ) / (p.shape[1] * p.shape[2] * p.shape[3]) ** 2
        for p, q in zip(a, b, strict=True)
    )  # fmt: skip
    assert value(perceptual.gram_loss(a, b)) == pytest.approx(expected, rel=1e-4)
    x = noise(1, 1, 3, 3)
    steps = [abs(float(x[0, 0, i + 1, j] - x[0, 0, i, j])) for i in range(2) for j in range(3)]
    steps += [abs(float(x[0, 0, j, i + 1] - x[0, 0, j, i])) for i in range(2) for j in range(3)]
    assert value(perceptual.total_variation(x)) == pytest.approx(sum(steps) / 6, rel=1e-5)


def test_the_features_that_ship_see_what_a_picture_shows():
    """Means over photographs are 1, here over a painting; upside down it is nearer in style, and
    farther in content, than brightened."""
    with Image.open(Path(__file__).parent / "data" / "pearl.png") as opened:
        pixels = torch.from_numpy(np.asarray(opened.convert("RGB")).copy())
    picture = pixels.movedim(2, 0)[None].float() / 255
    network = perceptual.features_network(CPU)
    with torch.no_grad():
        found = network(picture)
        assert [tuple(x.shape[1:]) for x in found] == [
            (16, 224, 192), (32, 112, 96), (64, 56, 48), (128, 28, 24), (128, 14, 12)
        ]  # fmt: skip
        assert all(0.2 < float(x.mean()) < 2 for x in found)
        assert len(network(picture, 2)) == 2
        turned, bright = (network(x) for x in (picture.flip(2), picture**0.5))
    styles, contents = (
        [float(perceptual.style_loss(found, x)) for x in (turned, bright)],
        [float(perceptual.content_loss(found[3], x[3])) for x in (turned, bright)],
    )
    assert styles[0] < 0.3 * styles[1]
    assert contents[0] > 2 * contents[1]


def test_what_is_trained_on():
    fields = {"content_weight": 2, "style_weight": 3, "style_layers": 5, "patch": 80}
    more = {"identity_weight": 5, "variation_weight": 7}
    task = Style.model_validate(SMALL | fields | more)
    networks = built(task)
    images = noise(4, 3, 80, 80)
    (update,) = task.losses(networks, Batch(images * 2 - 1, None), Moment(0, 4, numbers(), {}))
    generator = networks["generator"]
    content, style = images[::2], images[1::2]
    features = checkpoint.load(
        shipped("weights") / METRICS / "vgg19-16x-features.safetensors"
    ).network
    with torch.no_grad():
        f, s = (features(x)[3] for x in (content, style))
        (mu, sigma), (mu_s, sigma_s) = (
            [v.float()[..., None, None] for v in statistics(x)] for x in (f, s)
        )
        t = (f - mu) / sigma * sigma_s + mu_s
        result = generator.decode(t)
        found, wanted = features(result), features(style)
        expected = {
            "content": 2 * F.mse_loss(found[3], t),
            "style": 3 * perceptual.style_loss(found, wanted),
            "identity": 5 * F.mse_loss(generator.decode(f), content),
            "variation": 7 * perceptual.total_variation(result),
        }
    assert update.network == "generator"
    assert set(update.losses) == set(expected)
    for name, loss in expected.items():
        assert value(update.losses[name]) == pytest.approx(float(loss), rel=1e-3), name
    sum(update.losses.values()).backward()
    assert all(p.grad is None for p in generator.encoder.parameters())
    assert all(p.grad is not None for p in generator.decoder.parameters())


def test_an_encoder_of_its_own_is_trained():
    """By the distances from what AdaIN of VGG-19's features wants."""
    fields = {"identity_weight": 5, "patch": 80, "generator": RESIDUAL}
    task = Style.model_validate(SMALL | fields)
    assert task.pretrained("generator") == {}
    networks = built(task)
    images = noise(4, 3, 80, 80)
    (update,) = task.losses(networks, Batch(images * 2 - 1, None), Moment(0, 4, numbers(), {}))
    generator, features = networks["generator"], perceptual.features_network(CPU)
    content, style = images[::2], images[1::2]
    with torch.no_grad():
        result, wanted = generator(content, style), features(style)
        found, f = features(result), features(content)[3]
        (mu, sigma), (mu_s, sigma_s) = (
            [v.float()[..., None, None] for v in statistics(x)] for x in (f, wanted[3])
        )
        same = generator.decode(generator.encode(content))
        expected = {
            "content": F.mse_loss(found[3], (f - mu) / sigma * sigma_s + mu_s),
            "style": 5 * perceptual.style_loss(found[:4], wanted[:4]),
            "identity": 5 * F.mse_loss(same, content),
        }
    assert set(update.losses) == set(expected)
    for name, loss in expected.items():
        assert value(update.losses[name]) == pytest.approx(float(loss), rel=1e-3), name
    sum(update.losses.values()).backward()
    assert all(p.grad is not None for p in generator.parameters())
    assert all(p.grad is None for p in features.parameters())


@pytest.mark.parametrize("generator", [NETWORK, RESIDUAL])
def test_at_first_pictures_are_given_back(generator):
    fields = {"warmup_kimg": 0.004, "patch": 80, "generator": generator}
    task = Style.model_validate(SMALL | fields)
    networks = built(task)
    images = noise(4, 3, 80, 80)
    batch = Batch(images * 2 - 1, None)
    (update,) = task.losses(networks, batch, Moment(0, 4, numbers(), {}))
    with torch.no_grad():
        same = networks["generator"].decode(networks["generator"].encode(images))
    (name,) = update.losses
    assert name == "identity"
    recipe = Recipe(name="style", task=task, batch=8, compile="yes")  # of networks that do not grow
    assert (task.settled, recipe.settled) == (4, 8), "profiles and probes begin with whole steps"
    assert value(update.losses[name]) == pytest.approx(value(F.mse_loss(same, images)), rel=1e-3)
    (update,) = task.losses(networks, batch, Moment(4, 4, numbers(), {}))
    assert set(update.losses) == {"content", "style"}


class Mean(nn.Module):
    """One logit an image."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return [x.mean((1, 2, 3), keepdim=True) * self.gain]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_the_game(graphs, loss):
    fields = {"adversarial_weight": 0.5, "discriminator": JUDGE, "patch": 80, "loss": loss}
    task = Style.model_validate(SMALL | fields)
    networks = built(task) | {"discriminator": Mean()}
    images = noise(4, 3, 80, 80)
    moment = Moment(0, 4, numbers(), {}, graphs)
    judge, draw = task.losses(networks, Batch(images * 2 - 1, None), moment)
    assert (judge.network, draw.network) == ("discriminator", "generator")
    with torch.no_grad():
        result = networks["generator"](images[::2], images[1::2])
    real, fake = ((x * 2 - 1).mean((1, 2, 3)) * 2 for x in (images[1::2], result))
    if loss == "hinge":
        judging, game = F.relu(1 - real) + F.relu(1 + fake), -fake
    else:
        judging, game = F.softplus(fake - real), F.softplus(real - fake)
    assert value(judge.losses["discriminator"]) == pytest.approx(float(judging.mean()), rel=1e-3)
    assert value(draw.losses["generator"]) == pytest.approx(0.5 * float(game.mean()), rel=1e-3)
    sum(draw.losses.values()).backward()
    assert networks["discriminator"].gain.grad is None


def test_patches():
    """Windows of each picture, at many places; the colours of styles alone are exchanged."""
    task = Style.model_validate(SMALL | {"recolour": 0.5})
    ramp = torch.arange(80 * 80.0).view(1, 1, 80, 80).expand(60, 3, 80, 80) / 6400
    images = ramp + torch.arange(3.0)[:, None, None]
    content, style = task._patches(Batch(images * 2 - 1, None), numbers())
    assert content.shape == style.shape == (30, 3, 64, 64)
    corners = set()
    for patch in content:
        torch.testing.assert_close(patch.diff(dim=0), torch.ones(2, 64, 64))
        corner = round(float(patch[0, 0, 0]) * 6400)
        y, x = divmod(corner, 80)
        torch.testing.assert_close(patch[0], ramp[0, 0, y : y + 64, x : x + 64])
        corners.add(corner)
    assert len(corners) > 25
    orders = {tuple(patch[:, 0, 0].argsort().tolist()) for patch in style}
    assert len(orders) > 3


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"patch": 96}, "patch: 96 px of pictures of 80; at most as large"),
        ({"patch": 68}, "multiple of 8"),
        ({"size": 100}, r"size\n.*multiple of 8"),
        (
            {"generator": {"kind": "adain", "widths": [64, 128, 256, 512]}},
            "generator.widths: .* can be imported, not trained",
        ),
        ({"content_weight": 0, "style_weight": 0}, "there is nothing to learn"),
        ({"adversarial_weight": 1}, "without one adversarial_weight is 0"),
        ({"discriminator": JUDGE}, "with one it is more"),
        (
            {"discriminator": JUDGE | {"channels": 6}, "adversarial_weight": 1},
            "discriminator.channels is 6; results have 3",
        ),
        (
            {"discriminator": JUDGE, "adversarial_weight": 1, "loss": "wasserstein"},
            "needs a penalty that this task does not have",
        ),
        (
            {"discriminator": JUDGE | {"depth": 5}, "adversarial_weight": 1},
            "patch: 64 px; this discriminator takes 96 or more",
        ),
    ],
)
def test_what_does_not_fit_together(fields, text):
    with pytest.raises(ValidationError, match=text):
        Style.model_validate(SMALL | fields)


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.RandomState(0)
    for kind, size in (("content", (90, 80)), ("style", (80, 96))):
        Path("pictures", kind).mkdir(parents=True)
        for i in range(4):
            pixels = random.randint(0, 256, (*size[::-1], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(Path("pictures", kind, f"{i}.png"))
    return tmp_path


def begin(run, *options, **fields):
    recipe = {
        "name": "tiny",
        "task": {"kind": "style", **SMALL, **fields},
        "batch": 4,
        "log_kimg": 0.004,
        "sample_kimg": 0.016,
        "snapshot_kimg": 0.008,
        "precision": "float32",
        "held_out": 0,
    }
    Path("tiny.json").write_text(json.dumps(recipe))
    return main(["train", "tiny.json", "--data", "pictures", "--run", run, *options])


def test_from_pictures_to_the_node(place, capsys):
    game = {"adversarial_weight": 0.1, "discriminator": JUDGE}
    options = ("--set", "metric_kimg=0.016", "--set", "metric_samples=4")
    assert begin("run", "--kimg", "0.016", *options, **game) == 0
    said = "data: 8 images of pictures: content (4), content; style (4), style"
    assert said in capsys.readouterr().out
    lines = [json.loads(line) for line in Path("run/stats.jsonl").read_text().splitlines()]
    assert set(lines[-1]["losses"]) == {"content", "style", "generator", "discriminator"}
    measured = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["metrics"]
    assert list(measured) == ["style loss (VGG-19 pruned)", "content loss (VGG-19 pruned)"]
    with Image.open("run/samples/000000.png") as sheet:
        assert sheet.width % (3 * 80) == 0
    model = checkpoint.load(Path("run/snapshots/tiny-best.safetensors"))
    assert model.card.task == "style transfer"
    assert model.card.value_range == (0, 1)
    # The encoder is the one that ships, and was not trained; the decoder was.
    state, begun = model.network.state_dict(), Style.model_validate(SMALL)
    for name, tensor in begun.pretrained("generator").items():
        assert torch.equal(state[name], tensor), name
    first = begun.generator.build()
    assert not torch.equal(state["decoder.0.weight"], first.state_dict()["decoder.0.weight"])
    image = noise(1, 30, 40, 3)
    with torch.inference_mode():
        found = style_transfer.transfer(LocalHost(device="cpu"), model, image, [(image, 1.0)])
    assert found.shape == image.shape


def test_out_of_memory_parts_have_as_many_of_each_kind(place, capsys, monkeypatch):
    from imagen_nodes.networks.adain import AdaINNetwork

    decode = AdaINNetwork.decode

    def limited(self, features):
        if len(features) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, features)

    monkeypatch.setattr(AdaINNetwork, "decode", limited)
    for most, text in ((1, "2 at a time fit: --set accumulate=2"), (0, "Not even one would fit")):
        assert begin(f"run-{most}", "--kimg", "0.016") == 1
        assert text in capsys.readouterr().err


def test_a_kind_of_which_nothing_can_be_read(place, capsys):
    for file in Path("pictures", "style").iterdir():
        file.write_bytes(b"no picture")
    assert begin("run") == 1
    assert "pictures: none of the pictures in style can be read" in capsys.readouterr().err


def test_a_training_is_resumed_exactly(place, capsys):
    game = {"adversarial_weight": 0.1, "discriminator": JUDGE, "recolour": 0.5}
    assert begin("whole", "--kimg", "0.016", **game) == 0
    assert begin("parts", "--kimg", "0.008", **game) == 0
    assert main(["train", "--resume", "parts", "--kimg", "0.016"]) == 0
    whole, parts = (
        torch.load(sorted(Path(run).glob("state-*.pt"))[-1], weights_only=True)
        for run in ("whole", "parts")
    )
    for network in ("generator", "discriminator"):
        for name, tensor in whole["networks"][network].items():
            assert torch.equal(tensor, parts["networks"][network][name]), name


def test_two_kinds_of_pictures_are_needed(place, capsys):
    for path in Path("pictures/style").iterdir():
        path.rename(Path("pictures/content", f"s{path.name}"))
    Path("pictures/style").rmdir()
    assert begin("run", "--kimg", "0.008") == 1
    assert "takes 2 kinds of pictures" in capsys.readouterr().err


def test_distances():
    """Of a result that is the content, or the style."""
    features = perceptual.features_network(CPU)
    content, style = noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=1) ** 2
    with torch.no_grad():
        of_content = distances(content, content, style, features)
        of_style = distances(style, content, style, features)
    assert value(of_content[1]) == value(of_style[0]) == 0
    assert value(of_content[0]) > 0.1
    assert value(of_style[1]) > 0.01


def mixed(content, style):
    return 0.9 * content + 0.3 * style


def test_the_figures_of_a_training():
    """Means over pairs from all over both kinds."""
    pixels = noise(18, 32, 32, 3).pow(torch.tensor([1.0, 3.0]).repeat(9)[:, None, None, None])
    pixels = pixels.mul(255).byte().numpy()
    pairs = Dataset("p", pixels, np.arange(18) % 2, ("content", "style"))
    figures = Style.model_validate(SMALL).measuring(pairs, CPU, 5, 100)(mixed)
    features, images = perceptual.features_network(CPU), torch.from_numpy(pixels) / 255
    expected = torch.zeros(2)
    for i in (0, 2, 4, 6, 8):
        content, style = images.movedim(3, 1)[2 * i : 2 * i + 2].split(1)
        result = mixed(content, style)
        expected += torch.stack(distances(result, content, style, features)) / 5
    assert [f.metric for f in figures] == [
        "style loss (VGG-19 pruned)", "content loss (VGG-19 pruned)"
    ]  # fmt: skip
    assert [f.value for f in figures] == pytest.approx(expected.tolist(), rel=1e-3)
    assert {(f.samples, f.reference) for f in figures} == {(5, "pairs of p")}


def test_previews():
    """Content, style, result."""
    images = noise(6, 3, 80, 80)
    batch = Batch(images * 2 - 1, None)
    shown = Style.model_validate(SMALL).preview(mixed, 2, torch.Generator(), batch)
    content, style = images[[0, 2]], images[[1, 3]]
    wanted = torch.cat([content, style, mixed(content, style).clamp(0, 1)], 3)
    torch.testing.assert_close(shown, wanted.movedim(1, 3))
