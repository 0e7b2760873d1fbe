"""Generators from pictures to pictures, against networks that are written out plainly."""

import pytest
import torch
from torch.nn import functional as F

from imagen_nodes.networks.animegan import AnimeGANGenerator
from imagen_nodes.networks.normalisation import InstanceNorm2d
from imagen_nodes.networks.patch_heads import PatchHeads
from imagen_nodes.networks.resnet_generator import ResNetGenerator, blurred_double, blurred_half
from imagen_nodes.networks.unet_generator import UNetGenerator


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(architecture):
    """With weights large enough to tell errors, and statistics of their own."""
    network = architecture.build()
    network.initialise(torch.Generator().manual_seed(0))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            value = noise(*tensor.shape, seed=len(name)) * 0.2
            tensor.copy_(value.abs() + 0.5 if "var" in name else value)
    return network.eval()


def normed(x, state, name, norm, eps=1e-5):
    if norm == "none" or (norm == "batch" and f"{name}.weight" not in state):
        return x
    if norm == "batch":
        mean, var = (state[f"{name}.running_{part}"][:, None, None] for part in ("mean", "var"))
    else:
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    x = (x - mean) / (var + eps).sqrt()
    if f"{name}.weight" in state:
        x = x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]
    return x


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_is_torchs(affine):
    x = noise(3, 8, 17, 13)
    ours, theirs = InstanceNorm2d(8, affine=affine), torch.nn.InstanceNorm2d(8, affine=affine)
    if affine:
        for parameter, value in zip(ours.parameters(), (noise(8), noise(8, seed=1)), strict=True):
            parameter.data.copy_(value)
        theirs.load_state_dict(ours.state_dict())
    for of in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(ours(of), theirs(x), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------ U-Net


def unet(state, x, a):
    """Isola et al. 2017, 6.1.1, from the outside in."""

    def at(i, x):
        y = F.conv2d(x, state[f"downs.{i}.weight"], state.get(f"downs.{i}.bias"), 2, 1)
        up = a.depth - 1 - i
        if i < a.depth - 1:
            y = normed(y, state, f"down_norms.{i}", a.norm if i else "none")
            y = torch.cat([y, at(i + 1, F.leaky_relu(y, 0.2))], 1)
        y = F.relu(y)
        y = F.conv_transpose2d(y, state[f"ups.{up}.weight"], state.get(f"ups.{up}.bias"), 2, 1)
        return normed(y, state, f"up_norms.{up}", a.norm if i else "none")

    return torch.tanh(at(0, x))


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("bias", [False, True])
def test_unet(norm, bias):
    a = UNetGenerator(width=8, width_max=16, depth=4, norm=norm, bias=bias, channels=1)
    network = built(a)
    x = noise(2, 1, 32, 48)
    torch.testing.assert_close(network(x), unet(network.state_dict(), x, a), rtol=1e-3, atol=1e-4)


def test_the_published_sizes():
    """Parameters of the authors' networks, as their programs print them: 54.414 M, 11.378 M (9
    blocks), 182.5 M (pix2pixHD's global generator for 3 channels is 182.4 M without enhancer)."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in a.build().parameters())
            for a in (UNetGenerator(), ResNetGenerator(), AnimeGANGenerator())
        ]
    assert sizes == [54_413_955 - 0, 11_378_179, 2_143_552]


def test_dropout_is_drawn_from_what_it_is_given():
    network = built(UNetGenerator(width=8, width_max=8, depth=4, norm="instance", affine=True))
    x = noise(2, 3, 32, 32)

    def draw(seed):
        random = torch.Generator().manual_seed(seed)
        return lambda *shape: torch.rand(shape, generator=random)

    network.train()
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        assert torch.equal(network(x, draw(0)), network(x, draw(0)))
        assert not torch.equal(network(x, draw(0)), network(x, draw(1)))


# ------------------------------------------------------------------------ ResNet


def resnet(state, x, a):
    """Zhu et al. 2017, appendix 7.2, or CUT's resampling."""
    mode = {"reflect": "reflect", "zero": "constant", "replicate": "replicate"}[a.padding]

    def conv(x, name, pad=0, how="reflect", **options):
        x = F.pad(x, [pad] * 4, how) if pad else x
        return F.conv2d(x, state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias"), **options)

    def norm(x, name):
        return normed(x, state, f"{name}.norm", a.norm)

    x = F.relu(norm(conv(x, "trunk.stem", 3), "trunk.stem"))
    for i in range(a.halvings):
        name = f"trunk.downs.{i}.step"
        stride = 1 if a.down == "blurred" else 2
        x = F.relu(norm(conv(x, name, stride=stride, padding=1), name))
        if a.down == "blurred":
            taps = torch.tensor([1.0, 2, 1]) / 4
            rows = F.pad(x, (1, 1, 1, 1), "reflect")
            rows = sum(t * rows[:, :, k : k + x.shape[2] - 1 : 2] for k, t in enumerate(taps))
            x = sum(t * rows[:, :, :, k : k + x.shape[3] - 1 : 2] for k, t in enumerate(taps))
    for i in range(a.blocks):
        name = f"trunk.blocks.{i}"
        y = F.relu(norm(conv(x, f"{name}.first", 1, mode), f"{name}.first"))
        x = x + norm(conv(y, f"{name}.second", 1, mode), f"{name}.second")
    for i in range(a.halvings):
        name = f"trunk.ups.{i}.step"
        if a.up == "transposed":
            weight, bias = state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias")
            x = F.conv_transpose2d(x, weight, bias, 2, 1, 1)
        else:
            x = F.interpolate(x, scale_factor=2) if a.up == "nearest" else doubled(x)
            x = conv(x, name, padding=1)
        x = F.relu(norm(x, name))
    return torch.tanh(
        F.conv2d(F.pad(x, [3] * 4, "reflect"), state["out.weight"], state["out.bias"])
    )


def doubled(x):
    """Each new pixel is 3/4 of the nearer and 1/4 of the farther old one, each way."""
    for axis in (2, 3):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        before = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), last], axis)
        pair = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
        x = torch.stack(pair, axis + 1).flatten(axis, axis + 1)
    return x


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"down": "blurred", "up": "blurred"},
        {"up": "nearest", "padding": "zero", "halvings": 3},
        {"norm": "batch", "bias": False, "padding": "replicate"},
        {"affine": True, "outputs": 1, "channels": 2},
        {"norm": "none", "down": "blurred"},
    ],
)
def test_resnet(fields):
    a = ResNetGenerator.model_validate({"width": 4, "blocks": 2, **fields})
    network = built(a)
    x = noise(2, a.channels, 16, 24)
    wanted = resnet(network.state_dict(), x, a)
    torch.testing.assert_close(network(x), wanted, rtol=1e-3, atol=1e-4)


