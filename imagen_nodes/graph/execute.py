"""Running a checked workflow: each node once, sources first, under inference mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import Cancelled
from .cache import Cache, Entry, signatures
from .host import Host
from .node import NodeType
from .validate import Checked
from .workflow import failure, is_link, title

Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Outputs:
    """What a node gave: a value for each output by name, and the files that it wrote."""

    values: dict[str, Any]
    files: tuple[Path, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class RunHost(Host, Protocol):
    """A host that the executor tells which node is running."""

    node_id: str
    carried: list[tuple[str, str]]
    """What the node that is running has given to :meth:`carry`, in order."""

    def saved(self, ui: Mapping[str, Any]) -> tuple[Path, ...]:
        """The files that a node's ``ui`` names."""
        ...


def execute(
    checked: Checked,
    types: Mapping[str, NodeType],
    host: RunHost,
    cache: Cache,
    listen: Listener = lambda event: None,
) -> dict[str, Outputs]:
    """Run a workflow and return what each node gave, by id.

    Events, in order: ``start {nodes}``, for each node ``node {node, type, title, cached}`` and, if
    it shows something, ``output {node, ..., files}``; then ``done``.

    Raises:
        RunError: a node failed; the message names it.
        Cancelled: somebody asked to stop.
    """
    import torch

    entries: dict[str, Entry] = {}
    keys = signatures(checked, types, host)
    cache.keep(keys.values())  # before there is more: results can be large
    listen({"event": "start", "nodes": len(checked.order)})
    with torch.inference_mode():
        for node_id in checked.order:
            node = checked.prompt[node_id]
            found = cache.get(keys[node_id])
            # Somebody may have taken away what it wrote.
            if found is not None and not all(path.exists() for path in host.saved(found.ui)):
                found = None
            about = {"node": node_id, "type": node["class_type"]}
            about["title"] = title(checked.prompt, node_id)
            listen({"event": "node", **about, "cached": found is not None})
            host.node_id, host.carried = node_id, []
            if found is None:
                found = _run_node(checked, node_id, types, host, entries)
                found = replace(found, carried=tuple(host.carried))
                cache.put(keys[node_id], found)
            else:
                for kind, value in found.carried:
                    host.carry(kind, value)
            entries[node_id] = found
            if found.ui:
                files = [str(path) for path in host.saved(found.ui)]
                listen({"event": "output", **about, **found.ui, "files": files})
    listen({"event": "done"})
    return {
        node_id: _outputs(types[checked.prompt[node_id]["class_type"]], entry, host)
        for node_id, entry in entries.items()
    }


def _run_node(
    checked: Checked,
    node_id: str,
    types: Mapping[str, NodeType],
    host: RunHost,
    entries: Mapping[str, Entry],
) -> Entry:
    node = checked.prompt[node_id]
    node_type = types[node["class_type"]]
    try:
        return map_over_lists(node_type, host, gather(node["inputs"], node_type, entries))
    except Cancelled:
        raise
    except Exception as error:  # whatever a node raises is that node's failure
        raise failure(checked.prompt, node_id, error) from error


def gather(
    inputs: Mapping[str, Any], node_type: NodeType, entries: Mapping[str, Entry]
) -> dict[str, list[Any]]:
    """Every declared input of a node as a list: one element, or those of the list it links to."""
    lists: dict[str, list[Any]] = {}
    for port in node_type.inputs:
        if port.name in inputs:
            value = inputs[port.name]
            lists[port.name] = entries[value[0]].slots[value[1]] if is_link(value) else [value]
    return lists


def map_over_lists(node_type: NodeType, host: Host, lists: Mapping[str, list[Any]]) -> Entry:
    """Call a node once an element; shorter lists repeat their last. What a list output gives is
    joined, what another gives collected."""
    if node_type.takes_lists:
        calls = [dict(lists)]
    else:
        empty = [name for name, values in lists.items() if not values]
        if empty:
            raise ValueError(f"input {', '.join(empty)}: the list that it links to is empty")
        count = max(map(len, lists.values()), default=1)
        calls = [
            {name: values[min(i, len(values) - 1)] for name, values in lists.items()}
            for i in range(count)
        ]
    slots: list[list[Any]] = [[] for _ in node_type.outputs]
    ui: dict[str, Any] = {}
    for call in calls:
        result = node_type.run(host, call)
        for slot, output, value in zip(slots, node_type.outputs, result.outputs, strict=True):
            slot.extend(value) if output.is_list else slot.append(value)
        for key, values in result.ui.items():
            ui.setdefault(key, []).extend(values)
    return Entry(slots, ui)


def _outputs(node_type: NodeType, entry: Entry, host: RunHost) -> Outputs:
    values: dict[str, Any] = {}
    for output, slot in zip(node_type.outputs, entry.slots, strict=True):
        values[output.name] = slot[0] if len(slot) == 1 and not output.is_list else slot
    return Outputs(values, host.saved(entry.ui))
