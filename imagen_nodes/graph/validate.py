"""The static pass: every problem of a workflow at once, before anything runs.

Types, messages and details of the problems are ComfyUI's (what it answers to POST /prompt), so
that one tool reads both; ``reading`` is the same for people. As in ComfyUI, only what an output
node depends on is judged, and constants are converted to their input's type. Unlike ComfyUI, one
bad output is enough to refuse the whole workflow, an unknown node does not hide the rest, and a
constant in the place of a link is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..errors import WorkflowError
from ..folders import ABOUT_PICKLES, PICKLES, WEIGHTS
from ..spec import short
from .host import Host
from .node import Input, NodeType, Refusal
from .workflow import Prompt, is_link, title

COERCIONS: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
LONGEST_LIST = 20
# Nodes of a circle that are named.
LONGEST_RING = 20


@dataclass(frozen=True)
class Problem:
    """One thing wrong at one node. ``type message details extra_info`` are ComfyUI's."""

    node_id: str
    type: str
    message: str
    details: str
    extra_info: dict[str, Any]
    reading: str

    @property
    def report(self) -> dict[str, Any]:
        """As ComfyUI answers it."""
        keys = ("type", "message", "details", "extra_info")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Checked:
    """A workflow that can run: constants converted, nodes in an order that respects links."""

    prompt: Prompt
    order: tuple[str, ...]
    outputs: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass
class _Pass:
    """The state of one pass: ``prompt`` is a copy, whose constants are converted in place."""

    prompt: Prompt
    types: Mapping[str, NodeType]
    host: Host
    offered: dict[str, Sequence[Any]] = field(default_factory=dict[str, Sequence[Any]])
    """By kind: folders are read once."""
    problems: dict[str, list[Problem]] = field(default_factory=dict[str, list[Problem]])
    warnings: list[str] = field(default_factory=list[str])
    cyclic: set[str] = field(default_factory=set[str])
    """Nodes in circles that are reported."""

    def add(
        self,
        node_id: str,
        type: str,
        message: str,
        details: str,
        reading: str,
        extra_info: dict[str, Any],
    ) -> None:
        problem = Problem(node_id, type, message, details, extra_info, reading)
        self.problems.setdefault(node_id, []).append(problem)

    def options(self, port: Input) -> Sequence[Any]:
        """That a COMBO offers."""
        if not port.kind:
            return port.choices(self.host)
        if port.kind not in self.offered:
            self.offered[port.kind] = port.choices(self.host)
        return self.offered[port.kind]

    def about(self, port: Input, **more: Any) -> dict[str, Any]:
        """What ComfyUI says of an input beside a problem. Only where there is one: folders may be
        large."""
        kind = self.options(port) if port.type == "COMBO" else port.type
        return {"input_name": port.name, "input_config": (kind, dict(port.widget)), **more}

    def type_of(self, node_id: str) -> NodeType | None:
        class_type = self.prompt[node_id].get("class_type")
        return self.types.get(class_type) if isinstance(class_type, str) else None


def validate(prompt: Prompt, types: Mapping[str, NodeType], host: Host) -> Checked:
    """Judge ``prompt`` and convert its constants; ``prompt`` itself stays as it is.

    Raises:
        WorkflowError: its message names every problem, its ``report`` has ComfyUI's form.
    """
    state = _Pass({k: {**v, "inputs": dict(v["inputs"])} for k, v in prompt.items()}, types, host)
    for node_id in prompt:
        _check_class(state, node_id)
    outputs = [n for n in prompt if (t := state.type_of(n)) is not None and t.is_output]
    if not outputs and not state.problems:
        known = ", ".join(sorted(t.id for t in types.values() if t.is_output))
        message = (
            f"the workflow has no output node, so there is nothing to run. Add one of: {known}"
        )
        raise WorkflowError(message, _report("prompt_no_outputs", "Prompt has no outputs", ""))
    reached = {output: _ancestors(state, output) for output in outputs}
    order = _order(state, outputs)
    for node_id in order:
        _check_node(state, node_id, is_end=node_id in outputs)
    if state.problems:
        raise _failure(state, reached)
    return Checked(state.prompt, tuple(order), tuple(outputs), tuple(state.warnings))