def test_blurred_resampling():
    x = noise(1, 2, 5, 6)
    torch.testing.assert_close(blurred_double(x), doubled(x))
    assert blurred_half(noise(1, 2, 8, 6)).shape == (1, 2, 4, 3)
    flat = torch.full((1, 2, 6, 6), 3.0)
    torch.testing.assert_close(blurred_half(flat), flat[:, :, :3, :3])


def test_enhancers_see_twice_the_size():
    """Wang et al. 2018, section 3.1: the coarse network's last map is added to the enhancer's."""
    a = ResNetGenerator(width=4, halvings=2, blocks=1, enhancers=1, enhancer_blocks=1)
    network, x = built(a), noise(1, 3, 32, 48)
    half = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    coarse = network.trunk(half)
    assert coarse.shape == (1, 8, 16, 24)
    (enhancer,) = network.enhancers
    found = enhancer.down(F.relu(enhancer.stem(x))) + coarse
    found = enhancer.up(enhancer.blocks[0](found))
    wanted = torch.tanh(network.out(F.pad(found, [3] * 4, "reflect")))
    torch.testing.assert_close(network(x), wanted)


def test_features_are_those_of_the_way():
    a = ResNetGenerator(width=4, blocks=4)
    network, x = built(a), noise(2, 3, 16, 16)
    found = network.features(x)
    assert [tuple(f.shape[1:]) for f in found] == [
        (3, 16, 16), (8, 8, 8), (16, 4, 4), (16, 4, 4), (16, 4, 4)
    ]  # fmt: skip
    trunk = network.trunk
    y = F.relu(trunk.stem(x))
    torch.testing.assert_close(found[1], trunk.downs[0].step.conv(y))
    y = trunk.downs[1](trunk.downs[0](y))
    for i in range(3):
        y = trunk.blocks[i](y)
        if i == 0:
            torch.testing.assert_close(found[3], y)
    torch.testing.assert_close(found[4], y)


def test_heads():
    network = PatchHeads(inputs=(3, 8), width=16).build()
    network.initialise(torch.Generator().manual_seed(0))
    found = network([noise(2, 5, 3), noise(2, 7, 8)])
    assert [tuple(x.shape) for x in found] == [(2, 5, 16), (2, 7, 16)]
    for x in found:
        torch.testing.assert_close(x.norm(dim=2), torch.ones(x.shape[:2]))


# ------------------------------------------------------------------------ all


@pytest.mark.parametrize(
    "architecture",
    [
        UNetGenerator(width=4, depth=3),
        ResNetGenerator(width=4, blocks=1),
        ResNetGenerator(width=4, blocks=1, enhancers=1, halvings=3),
        AnimeGANGenerator(width=4, blocks=1),
    ],
)
def test_they_take_the_sizes_that_they_say(architecture):
    network, sizes = built(architecture), architecture.pictures.sizes
    for h, w in ((1, 1), (sizes.minimum + 1, 3 * sizes.multiple)):
        side = sizes.fit(h), sizes.fit(w)
        found = network(noise(1, 3, *side))
        assert found.shape == (1, 3, *side)
        assert torch.isfinite(found).all()
        assert found.abs().max() <= 1
