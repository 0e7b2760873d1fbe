"""Memory that a process keeps for its next tensor."""

import subprocess
import sys

import pytest

# Faults of pages in filling 20 tensors of 64 MiB, one after the other, as a share of their pages.
FAULTS = """
import resource, torch
from imagen_nodes.memory import keep_memory
{call}
for _ in range(3):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 24)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults * resource.getpagesize() / (20 << 26))
"""


def share(call: str) -> float:
    words = [sys.executable, "-c", FAULTS.format(call=call)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' C library")
def test_freed_memory_is_used_again() -> None:
    if share("") < 0.5:
        pytest.skip("this C library keeps it by itself")
    assert share("keep_memory()") < 0.2
