"""What every network of a kind keeps to. A new architecture is tested by being listed."""

import pytest
import torch

from imagen_nodes.networks import ARCHITECTURES
from imagen_nodes.networks.architecture import GeneratorArchitecture

GENERATORS = [a for a in ARCHITECTURES if issubclass(a, GeneratorArchitecture)]


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("architecture", GENERATORS)
def test_a_generator_draws_images_from_latents(architecture, classes):
    a = architecture.model_validate({"classes": classes})
    labels = torch.zeros(2, dtype=torch.int64, device="meta") if classes else None
    with torch.device("meta"):  # shapes alone
        images = a.build()(torch.zeros(2, a.z_dim), labels)
    assert images.shape == (2, a.channels, a.resolution, a.resolution)
