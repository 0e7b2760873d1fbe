"""Spec: the base of everything that is declared once and derived from."""

from __future__ import annotations

import reprlib
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, ValidationError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 4
_BRIEF.maxtuple = _BRIEF.maxlist = _BRIEF.maxdict = _BRIEF.maxset = _BRIEF.maxfrozenset = 12
_BRIEF.maxstring = _BRIEF.maxlong = _BRIEF.maxother = 200
# In place of pydantic's words.
WHOLE = 'takes fields in braces, such as {"kind": ...}'


class Spec(BaseModel):
    """A frozen declaration. Unknown fields are errors; attribute docstrings are descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        ser_json_inf_nan="constants",
    )


def by_kind(default: str) -> Discriminator:
    """Tells a union's members, each tagged with its kind, by that; fields may leave out that they
    are of the ``default`` kind."""

    def kind(value: Any) -> str:
        if isinstance(value, dict):
            return cast(Any, value).get("kind", default)
        return getattr(value, "kind", "")

    return Discriminator(kind)


def check_order(spec: Spec, *fields: str) -> None:
    """
    Raises:
        ValueError: a range of ``spec`` ends before it begins."""
    for field in fields:
        low, high = getattr(spec, field)
        if low > high:
            raise ValueError(f"{field}: {low} to {high}; the lesser comes first")


def problems(error: ValidationError, value: object = None) -> str:
    """One line a problem: ``field: what is wrong (got value)``. With the ``value`` that is wrong,
    fields are named as they are there; else pydantic's names of a union's members lie between."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        where = ".".join(_place(item["loc"], value)) or "value"
        found = "" if item["type"] == "missing" else f" (got {short(item['input'])})"
        text = WHOLE if item["type"] in ("model_type", "model_attributes_type") else item["msg"]
        lines.append(f"{where}: {text}{found}")
    return "\n".join(lines)


def _place(parts: tuple[str | int, ...], value: Any) -> list[str]:
    """``parts`` without those that are no fields of what is there; the last may be missing."""
    found: list[str] = []
    for i, part in enumerate(parts):
        if isinstance(value, dict) and part not in value and i < len(parts) - 1:
            continue
        found.append(str(part))
        if isinstance(value, dict | list):
            try:
                value = cast(Any, value)[part]
            except LookupError:  # it is missing
                value = None
    return found


def short(value: object, limit: int = 80) -> str:
    """``repr(value)``, cut to ``limit`` characters; of what lies deep within others, whose text may
    have no end, nothing."""
    text = _BRIEF.repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
