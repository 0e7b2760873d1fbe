"""The networks in a foreign file: every set of named tensors in it, with the place it has there."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .machine import Budget
from .values import Instance, NumpyArray, StoredTensor, Tensor

# Places within places that are looked at, and modules within modules of a program.
DEEPEST, NESTED = 6, 32
# Characters of a name that are a step of work: each is a copy of all names above it.
STEP = 100
# What files call the average of a generator, which is the one to use, a generator, and what else
# they hold; the better ones first.
AVERAGES = ("g_ema", "G_ema", "GE", "Gs", "netG_ema", "avgG", "ema", "params_ema")
GENERATORS = ("netG", "G", "g", "generator", "gen", "model", "state_dict")
OTHERS = ("netD", "D", "d", "discriminator", "dis", "optim", "augment")
# The class of networks of NVIDIA's TensorFlow code.
_TENSORFLOW = "dnnlib.tflib.network.Network"
_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"


@dataclass(frozen=True)
class Candidate:
    """Tensors by name, and what the file says of the network that they belong to."""

    place: str
    """Keys that lead to it, with dots between; empty: the file's whole content."""
    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict[str, Any])
    """``class`` and ``arguments`` of the program's object, where it is one."""
    siblings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What lies beside it in the file, by key."""
    settings: Callable[[], dict[str, Any]] = dict
    """Reads what a file of settings beside the file says: see ``formats.settings_of``."""

    @property
    def rank(self) -> tuple[int, int]:
        """The lower, the more likely it is what people want."""
        parts = re.split(r"[.\s]", self.place)
        for rank, names in enumerate((AVERAGES, GENERATORS)):
            found = [names.index(part) for part in parts if part in names]
            if found:
                return rank, min(found)
        return (3 if any(part in OTHERS for part in parts) else 2), 0

    def without_prefix(self, *prefixes: str) -> dict[str, Tensor]:
        """The tensors by names without those prefixes (``module.``, ...), which all must have, and
        which may lie inside each other."""
        tensors = self.tensors
        while prefix := next(
            (p for p in prefixes if tensors and all(name.startswith(p) for name in tensors)), ""
        ):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
        return tensors


def candidates(content: Any) -> list[Candidate]:
    """All that a file holds, the most likely first.

    Raises:
        CheckpointError: it is in itself more often than weights need."""
    found = _walk(content, "", {}, 0, set(), Budget(0))
    return sorted(found, key=lambda candidate: candidate.rank)


def _walk(
    value: Any, place: str, siblings: dict[str, Any], depth: int, seen: set[int], budget: Budget
) -> Iterator[Candidate]:
    if depth > DEEPEST or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, tuple | list):
        for i, item in enumerate(value[:16]):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            if isinstance(item, dict | Instance):
                yield from _walk(item, _join(place, i, budget), {}, depth + 1, seen, budget)
        return
    fields = fields_of(value)
    if fields is None:
        return
    budget.spend(len(fields))
    if isinstance(value, Instance) and str(value.made_by) == _TENSORFLOW:
        tensors = dict(_of_tensorflow(fields, "", budget))
        if tensors:
            about = {"class": _TENSORFLOW, "arguments": fields.get("static_kwargs", {})}
            yield Candidate(place, tensors, about, siblings)
        return
    if "_modules" in fields:  # a module of torch's
        tensors = dict(_of_module(fields, budget))
        if tensors:
            yield Candidate(place, tensors, _about(value, fields), siblings)
        return
    tensors = {name: t for name, t in fields.items() if isinstance(name, str) and is_tensor(t)}
    if tensors:
        beside = {name: v for name, v in fields.items() if name not in tensors}
        yield Candidate(place, tensors, _about(value, fields), ChainMap(siblings, beside))
    beside = {name: v for name, v in fields.items() if isinstance(name, str)}
    for name, item in fields.items():
        if isinstance(item, dict | Instance | tuple | list):
            inner = _join(place, name, budget)
            yield from _walk(item, inner, beside, depth + 1, seen, budget)


def _of_tensorflow(
    fields: dict[Any, Any], prefix: str, budget: Budget
) -> Iterator[tuple[str, Tensor]]:
    """A network's variables, a list of (name, array), and its components' by ``component/name``.

    Raises:
        CheckpointError: its components lie in each other more often than weights need."""
    variables = fields.get("variables")
    variables = variables if isinstance(variables, list) else []
    budget.spend(1 + len(variables))
    for item in variables:
        match item:
            case (str() as name, value) if is_tensor(value):
                yield _paid(f"{prefix}{name}", budget), value
            case _:
                continue
    for name, part in _items(fields.get("components"), budget):
        inner = fields_of(part)
        if inner is not None and prefix.count("/") < DEEPEST:
            yield from _of_tensorflow(inner, _paid(f"{prefix}{name}/", budget), budget)


def of_program(content: Any) -> dict[str, Tensor]:
    """The tensors of a TorchScript program's modules, by the names of its state dict: attributes of
    objects within objects, however deep.

    Raises:
        CheckpointError: they lie in each other more often than weights need."""
    found: dict[str, Tensor] = {}
    budget = Budget(0)
    stack: list[tuple[Any, str, int]] = [(content, "", 0)]
    while stack:
        value, place, depth = stack.pop()
        if not isinstance(value, Instance) or depth > NESTED:
            continue
        for name, item in value.fields.items():
            inner = _join(place, name, budget)
            if is_tensor(item):
                found[inner] = item
            stack.append((item, inner, depth + 1))
    return found


def is_tensor(value: object) -> bool:
    """Whether it is one of the file's tensors, or a parameter, which wraps one."""
    return isinstance(value, StoredTensor | NumpyArray)


