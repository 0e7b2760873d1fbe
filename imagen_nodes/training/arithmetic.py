"""How much arithmetic something is, and how fast this machine does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class CountProducts(TorchDispatchMode):
    """Counts the floating point operations of all convolutions and matrix products inside, by the
    type of their numbers, in ``flops``: two for each multiplication with its addition. Forward,
    backward and those of our own autograd functions alike; what torch.compile made it does not see.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: dict[torch.dtype, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            dtype = next(x.dtype for x in args if isinstance(x, Tensor))
            flops = formula(*args, **kwargs, out_val=out)
            self.flops[dtype] = self.flops.get(dtype, 0) + flops
        return out


def product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """A product of square matrices, large enough for the device's full rate, and its operations."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b, 2 * n**3


def convolution(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """A 3x3 convolution from 64 to 128 channels on maps of 32 px, and its operations."""
    count = 16 if device.type == "cpu" else 512
    layout = torch.channels_last
    x = torch.randn(count, 64, 32, 32, device=device).to(dtype, memory_format=layout)
    weight = torch.randn(128, 64, 3, 3, device=device).to(dtype, memory_format=layout)
    return lambda: F.conv2d(x, weight, padding=1), 2 * count * 32 * 32 * 64 * 128 * 9


WORK = {"matrix product": product, "3x3 convolution": convolution}
DTYPES = (torch.float32, torch.bfloat16)


@torch.no_grad()
def measure_rates(
    device: torch.device, seconds: float = 0.3
) -> dict[tuple[str, torch.dtype], float]:
    """Floating point operations a second, for each of :data:`WORK` in each of :data:`DTYPES`, timed
    for ``seconds`` each."""
    rates: dict[tuple[str, torch.dtype], float] = {}
    for dtype in DTYPES:
        for name, make in WORK.items():
            run, flops = make(device, dtype)
            rates[name, dtype] = flops / _time(run, device, seconds)
    return rates


def _time(run: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
    """Seconds of a call: of as many in a row as take ``seconds``, since a GPU is given its work
    ahead."""
    run()  # allocates, chooses kernels
    calls = 1
    while True:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        synchronise(device)
        elapsed = time.perf_counter() - start
        if elapsed >= seconds / 2:
            return elapsed / calls
        calls = max(2 * calls, int(calls * 0.75 * seconds / max(elapsed, 1e-6)))


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
