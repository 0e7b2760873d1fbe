"""Nodes: declared once, as a pydantic class. Everything else is derived from it.

    class Brighten(Node):
        '''Add light.'''                               help page
        id = "Brighten"; title = "Brighten"; category = "Imagen/light"
        image: Image                                   link IMAGE
        '''Picture to brighten.'''                     tooltip
        amount: Annotated[float, Field(ge=0, le=1)] = 0.1      widget, its limits and default

        class Outputs(NamedTuple):
            image: Image

        def run(self, host: Host) -> Outputs: ...

A node is constructed only when its links are resolved, so the types are true while ``run`` runs.
"""

from __future__ import annotations

import inspect
import types
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Protocol,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..spec import Spec, problems
from .host import Host
from .sockets import UI, Added, Choices, Socket, Widget

SCALARS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "STRING", bool: "BOOLEAN"}


class Refusal(str):
    """What :meth:`Node.check` says in ComfyUI's words, with a ``reading`` for people."""

    reading: str

    def __new__(cls, details: str, reading: str) -> Refusal:
        made = super().__new__(cls, details)
        made.reading = reading
        return made


@dataclass(frozen=True)
class Input:
    """An input of a node type: a link or a widget.

    ``type`` is ComfyUI's name; a COMBO has ``options`` (fixed) or ``kind`` (listed by the host).
    ``widget`` holds ComfyUI's option keys: default, min, max, step, tooltip, ..."""

    name: str
    type: str
    required: bool = True
    options: tuple[Any, ...] = ()
    kind: str = ""
    widget: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_link(self) -> bool:
        """Whether no constant in a workflow can be its value."""
        return not {*SCALARS.values(), "COMBO", "*"} & set(self.type.split(","))

    def choices(self, host: Host) -> list[Any]:
        """The options of a COMBO, now."""
        return list(host.choices(self.kind) if self.kind else self.options)

    def declaration(self, host: Host) -> tuple[Any, dict[str, Any]]:
        """The V1 form: ``(type or list of options, option keys)``."""
        return (self.choices(host) if self.type == "COMBO" else self.type, dict(self.widget))


@dataclass(frozen=True)
class Output:
    """An output of a node type."""

    name: str
    type: str
    is_list: bool = False
    meaning: str = ""


class Result(NamedTuple):
    """What one call of a node gives: a value for each output, and what the page shows."""

    outputs: tuple[Any, ...]
    ui: dict[str, Any]


class NodeType(Protocol):
    """What the executor runs. ``inputs`` and ``outputs`` are in order."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def inputs(self) -> tuple[Input, ...]: ...
    @property
    def outputs(self) -> tuple[Output, ...]: ...
    @property
    def is_output(self) -> bool:
        """Runs for its effect; a workflow needs at least one."""
        ...

    @property
    def takes_lists(self) -> bool:
        """Called once with whole lists, instead of once an element."""
        ...

    @property
    def checked(self) -> frozenset[str]:
        """Inputs that :meth:`check` judges instead of the limits and options."""
        ...

    def check(self, host: Host, values: Mapping[str, Any]) -> str:
        """What is wrong with the ``checked`` constants; empty: nothing."""
        ...

    def fingerprint(self, host: Host, values: Mapping[str, Any]) -> Any:
        """What else than its inputs a result depends on, as a value that can be compared; NaN:
        it is not known, since one of the inputs that say so is linked."""
        ...

    def run(self, host: Host, values: Mapping[str, Any]) -> Result: ...


class Node(Spec):
    """A node. Subclasses set ``id``, ``title`` and ``category``, declare their inputs as fields and
    name their outputs in the NamedTuple that :meth:`run` returns (a field ``ui`` is not one). Where
    it takes lists, each field is a list."""

    id: ClassVar[str]
    title: ClassVar[str]
    category: ClassVar[str]
    is_output: ClassVar[bool] = False
    takes_lists: ClassVar[bool] = False
    carries: ClassVar[bool] = False
    """Uses :meth:`~.host.Host.carry`."""
    checked: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def run(self, host: Any) -> tuple[Any, ...]: ...

    @classmethod
    def check(cls, host: Any, values: Mapping[str, Any]) -> str:
        """See :meth:`NodeType.check`."""
        return ""

    @classmethod
    def fingerprint(cls, host: Any, values: Mapping[str, Any]) -> Any:
        """See :meth:`NodeType.fingerprint`."""
        return None


class DeclaredNode:
    """The node type of a :class:`Node` class."""

    def __init__(self, node: type[Node]) -> None:
        self.node = node
        self.id = node.id
        self.title = node.title
        self.category = node.category
        self.is_output = node.is_output
        self.takes_lists = node.takes_lists
        self.carries = node.carries
        self.checked = node.checked
        self.check = node.check
        self.fingerprint = node.fingerprint

    @property
    def description(self) -> str:
        """The class docstring, dedented: the help page's text."""
        return inspect.cleandoc(self.node.__doc__ or "")

    @property
    def inputs(self) -> tuple[Input, ...]:
        return _inputs(self.node)

    @property
    def outputs(self) -> tuple[Output, ...]:
        return tuple(output for output in _returned(self.node) if output.type != UI.type)

    def run(self, host: Host, values: Mapping[str, Any]) -> Result:
        try:
            node = self.node.model_validate(dict(values))
        except ValidationError as error:
            raise ValueError(problems(error)) from error
        named = zip(_returned(self.node), node.run(host), strict=True)
        outputs: list[Any] = []
        ui: dict[str, Any] = {}
        for output, value in named:
            if output.type == UI.type:
                ui = value
            else:
                outputs.append(value)
        return Result(tuple(outputs), ui)