def fields_of(value: Any) -> dict[Any, Any] | None:
    """The attributes of an object, the items of a dictionary; None: it is neither."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, Instance):
        return None
    if str(value.made_by) == _PERSISTENT:
        meta = value.arguments[0] if len(value.arguments) == 1 else None
        state = meta.get("state") if isinstance(meta, dict) else None  # pyright: ignore
        return state if isinstance(state, dict) else None  # pyright: ignore
    return value.fields


def _about(value: Any, fields: dict[Any, Any]) -> dict[str, Any]:
    if not isinstance(value, Instance):
        return {}
    name = str(value.made_by)
    if name == _PERSISTENT:
        name = str(value.arguments[0].get("class_name"))
    return {"class": name, "arguments": fields.get("_init_kwargs", {})}


def arguments_of(about: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a program's object was made with, those within others (synthesis_kwargs,
    ...) beside them."""
    found: dict[str, Any] = {}
    stack: list[Any] = [about.get("arguments")]
    seen: set[int] = set()
    while stack:
        value = stack.pop()
        fields = fields_of(value)
        if fields is None or id(value) in seen:
            continue
        seen.add(id(value))
        found |= {name: item for name, item in fields.items() if isinstance(name, str)}
        stack += fields.values()
    return found


def _of_module(fields: dict[Any, Any], budget: Budget) -> Iterator[tuple[str, Tensor]]:
    """A module's parameters and buffers, by the names of its state dict."""
    seen: set[int] = set()
    stack = [(fields, "")]
    while stack:
        fields, place = stack.pop()
        if id(fields) in seen:
            continue
        seen.add(id(fields))
        for kind in ("_parameters", "_buffers"):
            for name, value in _items(fields.get(kind), budget):
                if is_tensor(value):
                    yield _join(place, name, budget), value
        inner = [
            (found, _join(place, name, budget))
            for name, module in _items(fields.get("_modules"), budget)
            if (found := fields_of(module)) is not None
        ]
        stack += reversed(inner)  # the first is the next


def _items(value: object, budget: Budget) -> Iterable[tuple[Any, Any]]:
    """Those of a dictionary; none of anything else."""
    if not isinstance(value, dict):
        return ()
    budget.spend(len(value))
    return value.items()


def _join(place: str, name: object, budget: Budget) -> str:
    """The place of what lies at ``name`` within ``place``."""
    return _paid(f"{place}.{name}" if place else str(name), budget)


def _paid(name: str, budget: Budget) -> str:
    budget.spend(1 + len(name) // STEP)
    return name
