"""What every network of a kind keeps to. A new architecture is tested by being listed."""

import pytest
import torch

from imagen_nodes.networks import ARCHITECTURES
from imagen_nodes.networks.architecture import GeneratorArchitecture
from imagen_nodes.networks.lightweight import LightweightGenerator
from imagen_nodes.networks.lucid_stylegan2 import LucidStyleGAN2Generator

GENERATORS = [a for a in ARCHITECTURES if issubclass(a, GeneratorArchitecture)]
# Of programs that have no classes.
UNCONDITIONAL = {LucidStyleGAN2Generator, LightweightGenerator}
CASES = [(a, classes) for a in GENERATORS for classes in ([0] if a in UNCONDITIONAL else [0, 3])]


@pytest.mark.parametrize(("architecture", "classes"), CASES)
def test_a_generator_draws_images_from_latents(architecture, classes):
    a = architecture.model_validate({"classes": classes})
    labels = torch.zeros(2, dtype=torch.int64, device="meta") if classes else None
    with torch.device("meta"):  # shapes alone
        images = a.build()(torch.zeros(2, a.z_dim), labels)
    assert images.shape == (2, a.channels, a.resolution, a.resolution)
