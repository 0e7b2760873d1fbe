"""Importing a file of another program beside reading and writing as many bytes.

    python benchmarks/importing.py [ROUNDS]

The file is a pickle of 300 MB as NVIDIA's StyleGAN2 code writes it, of random weights: G_ema alone,
so that all of it is converted. The baseline reads the file and writes its tensors as safetensors,
atomically as ``import`` does. The two take turns in one process; figures are medians. Memory is
what a process of its own takes beyond torch and its other modules, at its peak. Aims: under 1.5
times the time, under twice the file's size of memory.
"""

from __future__ import annotations

import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from imagen_nodes import checkpoint
from imagen_nodes.files import file_atomically
from imagen_nodes.importers.formats import card_of, choose, network_of, read
from imagen_nodes.networks.stylegan2 import StyleGAN2Generator

# 75 million values, 300 MB.
ARCHITECTURE = StyleGAN2Generator(resolution=512, width_base=65536, width_max=808)


class Persistent:
    """Pickles as NVIDIA's ``torch_utils.persistence`` has it: its state, and the source of its
    class."""

    def __init__(self, network: nn.Module) -> None:
        parts = {name: Persistent(part) for name, part in network._modules.items() if part}
        state = dict(network.__dict__) | {"_modules": parts, "_init_kwargs": {}}
        self.meta = {"type": "class", "version": 6, "class_name": "Generator", "state": state}

    def __reduce__(self) -> Any:
        found = sys.modules["torch_utils.persistence"]
        return found._reconstruct_persistent_obj, (self.meta | {"module_src": ""},)


def theirs() -> nn.Module:
    """Our network under their names."""
    root = nn.Module()
    names = {
        "mapping.layers.": "mapping.fc",
        "blocks.": "b",
        "to_image": "torgb",
        "style": "affine",
        "synthesis.constant": "synthesis.b4.const",
    }
    for name, value in ARCHITECTURE.build().state_dict().items():
        name = "mapping.w_avg" if name == "w_avg" else name
        for ours, other in names.items():
            name = name.replace(ours, other)
        name = name.removesuffix("noise") + "noise_const" if name.endswith(".noise") else name
        *path, last = name.split(".")
        module = root
        for part in path:
            module._modules.setdefault(part, nn.Module())
            module = module._modules[part]
            assert module
        buffer = last in ("w_avg", "noise_const")
        drawn = torch.randn_like(value)
        if buffer:
            module.register_buffer(last, drawn)
        else:
            module.register_parameter(last, nn.Parameter(drawn))
    return root


def write(path: Path) -> None:
    """The pickle."""

    def _reconstruct_persistent_obj(meta: object) -> None: ...

    found = types.ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__ = found.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    found.__dict__["_reconstruct_persistent_obj"] = _reconstruct_persistent_obj
    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), found.__name__: found}
    path.write_bytes(pickle.dumps({"G": None, "D": None, "G_ema": Persistent(theirs())}))


def import_(file: Path, out: Path) -> None:
    """What ``imagen-nodes import`` does."""
    found = choose(file, read(file, ""), None)
    checkpoint.save(out, card_of(file, found), network_of(found))


def copy(file: Path, out: Path) -> None:
    """Read all of it, and write as many values."""
    values = torch.from_numpy(np.fromfile(file, np.float32))
    with file_atomically(out) as temporary:
        save_file({"values": values}, temporary)


def seconds(work: Callable[[Path, Path], None], file: Path, out: Path) -> float:
    """Of one run."""
    start = time.perf_counter()
    work(file, out)
    return time.perf_counter() - start


def peak(work: Callable[[Path, Path], None], file: Path, out: Path) -> float:
    """MB that a process of its own takes for it, at most, beyond what it took before."""
    code = (
        "import importing; from pathlib import Path\n"
        "def held(key): return int(open('/proc/self/status').read().split(key)[1].split()[0])\n"
        "before = held('VmRSS:')\n"
        f"importing.{work.__name__}(Path({str(file)!r}), Path({str(out)!r}))\n"
        "print(held('VmHWM:') - before)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(found.stdout) * 1024 / 1e6


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        file, out = Path(name, "theirs.pkl"), Path(name, "ours.safetensors")
        write(file)
        size = file.stat().st_size / 1e6
        print(f"a pickle of {size:.0f} MB")
        times: dict[Callable[[Path, Path], None], list[float]] = {copy: [], import_: []}
        for _ in range(rounds + 1):
            for work, found in times.items():
                found.append(seconds(work, file, out))
        medians = {work: statistics.median(found[1:]) for work, found in times.items()}
        for work, median in medians.items():
            used = peak(work, file, out)
            print(
                f"{work.__name__.strip('_'):8} {median:6.2f} s {median / medians[copy]:6.2f}   "
                f"{used:5.0f} MB {used / size:6.2f} of the file"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
