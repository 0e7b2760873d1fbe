"""Discriminators of patches and pixels against networks that are written out plainly."""

from itertools import chain

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from imagen_nodes.networks.patch import PatchDiscriminator
from imagen_nodes.networks.unet_discriminator import UNetDiscriminator


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def built(architecture):
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    return network


def plainly(state, x, depth, scale, norm):
    """Isola et al. 2017, appendix 6.1.2, on the tensors of one scale; batch statistics."""
    maps = []
    for i in range(depth + 1):
        name = f"scales.{scale}.{i}"
        stride = 2 if i < depth else 1
        x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], stride, 1)
        if i and norm != "none":
            axes = (0, 2, 3) if norm == "batch" else (2, 3)
            x = (x - x.mean(axes, keepdim=True)) / (
                x.var(axes, unbiased=False, keepdim=True) + 1e-5
            ).sqrt()
            if norm == "batch":
                gain, bias = state[f"{name}.1.weight"], state[f"{name}.1.bias"]
                x = x * gain[:, None, None] + bias[:, None, None]
        x = torch.maximum(x, 0.2 * x)
        maps.append(x)
    name = f"scales.{scale}.{depth + 1}"
    return [*maps, F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], 1, 1)]


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_patches(norm, depth):
    a = PatchDiscriminator(channels=6, width=8, width_max=16, depth=depth, norm=norm, scales=2)
    network, x = built(a), noise(2, 6, 64, 72)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    half = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    half = half / F.avg_pool2d(F.pad(torch.ones_like(x), (1, 1, 1, 1)), 3, 2)
    wanted = [plainly(state, x, depth, 0, norm), plainly(state, half, depth, 1, norm)]
    found = network.features(x)
    assert [len(maps) for maps in found] == [depth + 2] * 2
    for ours, theirs in zip(chain(*found), chain(*wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    for logits, maps in zip(network(x), found, strict=True):
        assert logits.shape == maps[-1].shape
        assert logits.shape[1] == 1


@pytest.mark.parametrize(("depth", "field"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_receptive_fields(depth, field):
    a = PatchDiscriminator(width=8, depth=depth, norm="none")
    assert a.receptive_field == field
    side = 2 * field + 64
    x = noise(1, 3, side, side).requires_grad_()
    (logits,) = built(a)(x)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    seen = x.grad[0].abs().sum((0, 1)).nonzero()[:, 0]
    assert int(seen.max() - seen.min()) + 1 == field


@pytest.mark.parametrize("scales", [1, 3])
def test_the_smallest_picture(scales):
    a = PatchDiscriminator(width=8, scales=scales, norm="none")
    assert all(logits.numel() > 0 for logits in built(a)(noise(1, 3, a.smallest, a.smallest)))


def test_spectral_norm_is_on_every_weight():
    network = built(PatchDiscriminator(width=8, norm="spectral")).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            largest = torch.linalg.svdvals(module.weight.detach().flatten(1))[0]
            assert float(largest) == pytest.approx(1, abs=0.05)


def test_unet():
    network = built(UNetDiscriminator(width=8)).eval()
    x = noise(2, 3, 24, 32)

    def conv(module, x, stride=1):
        return F.conv2d(x, module.weight, module.bias, stride, 1)

    def act(x):
        return torch.maximum(x, 0.2 * x)

    def double(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear")

    with torch.no_grad():
        a = act(conv(network.first, x))
        b = act(conv(network.down[0], a, 2))
        c = act(conv(network.down[1], b, 2))
        d = act(conv(network.down[2], c, 2))
        e = act(conv(network.up[0], double(d))) + c
        f = act(conv(network.up[1], double(e))) + b
        g = act(conv(network.up[2], double(f))) + a
        g = act(conv(network.out[1], act(conv(network.out[0], g))))
        wanted = conv(network.logit, g)
        found = network(x)
    assert found.shape == (2, 1, 24, 32)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_unet_of_the_real_width():
    """Weights without u: 4,376,897 in the released Real-ESRGAN discriminators."""
    with torch.device("meta"):
        network = UNetDiscriminator().build()
    assert sum(p.numel() for p in network.parameters()) == 4_376_897


@pytest.mark.parametrize("fields", [{"depth": 0}, {"norm": "layer"}, {"scales": 9}, {"width": 12}])
def test_what_cannot_be_built_is_refused(fields):
    with pytest.raises(ValidationError):
        PatchDiscriminator.model_validate(fields)