def registry(nodes: Iterable[type[Node]]) -> dict[str, NodeType]:
    """Node types by id."""
    types: dict[str, NodeType] = {node.id: DeclaredNode(node) for node in nodes}
    return types


@cache
def _inputs(node: type[Node]) -> tuple[Input, ...]:
    return tuple(_input(name, info) for name, info in node.model_fields.items())


@cache
def _returned(node: type[Node]) -> tuple[Output, ...]:
    """What ``run`` returns: the outputs, and ``ui`` where there is one."""
    returned = get_type_hints(node.run)["return"]
    hints = get_type_hints(returned, include_extras=True)
    return tuple(_output(name, hint) for name, hint in hints.items())


def _input(name: str, info: FieldInfo) -> Input:
    annotation, metadata = _unwrap(info.annotation)
    metadata = [*info.metadata, *metadata]
    widget: dict[str, Any] = {}
    if info.description:
        widget["tooltip"] = info.description
    if not info.is_required() and info.default is not None:
        # The widget of an input that takes a list holds one element.
        lists = get_origin(info.annotation) is list
        widget["default"] = info.default[0] if lists else info.default
    type_, options, kind = SCALARS.get(annotation, ""), (), ""
    if get_origin(annotation) is Literal:
        type_, options = "COMBO", get_args(annotation)
    required = info.is_required() or info.default is not None
    for item in metadata:
        if isinstance(item, Socket):
            type_ = item.type
        elif isinstance(item, Added):
            required = False
        elif isinstance(item, Choices):
            type_, kind = "COMBO", item.kind
        elif isinstance(item, Widget):
            widget |= {k: v for k, v in asdict(item).items() if v is not None}
        else:
            limits = {"min": getattr(item, "ge", None), "max": getattr(item, "le", None)}
            widget |= {key: limit for key, limit in limits.items() if limit is not None}
    assert type_, f"input {name} has no socket type"
    return Input(name, type_, required, options, kind, widget)


def _output(name: str, hint: Any) -> Output:
    annotation, metadata = _unwrap(hint)
    for item in metadata:
        if isinstance(item, Socket):
            return Output(name, item.type, item.is_list, item.meaning)
    return Output(name, SCALARS[annotation])


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """The type inside ``Annotated``, ``| None`` or ``list``, and the annotations met on the way."""
    metadata: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            for item in more:
                metadata += item.metadata if isinstance(item, FieldInfo) else [item]
        elif get_origin(hint) is list:
            (hint,) = get_args(hint)
        elif get_origin(hint) in (Union, types.UnionType):
            (hint,) = [part for part in get_args(hint) if part is not type(None)]
        else:
            return hint, metadata
