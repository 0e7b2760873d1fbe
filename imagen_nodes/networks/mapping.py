"""The mapping network: latents and class labels to the intermediate latent w.

Source: Karras et al., "A Style-Based Generator Architecture for GANs", 2019, section 2 and appendix
C (depth, learning rate); conditions as in Karras et al., "Training Generative Adversarial Networks
with Limited Data", 2020, appendix F.3 of its preprint: a one-hot label through a dense layer,
normalised, beside the normalised z. The discriminator maps labels the same way, without a z.
StyleGAN2's first release normalises both as one vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import required
from .equalised import HE_GAIN, EqualisedLinear, in_float32, pixel_norm


class MappingNetwork(nn.Module):
    """``z [b z_dim]`` (none if z_dim is 0), ``labels [b]`` (int64; needed exactly where there are
    classes) -> ``w [b w_dim]``, float32: half precisions are too coarse for so many layers.

    Args:
        joint: z and the label's embedding, of z's length, are normalised as one vector."""

    def __init__(
        self,
        z_dim: int,
        classes: int,
        w_dim: int,
        depth: int,
        lr: float,
        *,
        joint: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.joint = classes, joint
        embedded = z_dim if joint else w_dim
        self.embed = EqualisedLinear(classes, embedded) if classes else None
        widths = [z_dim + (embedded if classes else 0), *[w_dim] * (depth - 1)]
        self.layers = nn.ModuleList(EqualisedLinear(width, w_dim, lr=lr) for width in widths)

    def forward(self, z: Tensor | None, labels: Tensor | None = None) -> Tensor:
        first: EqualisedLinear = self.layers[0]  # pyright: ignore[reportAssignmentType]
        with in_float32(first.weight.device):
            parts = [] if z is None else [z]
            if self.embed is not None:
                labels = required(labels, "network")
                one_hot = F.one_hot(labels, self.classes).to(self.embed.weight.dtype)
                parts.append(self.embed(one_hot))
            if self.joint:
                x = pixel_norm(torch.cat(parts, 1))
            else:
                x = torch.cat([pixel_norm(part) for part in parts], 1)
            for layer in self.layers:
                x = F.leaky_relu(layer(x), 0.2) * HE_GAIN
        return x
