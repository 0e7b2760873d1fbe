"""The profiler: arithmetic against counts by hand, times against the clock, and which network a
record belongs to."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent

from imagen_nodes.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from imagen_nodes.networks.layers import HalvingConv2d
from imagen_nodes.training import arithmetic
from imagen_nodes.training import profile as profiling
from imagen_nodes.training.arithmetic import DTYPES, WORK, CountProducts, measure_rates
from imagen_nodes.training.data import Dataset, Stream
from imagen_nodes.training.loop import Loop
from imagen_nodes.training.profile import Profile, profile, render
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.tasks.generate import Generate

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PARTS = {
    "data",
    "generator forward",
    "generator backward",
    "discriminator forward",
    "discriminator backward",
    "optimiser",
    "EMA",
    "the rest",
}
GROUPS = {
    "convolutions",
    "matrix products",
    "normalisation",
    "elementwise",
    "memory copies",
    "optimiser and EMA",
    "Python and autograd",
    "data",
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take longer than all the work here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(dtype: torch.dtype = torch.float32) -> Loop:
    """A DCGAN of 16 px and width 8, z 8, batches of 8."""
    task = Generate(
        generator=DCGANGenerator(resolution=16, width=8, z_dim=8),
        discriminator=DCGANDiscriminator(resolution=16, width=8),
    )
    recipe = Recipe(name="tiny", task=task, batch=8)
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    return Loop(recipe, Stream(Dataset("noise", images), seed=0, flip=True), CPU, dtype)


# ------------------------------------------------------------------------ arithmetic


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_steps_arithmetic_by_hand(dtype: torch.dtype) -> None:
    """In float32 the inner layers have 9 products for 16, in bfloat16 all are torch's."""
    b = 8
    inner = 9 if dtype == torch.float32 else 16
    # Multiplications of each layer: positions x kernel taps x channels in x channels out.
    generator = [b * 16 * 8 * 16, b * 4 * 4 * inner * 16 * 8, b * 8 * 8 * 16 * 8 * 3]
    discriminator = [b * 8 * 8 * 16 * 3 * 8, b * 4 * 4 * inner * 8 * 16, b * 16 * 16]
    g, d = sum(generator), sum(discriminator)
    forward = g + 3 * d  # D at real images, at generated ones, and again for G
    # D's update: weights twice; inputs of all layers but the first, whose are images.
    discriminators = 2 * (d + d - discriminator[0])
    # G's update: through all of D, whose weights want none; G's weights; inputs but for z.
    generators = d + g + (g - generator[0])
    loop = tiny(dtype)
    with CountProducts() as count:
        loop.step()
    assert count.flops == {dtype: 2 * (forward + discriminators + generators)}


def test_second_derivatives_are_counted() -> None:
    """Of our own functions, which a gradient penalty runs through."""
    layer = HalvingConv2d(8, 12, bias=False)
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    with CountProducts() as count:
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward(inputs=[layer.weight])
    # y = x W; the gradients of x, which is 2y W', and of W, wanted or not; from |2y W'|^2 those of
    # W and of y; from y those of W and of x, wanted or not.
    products = 1 + 2 + 2 + 2
    assert count.flops == {torch.float32: products * 2 * (2 * 4 * 4 * 9 * 8 * 12)}


@pytest.mark.parametrize("name", WORK)
def test_the_works_operations(name: str) -> None:
    run, flops = WORK[name](CPU, torch.float32)
    with CountProducts() as count:
        run()
    assert count.flops == {torch.float32: flops}


