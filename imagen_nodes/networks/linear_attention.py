"""Attention at a cost that grows with the number of positions, not with its square; and what the
two families that use it share.

Source: Shen et al., "Efficient Attention: Attention with Linear Complexities", 2021, section 3.2:
queries are normalised over channels, keys over positions, so that all positions together make one
matrix of values, which each of them reads. Beside it, each position may attend to its neighbours:
Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", 2019, section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, OF_HEAD = 8, 64
INNER = HEADS * OF_HEAD
# Side of the neighbourhood, px.
REACH = 3


class ChannelNorm(nn.Module):
    """``[b c h w]``: channels of each position to mean 0, variance 1; then scaled and shifted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        x = (x - mean) * (variance + 1e-5).rsqrt()
        return x * self.scale[:, None, None] + self.shift[:, None, None]


class LinearAttention(nn.Module):
    """``[b c h w] -> [b c h w]``, 8 heads of 64 channels: each position attends to all, through one
    matrix; with ``neighbours``, beside that to the 3x3 around it, zeros outside."""

    def __init__(self, channels: int, *, neighbours: bool) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, INNER, 1, bias=False)
        self.around = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.key_value = nn.Conv2d(channels, 2 * INNER, 1, bias=False)
        self.near_query = self.near_key_value = None
        if neighbours:
            self.near_query = nn.Conv2d(channels, INNER, 1, bias=False)
            self.near_key_value = nn.Conv2d(channels, 2 * INNER, 1, bias=False)
        self.out = nn.Conv2d(INNER * (1 + neighbours), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        found = F.gelu(self._of_all(x).flatten(1, 2).unflatten(2, size))
        if self.near_query is not None:
            found = torch.cat([found, self._near(x).flatten(1, 2).unflatten(2, size)], 1)
        return self.out(found)

    def _of_all(self, x: Tensor) -> Tensor:
        """``[b heads channels n]``."""
        query = _heads(self.query(x)).softmax(2) * OF_HEAD**-0.5
        key, value = map(_heads, self.key_value(self.around(x)).chunk(2, 1))
        context = value @ key.softmax(3).transpose(2, 3)  # [b heads values keys]
        return context @ query

    def _near(self, x: Tensor) -> Tensor:
        """``[b heads channels n]``."""
        assert self.near_query is not None
        assert self.near_key_value is not None
        query = _heads(self.near_query(x)) * OF_HEAD**-0.5
        key, value = (
            F.unfold(part, REACH, padding=REACH // 2).unflatten(1, (HEADS, OF_HEAD, REACH**2))
            for part in self.near_key_value(x).chunk(2, 1)
        )
        weights = (query[:, :, :, None] * key).sum(2).softmax(2)  # [b heads places n]
        return (value * weights[:, :, None]).sum(3)


def blur(x: Tensor) -> Tensor:
    """``[b c h w]`` with the binomial filter [1 2 1] in each direction, mirrored at the border."""
    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=x.shape[1])


def _heads(x: Tensor) -> Tensor:
    """``[b inner h w] -> [b heads channels n]``."""
    return x.flatten(2).unflatten(1, (HEADS, OF_HEAD))
