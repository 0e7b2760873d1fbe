"""Convolutions in one pass with what follows them, against torch's own in float64."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from imagen_nodes.networks import fused
from imagen_nodes.networks.adain import AdaIN
from imagen_nodes.networks.animegan import AnimeGANGenerator
from imagen_nodes.networks.compact import Compact
from imagen_nodes.networks.fused import (
    NONE,
    RELU,
    SIGMOID,
    FusedConv2d,
    FusedConvTranspose2d,
    FusedSequential,
    OneSlopePReLU,
    convolve,
    leaky,
    padded,
)
from imagen_nodes.networks.gated import GatedInpainting
from imagen_nodes.networks.normalisation import spectral_norm
from imagen_nodes.networks.residual_adain import ResidualAdaIN
from imagen_nodes.networks.residual_unet import ResidualUNet
from imagen_nodes.networks.resnet_generator import ResNetGenerator
from imagen_nodes.networks.unet_generator import UNetGenerator
from imagen_nodes.networks.vgg import VGGFeatures

# Of bfloat16, which has 8 bits, over the largest value.
CLOSE = 0.01
PLAIN = {
    NONE: lambda x: x,
    RELU: F.relu,
    SIGMOID: torch.sigmoid,
    leaky(0.2): lambda x: F.leaky_relu(x, 0.2),
}
# Inputs, outputs, kernel, stride, padding, dilation.
SHAPES = [
    (3, 16, 3, 1, 1),
    (16, 8, 3, 2, 0),
    (16, 16, 3, 1, 2, 2),
    (8, 24, 1),
    (16, 3, 7),
    (8, 8, 4, 2, 1),
]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def half():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(params=["oneDNN", "plain"])
def way(request, monkeypatch):
    """Both ways, wherever the first is there."""
    if request.param == "plain":
        monkeypatch.setattr(fused, "_available", lambda: False)
    elif not fused._available():
        pytest.skip("no oneDNN in bfloat16 here")
    return request.param


def is_close(found, wanted, close=CLOSE):
    error = (found.double() - wanted.double()).abs().max() / wanted.abs().max()
    assert error < close, float(error)


def in_double(conv, x):
    return copy.deepcopy(conv).double()(x.double()).detach()


def drawn(network):
    """With weights of a size that keeps that of the maps."""
    for i, values in enumerate(network.parameters()):
        values.data = noise(*values.shape, seed=i) / values[0].numel() ** 0.5
    network.load_state_dict(network.state_dict())
    return network.eval()


@torch.inference_mode()
@pytest.mark.parametrize("activation", PLAIN)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_and_its_activation(way, shape, activation):
    conv = drawn(FusedConv2d(*shape))
    x = noise(2, shape[0], 20, 16) / 4
    wanted = PLAIN[activation](F.conv2d(x, conv.weight, conv.bias, *shape[3:]))
    with half():
        found = conv(x, activation)
    assert found.dtype == torch.bfloat16
    is_close(found, wanted)


@torch.inference_mode()
def test_onto_a_map(way):
    conv, x, onto = drawn(FusedConv2d(8, 8, 3, 1, 1)), noise(1, 8, 10, 12), noise(1, 8, 10, 12)
    wanted = onto + F.conv2d(x, conv.weight, conv.bias, padding=1)
    for order in (torch.channels_last, torch.contiguous_format):
        given = onto.bfloat16().contiguous(memory_format=order)
        with half():
            is_close(conv(x, onto=given), wanted)


@torch.inference_mode()
@pytest.mark.parametrize("activation", [NONE, RELU])
def test_by_a_map(way, activation):
    conv, x, by = (
        drawn(FusedConv2d(8, 8, 3, 1, 1)),
        noise(1, 8, 10, 12),
        noise(1, 8, 10, 12, seed=1),
    )
    wanted = PLAIN[activation](F.conv2d(x, conv.weight, conv.bias, padding=1) * by)
    kept = by.clone()
    with half():
        is_close(convolve(conv, x, activation, by=by), wanted)
    assert torch.equal(by, kept)


@torch.inference_mode()
@pytest.mark.parametrize("can", [None, False])
@pytest.mark.parametrize("activation", [NONE, RELU])
def test_by_a_value_a_channel(way, activation, can, monkeypatch):
    """Also where oneDNN's product takes no such map, as in torch 2.4."""
    if can is not None:
        monkeypatch.setattr(fused, "_multiplies_channels", lambda: can)
    conv, x = drawn(FusedConv2d(8, 8, 3, 1, 1)), noise(2, 8, 10, 12)
    by = noise(2, 8, 1, 1, seed=1)
    wanted = PLAIN[activation](F.conv2d(x, conv.weight, conv.bias, padding=1) * by)
    with half():
        is_close(convolve(conv, x, activation, by=by), wanted)


