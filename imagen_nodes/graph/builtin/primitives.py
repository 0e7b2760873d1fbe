"""Constants as nodes, and a look at any value."""

from __future__ import annotations

import json
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from ..host import Host
from ..node import Node
from ..sockets import Anything, Ui, Widget

LIMIT = 2**63 - 1


class OneInt(NamedTuple):
    INT: int


class OneFloat(NamedTuple):
    FLOAT: float


class OneString(NamedTuple):
    STRING: str


class OneBoolean(NamedTuple):
    BOOLEAN: bool


class Shown(NamedTuple):
    STRING: str
    ui: Ui


class PrimitiveInt(Node):
    """A whole number, for one or many inputs."""

    id = "PrimitiveInt"
    title = "Int"
    category = "utilities/primitive"

    value: Annotated[int, Field(ge=-LIMIT, le=LIMIT), Widget(control_after_generate="fixed")]
    """The number."""

    def run(self, host: Host) -> OneInt:
        return OneInt(self.value)


class PrimitiveFloat(Node):
    """A number, for one or many inputs."""

    id = "PrimitiveFloat"
    title = "Float"
    category = "utilities/primitive"

    value: Annotated[float, Field(ge=-LIMIT, le=LIMIT), Widget(step=0.1)]
    """The number."""

    def run(self, host: Host) -> OneFloat:
        return OneFloat(self.value)


class PrimitiveString(Node):
    """A line of text, for one or many inputs."""

    id = "PrimitiveString"
    title = "Text String (DEPRECATED)"
    category = "utilities/primitive"

    value: Annotated[str, Widget(multiline=False)]
    """The text."""

    def run(self, host: Host) -> OneString:
        return OneString(self.value)


class PrimitiveStringMultiline(Node):
    """Text of many lines, for one or many inputs."""

    id = "PrimitiveStringMultiline"
    title = "Input Text"
    category = "utilities/primitive"

    value: Annotated[str, Widget(multiline=True)]
    """The text."""

    def run(self, host: Host) -> OneString:
        return OneString(self.value)


class PrimitiveBoolean(Node):
    """Yes or no, for one or many inputs."""

    id = "PrimitiveBoolean"
    title = "Boolean"
    category = "utilities/primitive"

    value: bool
    """The answer."""

    def run(self, host: Host) -> OneBoolean:
        return OneBoolean(self.value)


class PreviewAny(Node):
    """Show any value as text: text as it is, numbers as Python writes them, what JSON can say as
    indented JSON, and tensors with six numbers at each edge."""

    id = "PreviewAny"
    title = "Preview as Text"
    category = "utilities"
    is_output = True

    source: Anything
    """The value to show."""

    def run(self, host: Host) -> Shown:
        text = _text(self.source)
        return Shown(text, {"text": [text]})


def _text(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        return str(value)
    try:
        return json.dumps(value, indent=4)
    except (TypeError, ValueError, RecursionError):
        return _printed(value)


def _printed(value: Any) -> str:
    import torch

    printing: Any = torch
    printing.set_printoptions(profile="default", edgeitems=6)
    try:
        return str(value)
    finally:
        printing.set_printoptions(profile="default")
