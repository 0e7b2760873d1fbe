"""Devices, and the precision that networks run in on each."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from .errors import UsageError


def open_device(name: str = "") -> torch.device:
    """The device of that name, tried out; empty: a GPU where there is one, else the CPU.

    Raises:
        UsageError: it cannot be used here."""
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for bfloat16 that are faster than float32's: AMD's GPUs,
    NVIDIA's from Ampere on (on earlier ones torch emulates it, and calls it supported), and CPUs
    with matrix tiles (AMX). AVX512-BF16 alone is slower than float32 on convolutions: measured at
    0.65 times (``benchmarks/training_throughput.py``)."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    # torch 2.4 and 2.5 cannot tell.
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return device.type == "cpu" and has_tiles()


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where that is faster, otherwise plain float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_fast_in_bfloat16(device))
