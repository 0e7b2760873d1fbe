"""What the runner itself costs a node, in a warm process: a chain of trivial nodes.

    python benchmarks/runner_overhead.py [NODES]

Prints milliseconds a node for validating and for running (nothing cached), and the same again when
everything is cached. Aim: validating and running together under 0.2 ms.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import torch

from imagen_nodes import Runner

Prompt = dict[str, dict[str, Any]]


def chain(length: int, value: int) -> Prompt:
    """An image of one pixel, ``length`` nodes that pass it on, and one that shows it."""
    image = {"width": 1, "height": 1, "batch_size": 1, "color": value}
    prompt: Prompt = {"0": {"class_type": "EmptyImage", "inputs": image}}
    for i in range(length):
        inputs: dict[str, Any] = {"image": [str(i), 0], "batch_index": 0, "length": 1}
        prompt[str(i + 1)] = {"class_type": "ImageFromBatch", "inputs": inputs}
    prompt["end"] = {"class_type": "PreviewAny", "inputs": {"source": [str(length), 0]}}
    return prompt


def main(length: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(output=folder)
        runner.run(chain(8, 0))
        for label, value in (("nothing cached", 1), ("all cached", 1)):
            prompt = chain(length, value)
            start = time.perf_counter()
            checked = runner.check(prompt)
            middle = time.perf_counter()
            runner.run_checked(checked)
            end = time.perf_counter()
            check, run = (1000 * t / length for t in (middle - start, end - middle))
            total = check + run
            print(f"{label:15} check {check:.3f}  run {run:.3f}  together {total:.3f} ms/node")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
