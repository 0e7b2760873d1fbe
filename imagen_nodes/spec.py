"""Spec: the base of everything that is declared once and derived from."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""


class Spec(BaseModel):
    """A frozen declaration. Unknown fields are errors; attribute docstrings are descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        ser_json_inf_nan="constants",
    )


def problems(error: ValidationError) -> str:
    """One line a problem: ``field: what is wrong (got value)``."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "value"
        found = "" if item["type"] == "missing" else f" (got {short(item['input'])})"
        lines.append(f"{where}: {item['msg']}{found}")
    return "\n".join(lines)


def short(value: object, limit: int = 80) -> str:
    """``repr(value)``, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
