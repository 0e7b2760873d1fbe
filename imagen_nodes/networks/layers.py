"""Layers that several families share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Self-attention over all positions of a feature map.

    1x1 convolutions give queries, keys and values of c/8 channels, a fourth brings the attended
    values back to c; the result is added to the input, scaled by ``gamma``, which starts at 0 so
    that the block begins as the identity.

    Shapes: ``[b c h w] -> [b c h w]``; c is a multiple of 8.

    Source: Zhang et al., "Self-Attention Generative Adversarial Networks", 2018, section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 8
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # [b c/8 n]
        key = self.key(x).flatten(2)
        value = self.value(x).flatten(2)
        # Equation 1: every position attends to all others, softmax over the attended ones.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # [b n n]
        attended = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(attended)
