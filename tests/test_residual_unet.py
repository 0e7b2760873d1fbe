"""The residual U-Net against its formula, written plainly."""

import pytest
import torch
from torch.nn import functional as F

from imagen_nodes import tiles
from imagen_nodes.networks.residual_unet import ResidualUNet
from imagen_nodes.noise_level import JPEG_MARK


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def network(**fields):
    described = ResidualUNet.model_validate({"widths": (8, 16, 24)} | fields)
    built = described.build()
    built.initialise(torch.Generator().manual_seed(0))
    for i, tensor in enumerate(built.parameters()):  # blocks that end in more than nothing
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i))
    return described, built.double().eval()


def conv(x, state, name, **steps):
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **steps)


def blocks(x, state, prefix, count):
    for i in range(count):
        y = F.relu(conv(x, state, f"{prefix}.{i}.first", padding=1))
        x = x + conv(y, state, f"{prefix}.{i}.second", padding=1)
    return x


def shuffled(x, n=2):
    """Pixel shuffle."""
    b, c, h, w = x.shape
    x = x.view(b, c // n**2, n, n, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(b, c // n**2, n * h, n * w)


def blocked(x, n):
    """Pixel unshuffle."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // n, n, w // n, n).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, c * n**2, h // n, w // n)


@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("noise_map", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_formula_and_its_gradient(channels, noise_map, bias, unshuffle):
    described, built = network(
        channels=channels, noise_map=noise_map, bias=bias, unshuffle=unshuffle, blocks=2, middle=3
    )
    assert described.pictures.noise_map == noise_map
    state = dict(built.named_parameters())
    assert any(name.endswith("bias") for name in state) == bias
    x = noise(2, channels + noise_map, 12 * unshuffle, 20 * unshuffle).double()

    def plain(x):
        a = conv(blocked(x, unshuffle), state, "first", padding=1)
        a = blocks(a, state, "encoders.0", 2)
        b = conv(a, state, "halvings.0", stride=2)
        b = blocks(b, state, "encoders.1", 2)
        c = conv(b, state, "halvings.1", stride=2)
        features = built.features(x)
        for one, other in zip(features, [x, a, b, blocks(c, state, "middle", 1)], strict=True):
            torch.testing.assert_close(one, other)
        c = blocks(c, state, "middle", 3)
        b = b + shuffled(conv(c, state, "doublings.1"))
        b = blocks(b, state, "decoders.1", 2)
        a = a + shuffled(conv(b, state, "doublings.0"))
        a = blocks(a, state, "decoders.0", 2)
        return x[:, :channels] + shuffled(conv(a, state, "last", padding=1), unshuffle)

    wanted = plain(x)
    torch.testing.assert_close(built(x), wanted)
    parameters = list(built.parameters())
    found = torch.autograd.grad(built(x).square().sum(), parameters)
    torch.testing.assert_close(found, torch.autograd.grad(wanted.square().sum(), parameters))
    assert described.pictures.sizes.multiple == 4 * unshuffle


SHAPES = [{}, {"widths": (8, 8), "blocks": 1, "middle": 2}, {"widths": (8, 8), "unshuffle": 2}]


@pytest.mark.parametrize("fields", SHAPES)
def test_a_pixel_sees_no_further_than_it_says(fields):
    described, built = network(**fields)
    reach, step = described.pictures.reach, described.pictures.sizes.multiple
    side = (2 * reach // step + 4) * step
    x = noise(1, 3, side, side).double().requires_grad_()
    for place in range(side // 2, side // 2 + step):
        (seen,) = torch.autograd.grad(built(x)[0, :, place, place].sum(), x)
        rows = seen[0].abs().sum((0, 2)).nonzero()
        assert int((rows - place).abs().max()) <= reach
    # And not much less far: overlapping tiles cost time.
    assert int((rows - place).abs().max()) > 0.7 * reach


def test_tiles_of_wide_maps_are_smaller():
    """So that a map takes as much memory at most."""
    sides = {w: ResidualUNet(widths=(w, 8), unshuffle=1).pictures.tile for w in (16, 32, 64, 128)}
    assert sides == {16: 1024, 32: 1024, 64: 724, 128: 512}
    assert ResidualUNet(widths=(128, 8), unshuffle=2).pictures.tile == 1024


def test_tiles_are_the_whole():
    described, built = network(widths=(8, 16), blocks=1, middle=1)
    pictures = described.pictures.model_copy(update={"tile": 64})
    x = noise(1, 3, 150, 133)
    with torch.inference_mode():
        whole = built(tiles.padded(x, pictures.sizes).double())[:, :, :150, :133].float()
        tiled = tiles.run(lambda part: built(part.double()), x, sizes=pictures.sizes,
                          tiling=pictures.tiling)  # fmt: skip
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_it_scales_with_its_input():
    _, built = network()
    x = noise(1, 3, 16, 16).double()
    torch.testing.assert_close(built(0.3 * x), 0.3 * built(x))


def test_modulation_by_the_noise():
    """Of the maps inside the blocks, in the order that they run in, each picture by its own level:
    rows of a table for 0, 5, 10, 15, 20, 25, 35 and 50/255, and for JPEG's blocks."""
    fields = {"widths": (8, 16), "blocks": 1, "middle": 2, "noise_map": True, "jpeg_mark": True}
    _, built = network(**fields, modulated=True)
    state = dict(built.named_parameters())
    table = state["modulation.table"]
    assert table.shape == (9, 8 + 16 + 16 + 8)
    half = (table[1] + table[2]) / 2
    wanted = {7.5: half, 15: table[3], 70: table[7], 0: table[0], JPEG_MARK * 255: table[8]}
    x = noise(len(wanted), 4, 12, 20).double()
    x[:, 3] = torch.tensor(list(wanted))[:, None, None] / 255
    scales = (1 + torch.stack(list(wanted.values())))[:, :, None, None]

    def block(x, name, at):
        inside = conv(x, state, f"{name}.first", padding=1)
        inside = F.relu(inside * scales[:, at : at + inside.shape[1]])
        return x + conv(inside, state, f"{name}.second", padding=1)

    a = block(conv(x, state, "first", padding=1), "encoders.0.0", 0)
    b = block(conv(a, state, "halvings.0", stride=2), "middle.0", 8)
    b = shuffled(conv(block(b, "middle.1", 24), state, "doublings.0"))
    whole = x[:, :3] + conv(block(a + b, "decoders.0.0", 40), state, "last", padding=1)
    torch.testing.assert_close(built(x), whole, rtol=1e-6, atol=1e-6)
    parameters = list(built.parameters())
    found, wanted = (torch.autograd.grad(y.square().sum(), parameters) for y in (built(x), whole))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    # A new one has no rows yet.
    plain = ResidualUNet.model_validate(fields).build().double()
    new = ResidualUNet.model_validate(fields | {"modulated": True}).build().double()
    new.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(new(x), plain(x))


def test_modulation_needs_the_noise():
    with pytest.raises(ValueError, match="modulated: is by the noise map; set noise_map to true"):
        ResidualUNet(modulated=True)


def test_a_new_one_gives_the_picture_back():
    built = ResidualUNet().build()
    built.initialise(torch.Generator().manual_seed(0))
    assert sum(tensor.numel() for tensor in built.parameters()) <= 700_000
    x = noise(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(built(x), x)
    for block in (built.encoders[0][0], built.middle[1]):
        he = (2 / block.first.weight[0].numel()) ** 0.5
        assert float(block.first.weight.detach().std()) == pytest.approx(he, rel=0.05)
        assert float(block.second.weight.detach().std()) == pytest.approx(he / 10, rel=0.05)
