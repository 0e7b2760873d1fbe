"""The process's memory."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters, as glibc's malloc.h numbers them.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_memory() -> None:
    """Ask the C library to keep what is freed for the next allocation, where it is glibc.

    As it comes, it hands every freed tensor of a few MB back to the system, so that the next one
    is new memory whose first touch costs more than filling it. Affects the whole process.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    # Older ones take 32 MiB at most. Without any, the next one would do the opposite.
    if not (mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)):
        return
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_ARENA_MAX, 1)  # autograd's threads take over each other's tensors
