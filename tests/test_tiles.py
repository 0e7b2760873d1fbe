"""Tiles: any size of picture gives what the whole picture gives, in bounded memory."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from imagen_nodes import tiles
from imagen_nodes.errors import Cancelled, DataError
from imagen_nodes.tiles import Sizes, Tiling


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


class Known(nn.Module):
    """Two 3x3 convolutions, one 5x5 and a shuffle: every pixel sees 4 px around it."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        widths = ((3, 8, 3), (8, 8, 5), (8, 3 * scale**2, 3))
        self.body = nn.ModuleList(nn.Conv2d(i, o, k, 1, k // 2) for i, o, k in widths)
        self.scale = scale

    @torch.no_grad()
    def forward(self, x):
        for conv in self.body:
            x = torch.tanh(conv(x))
        return F.pixel_shuffle(x, self.scale)


REACH = 4


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("h", "w"), [(61, 97), (40, 20), (7, 120), (1, 1), (1, 300), (41, 40)])
@pytest.mark.parametrize("blend", [0, 1, 5])
def test_tiled_is_untiled(scale, h, w, blend):
    """An overlap of the receptive field and the blended strip: not a pixel differs."""
    network = Known(scale)
    picture = noise(2, 3, h, w)
    for overlap in (2 * REACH + 1 + blend, 30):
        tiling = Tiling(tile=40, overlap=overlap, blend=blend)
        found = tiles.run(network, picture, scale=scale, tiling=tiling)
        torch.testing.assert_close(found, network(picture), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2])
def test_an_ensemble_is_the_mean_over_eight_orientations(scale):
    """Written out by flips and transposes, where the code turns."""
    network, picture = Known(scale), noise(1, 3, 9, 14)
    wanted = 0
    for axes in ((), (2,), (3,), (2, 3)):
        wanted = wanted + network(picture.flip(axes)).flip(axes)
        wanted = wanted + network(picture.flip(axes).mT).mT.flip(axes)
    found = tiles.ensemble(network)(picture)
    torch.testing.assert_close(found, wanted / 8, rtol=0, atol=1e-6)
    assert float((found - network(picture)).abs().max()) > 1e-3


def test_too_small_an_overlap_is_seen_and_blended():
    """What the test above would miss if the windows were not tiles at all."""
    network, picture = Known(1), noise(1, 3, 64, 64)
    whole = network(picture)
    cut = tiles.run(network, picture, tiling=Tiling(tile=24, overlap=0, blend=0))
    mixed = tiles.run(network, picture, tiling=Tiling(tile=24, overlap=8, blend=4))
    errors = [float((found - whole).abs().max()) for found in (cut, mixed)]
    assert errors[0] > errors[1] > 1e-4


def test_weights_add_up_to_one():
    picture = noise(1, 3, 64, 64)
    for blend in (0, 1, 3, 4):
        found = tiles.run(lambda x: x, picture, tiling=Tiling(tile=24, overlap=8, blend=blend))
        torch.testing.assert_close(found, picture)


def test_neighbours_are_mixed_along_a_ramp():
    calls = iter((0.0, 1.0))
    found = tiles.run(
        lambda x: torch.full_like(x, next(calls)),
        noise(1, 1, 4, 40),
        tiling=Tiling(tile=24, overlap=8, blend=4),
    )
    ramp = torch.tensor([0.0] * 18 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 18)
    torch.testing.assert_close(found[0, 0], ramp.expand(4, 40))


@pytest.mark.parametrize("sizes", [
    Sizes(multiple=8), Sizes(minimum=33), Sizes(square=True), Sizes(multiple=7, minimum=30),
    Sizes(multiple=16, minimum=48, square=True),
])  # fmt: skip
@pytest.mark.parametrize(("h", "w"), [(61, 97), (1, 1), (1, 300), (130, 5), (48, 48)])
@pytest.mark.parametrize("tile", [41, 512])
def test_networks_get_the_sizes_that_they_take(sizes, h, w, tile):
    seen = set()

    def call(x):
        seen.add(x.shape[2:])
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    picture = noise(1, 2, h, w)
    tiling = Tiling(tile=tile, overlap=12, blend=4)
    found = tiles.run(call, picture, scale=2, sizes=sizes, tiling=tiling)
    torch.testing.assert_close(found, call(picture), rtol=0, atol=1e-6)
    seen.discard((h, w))
    for height, width in seen:
        assert height % sizes.multiple == width % sizes.multiple == 0
        assert min(height, width) >= sizes.minimum
        assert height == width or not sizes.square


def test_padding_reflects_and_repeats_where_it_cannot():
    seen = []
    tiles.run(lambda x: seen.append(x) or x, noise(1, 1, 9, 3), sizes=Sizes(multiple=8))
    (x,) = seen
    assert x.shape == (1, 1, 16, 8)
    assert torch.equal(x[..., :9, :3], noise(1, 1, 9, 3))
    assert torch.equal(x[..., 9:, :3], noise(1, 1, 9, 3).flip(2)[..., 1:8, :])
    assert torch.equal(x[..., :, 3:], x[..., :, [1, 0, 0, 0, 0]])


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_strip_of_twenty_thousand_pixels(multiple):
    network, picture = Known(2), noise(1, 3, 1, 20_000)
    done = []
    found = tiles.run(
        network,
        picture,
        scale=2,
        sizes=Sizes(multiple=multiple),
        tiling=Tiling(tile=512, overlap=16, blend=0),
        progress=lambda *step: done.append(step),
    )
    assert found.shape == (1, 3, 2, 40_000)
    assert done[-1] == (len(done), len(done))
    if multiple == 1:
        torch.testing.assert_close(found, network(picture), rtol=0, atol=1e-5)


