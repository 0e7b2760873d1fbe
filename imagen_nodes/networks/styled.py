"""Generators that map latents to styles: what the StyleGAN families share.

Source: Karras et al., "A Style-Based Generator Architecture for GANs", 2019, section 2 (mapping and
synthesis) and appendix B (the average of w, truncation).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from .architecture import Network
from .modulation import Noise, Normals


class StyledNetwork(Network):
    """``z [b z_dim]``, ``labels [b]`` (int64; needed exactly where there are classes) ->
    ``[b channels h w]``; nominally in -1..1: the last layer is linear.

    Args:
        mapping: ``z [b z_dim]``, ``labels [b]`` or None -> ``w [b w_dim]``, float32.
        synthesis: ``w [b layers w_dim]``, as :meth:`w_plus` gives it, or mixed or edited layer by
            layer, noise, random -> images, float32.
        layers: styles that an image takes.
        w_dim: length of w.
    """

    w_avg: Tensor

    def __init__(self, mapping: nn.Module, synthesis: nn.Module, layers: int, w_dim: int) -> None:
        super().__init__()
        self.layers = layers
        self.mapping = mapping
        self.synthesis = synthesis
        self.register_buffer("w_avg", torch.zeros(w_dim))

    @abstractmethod
    def style_weights(self) -> list[Tensor]:
        """``[n w_dim]`` each: what the layers multiply w with for their styles."""

    def w_plus(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """w+ ``[b layers w_dim]``. In training mode the average of w follows.

        Args:
            psi: truncation: 1 none, 0 the average of all w, over 1 away from it.
            cutoff: layers, from the first, that are truncated; none: all. Source: Karras et al.
                2019, appendix B.
        """
        w = self.mapping(z, labels)
        if self.training:
            self._track(w)
        w = w[:, None].expand(-1, self.layers, -1)
        if psi == 1:
            return w
        near = torch.lerp(self.w_avg, w, psi)
        return near if cutoff is None else torch.cat([near[:, :cutoff], w[:, cutoff:]], 1)

    def forward(
        self, z: Tensor, labels: Tensor | None = None, *, random: Normals | None = None
    ) -> Tensor:
        """Mapping and synthesis, with constant noise in evaluation and new noise in training mode,
        drawn from ``random`` (none: torch's own generator)."""
        noise: Noise = "random" if self.training else "constant"
        return self.synthesis(self.w_plus(z, labels), noise, random)

    @torch.no_grad()
    def _track(self, w: Tensor) -> None:
        """Move the average of w towards the batch's mean, at the authors' rate."""
        self.w_avg.lerp_(w.mean(0), 0.005)
