"""Progressive GAN: its layers and the whole, grown and growing, against plain re-computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.checkpoint import Card
from imagen_nodes.networks.equalised import (
    EqualisedConv2d,
    EqualisedEmbedding,
    EqualisedLinear,
    minibatch_deviation,
    pixel_norm,
)
from imagen_nodes.networks.progan import RESOLUTIONS, ProGANDiscriminator, ProGANGenerator

SMALL = {"resolution": 16, "width_base": 64, "width_max": 16}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def varied(network: nn.Module) -> nn.Module:
    """Every parameter random, in double precision, so that none can be ignored unnoticed."""
    generator = random(5)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    return network.double()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


# ---------------------------------------------------------------- layers


def test_equalised_layers_scale_by_hes_constant() -> None:
    linear = varied(EqualisedLinear(6, 5, gain=2.0, lr=0.01))
    x = noise(3, 6)
    wanted = x @ (linear.weight * 0.01 * 2 / math.sqrt(6)).T + linear.bias * 0.01
    torch.testing.assert_close(linear(x), wanted)
    for side in (2, 9):  # maps smaller and larger than the weight
        conv = varied(EqualisedConv2d(6, 5, 3, gain=2.0))
        x = noise(3, 6, side, side)
        wanted = F.conv2d(x, conv.weight * 2 / math.sqrt(54), conv.bias, padding=1)
        torch.testing.assert_close(conv(x), wanted)
    embedding = varied(EqualisedEmbedding(4, 5, scale=0.5))
    torch.testing.assert_close(embedding(torch.tensor([2, 0])), embedding.weight[[2, 0]] / 2)


def test_initial_weights() -> None:
    """What an output's variance is: gain^2 at the start, whatever the learning rate."""
    layer = EqualisedLinear(400, 500, gain=math.sqrt(2), lr=0.01, start=1.0)
    layer.draw(random())
    assert layer.weight.std().item() == pytest.approx(100, rel=0.01)
    y = layer(torch.randn(200, 400, generator=random(1)))
    assert y.std().item() == pytest.approx(math.sqrt(2), rel=0.02)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    for architecture in (ProGANGenerator, ProGANDiscriminator):
        network = architecture(**SMALL, classes=9).build()
        network.initialise(random())
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
            else:
                error = 1 / math.sqrt(parameter.numel())
                assert abs(parameter.std().item() - 1) < 5 * error, name


def test_initial_weights_depend_on_the_generator_alone() -> None:
    for architecture in (ProGANGenerator, ProGANDiscriminator):
        first, second = architecture(**SMALL).build(), varied(architecture(**SMALL).build()).float()
        second.grow(0.5)
        first.initialise(random(1))
        second.initialise(random(1))
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name


def test_pixel_norm_by_loops() -> None:
    x = noise(2, 5, 3, 4)
    found = pixel_norm(x)
    for b, i, j in np.ndindex(2, 3, 4):
        vector = x[b, :, i, j]
        size = math.sqrt(sum(float(v) ** 2 for v in vector) / 5 + 1e-8)
        torch.testing.assert_close(found[b, :, i, j], vector / size, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "group", "size", "channels"), [(8, 4, 4, 1), (6, 4, 3, 2), (2, 4, 2, 1), (5, 2, 1, 1)]
)
def test_minibatch_deviation_by_loops(batch: int, group: int, size: int, channels: int) -> None:
    x = noise(batch, 6, 2, 3)
    found = minibatch_deviation(x, group, channels)
    assert torch.equal(found[:, :6], x)
    groups, part = batch // size, 6 // channels
    values = x.numpy()
    for member in range(groups):
        images = [values[k * groups + member] for k in range(size)]
        for channel in range(channels):
            deviations = []
            for c, i, j in np.ndindex(part, 2, 3):
                column = [image[channel * part + c, i, j] for image in images]
                mean = sum(column) / size
                variance = sum((v - mean) ** 2 for v in column) / size
                deviations.append(math.sqrt(variance + 1e-8))
            wanted = sum(deviations) / len(deviations)
            for k in range(size):
                maps = found[k * groups + member, 6 + channel]
                torch.testing.assert_close(maps, torch.full_like(maps, wanted), rtol=1e-5, atol=0)


# ---------------------------------------------------------------- the whole


def plain(x: Tensor, w: dict[str, Tensor], name: str, gain: float = math.sqrt(2)) -> Tensor:
    """A convolution or dense layer as the paper writes it."""
    weight, bias = w[f"{name}.weight"], w.get(f"{name}.bias")
    weight = weight * gain / math.sqrt(weight[0].numel())
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


