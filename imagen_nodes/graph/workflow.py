"""Workflows: ComfyUI's API format, from a JSON file or from a picture that carries it.

{"node id": {"class_type": id, "inputs": {name: constant or [node id, slot]},
             "_meta": {"title": ...}}, ...}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from ..errors import DataError, ImagenError, RunError, UsageError, WorkflowError
from ..files import PNG, png_texts
from ..spec import short
from .node import NodeType

Prompt = dict[str, dict[str, Any]]
# Lists and objects within each other, of one node.
DEEPEST = 100


def read(path: Path) -> Prompt:
    """The workflow in a JSON file, or embedded in a PNG by ComfyUI or by us.

    Raises:
        WorkflowError: no such file, not JSON, or not a workflow in the API format.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # the latter of a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise WorkflowError(f"{path}: cannot be read: {reason}") from error
    text = _embedded(path) if content.startswith(PNG) else content
    try:
        value = json.loads(text)
    except UnicodeDecodeError as error:  # a ValueError
        raise WorkflowError(f"{path}: not JSON, nor a PNG that carries a workflow") from error
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"{path}: not JSON: {error}") from error
    try:
        return parse(value)
    except WorkflowError as error:
        raise WorkflowError(f"{path}: {error}") from error


def parse(value: Any) -> Prompt:
    """Check the form of a workflow: the body of a prompt, or the POST body that wraps it.

    Raises:
        WorkflowError: it is something else; the message says what it looks like.
    """
    found = _object(value)
    found = _object(found.get("prompt")) or found
    if not found:
        raise WorkflowError(f"not a workflow: expected an object of nodes, found {short(value)}")
    if isinstance(found.get("nodes"), list):
        raise WorkflowError(
            "this is the editor's format. Export it from ComfyUI with Workflow > Export (API)"
        )
    prompt: Prompt = {}
    for node_id, value in found.items():
        node = _object(value)
        objects = (node.get("inputs", {}), node.get("_meta", {}))
        if not node or not all(isinstance(part, dict) for part in objects):
            raise WorkflowError(
                f"not a workflow: node {node_id!r} should be an object with class_type and inputs, "
                f"found {short(value)}"
            )
        if _is_deep(node):
            raise WorkflowError(
                f"node {node_id}: values lie more than {DEEPEST} deep in each other"
            )
        prompt[node_id] = {**node, "inputs": _object(objects[0])}
        # What ComfyUI found of its files when it ran this. It would not look at them again.
        prompt[node_id].pop("is_changed", None)
    return prompt


def _is_deep(value: Any) -> bool:
    """Whether lists and objects lie within each other beyond :data:`DEEPEST`, which what goes over
    them by recursion would not end well with."""
    parts: list[Any] = [value]
    for _ in range(DEEPEST):
        within: list[Any] = []
        for part in parts:
            if isinstance(part, dict):
                within += cast(dict[Any, Any], part).values()
            elif isinstance(part, list):
                within += cast(list[Any], part)
        parts = within
    return bool(parts)


def failure(prompt: Prompt, node_id: str, error: Exception) -> RunError:
    """What to say of whatever a node has raised."""
    reason = str(error) if isinstance(error, ImagenError | ValueError) else ""
    reason = reason or _unforeseen(error)
    where = f"node {node_id} ({title(prompt, node_id)})"
    return RunError(f"{where}: {reason}", node_id, prompt[node_id]["class_type"])


def _unforeseen(error: Exception) -> str:
    from ..tiles import is_out_of_memory  # which imports torch: not for what nodes refuse

    if not is_out_of_memory(error):
        return f"{type(error).__name__}: {error}"
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return f"out of memory: {first}. Give it fewer or smaller pictures, or enlarge less"


def _object(value: Any) -> dict[str, Any]:
    """A copy of a JSON object; empty for anything else."""
    return dict(cast(dict[str, Any], value)) if isinstance(value, dict) else {}


def is_link(value: Any) -> bool:
    """Whether an input's value is a link: ComfyUI takes every list for one."""
    return isinstance(value, list)


def title(prompt: Prompt, node_id: str) -> str:
    """A node's title, or its class where it has none."""
    node = prompt[node_id]
    return str(node.get("_meta", {}).get("title") or node.get("class_type"))


def override(prompt: Prompt, assignments: Iterable[str], types: Mapping[str, NodeType]) -> Prompt:
    """A copy of ``prompt`` with inputs replaced: ``NODE.INPUT=VALUE``, NODE an id or a title.

    VALUE is JSON, or taken as it is where the input is text or a choice.

    Raises:
        UsageError: no such node or input, an ambiguous title, a boolean that is none.
    """
    prompt = deepcopy(prompt)
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected NODE.INPUT=VALUE")
        node_id, key, kind = _find(prompt, target, types)
        prompt[node_id]["inputs"][key] = _value(text, kind, assignment)
    return prompt


def replace(prompt: Prompt, values: Mapping[str, Any], types: Mapping[str, NodeType]) -> Prompt:
    """A copy of ``prompt`` with inputs replaced by Python values, by ``NODE.INPUT``.

    Raises:
        UsageError: no such node or input, an ambiguous title.
    """
    prompt = deepcopy(prompt)
    for target, value in values.items():
        node_id, key, _ = _find(prompt, target, types)
        prompt[node_id]["inputs"][key] = str(value) if isinstance(value, Path) else value
    return prompt


def _find(prompt: Prompt, target: str, types: Mapping[str, NodeType]) -> tuple[str, str, str]:
    """Node id, input and its type (empty: not known) of ``NODE.INPUT``."""
    name, dot, key = target.rpartition(".")
    if not dot:
        raise UsageError(f"{target!r}: expected NODE.INPUT, a node's id or title and an input")
    node_id = _find_node(prompt, name)
    node = prompt[node_id]
    class_type = node.get("class_type")
    node_type = types.get(class_type) if isinstance(class_type, str) else None
    kinds = {port.name: port.type for port in node_type.inputs} if node_type else {}
    if key not in kinds and key not in node["inputs"]:
        known = ", ".join(kinds or node["inputs"])
        raise UsageError(f"{target!r}: node {name!r} has no input {key!r}. It has: {known}")
    return node_id, key, kinds.get(key, "")


def _find_node(prompt: Prompt, name: str) -> str:
    if name in prompt:
        return name
    matches = [node_id for node_id in prompt if title(prompt, node_id) == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"nodes {', '.join(matches)} are all called {name!r}: use an id")
    known = ", ".join(f"{node_id} ({title(prompt, node_id)})" for node_id in prompt)
    raise UsageError(f"no node {name!r}. There are: {known}")


def _value(text: str, kind: str, assignment: str) -> Any:
    if kind in ("STRING", "COMBO"):
        return text
    if kind == "BOOLEAN":
        words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        if text.lower() not in words:
            raise UsageError(f"--set {assignment}: expected true or false")
        return words[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _embedded(path: Path) -> str:
    try:
        text = png_texts(path)
    except DataError as error:
        raise WorkflowError(str(error)) from error
    if "prompt" not in text:
        raise WorkflowError(f"{path}: this picture carries no workflow (no text chunk 'prompt')")
    return text["prompt"]
