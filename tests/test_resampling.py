"""Doubling, halving and smoothing against sums written out, with both derivatives."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from imagen_nodes.networks.resampling import double, halve, smooth

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def matrix(side, step, padding):
    """Of one direction: row i sums the taps from column ``step`` i - ``padding`` on."""
    rows = (side + 2 * padding - 4) // step + 1
    found = torch.zeros(rows, side, dtype=torch.float64)
    for i in range(rows):
        for k in range(4):
            at = step * i - padding + k
            if 0 <= at < side:
                found[i, at] += TAPS[k]
    return found


@pytest.mark.parametrize(
    ("resample", "down", "right"),
    [
        (halve, matrix(6, 2, 1), matrix(8, 2, 1)),
        (double, matrix(12, 2, 1).t() * 2, matrix(16, 2, 1).t() * 2),
        (lambda x: smooth(x, 1), matrix(6, 1, 1), matrix(8, 1, 1)),
        (lambda x: smooth(x, 2, 4.0), matrix(6, 1, 2) * 2, matrix(8, 1, 2) * 2),
    ],
    ids=["halve", "double", "smooth", "smooth by two"],
)
def test_resampling(resample, down, right):
    x = drawn(2, 3, 6, 8).requires_grad_()
    torch.testing.assert_close(resample(x), (down @ x @ right.t()).double(), atol=1e-7, rtol=1e-6)
    assert gradcheck(resample, x)
    assert gradgradcheck(resample, x)
    # In bfloat16, autocast or not, it is the same but for rounding; so is its gradient.
    half = x.detach().bfloat16().requires_grad_()
    for enabled in (False, True):
        half.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = resample(half)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), resample(half.double()), atol=0.03, rtol=0.02)
        found.sum().backward()
        (wanted,) = torch.autograd.grad(resample(x).sum(), x)
        torch.testing.assert_close(half.grad.double(), wanted, atol=0.03, rtol=0.02)
