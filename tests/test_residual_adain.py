"""AdaIN with an encoder of its own against its formula, written plainly."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from imagen_nodes.networks.adain import adapted, moments
from imagen_nodes.networks.residual_adain import ResidualAdaIN


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def network(**fields):
    small = {"widths": (8, 16), "decoder_widths": (8, 8, 16), "decoder_blocks": (0, 2), "middle": 1}
    described = ResidualAdaIN.model_validate(small | fields)
    built = described.build()
    built.initialise(torch.Generator().manual_seed(0))
    for i, tensor in enumerate(built.parameters()):  # blocks that end in more than nothing
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i))
    return described, built.double().eval()


class Plain:
    """Layers by their numbers, as they come."""

    def __init__(self, state, prefix):
        self.state, self.prefix, self.number = state, prefix, 0

    def conv(self, x, name="", **steps):
        key = f"{self.prefix}.{self.number}{name}"
        return F.conv2d(x, self.state[f"{key}.weight"], self.state[f"{key}.bias"], **steps)

    def convolved(self, x, **steps):
        x = self.conv(x, **steps)
        self.number += 1
        return x

    def blocks(self, x, count):
        for _ in range(count):
            y = F.relu(self.conv(x, ".first", padding=1))
            x = x + self.conv(y, ".second", padding=1)
            self.number += 1
        return x


SHAPES = [
    {},
    {"widths": (8, 8, 16), "blocks": 2, "middle": 2},
    {"widths": (16,), "decoder_widths": (8, 16), "decoder_blocks": (1,)},
]


@pytest.mark.parametrize("fields", SHAPES)
def test_the_formula(fields):
    described, built = network(**fields)
    state = built.state_dict()
    content, style = noise(2, 3, 48, 56).double(), noise(2, 3, 64, 48).double() ** 2

    def encoded(x):
        plain = Plain(state, "encoder")
        plain.number = 1
        x = F.pixel_unshuffle(F.pad(x, [40] * 4, mode="reflect"), 8 >> (len(described.widths) - 1))
        x = F.relu(plain.convolved(x, padding=1))
        plain.number += 1
        for _ in described.widths[1:]:
            x = plain.convolved(plain.blocks(x, described.blocks), stride=2)
        x = plain.blocks(x, described.middle)
        return F.relu(plain.convolved(x, padding=1))[:, :, 5:-5, 5:-5]

    def decoded(x):
        plain = Plain(state, "decoder")
        x = plain.blocks(F.pad(x, (1, 1, 1, 1), "reflect"), described.middle)
        for count in reversed(described.decoder_blocks):
            plain.number += 1
            x = plain.convolved(x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)
            plain.number += 1
            x = plain.blocks(torch.where(x > 0, x, 0.2 * x), count)
        x = plain.convolved(x, padding=1)
        return F.pixel_shuffle(x, 8 >> len(described.decoder_blocks))[:, :, 8:-8, 8:-8]

    features = built.encode(content)
    assert features.shape == (2, 16, 6, 7)
    torch.testing.assert_close(features, encoded(content))
    torch.testing.assert_close(built.decode(features), decoded(features))
    wanted = decoded(adapted(encoded(content), moments(encoded(style))).double())
    found = built.float()(content.float(), style.float())
    torch.testing.assert_close(found, wanted.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fields", SHAPES)
def test_neither_half_sees_further_than_it_says(fields):
    described, built = network(**fields)
    reach = described.reach
    side = 8 * (2 * (reach // 8) + 5)
    x = noise(1, 3, side, side).double().requires_grad_()
    place = side // 16
    (seen,) = torch.autograd.grad(built.encode(x)[0, :, place, place].sum(), x)
    rows = seen[0].abs().sum((0, 2)).nonzero()
    assert int(rows.min()) >= place * 8 - reach
    assert int(rows.max()) <= place * 8 + 7 + reach
    features = built.encode(x).detach().requires_grad_()
    result = built.decode(features)
    for row in range(side // 2, side // 2 + 8):
        (seen,) = torch.autograd.grad(result[0, :, row, row].sum(), features, retain_graph=True)
        rows = seen[0].abs().sum((0, 2)).nonzero()
        assert int(rows.min()) * 8 + 7 >= row - reach
        assert int(rows.max()) * 8 <= row + reach


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"decoder_widths": (32, 64, 96)},
            "but the features have 128 channels, the last of widths",
        ),
        ({"decoder_blocks": (1,)}, "takes 2, one for each of decoder_widths but the last"),
    ],
)
def test_what_does_not_fit_together(fields, text):
    with pytest.raises(ValidationError, match=text):
        ResidualAdaIN.model_validate(fields)


def test_a_new_one():
    """Small enough, grey, and without a pattern in its blocks."""
    built = ResidualAdaIN().build()
    built.initialise(torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in built.parameters()) == 2_296_492
    with torch.no_grad():
        found = built(noise(1, 3, 48, 48), noise(1, 3, 56, 48))
    assert 0.01 < float(found.std()) < 0.2
    assert float(found.mean()) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(found[:, :, ::2, ::2], found[:, :, 1::2, 1::2])
