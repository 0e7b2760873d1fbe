"""Compact against spandrel, which is what ComfyUI reads our files with."""

import pytest
import torch
from torch.nn import functional as F

from imagen_nodes import checkpoint, foreign
from imagen_nodes.checkpoint import Card
from imagen_nodes.networks.compact import Compact


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def network(**fields):
    described = Compact.model_validate({"width": 16, "depth": 3} | fields)
    built = described.build()
    built.initialise(torch.Generator().manual_seed(0))
    for i, tensor in enumerate(built.parameters()):  # no two slopes or biases alike
        tensor.data += 0.05 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(i))
    built.load_state_dict(built.state_dict())
    return described, built.eval()


@pytest.mark.parametrize("fields", [
    {}, {"scale": 2}, {"scale": 1}, {"scale": 3, "channels": 1}, {"width": 24, "depth": 5},
    {"slopes": "layer"},
])  # fmt: skip
def test_spandrel_reads_our_files_with_equal_results(fields, tmp_path):
    described, built = network(**fields)
    path = tmp_path / "mine.safetensors"
    card = Card(title="x", architecture=described.model_dump(), task="super-resolution")
    checkpoint.save(path, card, built)
    descriptor = foreign.describe(path)
    assert descriptor.architecture.id == "Compact"
    assert (descriptor.scale, descriptor.input_channels) == (described.scale, described.channels)
    x = noise(1, described.channels, 11, 14)
    with torch.inference_mode():
        found = built(x)
        assert found.shape == (1, described.channels, 11 * described.scale, 14 * described.scale)
        torch.testing.assert_close(found.clamp(0, 1), descriptor(x), rtol=0, atol=1e-6)
        ours = foreign.open_model(path)
    assert ours.architecture == described
    assert ours.card == card


@pytest.mark.parametrize(("scale", "unshuffle"), [(1, 2), (2, 2), (1, 3)])
def test_blocks_of_pixels(scale, unshuffle, monkeypatch):
    """The network of blocks is one of more channels; strips of it are exact too."""
    described, built = network(scale=scale, unshuffle=unshuffle)
    x = noise(2, 3, 12 * unshuffle, 8 * unshuffle)
    blocks = x.view(2, 3, 12, unshuffle, 8, unshuffle).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    wanted = F.pixel_shuffle(built.body(blocks), scale * unshuffle)
    wanted = wanted + F.interpolate(x, scale_factor=scale)
    torch.testing.assert_close(built(x), wanted)
    monkeypatch.setattr("imagen_nodes.networks.compact.STRIP", 40)
    with torch.inference_mode():
        torch.testing.assert_close(built(x), wanted.detach(), rtol=1e-4, atol=1e-3)
    assert described.pictures.sizes.multiple == unshuffle


def test_the_formula():
    _, built = network(scale=2)
    state, x = built.state_dict(), noise(2, 3, 9, 10)
    y = x
    for n in range(0, 8, 2):
        y = F.conv2d(y, state[f"body.{n}.weight"], state[f"body.{n}.bias"], padding=1)
        y = torch.where(y > 0, y, state[f"body.{n + 1}.weight"][:, None, None] * y)
    y = F.conv2d(y, state["body.8.weight"], state["body.8.bias"], padding=1)
    b, _, h, w = y.shape
    shuffled = y.view(b, 3, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, 3, 2 * h, 2 * w)
    wanted = shuffled + x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(built(x), wanted)


def test_one_slope_a_layer():
    """What a file holds, with each layer's slopes at their mean; in training they stay one."""
    _, given = network(slopes="channel")
    _, built = network(slopes="layer")
    state = {
        name: value.mean().expand_as(value)
        if value.ndim == 1 and name.endswith("weight")
        else value
        for name, value in given.state_dict().items()
    }
    given.load_state_dict(state)
    x = noise(2, 3, 9, 10)
    torch.testing.assert_close(built(x), given(x))
    with torch.no_grad():
        torch.testing.assert_close(built(x), given(x))
    before = built.body[1].weight.detach().clone()
    optimiser = torch.optim.Adam(built.parameters(), 0.01)
    for _ in range(3):
        optimiser.zero_grad()
        built(x).square().mean().backward()
        optimiser.step()
    for module in built.body[1:-1:2]:
        assert len(set(module.weight.tolist())) == 1
    assert not torch.equal(built.body[1].weight, before)


