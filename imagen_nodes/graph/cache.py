"""Results by what they depend on: equal nodes run once, in one workflow or in the next.

A signature is a node type, its constants, what it depends on besides (a file's content), and the
signatures of what it links to: content, not ids, as in ComfyUI.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .host import Host
from .node import NodeType
from .validate import Checked
from .workflow import is_link


@dataclass(frozen=True)
class Entry:
    """A node's results: a list of values for each output, what it shows, and what pictures that
    are saved later carry of it."""

    slots: list[list[Any]]
    ui: dict[str, Any]
    carried: tuple[tuple[str, str], ...] = ()


class Cache:
    """Keeps the results of the last workflow."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def get(self, signature: str) -> Entry | None:
        return self._entries.get(signature)

    def put(self, signature: str, entry: Entry) -> None:
        self._entries[signature] = entry

    def keep(self, signatures: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(signatures)
        self._entries = {key: value for key, value in self._entries.items() if key in kept}


def signatures(checked: Checked, types: Mapping[str, NodeType], host: Host) -> dict[str, str]:
    """The signature of every node of a workflow, by id."""
    found: dict[str, str] = {}
    for node_id in checked.order:
        node = checked.prompt[node_id]
        node_type = types[node["class_type"]]
        constants: dict[str, Any] = {}
        parts: list[Any] = [node_type.id]
        for port in node_type.inputs:
            if port.name not in node["inputs"]:
                continue
            value = node["inputs"][port.name]
            if is_link(value):
                parts.append((port.name, found[value[0]], value[1]))
            else:
                constants[port.name] = value
                # An object's identity stands for its content: it may be an image of any size.
                plain = isinstance(value, (str, int, float, list, dict, type(None)))
                parts.append((port.name, value if plain else f"object {id(value)}"))
        parts.append(node_type.fingerprint(host, constants))
        found[node_id] = hashlib.sha256(repr(parts).encode()).hexdigest()
    return found
