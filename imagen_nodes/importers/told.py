"""What the user says of a file because it does not say so itself: ``--set NAME=VALUE``."""

from __future__ import annotations

from ..errors import UsageError


class Told:
    """Names and values that importers ask for, each with what is usual."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._asked: set[str] = set()
        self.assumed: dict[str, tuple[str, str]] = {}
        """Names that the user has left open: what is assumed, and what may be said."""

    def choice(self, name: str, *values: str) -> str:
        """One of ``values``; the first, unless the user says otherwise.

        Raises:
            UsageError: it is none of them."""
        found = self._get(name, values[0], " or ".join(values))
        if found not in values:
            raise UsageError(f"--set {name}={found}: takes {' or '.join(values)}")
        return found

    def number(self, name: str, usual: int) -> int:
        """A whole number.

        Raises:
            UsageError: it is none."""
        found = self._get(name, str(usual), "a whole number")
        if not found.isdecimal():
            raise UsageError(f"--set {name}={found}: takes a whole number")
        return int(found)

    def _get(self, name: str, usual: str, values: str) -> str:
        self._asked.add(name)
        if name not in self._values:
            self.assumed[name] = usual, values
        return self._values.get(name, usual)

    @property
    def unused(self) -> tuple[str, ...]:
        """What the user has said in vain."""
        return tuple(name for name in self._values if name not in self._asked)


def told(settings: list[str]) -> dict[str, str]:
    """Of ``NAME=VALUE`` each.

    Raises:
        UsageError: one is of another form."""
    found: dict[str, str] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if not name or not value:
            raise UsageError(f"--set {setting}: takes NAME=VALUE, such as resolution=512")
        found[name] = value
    return found