def _check_class(state: _Pass, node_id: str) -> None:
    node = state.prompt[node_id]
    class_type = node.get("class_type")
    if state.type_of(node_id) is not None:
        return
    name = node.get("_meta", {}).get("title", class_type)
    if class_type is None:
        message = f"Node '{name or f'ID #{node_id}'}' has no class_type. "
        message += "The workflow may be corrupted or a custom node is missing."
        reading = "it has no class_type"
    else:
        message = f"Node '{name}' not found. The custom node may not be installed."
        near = difflib.get_close_matches(str(class_type), state.types, n=3, cutoff=0.5)
        reading = f"unknown node type {short(class_type)}. "
        reading += f"Closest: {', '.join(near)}. " if near else ""
        reading += "`imagen-nodes nodes` lists what there is"
    extra = {"node_id": node_id, "class_type": class_type, "node_title": name}
    state.add(node_id, "missing_node_type", message, f"Node ID '#{node_id}'", reading, extra)


def _links(state: _Pass, node_id: str) -> Iterator[tuple[str, str]]:
    """(input, node it links to) of a node, as far as they can be followed."""
    for name, value in state.prompt[node_id]["inputs"].items():
        if is_link(value) and len(value) == 2 and _exists(state.prompt, value[0]):
            yield name, value[0]


def _exists(prompt: Prompt, node_id: Any) -> bool:
    return isinstance(node_id, str) and node_id in prompt


def _ancestors(state: _Pass, node_id: str) -> set[str]:
    """The node and all that it depends on."""
    seen, pending = {node_id}, [node_id]
    while pending:
        for _, source in _links(state, pending.pop()):
            if source not in seen:
                seen.add(source)
                pending.append(source)
    return seen


def _order(state: _Pass, outputs: Sequence[str]) -> list[str]:
    """The reachable nodes, sources first; cycles are reported. No recursion: chains may be long."""
    order: list[str] = []
    path: dict[str, None] = {}  # the nodes being visited, in order
    done: set[str] = set()
    for output in outputs:
        if output in done:
            continue
        path[output] = None
        stack = [(output, _links(state, output))]
        while stack:
            node_id, links = stack[-1]
            for _, source in links:
                if source in path:
                    _add_cycle(state, [*path][[*path].index(source) :])
                elif source not in done:
                    path[source] = None
                    stack.append((source, _links(state, source)))
                    break
            else:
                stack.pop()
                del path[node_id]
                done.add(node_id)
                order.append(node_id)
    return order


def _add_cycle(state: _Pass, nodes: list[str]) -> None:
    """Of each node's rings the first, and of long ones their beginning: where all nodes link to
    each other, there are more rings than anybody could read."""
    named = [f"{n} ({state.prompt[n].get('class_type')})" for n in nodes[:LONGEST_RING]]
    details = " -> ".join([*named, "..." if len(nodes) > LONGEST_RING else named[0]])
    for node_id in nodes:
        if node_id in state.cyclic:
            continue
        state.cyclic.add(node_id)
        state.add(
            node_id,
            "dependency_cycle",
            "Dependency cycle detected",
            details,
            f"it depends on itself: {details}",
            {"node_id": node_id, "cycle_nodes": nodes[:LONGEST_RING]},
        )


def _check_node(state: _Pass, node_id: str, *, is_end: bool) -> None:
    node_type = state.type_of(node_id)
    if node_type is None:
        return
    inputs = state.prompt[node_id]["inputs"]
    for port in node_type.inputs:
        if port.name not in inputs:
            if port.required:
                state.add(
                    node_id,
                    "required_input_missing",
                    "Required input is missing",
                    port.name,
                    f"input {port.name} ({port.type}) is missing",
                    {"input_name": port.name},
                )
        elif is_link(inputs[port.name]):
            _check_link(state, node_id, port, inputs[port.name], is_end=is_end)
        else:
            _check_constant(state, node_id, node_type, port)
    _check_custom(state, node_id, node_type)
    names = {port.name for port in node_type.inputs}
    for name in inputs.keys() - names:
        known = ", ".join(sorted(names)) or "none"
        where = f"node {node_id} ({title(state.prompt, node_id)})"
        state.warnings.append(f"{where}: unknown input {name!r} is ignored. It has: {known}")


