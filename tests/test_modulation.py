"""The layers of StyleGAN2 where their weights are not trained: kept ready, and not for too long."""

import copy

import pytest
import torch

from imagen_nodes.networks.modulation import StyledConv2d


def layer(up, inputs=6, outputs=10, float32=False):
    size = (10, 16) if up else (5, 8)
    found = StyledConv2d(inputs, outputs, 12, size, up=up, float32=float32)
    found.draw(torch.Generator().manual_seed(0))
    found.style.draw(torch.Generator().manual_seed(1))
    found.noise_strength.data.fill_(0.3)
    return found


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call(conv, x, w):
    with torch.autocast("cpu", torch.bfloat16):
        return conv(x, w, conv.noise).float()


@pytest.mark.parametrize("up", [False, True])
def test_in_half_precision_it_is_the_same_layer(up):
    conv, x, w = layer(up), drawn(3, 6, 5, 8), drawn(3, 12, seed=1)
    exact = conv(x, w, conv.noise).detach()
    for x_ in (x, x.contiguous(memory_format=torch.channels_last)):
        with torch.inference_mode():
            found = call(conv, x_, w)
        assert found.shape == exact.shape
        assert (found - exact).norm() < 0.01 * exact.norm()
    trained = call(conv, x, w)
    assert (trained - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("up", [False, True])
def test_in_float32_but_for_the_convolution(up):
    """Fewer roundings; and what comes out goes on in half precision."""
    x, w = drawn(3, 6, 5, 8), drawn(3, 12, seed=1)
    wanted, errors = layer(up)(x, w, layer(up).noise).detach(), []
    for float32 in (False, True):
        conv = layer(up, float32=float32)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found = conv(x, w, conv.noise)
        assert found.dtype == torch.bfloat16
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("up", [False, True])
def test_what_is_kept_follows_the_weight(up):
    conv, x, w = layer(up), drawn(3, 6, 5, 8), drawn(3, 12, seed=1)

    def now():
        with torch.no_grad():
            return call(conv, x, w)

    first = now()
    assert torch.equal(now(), first)
    with torch.no_grad():
        conv.weight[0].mul_(-1)
    changed = now()
    assert not torch.equal(changed[:, 0], first[:, 0])
    assert torch.equal(changed[:, 1:], first[:, 1:])
    other = copy.deepcopy(conv)
    other.load_state_dict({n: t * 2 for n, t in conv.state_dict().items()})
    with torch.no_grad():
        assert not torch.equal(call(other, x, w), changed)
    assert torch.equal(now(), changed)
    assert set(conv.state_dict()) == {
        "noise", "weight", "bias", "noise_strength", "style.weight", "style.bias"
    }  # fmt: skip
