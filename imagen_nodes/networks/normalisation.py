"""Normalisations that several families share: spectral norm of weights, batch norm that a class or
a vector conditions.

A spectrally normalised module holds its raw weight and a vector u, and computes W / sigma(W) anew
in each forward pass. What ships needs neither: :func:`fold` writes W / sigma(W) in W's place, under
its plain name, and gives the architecture without spectral norm, which describes just that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .architecture import Architecture
from .equalised import widened

M = TypeVar("M", bound=nn.Module)
A = TypeVar("A", bound=Architecture)

# Power iterations on new weights, after which one in each forward pass keeps up.
ITERATIONS = 15


# ---- Spectral norm ------------------------------------------------------------------------------


class SpectralNorm(nn.Module):
    """``W -> W / sigma(W)``, sigma the largest singular value of W as a matrix [outputs, the rest].

    In training mode each call takes one step of the power iteration, v = W'u / |W'u|,
    u = Wv / |Wv|, sigma = u'Wv; u and v are constants to gradients. In evaluation mode u stays, and
    sigma = |W'u|. Always in the weight's own precision.

    Source: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
    section 2.1 and algorithm 1.
    """

    u: Tensor

    def __init__(self, outputs: int, *, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        self.register_buffer("u", torch.full((outputs,), outputs**-0.5))

    def forward(self, weight: Tensor) -> Tensor:
        device = "cpu" if weight.is_meta else weight.device.type
        with torch.autocast(device, enabled=False):
            matrix = self._matrix(weight)
            u = F.normalize(self.u, dim=0)  # an average of unit vectors is shorter
            with torch.no_grad():
                v = F.normalize(matrix.t().mv(u), dim=0)
            projected = matrix.mv(v)
            if self.training:
                u = F.normalize(projected.detach(), dim=0)
                self.u.copy_(u)
            return weight / u.dot(projected)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What is assigned is the raw weight."""
        return weight

    @torch.no_grad()
    def initialise(self, weight: Tensor, random: Generator) -> None:
        """A random u, brought close to ``weight``'s by :data:`ITERATIONS` steps."""
        matrix = self._matrix(weight)
        u = torch.randn(len(matrix), generator=random)
        for _ in range(ITERATIONS):
            u = F.normalize(matrix.mv(F.normalize(matrix.t().mv(u), dim=0)), dim=0)
        self.u.copy_(u)

    def _matrix(self, weight: Tensor) -> Tensor:
        """``[outputs n]``, no copy where memory allows: singular values do not depend on the order
        of the columns."""
        if self.transposed:
            weight = weight.transpose(0, 1)
        if weight.ndim == 4 and not weight.is_contiguous():
            weight = weight.permute(0, 2, 3, 1)
        return weight.flatten(1)


def spectral_norm(module: M, enabled: bool = True) -> M:
    """``module``, a linear layer, a convolution or an embedding, its weight from now on spectrally
    normalised; as it is unless ``enabled``."""
    if enabled:
        transposed = isinstance(module, nn.ConvTranspose2d)
        outputs = module.get_parameter("weight").shape[transposed]
        norm = SpectralNorm(outputs, transposed=transposed)
        # "Unsafe" leaves out a check that would call it once.
        parametrize.register_parametrization(module, "weight", norm, unsafe=True)
    return module


def raw_weight(module: nn.Module) -> nn.Parameter:
    """The parameter that stands for ``module.weight``: what is to be initialised and trained."""
    name = "parametrizations.weight.original" if _is_normalised(module) else "weight"
    return module.get_parameter(name)


def initialise_spectral_norms(network: nn.Module, random: Generator) -> None:
    """Draw every u of ``network`` from ``random``, once all its weights are drawn."""
    for module in network.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for norm in module:
                if isinstance(norm, SpectralNorm):
                    norm.initialise(module.get_parameter("original"), random)


def fold(architecture: A, network: nn.Module) -> A:
    """Put plain weights, W / sigma(W), in the place of ``network``'s spectrally normalised ones,
    and return the architecture that describes what it is now: ``spectral_norm`` false.

    The network computes what it did in evaluation mode."""
    network.eval()
    for module in list(network.modules()):
        if _is_normalised(module):
            parametrize.remove_parametrizations(module, "weight")
    fields = {"spectral_norm"} & type(architecture).model_fields.keys()
    return architecture.model_copy(update=dict.fromkeys(fields, False))


def _is_normalised(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module, "weight")


# ---- Instance norm ------------------------------------------------------------------------------


class InstanceNorm2d(nn.Module):
    """Each channel of each picture to mean 0 and variance 1, ``[b c h w]``; then, with ``affine``,
    times a gain and plus a bias.

    As group norm of one channel a group, which is the same and on a CPU three to six times as fast
    as torch's instance norm.

    Source: Ulyanov et al., "Instance Normalization: The Missing Ingredient for Fast Stylization",
    2016, equation 4.
    """

    def __init__(self, channels: int, eps: float = 1e-5, *, affine: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        # Its gradient takes three to six times as long in bfloat16 on a CPU.
        exact = widened(x) if x.device.type == "cpu" and torch.is_grad_enabled() else x
        return F.group_norm(exact, x.shape[1], self.weight, self.bias, self.eps).to(x.dtype)


# ---- Batch norm ---------------------------------------------------------------------------------


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that takes no notice of a condition."""

    def forward(self, input: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(input)


@torch.no_grad()
def standing_statistics(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor | None]]
) -> None:
    """Give the batch norms of a generator, if it has any, the mean statistics over ``batches`` of
    (z, labels), and leave it in evaluation mode. They are those of the z they are drawn for,
    truncated or not.

    Source: Brock et al., "Large Scale GAN Training", 2019, appendix D, "standing statistics".
    """
    network.train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
    if norms:
        for z, labels in batches:
            network(z, labels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


class ClassConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias are an embedding of the class: ``x [b c h w]``,
    ``labels [b]`` int64 -> ``[b c h w]``.

    ``embed.weight [classes 2c]`` holds the gains, then the biases. Initially the norm is the
    unconditional one: all gains 1, all biases 0.

    Source: Dumoulin et al., "A Learned Representation for Artistic Style", 2017, equation 5; for
    classes: Miyato & Koyama, "cGANs with Projection Discriminator", 2018, section 4.
    """

    def __init__(self, channels: int, classes: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps, affine=False)
        self.embed = nn.Embedding(classes, 2 * channels)
        self.initialise()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        gain, bias = self.embed(labels).chunk(2, dim=1)
        return _modulate(self.norm(x), gain, bias)

    def initialise(self) -> None:
        """Gains 1, biases 0."""
        gain, bias = self.embed.weight.data.chunk(2, dim=1)
        nn.init.ones_(gain)
        nn.init.zeros_(bias)


class VectorConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias are linear in a vector: ``x [b c h w]``,
    ``condition [b d]`` -> ``[b c h w]``; gain = 1 + G condition, bias = B condition.

    Source: Brock et al., "Large Scale GAN Training", 2019, appendix B.
    """

    def __init__(
        self, channels: int, inputs: int, eps: float = 1e-5, *, spectral: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps, affine=False)
        self.gain = spectral_norm(nn.Linear(inputs, channels, bias=False), spectral)
        self.bias = spectral_norm(nn.Linear(inputs, channels, bias=False), spectral)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return _modulate(self.norm(x), 1 + self.gain(condition), self.bias(condition))


def _modulate(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """``x [b c h w] * gain [b c] + bias [b c]``, in x's precision."""
    gain, bias = (v.to(x.dtype)[:, :, None, None] for v in (gain, bias))
    return torch.addcmul(bias, x, gain)