def _check_link(state: _Pass, node_id: str, port: Input, value: list[Any], *, is_end: bool) -> None:
    if len(value) != 2:
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        reading = f"input {port.name}: expected a link [node id, slot] or a constant, found "
        reading += short(value)
        about = state.about(port, received_value=value)
        state.add(node_id, "bad_linked_input", message, port.name, reading, about)
        return
    source, slot = value
    try:
        source_type = state.type_of(source)
        if source_type is None:
            return  # reported where it stands
        received = tuple(output.type for output in source_type.outputs)[cast(int, slot)]
    except (LookupError, TypeError) as error:
        _add_dead_link(state, node_id, port, value, error, is_end=is_end)
        return
    if not _compatible(received, port.type):
        wanted = state.options(port) if port.type == "COMBO" else port.type
        state.add(
            node_id,
            "return_type_mismatch",
            "Return type mismatch between linked nodes",
            f"{port.name}, received_type({received}) mismatch input_type({wanted})",
            f"input {port.name} takes {port.type}, but output {slot} of node {source} "
            f"({title(state.prompt, source)}) is {received}",
            state.about(port, received_type=received, linked_node=value),
        )


def _add_dead_link(
    state: _Pass, node_id: str, port: Input, value: list[Any], error: Exception, *, is_end: bool
) -> None:
    """ComfyUI meets a Python exception here, and reports it as such."""
    source, slot = value
    extra: dict[str, Any] = {"exception_type": type(error).__name__, "traceback": []}
    if is_end:
        kind, message = "exception_during_validation", "Exception when validating node"
    else:
        kind = "exception_during_inner_validation"
        message = "Exception when validating inner node"
        name, link = _consumer(state, node_id)
        extra |= {"input_name": name, "exception_message": str(error), "linked_node": link}
    reading = f"input {port.name} links to node {source!r}, which does not exist"
    if _exists(state.prompt, source):
        source_type = state.type_of(source)
        count = len(source_type.outputs) if source_type else 0
        reading = (
            f"input {port.name} links to output {slot!r} of node {source} "
            f"({title(state.prompt, source)}), which has {count}, counted from 0"
        )
    state.add(node_id, kind, message, str(error), reading, extra)


def _consumer(state: _Pass, node_id: str) -> tuple[str, list[Any]]:
    """The first (input, link) that leads to a node: where ComfyUI stands when it meets a fault."""
    return next(
        (name, node["inputs"][name])
        for other, node in state.prompt.items()
        for name, source in _links(state, other)
        if source == node_id
    )


def _compatible(received: str, wanted: str) -> bool:
    """Either is anything, or the comma-separated unions overlap; a list of options takes no link
    but anything's."""
    if wanted == "COMBO":
        return received == "*"
    ours, theirs = ({part.strip() for part in t.split(",")} for t in (received, wanted))
    return "*" in ours | theirs or bool(ours & theirs)