def lrelu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def normed(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def plain_generator(w: dict[str, Tensor], z: Tensor, label: Tensor, stage: int) -> list[Tensor]:
    """The images of every resolution up to ``stage``."""
    z = torch.cat([normed(z), normed(w["embed.weight"][label])], 1)
    # Table 2: a 4x4 convolution over one position with three zeros around it.
    dense = w["first.dense.weight"].unflatten(0, (-1, 4, 4)).permute(0, 3, 1, 2).flip(2, 3)
    scale = math.sqrt(2) / math.sqrt(dense[0].numel())
    x = F.conv2d(z[:, :, None, None], dense * scale, w["first.bias"], padding=3)
    x = normed(lrelu(plain(normed(lrelu(x)), w, "first.conv")))
    images = [plain(x, w, "to_rgb.0", 1)]
    for k in range(stage):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = normed(lrelu(plain(x, w, f"blocks.{k}.conv0")))
        x = normed(lrelu(plain(x, w, f"blocks.{k}.conv1")))
        images.append(plain(x, w, f"to_rgb.{k + 1}", 1))
    return images


def halved(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))


def plain_discriminator(
    w: dict[str, Tensor], images: Tensor, label: Tensor, stage: int, share: float
) -> Tensor:
    x = lrelu(plain(images, w, f"from_rgb.{stage}"))
    for k in range(stage, 0, -1):
        x = lrelu(plain(x, w, f"blocks.{k - 1}.conv0"))
        x = halved(lrelu(plain(x, w, f"blocks.{k - 1}.conv1")))
        if k == stage:
            old = lrelu(plain(halved(images), w, f"from_rgb.{k - 1}"))
            x = share * x + (1 - share) * old
    deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
    x = lrelu(plain(lrelu(plain(x, w, "last")).flatten(1), w, "dense"))
    projection = (w["embed.weight"][label] * x).sum(1) / math.sqrt(x.shape[1])
    return plain(x, w, "logit", 1)[:, 0] + projection


PROGRESS = [0, 0.25, 1, 1.5, 2]