def test_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A work of 4 operations in 2 ms."""

    def slow(device: torch.device, dtype: torch.dtype) -> Any:
        return lambda: time.sleep(0.002), 4

    monkeypatch.setattr(arithmetic, "WORK", {"nap": slow})
    rates = measure_rates(CPU, seconds=0.02)
    assert set(rates) == {("nap", dtype) for dtype in DTYPES}
    assert all(200 < rate <= 2000 for rate in rates.values())


# ------------------------------------------------------------------------ a step's time


@pytest.fixture(scope="module")
def profiled() -> Profile:
    return profile(tiny(), steps=2, seconds=0.01)


def test_the_parts_are_the_whole() -> None:
    """What is recorded of some steps is what a clock says of them."""
    loop = tiny()
    loop.step()
    events = profiling._records(loop, 1)  # the profiler itself starts up
    steps: list[float] = []
    original = loop.step

    def step() -> Any:
        start = time.perf_counter()
        result = original()
        steps.append(time.perf_counter() - start)
        return result

    loop.step = step
    events = profiling._records(loop, 3)
    parts, groups = profiling._split(events, CPU, 0.0)
    assert sum(parts.values()) == pytest.approx(sum(groups.values()))
    assert sum(parts.values()) == pytest.approx(sum(steps), rel=0.05)


def test_parts_and_groups(profiled: Profile) -> None:
    assert set(profiled.parts) == PARTS
    assert set(profiled.groups) == GROUPS
    assert all(seconds > 0 for seconds in (profiled.parts | profiled.groups).values())
    assert profiled.seconds > 0
    assert profiled.batch == 8
    assert set(profiled.flops) == {torch.float32}
    assert 0 < profiled.share < 1


def test_it_leaves_no_marks() -> None:
    loop = tiny()
    before = [dict(vars(x)) for x in (loop.data, *loop.averages)]
    profile(loop, steps=1, seconds=0.01)
    assert loop.nimg == 4 * 8
    assert [set(vars(x)) for x in (loop.data, *loop.averages)] == [set(x) for x in before]
    modules = [m for network in loop.networks.values() for m in network.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


@dataclass
class Stub:
    """A loop whose generator alone has a matrix product, whose discriminator alone convolves; the
    latter's update is a gradient penalty alone."""

    device: torch.device = CPU
    data: Any = field(default_factory=lambda: SimpleNamespace(batch=lambda: torch.randn(2, 8)))
    averages: Any = field(
        default_factory=lambda: [SimpleNamespace(update=lambda: torch.zeros(3).exp())]
    )
    networks: dict[str, nn.Module] = field(
        default_factory=lambda: {
            "generator": nn.Sequential(nn.Linear(8, 16), nn.Tanh()),
            "discriminator": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus()),
        }
    )

    def step(self) -> None:
        generator, discriminator = self.networks.values()
        z = self.data.batch()
        fake: Tensor = generator(z).view(2, 1, 4, 4)
        discriminator(fake).sum().backward(inputs=list(generator.parameters()))
        real = fake.detach().requires_grad_()
        # By one of its parts alone.
        (gradient,) = torch.autograd.grad(
            discriminator[1](discriminator[0](real)).sum(),  # pyright: ignore
            real,
            create_graph=True,
        )
        gradient.square().sum().backward(inputs=list(discriminator.parameters()))
        self.averages[0].update()


def test_whose_a_record_is() -> None:
    loop: Any = Stub()
    found: defaultdict[str, set[str]] = defaultdict(set)
    for event, part in profiling._parts(profiling._records(loop, 2)):
        found[event.name].add(part)
    assert found["aten::linear"] == {"generator forward"}
    assert found["aten::conv2d"] == {"discriminator forward"}
    assert found["aten::softplus"] == {"discriminator forward"}
    assert found["aten::tanh_backward"] == {"generator backward"}
    assert found["AddmmBackward0"] == {"generator backward"}
    assert found["aten::convolution_backward"] == {"discriminator backward"}
    # The penalty's own backward pass, through nodes that a backward pass has made.
    assert found["aten::_convolution_double_backward"] == {"discriminator backward"}
    assert found["SoftplusBackwardBackward0"] == {"discriminator backward"}
    assert found["aten::exp"] == {"EMA"}
    assert found["aten::randn"] == {"data"}
    assert found["aten::square"] == {"the rest"}


