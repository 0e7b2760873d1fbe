"""Normalisations, against singular values and batch norms by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes.networks.architecture import Architecture, Network
from imagen_nodes.networks.layers import DoublingConv2d, HalvingConv2d, MapToLogit, VectorToMap
from imagen_nodes.networks.normalisation import (
    BatchNorm2d,
    ClassConditionalBatchNorm2d,
    VectorConditionalBatchNorm2d,
    fold,
    initialise_spectral_norms,
    raw_weight,
    spectral_norm,
)

# How to make a module, what to feed it, and its weight as a matrix: outputs first.
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7), lambda w: w),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 5, 5), lambda w: w.reshape(6, 36)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3),
        (2, 4, 5, 5),
        lambda w: w.transpose(0, 1).reshape(6, 36),
    ),
    "halving": (
        lambda: HalvingConv2d(4, 6, bias=False),
        (2, 4, 8, 8),
        lambda w: w.reshape(6, 64),
    ),
    "doubling": (
        lambda: DoublingConv2d(4, 6, bias=False),
        (2, 4, 4, 4),
        lambda w: w.transpose(0, 1).reshape(6, 64),
    ),
    "first": (lambda: VectorToMap(7, 5), (3, 7), lambda w: w.transpose(0, 1).reshape(5, 112)),
    "last": (lambda: MapToLogit(5), (3, 5, 4, 4), lambda w: w.reshape(1, 80)),
}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(name: str) -> tuple[nn.Module, nn.Module, Tensor, Callable[[Tensor], Tensor]]:
    """The normalised module, after many power iterations; the plain one; an input; the matrix."""
    make, shape, matrix = MODULES[name]
    plain = make()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, generator=random(1))
    normalised = spectral_norm(copy.deepcopy(plain))
    initialise_spectral_norms(normalised, random())
    x = torch.randn(shape, generator=random(2))
    for _ in range(200):
        normalised(x)
    return normalised, plain, x, matrix


# ---------------------------------------------------------------- spectral norm


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_largest_singular_value_is_one(name: str, memory_format: torch.memory_format) -> None:
    normalised, plain, x, matrix = made(name)
    sigma = torch.linalg.matrix_norm(matrix(plain.weight), 2)
    with torch.no_grad():
        plain.weight.div_(sigma)
    normalised.to(memory_format=memory_format)
    for network in (normalised, normalised.eval()):
        torch.testing.assert_close(network.weight, plain.weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODULES)
def test_gradients_are_those_of_the_norm(name: str) -> None:
    """d sigma / dW = u v', which is also what the singular values' own derivative is."""
    normalised, plain, x, matrix = made(name)
    y = normalised(x)
    weights = torch.randn(y.shape, generator=random(3))
    (found,) = torch.autograd.grad((y * weights).sum(), raw_weight(normalised))
    raw = plain.weight.detach().requires_grad_()
    scaled = raw / torch.linalg.matrix_norm(matrix(raw), 2)
    y = torch.func.functional_call(plain, {"weight": scaled}, (x,))
    (wanted,) = torch.autograd.grad((y * weights).sum(), raw)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_gradient_penalties_and_several_passes() -> None:
    """Passes before a backward pass must not change what it needs."""
    layer = spectral_norm(nn.Conv2d(3, 4, 3))
    x = torch.randn(2, 3, 6, 6, generator=random(), requires_grad=True)
    first = layer(x)
    second = layer(x * 2)
    (gradient,) = torch.autograd.grad(torch.tanh(first + second).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert raw_weight(layer).grad is not None
    assert raw_weight(layer).grad.abs().max() > 0


def test_one_power_iteration_by_hand() -> None:
    layer = spectral_norm(nn.Linear(3, 2, bias=False))
    weight, u = raw_weight(layer).detach(), torch.tensor([0.6, 0.8])
    layer.parametrizations.weight[0].u.copy_(u)
    v = u @ weight / torch.linalg.vector_norm(u @ weight)
    new = weight @ v / torch.linalg.vector_norm(weight @ v)
    torch.testing.assert_close(layer.eval().weight, weight / torch.linalg.vector_norm(u @ weight))
    torch.testing.assert_close(layer.train().weight, weight / (new @ weight @ v))
    torch.testing.assert_close(layer.parametrizations.weight[0].u, new)


def test_evaluation_changes_nothing() -> None:
    layer = spectral_norm(nn.Linear(4, 3)).eval()
    before = copy.deepcopy(layer.state_dict())
    layer(torch.ones(1, 4))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_the_start_depends_on_the_generator_alone() -> None:
    layers = [spectral_norm(nn.Linear(40, 30)) for _ in range(3)]
    for layer in layers:
        nn.init.normal_(raw_weight(layer), generator=random())
    for layer, seed in zip(layers, (1, 1, 2), strict=True):
        initialise_spectral_norms(layer, random(seed))
    first, second, third = (layer.parametrizations.weight[0].u for layer in layers)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    sigma = torch.linalg.matrix_norm(layers[0].eval().weight.detach(), 2)
    assert abs(float(sigma) - 1) < 0.1  # the first steps are already close


def test_in_full_precision_under_autocast() -> None:
    layer = spectral_norm(nn.Linear(64, 64)).eval()
    wanted = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, wanted)


def test_disabled_it_is_the_plain_module() -> None:
    layer = spectral_norm(nn.Linear(4, 3), False)
    assert layer.state_dict().keys() == {"weight", "bias"}
    assert raw_weight(layer) is layer.weight


class Pair(Architecture):
    kind: Literal["pair"] = "pair"
    spectral_norm: bool = True

    def build(self) -> Network:
        return PairNetwork(self)


class PairNetwork(Network):
    def __init__(self, a: Pair) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(3, 8, 3), a.spectral_norm)
        self.norm = VectorConditionalBatchNorm2d(8, 5, spectral=a.spectral_norm)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.norm(self.first(x), z)

    def initialise(self, random: torch.Generator) -> None:
        initialise_spectral_norms(self, random)


@pytest.mark.parametrize("copied", [False, True])
def test_folded_it_holds_plain_weights(copied: bool) -> None:
    a = Pair()
    network = a.build().to(memory_format=torch.channels_last)
    network.initialise(random())
    network = (copy.deepcopy(network) if copied else network).eval()
    x, z = torch.randn(2, 3, 6, 6, generator=random()), torch.randn(2, 5, generator=random(1))
    before = network(x, z)
    folded = fold(a, network)
    assert folded == Pair(spectral_norm=False)
    plain = folded.build().eval()
    plain.load_state_dict(network.state_dict(), strict=True)
    torch.testing.assert_close(plain(x, z), before)
    torch.testing.assert_close(network(x, z), before)


def test_meta_allocates_nothing() -> None:
    with torch.device("meta"):
        network = Pair().build()
    assert all(t.is_meta for t in network.state_dict().values())


# ---------------------------------------------------------------- conditional batch norm


@pytest.mark.parametrize("training", [True, False])
def test_class_conditional_batch_norm_by_hand(training: bool) -> None:
    layer = ClassConditionalBatchNorm2d(4, 3).train(training)
    nn.init.normal_(layer.embed.weight, generator=random())
    nn.init.normal_(layer.norm.running_mean, generator=random(1))  # pyright: ignore
    nn.init.uniform_(layer.norm.running_var, 0.5, 2, generator=random(2))  # pyright: ignore
    mean, var = layer.norm.running_mean.clone(), layer.norm.running_var.clone()  # pyright: ignore
    x, labels = torch.randn(5, 4, 3, 3, generator=random(3)), torch.tensor([2, 0, 1, 1, 2])
    found = layer(x, labels)
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    for i, label in enumerate(labels):
        row = layer.embed.weight[label]
        wanted = F.batch_norm(x[i : i + 1], mean, var, row[:4], row[4:], eps=1e-5)
        torch.testing.assert_close(found[i : i + 1], wanted, rtol=1e-4, atol=1e-5)


def test_a_new_class_conditional_batch_norm_is_a_batch_norm() -> None:
    x = torch.randn(5, 4, 3, 3, generator=random())
    layer = ClassConditionalBatchNorm2d(4, 3)
    torch.testing.assert_close(layer(x, torch.tensor([0, 1, 2, 0, 1])), nn.BatchNorm2d(4)(x))
    nn.init.normal_(layer.embed.weight)
    layer.initialise()
    torch.testing.assert_close(layer(x, torch.tensor([0, 1, 2, 0, 1])), nn.BatchNorm2d(4)(x))


def test_vector_conditional_batch_norm_by_hand() -> None:
    layer = VectorConditionalBatchNorm2d(4, 6)
    x, z = torch.randn(5, 4, 3, 3, generator=random()), torch.randn(5, 6, generator=random(1))
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    normalised = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
    gain, bias = 1 + z @ layer.gain.weight.t(), z @ layer.bias.weight.t()
    wanted = normalised * gain[:, :, None, None] + bias[:, :, None, None]
    torch.testing.assert_close(layer(x, z), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_and_memory_format_stay(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 3, 3).to(dtype, memory_format=torch.channels_last)
    z, labels = torch.randn(2, 6), torch.tensor([0, 1])
    for y in (
        ClassConditionalBatchNorm2d(4, 3)(x, labels),
        VectorConditionalBatchNorm2d(4, 6)(x, z),
        BatchNorm2d(4)(x, labels),
    ):
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
