"""``manifest.jsonl``: a header, then a line for each picture written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Model
from ..errors import StorageError
from .settings import Settings

FILE = "manifest.jsonl"
VERSION = 1


@dataclass(frozen=True)
class Drawn:
    """A generated picture that is kept."""

    seed: int
    """Of its latent."""
    score: float
    """How good it is, by the header's ``score``."""
    nearest: str
    """The source of the nearest real picture of its class."""
    distance: float
    """To that; 1 is the usual distance of a real one to the next."""


class Manifest:
    """The manifest of the folder that is being made."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self._path = folder / FILE
        self._lines: list[str] = []
        self._write({"manifest": "imagen-nodes augment", "version": VERSION, **header})

    def real(self, file: str, label: str, source: str) -> None:
        """A picture of the data."""
        self._write({"file": file, "class": label, "origin": "real", "source": source})

    def altered(self, file: str, label: str, source: str, seed: int) -> None:
        """A changed copy of one."""
        self._write(
            {"file": file, "class": label, "origin": "altered", "source": source, "seed": seed}
        )

    def generated(self, file: str, label: str, drawn: Drawn, settings: Settings) -> None:
        """A generated one."""
        self._write(
            {
                "file": file,
                "class": label,
                "origin": "generated",
                "seed": drawn.seed,
                "truncation": settings.truncation,
                "psi": settings.psi,
                "score": round(drawn.score, 4),
                "nearest": drawn.nearest,
                "distance": round(drawn.distance, 4),
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.append(json.dumps(line, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Write what has come since.

        Raises:
            StorageError: it cannot be written."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
        except OSError as error:
            raise StorageError.at(self._path, error) from error
        self._lines.clear()


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the lines of a folder's manifest."""
    text = (folder / FILE).read_text(encoding="utf-8")
    first, *lines = text.split("\n")[:-1]  # a name may hold what is a line's end to others
    return json.loads(first), [json.loads(line) for line in lines]


def weights(model: Model) -> dict[str, str]:
    """A network's name, and the SHA-256 of its tensors' names, shapes, types and values: unlike a
    file's it is known of a network on a link too, and stays when a card is changed."""
    code = hashlib.sha256()
    for name, tensor in sorted(model.network.state_dict().items()):
        code.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        code.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return {"name": model.name, "tensors_sha256": code.hexdigest()}