def _check_constant(state: _Pass, node_id: str, node_type: NodeType, port: Input) -> None:
    inputs = state.prompt[node_id]["inputs"]
    value = _unwrapped(inputs[port.name])
    try:
        if port.type in COERCIONS:
            value = COERCIONS[port.type](value)
        elif port.name in node_type.checked and not isinstance(value, (str, int, float)):
            raise TypeError("not a name")
    except (TypeError, ValueError, OverflowError) as error:
        state.add(
            node_id,
            "invalid_input_type",
            f"Failed to convert an input value to a {port.type} value",
            f"{port.name}, {value}, {error}",
            f"input {port.name}: expected {port.type}, found {short(value)}",
            state.about(port, received_value=value, exception_message=str(error)),
        )
        return
    inputs[port.name] = value
    if port.name in node_type.checked:
        return

    def add(kind: str, message: str, reading: str) -> None:
        about = state.about(port, received_value=value)
        state.add(node_id, kind, message, port.name, reading, about)

    if port.is_link and isinstance(value, (str, int, float)):
        message = f"A constant where a link to {port.type} is needed"
        reading = f"input {port.name}: takes a link to an output of type {port.type}, found "
        reading += short(value)
        add("invalid_input_type", message, reading)
        return
    low, high = port.widget.get("min"), port.widget.get("max")
    if low is not None and value < low:
        message = f"Value {value} smaller than min of {low}"
        reading = f"input {port.name}: {value} is smaller than {low}"
        add("value_smaller_than_min", message, reading)
    elif high is not None and value > high:
        message = f"Value {value} bigger than max of {high}"
        reading = f"input {port.name}: {value} is bigger than {high}"
        add("value_bigger_than_max", message, reading)
    elif port.type == "COMBO" and value not in (options := state.options(port)):
        shown, about = str(options), state.about(port, received_value=value)
        if len(options) > LONGEST_LIST:
            shown, about["input_config"] = f"(list of length {len(options)})", None
        reading = f"input {port.name}: there is no {short(value)}. {_offer(value, options)}"
        if port.kind == "weights" and Path(str(value)).suffix.lower() in PICKLES - WEIGHTS:
            reading = f"input {port.name}: {short(value)} is {ABOUT_PICKLES}"
        details = f"{port.name}: {value!r} not in {shown}"
        state.add(node_id, "value_not_in_list", "Value not in list", details, reading, about)


def _unwrapped(value: Any) -> Any:
    """A constant as it is, or out of the object that a list travels in."""
    if isinstance(value, dict):
        return cast(dict[str, Any], value).get("__value__", cast(Any, value))
    return value


def _offer(value: Any, options: Sequence[Any]) -> str:
    if not options:
        return "There is nothing to choose from"
    texts = [str(option) for option in options]
    if len(texts) <= LONGEST_LIST:
        return f"There is: {', '.join(texts)}"
    near = difflib.get_close_matches(str(value), texts, n=5, cutoff=0.3)
    return f"Closest of {len(texts)}: {', '.join(near or texts[:5])}"


def _check_custom(state: _Pass, node_id: str, node_type: NodeType) -> None:
    """The node's own check of its constants; links are not known yet."""
    inputs = state.prompt[node_id]["inputs"]
    constants = {n: inputs[n] for n in node_type.checked if n in inputs and not is_link(inputs[n])}
    if not constants:
        return
    wrong = node_type.check(state.host, constants)
    for name in constants if wrong else ():
        state.add(
            node_id,
            "custom_validation_failed",
            "Custom validation failed for node",
            f"{name} - {wrong}",
            f"input {name}: {wrong.reading if isinstance(wrong, Refusal) else wrong}",
            {"input_name": name},
        )


def _report(type: str, message: str, details: str, **node_errors: Any) -> dict[str, Any]:
    error: dict[str, Any] = {"type": type, "message": message, "details": details}
    error["extra_info"] = {}
    return {"error": error, "node_errors": node_errors}


def _failure(state: _Pass, reached: Mapping[str, set[str]]) -> WorkflowError:
    node_errors = {
        node_id: {
            "errors": [problem.report for problem in problems],
            "dependent_outputs": [o for o, nodes in reached.items() if node_id in nodes],
            "class_type": state.prompt[node_id].get("class_type"),
        }
        for node_id, problems in state.problems.items()
    }
    all_problems = [problem for problems in state.problems.values() for problem in problems]
    unknown = [p for p in all_problems if p.type == "missing_node_type"]
    ends = [p for p in all_problems if p.node_id in reached]
    report = _report(
        "prompt_outputs_failed_validation",
        "Prompt outputs failed validation",
        "\n".join(f"{p.message}: {p.details}" for p in ends),
        **node_errors,
    )
    if unknown:
        report["error"] = unknown[0].report
    lines = [
        f"node {p.node_id} ({title(state.prompt, p.node_id)}): {p.reading}" for p in all_problems
    ]
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return WorkflowError(f"the workflow has {count}:\n  " + "\n  ".join(lines), report)
