"""Feature networks: what a distance between sets of images is measured in.

FD-MobileNetV2: the 1,280 pooled features of torchvision's MobileNetV2, trained on ImageNet. Its
distances are no FID, which is defined on an Inception network, and are not comparable with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError

SIDE = 128
# torchvision's normalisation for ImageNet networks, by channel.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Features = Callable[[Tensor], Tensor]


class MobileNetV2Features(nn.Module):
    """``[b 3 h w]`` in -1..1 -> ``[b 1280]`` float32: resized to 128 px (bilinear, antialiased),
    averaged over space.

    Source: Sandler et al., "MobileNetV2", 2018; weights from the ONNX model zoo, Apache-2.0.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.features = mobilenet_v2(weights=None).features
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().add(1).div(2)
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        return self.features((x - self.mean) / self.std).mean((2, 3))


def open_features(path: Path) -> MobileNetV2Features:
    """The feature network with the weights in ``path``: torchvision's names, any float type.

    Raises:
        CheckpointError: the file is missing, or holds other tensors.
    """
    network = MobileNetV2Features()
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        missing, unknown = network.load_state_dict(tensors, strict=False)
    except Exception as error:  # safetensors' and torch's own, which say what is wrong
        raise CheckpointError(f"{path}: cannot be used as feature network: {error}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        raise CheckpointError(
            f"{path}: not MobileNetV2's features: {len(missing)} tensors missing, "
            f"{len(unknown)} unknown"
        )
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # pyright: ignore


@torch.inference_mode()
def features_of(network: Features, batches: Iterable[Tensor]) -> Tensor:
    """``[n features]`` of all images in ``batches``, each ``[b 3 h w]`` in -1..1."""
    return torch.cat([network(batch) for batch in batches])
