"""Several processes that train together, as ``torchrun`` starts them: each computes a part of every
batch, and all hold the same networks.

Gradients are averaged by one reduction an update. torch's DistributedDataParallel does the same
while the backward pass still runs, but for one forward and one backward pass of a network; a
discriminator is passed twice or thrice before its update, and penalties differentiate it twice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """``rank`` is this one's number among ``world``; 0 is the one that writes and speaks."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each of ``tensors`` becomes its mean over the processes, in place."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.float().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is true in any process."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def share(self, value: Any) -> Any:
        """What the first process calls ``value``."""
        if self.world == 1:
            return value
        box = [value if self.first else None]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def meet(self) -> None:
        """Wait until all have come here."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def in_turn(self) -> Generator[None]:
        """Inside, the first process of a machine is alone; then come the machine's others."""
        first = int(os.environ.get("LOCAL_RANK", "0")) == 0
        if not first:
            self.meet()
        yield
        if first:
            self.meet()


ALONE = Processes()


@contextmanager
def joined() -> Generator[Processes]:
    """The processes that ``torchrun`` has started, this one among them; one alone without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The first process may wait for space on its disk; torchrun ends all when one has died.
    dist.init_process_group(timeout=timedelta(days=7))
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process without taking the interpreter apart: on the way down threads of torch's
    have been seen to abort a process whose work was done, for which torchrun ends all others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def share_statistics(network: nn.Module, processes: Processes) -> None:
    """From now on ``network``'s batch norms, in training, normalise over the batches of all
    processes. (torch's SyncBatchNorm does so on GPUs only.)"""
    if processes.world > 1:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                setattr(module, "forward", partial(_shared_norm, module, processes.world))  # noqa: B010


def _shared_norm(norm: nn.BatchNorm2d, world: int, x: Tensor, condition: object = None) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float()
        count = world * x.numel() // x.shape[1]
        mean = _sum(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        _remember(norm, mean.detach(), variance.detach() * count / (count - 1))
        gain = (variance + norm.eps).rsqrt()
        gain = gain if norm.weight is None else gain * norm.weight  # pyright: ignore
        y = centred * gain[:, None, None]
        y = y if norm.bias is None else y + norm.bias[:, None, None]  # pyright: ignore
    return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes, of values and of gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])


def _sum(x: Tensor) -> Tensor:
    result: Any = _Sum.apply(x)
    return result


def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance, share)