@pytest.mark.parametrize("progress", PROGRESS)
def test_generator_computes_what_the_paper_says(progress: float) -> None:
    """Values, and the gradients of every tensor that has a part in them."""
    network = varied(ProGANGenerator(**SMALL, z_dim=7, class_dim=3, classes=4).build())
    network.grow(progress)
    z, label = noise(3, 7), torch.tensor([2, 0, 3])
    stage = math.ceil(progress)
    share = progress - stage + 1
    w = dict(network.named_parameters())
    images = plain_generator(w, z, label, stage)
    wanted = images[stage]
    if share < 1:
        old = images[stage - 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        wanted = share * wanted + (1 - share) * old
    found = network(z, label)
    assert network.resolution == 4 * 2**stage == found.shape[3]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = noise(*wanted.shape, seed=1)
    ours, theirs = (
        torch.autograd.grad((x * weights).sum(), list(w.values()), allow_unused=True)
        for x in (found, wanted)
    )
    for name, a, b in zip(w, ours, theirs, strict=True):
        if b is None or not b.any():
            assert a is None or not a.any(), name
        else:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("progress", PROGRESS)
def test_discriminator_computes_what_the_paper_says(progress: float) -> None:
    """Values, gradients, and gradients of R1."""
    network = varied(ProGANDiscriminator(**SMALL, classes=4).build())
    network.grow(progress)
    stage = math.ceil(progress)
    images = noise(3, 3, 4 * 2**stage, 4 * 2**stage).requires_grad_()
    label = torch.tensor([2, 0, 3])
    w = dict(network.named_parameters())

    def derivatives(logits: Tensor) -> list[Tensor]:
        (first,) = torch.autograd.grad(logits.sum(), [images], create_graph=True)
        used = [w[n] for n in ("last.weight", f"from_rgb.{stage}.weight", "dense.weight")]
        return [logits, first, *torch.autograd.grad(first.square().sum(), used)]

    found = derivatives(network(images, label))
    wanted = derivatives(plain_discriminator(w, images, label, stage, progress - stage + 1))
    for ours, theirs in zip(found, wanted, strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("architecture", "millions"), [(ProGANGenerator, 23.1), (ProGANDiscriminator, 23.1)]
)
def test_parameters_at_1024_px(architecture: type, millions: float) -> None:
    """Table 2: 23.1 M each, which the last stage's blocks have; images at lower stages, which the
    table does not count, need another 1x1 convolution each."""
    a = architecture(resolution=1024, width_base=8192, width_max=512)
    a = a.model_copy(update={"z_dim": 512}) if architecture is ProGANGenerator else a
    with torch.device("meta"):
        network = a.build()
    widths = [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert [a.width_at(side) for side in a.sides] == widths
    names = [n for n, _ in network.named_parameters() if "_rgb" not in n or "_rgb.8" in n]
    count = sum(network.get_parameter(name).numel() for name in names)
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution_can_be_built(resolution: int) -> None:
    for architecture in (ProGANGenerator, ProGANDiscriminator):
        with torch.device("meta"):
            network = architecture(resolution=resolution).build()
        assert all(parameter.is_meta for parameter in network.parameters())
        assert network.grown == int(math.log2(resolution)) - 2


# ---------------------------------------------------------------- growth


def test_growth_is_seamless() -> None:
    """A stage that begins to be faded in changes no image and no logit; the end of the fade is the
    plain network."""
    generator = varied(ProGANGenerator(**SMALL).build())
    discriminator = varied(ProGANDiscriminator(**SMALL).build())
    z = noise(2, 128)

    def at(progress: float, images: Tensor | None = None) -> tuple[Tensor, Tensor]:
        generator.grow(progress)
        discriminator.grow(progress)
        drawn = generator(z)
        return drawn, discriminator(drawn if images is None else images)

    for k in (0, 1):
        images, logits = at(k)
        doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
        new_images, new_logits = at(k + 1e-6, doubled)
        torch.testing.assert_close(new_images, doubled, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(new_logits, logits, rtol=1e-3, atol=1e-3)
        images, logits = at(k + 1)
        faded, _ = at(k + 1 - 1e-6)
        torch.testing.assert_close(faded, images, rtol=1e-3, atol=1e-3)


def test_progress_is_state() -> None:
    network = ProGANGenerator(**SMALL).build()
    assert network.resolution == 16
    network.grow(0.5)
    assert network.resolution == 8
    other = ProGANGenerator(**SMALL).build()
    other.load_state_dict(network.state_dict(), assign=True)
    assert other.resolution == 8
    assert other.stage() == (1, 0.5)
    other.grow(7)
    assert other.stage() == (2, 1.0)
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a number from 0"):
            network.grow(bad)


def test_what_does_not_see_an_image_is_not_trained() -> None:
    network = ProGANGenerator(**SMALL).build()
    network.initialise(random())
    network.grow(0)
    network(torch.randn(2, 128, generator=random())).sum().backward(
        inputs=list(network.parameters())
    )
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {
        *(f"first.{name}" for name in ("bias", "dense.weight", "conv.weight", "conv.bias")),
        *("to_rgb.0.weight", "to_rgb.0.bias"),
    }


def test_a_checkpoint_is_the_network(tmp_path) -> None:
    a = ProGANGenerator(**SMALL, classes=2)
    network = a.build()
    network.initialise(random())
    path = tmp_path / "progan.safetensors"
    card = Card(title="t", architecture=a.model_dump(), task="generate")
    checkpoint.save(path, card, network)
    model = checkpoint.load(path)
    assert model.architecture == a
    z, label = torch.randn(2, 128, generator=random()), torch.tensor([0, 1])
    assert torch.equal(model.network(z, label), network(z, label))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_follows_float32(dtype: torch.dtype) -> None:
    generator, discriminator = (
        ProGANGenerator(**SMALL).build(),
        ProGANDiscriminator(**SMALL).build(),
    )
    for network in (generator, discriminator):
        network.initialise(random())
        network.grow(1.5)
    z = torch.randn(4, 128, generator=random())
    images = generator(z)
    logits = discriminator(images)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        torch.testing.assert_close(generator(z).float(), images, rtol=0.05, atol=0.05)
        torch.testing.assert_close(discriminator(images).float(), logits, rtol=0.1, atol=0.1)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("architecture", [ProGANGenerator, ProGANDiscriminator])
def test_labels_are_needed_where_there_are_classes(architecture: type) -> None:
    network = architecture(**SMALL, classes=3).build()
    given = torch.zeros(2, 128) if architecture is ProGANGenerator else torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match="needs class labels"):
        network(given)


def test_images_of_another_size_are_refused() -> None:
    network = ProGANDiscriminator(**SMALL).build()
    network.grow(1)
    with pytest.raises(ValueError, match="images of 16x16 px, expected 8 px"):
        network(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resolution": 48}, "must be one of 16, 32, 64, 128, 256, 512, 1024"),
        ({"resolution": 8}, "must be one of"),
        ({"channels": 5}, "less than or equal to 4"),
        ({"classes": -1}, "greater than or equal to 0"),
        ({"layers": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, object], message: str) -> None:
    for architecture in (ProGANGenerator, ProGANDiscriminator):
        with pytest.raises(ValidationError, match=message):
            architecture.model_validate(fields)
