"""Node types as a table, as ComfyUI's /object_info, and as help pages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .host import Host
from .node import DeclaredNode, Input, Node, NodeType


def table(types: Iterable[NodeType]) -> str:
    """One line a node: id, title, inputs -> outputs."""
    rows = [(t.id, t.title, f"{_names(t.inputs)} -> {_names(t.outputs)}") for t in types]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)


def _names(ports: Iterable[Any]) -> str:
    return ", ".join(port.name for port in ports) or "-"


def as_json(types: Iterable[NodeType], host: Host) -> str:
    """What ComfyUI's /object_info says of each node, by id."""
    return json.dumps({t.id: object_info(t, host) for t in types}, indent=1)


def input_types(node: NodeType, host: Host) -> dict[str, dict[str, Any]]:
    """The V1 ``INPUT_TYPES`` of a node."""
    groups: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
    for port in node.inputs:
        groups["required" if port.required else "optional"][port.name] = port.declaration(host)
    return {name: ports for name, ports in groups.items() if ports or name == "required"}


def object_info(node: NodeType, host: Host) -> dict[str, Any]:
    """The part of /object_info that a node's declaration decides."""
    inputs = input_types(node, host)
    info: dict[str, Any] = {
        "name": node.id,
        "display_name": node.title,
        "input": inputs,
        "input_order": {group: list(ports) for group, ports in inputs.items()},
        "is_input_list": node.takes_lists,
        "output": [output.type for output in node.outputs],
        "output_is_list": [output.is_list for output in node.outputs],
        "output_name": [output.name for output in node.outputs],
        "output_node": node.is_output,
    }
    if isinstance(node, DeclaredNode):
        info |= {"category": node.category, "description": node.description}
    return info


def write_help_pages(nodes: Iterable[type[Node]], folder: Path) -> None:
    """Write ``<id>.md`` for each node, and remove the pages of nodes that are no more."""
    pages = {f"{node.id}.md": help_page(DeclaredNode(node)) for node in nodes}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, page in pages.items():
        write_atomically(folder / name, page.encode())


def help_page(node: DeclaredNode) -> str:
    """The Markdown that ComfyUI shows as a node's help."""
    lines = [f"# {node.title}", "", node.description, "", "## Inputs", ""]
    lines += ["| input | type | default | limits | |", "|---|---|---|---|---|"]
    lines += [_row(port) for port in node.inputs]
    lines += ["", "## Outputs", "", "| output | type | |", "|---|---|---|"]
    lines += [f"| {o.name} | {o.type} | {o.meaning} |" for o in node.outputs]
    return "\n".join(lines) + "\n"


def _row(port: Input) -> str:
    low, high = port.widget.get("min"), port.widget.get("max")
    limits = f"{low} to {high}" if low is not None and high is not None else ""
    if port.options:
        limits = ", ".join(map(str, port.options))
    default = port.widget.get("default", "")
    tooltip = " ".join(str(port.widget.get("tooltip", "")).split())
    return f"| {port.name} | {port.type} | {default} | {limits} | {tooltip} |"
