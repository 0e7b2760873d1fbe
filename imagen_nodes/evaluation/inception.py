"""The Inception network that FID, KID and IS are defined on, as torch-fidelity has it.

Its weights are a pickle of tensors alone. It is opened by torch's weights-only loader, which runs
nothing, and only if it is the published file: on any other network the figures would not be FID.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch

from ..errors import CheckpointError, StorageError, UsageError
from .features import FeatureSpace

# The published file's name ends in the first digits of its SHA-256.
SHA256 = "6726825d"
FILE = f"pt_inception-2015-12-05-{SHA256}.pth"


def inception(device: torch.device, path: Path | None = None) -> FeatureSpace:
    """Inception of December 2015, converted from TensorFlow; images are resized as TensorFlow 1
    does it.

    Args:
        path: its weights; None: those that torch-fidelity names, downloaded once.

    Raises:
        UsageError: torch-fidelity is not installed.
        CheckpointError: the weights are not there, damaged or others, or cannot be downloaded.
    """
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    except ImportError as error:
        raise UsageError(
            "--inception needs torch-fidelity: pip install 'imagen-nodes[evaluate]'"
        ) from error
    state = _read(path or _download(fidelity.URL_INCEPTION_V3))
    network = _network(fidelity.FeatureExtractorInceptionV3, state).to(device)
    return FeatureSpace(
        name="Inception",
        frechet="FID",
        kernel="KID",
        size=2048,
        device=device,
        extract=lambda pixels: network(pixels.permute(0, 3, 1, 2))[0],
        classes=network.fc.weight,
    )


def _network(extractor: Any, state: dict[str, torch.Tensor]) -> Any:
    """The library's network; it reads a file only, and any pickle, so it is given one of ours."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder, FILE))
            return extractor("inception", ["2048"], str(Path(folder, FILE)))
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: no room for a copy of the Inception weights: "
            f"{error.strerror or error}"
        ) from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of the published file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}. {_where()}") from error
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(SHA256):
        raise CheckpointError(
            f"{path}: damaged, or not the Inception network of FID: its SHA-256 starts with "
            f"{found[:8]}, expected {SHA256}. {_where()}"
        )
    return torch.load(io.BytesIO(content), weights_only=True)


def _download(url: str) -> Path:
    """The file at ``url`` in torch's own cache of weights."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=SHA256)
    except URLError as error:
        raise CheckpointError(
            f"the Inception weights cannot be downloaded ({error.reason}). {_where()}"
        ) from error
    except (OSError, RuntimeError) as error:  # a full disk; a wrong hash
        raise CheckpointError(f"{path}: no Inception weights: {error}. {_where()}") from error
    return path


def _where() -> str:
    return f"Get {FILE}, which pytorch-fid and torch-fidelity publish, and give --inception FILE"
