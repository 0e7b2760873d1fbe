"""Styles: truncated, mixed and moved, in the graph and out of it."""

import pytest
import torch

from imagen_nodes import checkpoint, generation, styles
from imagen_nodes.checkpoint import Card, Model
from imagen_nodes.errors import CheckpointError, DataError
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.images import from_network
from imagen_nodes.latents import Latents, sample
from imagen_nodes.networks.biggan import BigGANGenerator
from imagen_nodes.networks.dcgan import DCGANGenerator
from imagen_nodes.networks.sngan import SNGANGenerator
from imagen_nodes.networks.stylegan2 import StyleGAN2Generator
from imagen_nodes.networks.stylegan3 import StyleGAN3Generator
from imagen_nodes.runner import Runner

SMALL = {"resolution": 16, "width_base": 256, "width_max": 16, "mapping_layers": 2}
STYLES = {**SMALL, "z_dim": 12, "w_dim": 8}
HOST = LocalHost(device="cpu")


def model_of(architecture):
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    for name, tensor in network.state_dict().items():
        if "noise_strength" in name or "w_avg" in name:
            tensor.normal_(generator=torch.Generator().manual_seed(1))
    network.requires_grad_(False).eval()
    card = Card(title="x", architecture=architecture.model_dump(mode="json"), task="generate")
    return Model("x.safetensors", card, architecture, network)


# Both take 6 styles.
@pytest.fixture(scope="module", params=["stylegan2", "stylegan3"])
def model(request):
    if request.param == "stylegan2":
        return model_of(StyleGAN2Generator.model_validate(STYLES))
    return model_of(StyleGAN3Generator.model_validate(STYLES | {"depth": 4}))


def drawn(count=3, seed=0):
    return sample(count, 12, seed)