@torch.inference_mode()
def test_some_outputs_with_other_padding(way):
    conv, x = drawn(FusedConv2d(8, 12, 3, 1, 1)), noise(1, 8, 10, 12)
    wanted = F.conv2d(x, conv.weight, conv.bias, padding=(0, 1))
    with half():
        for part in (slice(8), slice(8, None), None):
            found = convolve(conv, x, padding=(0, 1), outputs=part)
            is_close(found, wanted if part is None else wanted[:, part])


@torch.inference_mode()
def test_borders_in_the_precision_of_the_map(way):
    conv, x = drawn(FusedConv2d(8, 8, 3, 1, 1, padding_mode="reflect")), noise(1, 8, 10, 12)
    wanted = F.conv2d(F.pad(x, [1] * 4, "reflect"), conv.weight, conv.bias)
    with half():
        is_close(conv(x), wanted)
        assert padded(x.bfloat16(), [1] * 4, "reflect").dtype == torch.bfloat16
    torch.testing.assert_close(conv(x), wanted)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(16, 8, 4, 2, 1), (16, 8, 3, 2, 1, 1), (16, 8, 4)])
@pytest.mark.parametrize("side", [1, 8, 17])
def test_a_transposed_convolution(way, shape, side):
    conv, x = drawn(FusedConvTranspose2d(*shape)), noise(1, 16, side, side) / 4
    wanted = F.conv_transpose2d(x, conv.weight, conv.bias, *shape[3:])
    with half():
        is_close(conv(x), wanted)
        # A size that is asked for is torch's affair.
        is_close(conv(x, output_size=list(wanted.shape[2:])), wanted)


@torch.no_grad()
def test_changed_weights_are_seen(way):
    """In place, as a training changes them; replaced, as loading does; of another size of map."""
    conv, x = drawn(FusedConv2d(8, 8, 3, 1, 1)), noise(1, 8, 10, 12)
    changes = [
        lambda: conv.weight.mul_(2),
        lambda: conv.bias.add_(3),
        lambda: conv.load_state_dict({k: v.neg() for k, v in conv.state_dict().items()}),
        lambda: setattr(conv.weight, "data", conv.weight.data + 1),
        lambda: setattr(conv.weight, "data", conv.weight.data - 2),
        lambda: None,
    ]
    for number, change in enumerate(changes):
        with half():
            conv(x)
        change()
        y = noise(1, 8, 10 + number, 12)
        with half():  # which keeps what it has cast itself
            is_close(conv(y), in_double(conv, y), 2 * CLOSE)