OPERATORS = {
    "aten::mkldnn_convolution": "convolutions",
    "aten::convolution_backward": "convolutions",
    "aten::conv_transpose2d": "convolutions",
    "aten::mm": "matrix products",
    "aten::baddbmm": "matrix products",
    "aten::linear": "matrix products",
    "aten::_scaled_dot_product_flash_attention": "matrix products",
    "aten::native_batch_norm_backward": "normalisation",
    "aten::copy_": "memory copies",
    "aten::constant_pad_nd": "memory copies",
    "aten::index_select": "memory copies",
    "aten::as_strided": "Python and autograd",
    "aten::t": "Python and autograd",
    "aten::squeeze_": "Python and autograd",
    "autograd::engine::evaluate_function: MmBackward0": "Python and autograd",
    "_HalveBackward": "Python and autograd",
    "aten::add_": "elementwise",
    "aten::sum": "elementwise",
    "aten::leaky_relu_backward": "elementwise",
    "aten::normal_": "elementwise",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_groups(name: str) -> None:
    assert profiling._group(name, "generator forward") == OPERATORS[name]
    assert profiling._group(name, "optimiser") == "optimiser and EMA"


def test_a_gpus_time() -> None:
    """By kernels, each once, and the rest of the step is idle: part of it for data."""

    def record(name: str, start: float, end: float, thread: int = 1, **fields: Any) -> Any:
        return FunctionEvent(0, name, thread, start, end, use_device="cuda", **fields)

    step = record("imagen: step", 0, 10_000)
    data = record("imagen: data", 0, 1000)
    forward = record("imagen: generator forward", 1000, 3000)
    product = record("aten::mm", 1200, 1300, sequence_nr=7)
    for child, parent in ((data, step), (forward, step), (product, forward)):
        parent.append_cpu_child(child)
        child.set_cpu_parent(parent)
    # Autograd runs a GPU's nodes in a thread of its own.
    node = record(
        "autograd::engine::evaluate_function: MmBackward0",
        4000,
        4200,
        2,
        sequence_nr=7,
        fwd_thread=1,
    )
    product.append_kernel("gemm", 0, 2000)
    node.append_kernel("gemm", 0, 3000)
    forward.append_kernel("imagen: generator forward", 0, 2100)  # the range on the GPU
    on_gpu = record("gemm", 1500, 3500)
    on_gpu.device_type = torch.autograd.DeviceType.CUDA  # pyright: ignore
    events = [step, data, forward, product, node, on_gpu]
    parts, groups = profiling._split(events, CUDA, 0.009)
    busy = {name: seconds for name, seconds in parts.items() if seconds}
    assert busy == pytest.approx(
        {"generator forward": 0.002, "generator backward": 0.003, "data": 0.001, "idle": 0.003}
    )
    assert groups["matrix products"] == pytest.approx(0.002)
    assert groups["idle"] == pytest.approx(0.003)
    assert sum(groups.values()) == pytest.approx(0.009)


# ------------------------------------------------------------------------ what is said


def made(groups: dict[str, float], flops: float = 1e9, bfloat16: float = 100e9) -> Profile:
    """A step of 1 s in all."""
    whole = dict.fromkeys(GROUPS, 0.0) | groups
    rates = {("product", torch.float32): 100e9, ("product", torch.bfloat16): bfloat16}
    rates["thin product", torch.float32] = 1e9
    return Profile(CPU, 8, 2, 1.0, {"the rest": 1.0}, whole, {torch.float32: flops}, rates)


LIMITS = {
    "Reading the data": made({"data": 0.5, "convolutions": 0.3, "elementwise": 0.2}),
    "The GPU waits": made({"idle": 0.6, "convolutions": 0.4}),
    "Updating the weights": made({"optimiser and EMA": 0.6, "convolutions": 0.4}),
    "Python and autograd take": made({"Python and autograd": 0.6, "convolutions": 0.4}),
    "Elementwise operators take": made({"elementwise": 0.6, "convolutions": 0.4}),
    "Normalisations take": made({"normalisation": 0.6, "convolutions": 0.4}),
    "Copies take": made({"memory copies": 0.6, "convolutions": 0.4}),
    "at the machine's rate": made(
        {"convolutions": 0.3, "matrix products": 0.3, "elementwise": 0.4}, 31e9
    ),
    "at a low rate": made({"convolutions": 0.3, "matrix products": 0.3, "elementwise": 0.4}, 29e9),
    "float32, where this machine reaches 1/2.0 of its bfloat16 rate": made(
        {"convolutions": 1.0}, 90e9, bfloat16=200e9
    ),
}


@pytest.mark.parametrize("words", LIMITS)
def test_what_limits(words: str) -> None:
    assert words in LIMITS[words].limit
    assert LIMITS[words].limit in render(LIMITS[words])


def test_the_share_weighs_types_by_their_rates() -> None:
    mixed = replace(
        made({}, bfloat16=400e9), flops={torch.float32: 10e9, torch.bfloat16: 100e9}, seconds=0.5
    )
    assert mixed.share == pytest.approx((0.1 + 0.25) / 0.5)


def test_rendering(profiled: Profile) -> None:
    text = render(profiled)
    for name in (*PARTS, *GROUPS, *(f"float32 {name}" for name in WORK)):
        assert name in text
    first = text.splitlines()[0]
    assert first.startswith("a step of 8 images takes")
    assert f"{8 / profiled.seconds:.1f} img/s" in first
    assert max(map(len, text.splitlines()[:-1])) <= 100
    assert text.splitlines()[-1] == profiled.limit
