"""GANs as nodes: declare, run and train them.

    import imagen_nodes
    results = imagen_nodes.run("workflow.json", inputs={"Sample Noise.seed": 7})

Importing this imports no torch.
"""

from __future__ import annotations

from .errors import (
    Cancelled,
    CheckpointError,
    DataError,
    ImagenError,
    RunError,
    StorageError,
    TrainingError,
    UsageError,
    WorkflowError,
)
from .runner import Runner, run

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "CheckpointError",
    "DataError",
    "ImagenError",
    "RunError",
    "Runner",
    "StorageError",
    "TrainingError",
    "UsageError",
    "WorkflowError",
    "run",
]
