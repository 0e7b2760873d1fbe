"""The precision that networks run in, by device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has units for bfloat16 that are faster than float32's: GPUs that support
    it, and CPUs with matrix tiles (AMX). AVX512-BF16 alone is not faster: measured at 0.75 times
    float32 on DCGAN's convolutions (``benchmarks/training_throughput.py --precision bfloat16``).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()  # pyright: ignore


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Autocast to bfloat16 where that is faster, otherwise plain float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_fast_in_bfloat16(device))  # pyright: ignore
