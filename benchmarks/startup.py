"""How long a cold process takes, beside ``python -c "import torch"`` in the same run.

    python benchmarks/startup.py [ROUNDS]

Prints the median wall time of each command over interleaved rounds, and its ratio to importing
torch. Aims: check under 0.4, the first picture of generate.json under 1.7.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

TORCH = [sys.executable, "-c", "import torch"]
CLI = [sys.executable, "-m", "imagen_nodes"]
COMMANDS = {
    'python -c "import torch"': TORCH,
    "imagen-nodes check generate": [*CLI, "check", "generate"],
    "imagen-nodes run generate": [*CLI, "run", "generate"],
}


def main(rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds + 1):
            for name, command in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # 1 warm-up
    torch_time = next(iter(medians.values()))
    for name, value in medians.items():
        print(f"{name:30} {value:6.3f} s   {value / torch_time:5.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
