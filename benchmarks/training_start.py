"""How long a training takes to begin: a resumed run beside a fresh one.

    python benchmarks/training_start.py [ROUNDS]

Seconds from the command to the line of the first step, of ``dcgan-cifar10`` on 5,000 pictures, the
probe of precisions left out of the fresh one; the two take turns, the figures are medians. Aim: a
resumed run takes at most 1.5 times as long.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEP = 64
OPTIONS = ("--set", "precision=float32", "--set", f"log_kimg={STEP / 1000}")


def seconds(folder: Path, *words: str) -> float:
    """Until the first step's line; then the process is killed."""
    command = [sys.executable, "-m", "imagen_nodes", "train", *words]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if "img/s" in line:
                break
        elapsed = time.perf_counter() - start
        process.kill()
    return elapsed


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.RandomState(0).randint(0, 256, (5000, 32, 32, 3)).astype(np.uint8)
        np.savez(folder / "pictures.npz", images=pixels)
        begin = ("dcgan-cifar10", "--data", "pictures.npz", *OPTIONS)
        once = [sys.executable, "-m", "imagen_nodes", "train", *begin, "--run", "begun"]
        subprocess.run([*once, "--kimg", str(STEP / 1000)], cwd=folder, check=True)
        times: dict[str, list[float]] = {"fresh": [], "resumed": []}
        for round_ in range(rounds):
            times["fresh"].append(seconds(folder, *begin, "--run", f"fresh{round_}"))
            shutil.copytree(folder / "begun", folder / f"run{round_}")
            times["resumed"].append(seconds(folder, "--resume", f"run{round_}", "--kimg", "1"))
    fresh = statistics.median(times["fresh"])
    for kind, values in times.items():
        median = statistics.median(values)
        print(f"{kind:8} {median:6.2f} s   {median / fresh:5.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