def test_a_picture_does_not_depend_on_its_batch():
    network, batch = Known(2), noise(3, 3, 50, 30)
    tiling = Tiling(tile=32, overlap=10, blend=2)
    together = tiles.run(network, batch, scale=2, tiling=tiling)
    for i in range(3):
        alone = tiles.run(network, batch[i : i + 1], scale=2, tiling=tiling)
        assert torch.equal(alone[0], together[i])


def test_more_channels_are_joined_to_each_window():
    """A mask of truths, and a value a picture that its pixels share."""
    network, batch = Known(1), noise(2, 2, 50, 70)
    levels = torch.tensor([0.2, 0.4]).view(2, 1, 1, 1).expand(2, 1, 50, 70)
    tiling = Tiling(tile=32, overlap=10, blend=2)
    for more in (batch[:, :1] > 0.5, levels):
        wanted = tiles.run(network, torch.cat([batch, more.float()], 1), tiling=tiling)
        assert torch.equal(tiles.run(network, batch, tiling=tiling, more=more), wanted)


def test_it_stops_between_tiles_when_cancelled():
    calls = []

    def progress(done, total):
        assert total == 12
        if done == 2:
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        tiles.run(
            lambda x: calls.append(x) or x,
            noise(3, 1, 32, 32),
            tiling=Tiling(tile=24, overlap=8, blend=0),
            progress=progress,
        )
    assert len(calls) == 2


def out_of_memory_above(side, message="DefaultCPUAllocator: can't allocate memory: you tried"):
    def call(x):
        if max(x.shape[2:]) > side:
            raise RuntimeError(message)
        return x

    return call


def test_out_of_memory_means_smaller_tiles():
    picture = noise(1, 1, 300, 300)
    tiling = Tiling(tile=256, overlap=16, blend=4)
    found = tiles.run(out_of_memory_above(64), picture, tiling=tiling)
    torch.testing.assert_close(found, picture)
    # Also where what neighbours share is nearly a tile of that size.
    wide = Tiling(tile=256, overlap=200, blend=0)
    torch.testing.assert_close(tiles.run(out_of_memory_above(64), picture, tiling=wide), picture)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), False),
        (ValueError("not enough memory"), False),
    ],
    ids=["cuda", "linux", "windows", "mac", "python", "unrelated", "words of another kind"],
)
def test_what_counts_as_out_of_memory(error, wanted):
    assert tiles.is_out_of_memory(error) == wanted


def test_windows_of_which_nothing_is_wanted_are_not_run():
    network, picture, calls = Known(1), noise(2, 3, 90, 90), []
    wanted = torch.zeros(2, 1, 90, 90, dtype=torch.bool)
    wanted[0, :, 40:50, 3:6] = wanted[1, :, 80, 80] = True
    tiling = Tiling(tile=40, overlap=10, blend=2)
    call = lambda x: calls.append(1) or network(x)  # noqa: E731
    found = tiles.run(call, picture, tiling=tiling, wanted=wanted)
    wanted = wanted.expand_as(found)
    assert len(calls) == 2
    torch.testing.assert_close(found[wanted], network(picture)[wanted], rtol=0, atol=1e-5)
    assert not found[1, :, :40].any()


def test_out_of_memory_in_the_smallest_tiles_is_said():
    with pytest.raises(DataError, match="even in tiles of 64 px: DefaultCPUAllocator"):
        tiles.run(
            out_of_memory_above(0),
            noise(1, 1, 9, 9),
            tiling=Tiling(tile=256, overlap=16, blend=4),
        )
    with pytest.raises(RuntimeError, match="another"):
        tiles.run(out_of_memory_above(0, "another"), noise(1, 1, 9, 9))


def test_a_result_that_does_not_fit_is_said():
    call = lambda x: torch.zeros(()).expand(1, 3, x.shape[2] << 22, x.shape[3] << 22)  # noqa: E731
    with pytest.raises(DataError, match=r"result, 1 of 4194304x4194304 px, takes 196608\.0 GiB"):
        tiles.run(call, noise(1, 3, 1, 1), scale=1 << 22)


def test_a_batch_of_none():
    with pytest.raises(DataError, match="holds no picture"):
        tiles.run(lambda x: x, noise(0, 3, 4, 4))


@pytest.mark.parametrize("fields", [{"tile": 80}, {"blend": 40}, {"tile": 0}, {"other": 1}])
def test_tilings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        Tiling.model_validate(fields)


def test_a_large_picture_in_bounded_memory(peak):
    """4096 x 4096 px, and a result twice as large."""
    printed, most = peak(
        "import torch\n"
        "from imagen_nodes import tiles\n"
        "conv = torch.nn.Conv2d(3, 8, 3, 1, 1)\n"
        "with torch.inference_mode():\n"
        "    shuffle = torch.nn.functional.pixel_shuffle\n"
        "    call = lambda x: shuffle(conv(x).repeat(1, 2, 1, 1)[:, :12], 2)\n"
        "    result = tiles.run(call, torch.rand(1, 4096, 4096, 3).permute(0, 3, 1, 2), scale=2)\n"
        "print(*result.shape)"
    )
    assert printed == "1 3 8192 8192"
    assert most < 2