def test_weights_in_training(way):
    """A fused optimiser changes them without counting it."""
    conv, x = drawn(FusedConv2d(8, 8, 3, 1, 1)).train(), noise(1, 8, 10, 12)
    optimiser = torch.optim.Adam(conv.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        with torch.no_grad(), half():
            is_close(conv(x, RELU), F.relu(in_double(conv, x)), 2 * CLOSE)
        conv(x).square().sum().backward()
        optimiser.step()


@torch.no_grad()
def test_weights_made_anew_at_each_call(way):
    conv, x = spectral_norm(drawn(FusedConv2d(8, 8, 3, 1, 1)), True).eval(), noise(1, 8, 10, 12)
    with half():
        for scale in (1.0, -1.0, 1.0):
            conv.parametrizations.weight.original.copy_(scale * noise(8, 8, 3, 3, seed=3))
            is_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


def test_gradients_are_those_of_torch():
    conv, x = drawn(FusedConv2d(8, 8, 3, 1, 1)).double(), noise(1, 8, 10, 12).double()
    onto = noise(1, 8, 10, 12, seed=5).double().requires_grad_()
    kept = onto.detach().clone()
    parameters = [*conv.parameters(), onto]
    y = conv(F.leaky_relu(conv(x, leaky(0.2)), 1.0), onto=onto)
    found = torch.autograd.grad(y.square().sum(), parameters)
    a = F.leaky_relu(F.conv2d(x, conv.weight, conv.bias, padding=1), 0.2)
    wanted = F.conv2d(a, conv.weight, conv.bias, padding=1) + onto
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(found, torch.autograd.grad(wanted.square().sum(), parameters))
    torch.testing.assert_close(onto.detach(), kept)


@torch.inference_mode()
def test_rectifiers_in_a_sequence(way):
    first, second = drawn(FusedConv2d(3, 8, 3, 1, 1)), drawn(FusedConv2d(8, 8, 3, 1, 1))
    leaking, doubling = nn.LeakyReLU(0.2, inplace=True), nn.Upsample(scale_factor=2)
    middle = [first, leaking, doubling, second, nn.ReLU(), drawn(FusedConv2d(8, 3, 3, 1, 1))]
    # Also where there is no convolution before them, and where nothing is.
    for layers in (middle, [nn.LeakyReLU(0.2), *middle, doubling, nn.ReLU()], []):
        wanted = nn.Sequential(*layers)(noise(1, 3, 10, 12))
        torch.testing.assert_close(FusedSequential(*layers)(noise(1, 3, 10, 12)), wanted)
        with half():
            is_close(FusedSequential(*layers)(noise(1, 3, 10, 12)), wanted)


def test_slopes_that_are_equal_are_loaded_as_they_are():
    """So that a training goes on exactly; the mean of equal values is often another one."""
    module = OneSlopePReLU(24)
    for value in torch.rand(50, generator=torch.Generator().manual_seed(0)):
        given = value.expand(24).clone()
        module.load_state_dict({"weight": given})
        assert torch.equal(module.weight.detach(), given)
    module.load_state_dict({"weight": torch.arange(24.0)})
    assert torch.equal(module.weight.detach(), torch.full((24,), 11.5))


NETWORKS = [
    Compact(width=16, depth=4, scale=2),
    Compact(width=16, depth=4, scale=2, slopes="layer"),
    ResidualUNet(widths=(16, 24, 32)),
    ResidualUNet(widths=(16, 24, 32), noise_map=True, bias=True),
    ResidualUNet(widths=(16, 24, 32), noise_map=True, modulated=True),
    ResidualUNet(widths=(16, 24, 32), unshuffle=2),
    GatedInpainting(width=16),
    GatedInpainting(width=16, activation="leaky-relu"),
    GatedInpainting(widths=(24, 16, 32), activation="relu"),
    ResNetGenerator(width=16, blocks=2, up="nearest"),
    ResNetGenerator(width=16, blocks=2, norm="none", down="blurred", up="blurred"),
    ResNetGenerator(width=16, blocks=2, norm="batch", enhancers=1),
    UNetGenerator(width=16, depth=4, norm="instance"),
    UNetGenerator(width=16, depth=4, norm="none"),
    AnimeGANGenerator(width=8),
]


@pytest.mark.parametrize("described", NETWORKS, ids=lambda described: described.kind)
def test_networks_of_pictures(way, described):
    """In bfloat16 they are what they are in float32, and leave pictures alone; a Compact in rows,
    which go over from one to the next."""
    built = drawn(described.build()).to(memory_format=torch.channels_last)
    more = described.pictures.masked or described.pictures.noise_map
    x = noise(1, 3 + more, 64, 800).sigmoid()
    if described.pictures.masked:
        x[:, 3] = x[:, 3].round()
    given, wanted = x.clone(), built(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(built(x), wanted, rtol=1e-4, atol=1e-4)
        with half():
            found = built(x)
    assert (found - wanted).square().mean() < 1e-3 * wanted.var()
    assert torch.equal(x, given)


@torch.inference_mode()
def test_maps_that_are_kept_stay_what_they_are(way):
    x = noise(1, 3, 64, 64).sigmoid()
    features = drawn(VGGFeatures().build())
    encoder = drawn(ResNetGenerator(width=16, blocks=2, norm="none").build())
    for maps in (features, encoder.features):
        wanted = [found.clone() for found in maps(x)]
        with half():
            found = maps(x)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            is_close(one, other, 0.05)


@pytest.mark.parametrize("described", [AdaIN(), ResidualAdaIN()])
def test_style_transfer(way, described):
    built = drawn(described.build())
    content, style = noise(2, 1, 3, 64, 64).sigmoid()
    wanted = built(content, style).detach()
    with torch.inference_mode(), half():
        is_close(built(content, style), wanted, 0.05)


@torch.inference_mode()
def test_packed_weights_end_with_their_module(way):
    conv = drawn(FusedConv2d(8, 8, 3, 1, 1))
    with half():
        conv(noise(1, 8, 10, 12))
    assert (conv in fused._made) == (way == "oneDNN")
    left = weakref.ref(conv)
    del conv
    gc.collect()
    assert left() is None
