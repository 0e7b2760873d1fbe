"""Results by what they depend on: equal nodes run once, in one workflow or in the next.

A signature is a node type, its constants, what it depends on besides (a file's content), and the
signatures of what it links to: content, not ids, as in ComfyUI.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .host import Host
from .node import NodeType
from .validate import Checked
from .workflow import failure, is_link

# Of values whose content is not known, each of its own.
_unknown = itertools.count()


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
    """The signature of every node of a workflow, by id.

    Raises:
        RunError: what a node depends on cannot be looked at."""
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
                parts.append((port.name, _content(value)))
        try:
            fingerprint = node_type.fingerprint(host, constants)
        except Exception as error:
            raise failure(checked.prompt, node_id, error) from error
        unknown = fingerprint != fingerprint  # NaN
        parts.append(f"unknown {next(_unknown)}" if unknown else fingerprint)
        found[node_id] = hashlib.sha256(repr(parts).encode()).hexdigest()
    return found


def _content(value: Any) -> Any:
    """What stands for a constant: JSON for itself; a tensor's type, shape and SHA-256, since an
    object's address is given to others after it, and its values may be changed in place; anything
    else for nothing but this once."""
    if isinstance(value, (str, int, float, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_content(part) for part in cast(Sequence[Any], value)]
    if isinstance(value, dict):
        return {key: _content(part) for key, part in cast(dict[Any, Any], value).items()}
    import torch

    if not isinstance(value, torch.Tensor):
        return f"object {next(_unknown)}"
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    code = hashlib.sha256(flat.numpy().data).hexdigest()
    return f"tensor {value.dtype} {tuple(value.shape)} {code}"
