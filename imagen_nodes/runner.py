"""Running workflows from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import WorkflowError
from .folders import shipped
from .graph import workflow
from .graph.cache import Cache
from .graph.execute import Listener, Outputs, execute
from .graph.local import LocalHost
from .graph.node import NodeType, registry
from .graph.validate import Checked, validate
from .graph.workflow import Prompt


def _silent(event: dict[str, Any]) -> None:
    """Listen to nothing."""


class Runner:
    """Runs workflows one after another, and keeps what the last one computed: run again with
    another seed, and the weights are not loaded again.

    Args:
        input, output: folders of pictures read and written.
        weights: folders of weights, searched before ``./weights`` and the ones that ship.
        device: a torch device by name; empty: a GPU where there is one.
        listen: called with every event of a run (see ``graph/execute.py``).
    """

    def __init__(
        self,
        *,
        input: str | Path = "input",
        output: str | Path = "output",
        weights: Sequence[str | Path] = (),
        device: str = "",
        listen: Listener = _silent,
    ) -> None:
        self.listen = listen
        self.host = LocalHost(
            input=Path(input),
            output=Path(output),
            weights=[Path(folder) for folder in weights],
            device=device,
            listen=listen,
        )
        self._cache = Cache()

    @cached_property
    def types(self) -> dict[str, NodeType]:
        """Every node type that there is, by id."""
        from .graph.builtin import BUILTIN
        from .nodes import NODES  # pyright: ignore[reportMissingImports]

        return registry((*NODES, *BUILTIN))

    def check(self, source: str | Path | Prompt, assignments: Sequence[str] = ()) -> Checked:
        """Read and judge a workflow, with ``NODE.INPUT=VALUE`` assignments made first.

        Raises:
            WorkflowError: it cannot run; the message names every problem.
            UsageError: an assignment does not fit.
        """
        prompt = workflow.override(load(source), assignments, self.types)
        return self._validate(source, prompt)

    def run(
        self, source: str | Path | Prompt, inputs: Mapping[str, Any] | None = None
    ) -> dict[str, Outputs]:
        """Run a workflow: see :func:`run`."""
        prompt = workflow.replace(load(source), inputs or {}, self.types)
        return self.run_checked(self._validate(source, prompt))

    def _validate(self, source: str | Path | Prompt, prompt: Prompt) -> Checked:
        try:
            return validate(prompt, self.types, self.host)
        except WorkflowError as error:
            if isinstance(source, Mapping):
                raise
            raise WorkflowError(f"{source}: {error}", error.report) from error

    def run_checked(self, checked: Checked) -> dict[str, Outputs]:
        """Run what :meth:`check` gave."""
        # Values given from Python may be no JSON: name them in saved pictures.
        text = json.dumps(checked.prompt, default=lambda value: f"<{type(value).__name__}>")
        self.host.metadata = {"prompt": json.loads(text)}
        self.host.sweep_previews()
        return execute(checked, self.types, self.host, self._cache, self.listen)


def run(
    source: str | Path | Prompt, inputs: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Outputs]:
    """Run a workflow and return what each of its nodes gave, by id.

    Args:
        source: a file (JSON in the API format, or a PNG that carries a workflow), the name of an
            example that ships, or the workflow itself.
        inputs: values by ``"NODE.INPUT"``, NODE an id or a title; tensors are taken for images.
        options: those of :class:`Runner`.

    Raises:
        WorkflowError: it cannot run; the message names every problem.
        RunError: a node failed.
    """
    return Runner(**options).run(source, inputs)


def load(source: str | Path | Prompt) -> Prompt:
    """The workflow in a file, of a shipped example's name, or as it is given."""
    if isinstance(source, Mapping):
        return workflow.parse(copy(source))
    path = Path(source)
    with suppress(OSError, ValueError):  # of a name that no file can have, which reading it says
        example = shipped("examples/workflows") / path.with_suffix(".json").name
        if not path.exists() and example.exists() and path in _spellings(example):
            path = example
    return workflow.read(path)


def _spellings(example: Path) -> tuple[Path, ...]:
    """How an example may be named where the checkout's folder is not at hand."""
    return (Path(example.stem), Path(example.name), Path("examples/workflows", example.name))
