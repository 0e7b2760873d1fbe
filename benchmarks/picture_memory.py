"""Memory that the nodes of pictures take for a large one.

    python benchmarks/picture_memory.py [--side PX] [--batch N] [--nodes NAME ...]

Each node runs in a process of its own with the weights that ship: first on a picture of 256 px, so
that everything is loaded, then on N of ``side`` px. Printed are the peak of the process, and how
much of it is beyond the pictures, the results (float32, as graphs hold them) and what the process
took before. Aim: less than 2 GiB of that for 4,096 px, however many there are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from imagen_nodes.folders import shipped
from imagen_nodes.foreign import open_model
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.graph.node import Node
from imagen_nodes.memory import keep_memory
from imagen_nodes.nodes import NODES  # pyright: ignore[reportMissingImports]

# Of each node's id: its weights, and what else it takes.
WEIGHTS = {
    "SuperResolve": "sr-x4-fidelity",
    "Denoise": "denoise",
    "Inpaint": "inpaint",
    "StyleTransfer": "style",
    "Translate": "photo-to-monet",
}
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of the nodes of pictures.")
    parser.add_argument("--side", type=int, default=4096, help="of the picture, px")
    parser.add_argument("--batch", type=int, default=1, help="pictures")
    parser.add_argument("--nodes", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        measure(args.nodes[0], args.side, args.batch)
        return
    print(f"{'':16}{'peak':>10}{'picture':>10}{'result':>10}{'beyond':>10}{'time':>9}")
    for name in args.nodes:
        if weights(name).is_file():
            words = ["--here", "--nodes", name]
            words += ["--side", str(args.side), "--batch", str(args.batch)]
            subprocess.run([sys.executable, __file__, *words], check=True)


def measure(name: str, side: int, batch: int) -> None:
    """One line, of this process."""
    keep_memory()  # as `imagen-nodes run` does
    host, model = LocalHost(), open_model(weights(name))
    kind = next(node for node in NODES if node.id == f"Imagen{name}")
    run(host, kind, model, 256, 1)
    before = resident("VmRSS")
    # The peak counts from here.
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    image, result = run(host, kind, model, side, batch)
    seconds = time.perf_counter() - start
    peak = resident("VmHWM")
    sizes = [x.numel() * x.element_size() / GIB for x in (image, result)]
    numbers = [peak, *sizes, peak - before - sum(sizes)]
    print(
        f"{name:16}" + "".join(f"{x:6.2f} GiB" for x in numbers) + f"{seconds:7.0f} s", flush=True
    )


@torch.inference_mode()
def run(
    host: LocalHost, kind: type[Node], model: Any, side: int, batch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of noise, and the result."""
    image = torch.rand(batch, side, side, 3, generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {"model": model, "image": image}
    if "mask" in kind.model_fields and kind.model_fields["mask"].is_required():
        inputs["mask"] = torch.zeros(1, side, side)
        inputs["mask"][:, side // 4 : side // 2] = 1
    if "style" in kind.model_fields:
        inputs["style"] = image[:1, :256, :256]
    return image, kind(**inputs).run(host)[0]


def resident(field: str) -> float:
    """``VmRSS`` now, or ``VmHWM`` at its highest, GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / GIB


def weights(name: str) -> Path:
    return shipped("weights") / f"{WEIGHTS[name]}.safetensors"


if __name__ == "__main__":
    main()
