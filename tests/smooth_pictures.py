"""Pictures and random numbers of tests of what restores pictures."""

import torch
from torch.nn import functional as F

from imagen_nodes.training.randomness import Numbers


def numbers(seed=0, part=0, parts=1):
    return Numbers(torch.Generator().manual_seed(seed), part, parts)


def smooth(count, side, seed=0):
    """Pictures with something in them: ``[count 3 side side]`` in 0..1."""
    x = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(x, (side, side), mode="bicubic").clamp(0, 1)