def test_images_of_z_and_of_its_w_are_the_same(model):
    latent = drawn(10)
    with torch.inference_mode():
        of_z = generation.generate(HOST, model, latent)
        of_w = generation.generate(HOST, model, styles.to_w(HOST, model, latent))
        wanted = from_network(model.network(latent.z))
    torch.testing.assert_close(of_z, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(of_w, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("as_w", [False, True])
@pytest.mark.parametrize("cutoff", [0, 2])
def test_truncation(model, as_w, cutoff):
    latent = drawn()
    given = styles.to_w(HOST, model, latent) if as_w else latent
    before = given.values.clone()
    found = styles.truncate(HOST, model, given, 0.3, cutoff).w
    w = model.network.mapping(latent.z)[:, None].expand(-1, 6, -1)
    near = model.network.w_avg + 0.3 * (w - model.network.w_avg)
    wanted = near.clone()
    if cutoff:
        wanted[:, 2:] = w[:, 2:]
    torch.testing.assert_close(found, wanted)
    assert torch.equal(given.values, before)


def test_mixing(model):
    a, b = drawn(2), drawn(3, 10)
    x, y = (styles.to_w(HOST, model, latent).w for latent in (a, b))
    pairs = styles.mix(HOST, model, a, b, 2, 3, False).w
    assert pairs.shape == (3, 6, 8)
    assert torch.equal(pairs[:, 2:4], y[:, 2:4])
    assert torch.equal(pairs[:, [0, 1, 4, 5]], x[[0, 1, 0]][:, [0, 1, 4, 5]])
    every = styles.mix(HOST, model, a, b, 4, 63, True).w.view(2, 3, 6, 8)
    for i in range(2):
        for j in range(3):
            assert torch.equal(every[i, j, :4], x[i, :4])
            assert torch.equal(every[i, j, 4:], y[j, 4:])
    with pytest.raises(DataError, match="layers 3 to 2: the first comes first"):
        styles.mix(HOST, model, a, b, 3, 2, False)


def test_noise():
    model = model_of(StyleGAN2Generator.model_validate(STYLES))
    latent = drawn(9)
    with torch.inference_mode():
        none, constant, random, again = (
            generation.generate(HOST, model, latent, noise)
            for noise in ("none", "constant", "random", "random")
        )
        assert torch.equal(random, again)
        assert len({image.sum().item() for image in (none, constant, random)}) == 3
        # Of the same latent, image 0 and image 8 have other noise.
        same = Latents(latent.z[:1].repeat(9, 1))
        random = generation.generate(HOST, model, same, "random")
        assert not torch.equal(random[0], random[8])
        alone = generation.generate(HOST, model, Latents(latent.z[:1]), "random")
        assert torch.equal(alone[0], random[0])


def test_sefa_finds_what_the_layers_amplify(model):
    """By power iteration on the sum of squares of what a direction changes."""
    found = styles.find_directions(HOST, model, "sefa", 4)
    assert found.shape == (4, 8)
    torch.testing.assert_close(found @ found.t(), torch.eye(4), atol=1e-5, rtol=0)
    rows = torch.cat(
        [t for n, t in model.network.state_dict().items() if n.endswith("style.weight")]
    )
    rows = rows / rows.norm(dim=1, keepdim=True)
    v = torch.ones(8)
    for _ in range(2000):
        v = rows.t() @ (rows @ v)
        v = v / v.norm()
    assert abs(float(v @ found[0])) == pytest.approx(1, abs=1e-3)
    assert all(direction[direction.abs().argmax()] > 0 for direction in found)
    gains = (rows @ found.t()).square().sum(0)
    assert (gains.diff() <= 1e-5).all()


def test_pca_finds_where_w_varies(model):
    found = styles.find_directions(HOST, model, "pca", 8)
    with torch.inference_mode():
        z = torch.randn(4000, 12, generator=torch.Generator().manual_seed(5))
        w = model.network.mapping(z)
    variances = ((w - w.mean(0)) @ found.t()).var(0)
    assert (variances.diff() < 0.05 * variances[0]).all()
    assert float(variances.sum()) == pytest.approx(float(w.var(0).sum()), rel=1e-3)


@pytest.mark.parametrize("architecture", [
    DCGANGenerator(resolution=16, width=8, z_dim=12), SNGANGenerator(width=8, z_dim=12),
])  # fmt: skip
def test_sefa_of_generators_without_styles(architecture):
    other = model_of(architecture)
    found = styles.find_directions(HOST, other, "sefa", 3)
    assert found.shape == (3, 12)
    moved = styles.edit(HOST, other, drawn(), found, 1, -2.0, 0, 63)
    torch.testing.assert_close(moved.z, drawn().z - 2 * found[1])
    with pytest.raises(CheckpointError, match="its z varies alike in all directions: use sefa"):
        styles.find_directions(HOST, other, "pca", 3)


@pytest.mark.parametrize("classes", [0, 3])
def test_sefa_of_a_generator_that_parts_its_z(classes):
    """Each part goes into layers of its own; classes, which lie beside it there, are no z."""
    architecture = BigGANGenerator(resolution=32, width=8, z_dim=16, classes=classes, class_dim=6)
    model = model_of(architecture)
    weight = model.network.z_weight()
    z, label = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([1])
    assert weight.shape[1] == 16
    first, conditions = model.network._conditions(z, label if classes else None)
    shared = [c[:, 4:] for c in conditions]
    wanted = [model.network.linear.weight @ first[0]]
    for block, condition, rest in zip(model.network.blocks, conditions, shared, strict=True):
        for norm in (block.norm1, block.norm2):
            for layer in (norm.gain, norm.bias):
                found = layer(condition)[0]
                wanted.append(found - rest[0] @ layer.weight[:, 4:].t() if classes else found)
    torch.testing.assert_close(weight @ z[0], torch.cat(wanted), atol=1e-5, rtol=1e-4)
    assert styles.find_directions(HOST, model, "sefa", 4).shape == (4, 16)


def test_editing_some_layers(model):
    directions = styles.find_directions(HOST, model, "sefa", 4)
    w = styles.to_w(HOST, model, drawn()).w
    found = styles.edit(HOST, model, drawn(), directions, 2, 3.0, 1, 3).w
    torch.testing.assert_close(found[:, 1:4], w[:, 1:4] + 3 * directions[2])
    torch.testing.assert_close(found[:, [0, 4, 5]], w[:, [0, 4, 5]])


def test_what_does_not_fit_together(model):
    other = model_of(DCGANGenerator(resolution=16, width=8, z_dim=12))
    directions = torch.eye(8)
    w = styles.to_w(HOST, model, drawn())
    for call, text in (
        (lambda: styles.truncate(HOST, other, drawn(), 0.5, 0), "has no styles and no average"),
        (lambda: styles.mix(HOST, other, drawn(), drawn(), 0, 1, True), "has no styles"),
        (lambda: generation.generate(HOST, other, w), "has no styles, these latents are w"),
        (
            lambda: generation.generate(HOST, model, Latents(None, None, torch.zeros(1, 8, 8))),
            "takes w of 6x8 values, these have 8x8",
        ),
        (
            lambda: styles.edit(HOST, other, drawn(), directions, 0, 1.0, 0, 9),
            "directions of 8 values for latents of 12",
        ),
        (
            lambda: styles.edit(HOST, model, drawn(), directions, 8, 1.0, 0, 9),
            "direction 8: there are 0 to 7",
        ),
    ):
        with pytest.raises((CheckpointError, DataError), match=text):
            call()


def test_a_workflow_of_all_of_them(model, tmp_path):
    """Sample Noise, Truncate, Mix Styles, Find Directions, Edit Latents, Interpolate, Generate."""
    (tmp_path / "weights").mkdir()
    checkpoint.save(tmp_path / "weights" / "small.safetensors", model.card, model.network)

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    link = ["model", 0]
    workflow = {
        "model": node("ImagenLoadCheckpoint", name="small.safetensors"),
        "a": node("ImagenSampleNoise", model=link, seed=0, count=2, truncation=0.0),
        "b": node("ImagenSampleNoise", model=link, seed=7, count=2),
        "near": node("ImagenTruncate", model=link, latent=["a", 0], psi=0.5, cutoff=0),
        "mixed": node(
            "ImagenMixStyles", model=link, first=["near", 0], second=["b", 0], first_layer=4,
            last_layer=63, arrange="pairs",
        ),
        "directions": node("ImagenFindDirections", model=link, method="pca", count=3),
        "moved": node(
            "ImagenEditLatents", model=link, latent=["mixed", 0], directions=["directions", 0],
            number=1, strength=1.5, first_layer=0, last_layer=2,
        ),
        "walk": node(
            "ImagenInterpolateLatents", latent=["moved", 0], frames=3, way="linear", loop=False
        ),
        "images": node("ImagenGenerate", model=link, latent=["walk", 0], noise="none"),
        "save": node("SaveImage", images=["images", 0], filename_prefix="x"),
    }  # fmt: skip
    runner = Runner(output=tmp_path / "output", weights=[tmp_path / "weights"], device="cpu")
    results = runner.run(workflow)
    w = model.network.mapping(sample(2, 12, 0).z)
    near = (model.network.w_avg + 0.5 * (w - model.network.w_avg))[:, None].repeat(1, 6, 1)
    near[:, 4:] = model.network.mapping(sample(2, 12, 7).z)[:, None]
    near[:, :3] += 1.5 * styles.find_directions(HOST, model, "pca", 3)[1]
    share = torch.tensor([0, 1 / 3, 2 / 3, 1]).view(-1, 1, 1)
    with torch.inference_mode():
        wanted = from_network(
            model.network.synthesis(torch.lerp(near[:1], near[1:], share), "none")
        )
    torch.testing.assert_close(results["images"]["image"], wanted, atol=1e-4, rtol=0)
    assert len(results["save"].files) == 4