def test_a_new_one_repeats_pixels_nearly():
    built = Compact().build()
    built.initialise(torch.Generator().manual_seed(0))
    x = noise(1, 3, 16, 16)
    with torch.no_grad():
        difference = built(x) - F.interpolate(x, scale_factor=4.0, mode="nearest")
    assert 0.001 < float(difference.std()) < 0.2


def test_the_real_shape():
    shape = {name: tuple(t.shape) for name, t in Compact().build().state_dict().items()}
    assert sum(torch.Size(s).numel() for s in shape.values()) == 621_424
    assert shape["body.0.weight"] == (64, 3, 3, 3)
    assert shape["body.1.weight"] == (64,)
    assert shape["body.34.weight"] == (48, 64, 3, 3)


def test_it_sees_as_far_as_it_says():
    described, built = network(depth=2, scale=1)
    x = noise(1, 3, 21, 21).requires_grad_()
    built(x)[0, 0, 10, 10].backward()
    seen = x.grad[0].abs().sum(0) > 0
    reach = described.pictures.reach
    assert seen[10 - reach : 11 + reach, 10 - reach : 11 + reach].all()
    assert int(seen.sum()) == (2 * reach + 1) ** 2


def test_blocks_see_as_far_as_they_say():
    """The rest of a pixel's own block, too."""
    described, built = network(depth=1, scale=1, unshuffle=3)
    reach, middle, farthest = described.pictures.reach, 16, 0
    for offset in range(3):
        x = noise(1, 3, 33, 33).requires_grad_()
        built(x)[0, 0, middle + offset, middle + offset].backward()
        rows = (x.grad[0].abs().sum((0, 2)) > 0).nonzero().flatten()
        farthest = max(farthest, int((rows - middle - offset).abs().max()))
    assert farthest == reach


@pytest.mark.parametrize("h", [1, 2, 3, 4, 5, 9, 31])
@pytest.mark.parametrize("strip", [1, 100])
@pytest.mark.parametrize(("slopes", "relative"), [("channel", 0), ("layer", 1e-6)])
def test_a_few_rows_at_a_time_give_the_whole(h, strip, slopes, relative, monkeypatch):
    """But for the rounding of a layer's mean slope."""
    _, built = network(depth=6, slopes=slopes)
    built.to(memory_format=torch.channels_last)
    x = noise(2, 3, h, 10)
    whole = built(x).detach()
    monkeypatch.setattr("imagen_nodes.networks.compact.STRIP", strip)
    with torch.inference_mode():
        found = built(x)
    torch.testing.assert_close(found, whole, rtol=relative, atol=1e-6)


@pytest.mark.parametrize("slopes", ["channel", "layer"])
def test_large_pictures_go_in_rows(slopes):
    """And each convolution is called for each few of them, as whoever wants to stop it relies on;
    what it sees overlaps by the two rows above."""
    _, built = network(slopes=slopes)
    for conv in (built.body[0], built.body[-1]):
        seen = []
        conv.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(inputs[0].shape[2])
        )
        with torch.inference_mode():
            built(noise(1, 3, 200, 500))
        assert len(seen) > 3
        assert sum(seen) == 200 + 2 * len(seen)


@pytest.mark.parametrize("fields", [{}, {"unshuffle": 2, "scale": 1}, {"width": 8}])
def test_initial_weights(fields):
    """Orthogonal in the middle, a little noise around it; a picture comes through at its scale."""
    described = Compact.model_validate({"width": 48, "depth": 10} | fields)
    built = described.build()
    built.initialise(torch.Generator().manual_seed(3))
    gain = (2 / (1 + 0.25**2)) ** 0.5
    for i, conv in enumerate(m for m in built.body if isinstance(m, torch.nn.Conv2d)):
        scale = 0.1 if conv is built.body[-1] else 1.0
        weight = conv.weight.detach() / scale
        middle = weight[:, :, 1, 1] / gain
        rows, columns = middle.shape
        product = middle.t() @ middle if rows >= columns else middle @ middle.t()
        torch.testing.assert_close(product, torch.eye(len(product)), atol=0.12, rtol=0)
        around = torch.cat([weight[:, :, 0].flatten(), weight[:, :, 2].flatten()])
        assert float(around.std()) == pytest.approx(0.02, rel=0.2), i
        assert not conv.bias.any()
    other = described.build()
    other.initialise(torch.Generator().manual_seed(3))
    assert all(
        torch.equal(a, b) for a, b in zip(built.parameters(), other.parameters(), strict=True)
    )
    x = noise(1, 3, 24, 24)
    with torch.no_grad():
        change = built(x) - F.interpolate(x, scale_factor=described.scale)
    assert 0.001 < float(change.std()) < 0.3
