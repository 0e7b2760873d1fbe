"""The stack machine that pickles are programs for, of which nothing can be run."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CheckpointError
from .names import NOTHING_RAN, key, named, new, pairs, refusal
from .values import Global, Instance, NumpyArray, NumpyType

# Weights files have some 10,000 operations; each costs about a microsecond and at most 0.2 KB.
OPERATIONS = 2_000_000
# Bytes of a line, of the text protocol: a name or a number.
LONGEST_LINE = 4096


class Budget:
    """How much work a file may still ask for, over all pickles in it."""

    def __init__(self, size: int) -> None:
        self.operations = OPERATIONS
        # Bytes that may be copied within a file of ``size`` bytes: as text, from Python 2's text
        # to bytes, and once more where these are a file within it.
        self.bytes = 4 * size + 4096

    def spend(self, operations: int, bytes: int = 0) -> None:
        """Take from the budget.

        Raises:
            CheckpointError: there is not so much left."""
        self.operations -= operations
        self.bytes -= bytes
        if self.operations < 0 or self.bytes < 0:
            raise CheckpointError("it asks for far more work than weights need; it is not read on")


class Machine:
    """A stack, a memo, and the place in ``memory`` where the pickle goes on.

    Args:
        calls: what a pickle may have called, by name: functions of ours that give data.
        persistent: gives what a pickle refers to that lies outside of it.
        depth: number of files that this one lies in.
    """

    def __init__(
        self,
        memory: memoryview,
        calls: Mapping[str, Call],
        persistent: Callable[[object], object],
        budget: Budget,
        depth: int = 0,
    ) -> None:
        self.memory = memory
        self.position = 0
        self.budget = budget
        self.depth = depth
        self._calls = calls
        self._persistent = persistent
        self.clear()

    def clear(self) -> None:
        """Be ready for the next pickle."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    # ------------------------------------------------------------ reading

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes, in the file's memory."""
        start, end = self.position, self.position + length
        if end > len(self.memory):
            self.position = len(self.memory)
            raise IndexError
        self.position = end
        return self.memory[start:end]

    def number(self, layout: struct.Struct) -> Any:
        """The next number."""
        try:
            (value,) = layout.unpack_from(self.memory, self.position)
        except struct.error:
            self.position = len(self.memory)
            raise IndexError from None
        self.position += layout.size
        return value

    def line(self, limit: int = LONGEST_LINE) -> bytes:
        """What comes before the next line feed."""
        rest = bytes(self.memory[self.position : self.position + limit])
        end = rest.find(b"\n")
        if end < 0:
            self.position += len(rest)
            raise IndexError
        self.position += end + 1
        return rest[:end]

    def long_line(self) -> bytes:
        """As :meth:`line`, of any length: text protocols have whole arrays on one."""
        limit = LONGEST_LINE
        while True:
            rest = bytes(self.memory[self.position : self.position + limit])
            if b"\n" in rest or self.position + limit >= len(self.memory):
                return self.line(limit)
            limit *= 8

    # ------------------------------------------------------------ the stack

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def result(self) -> Any:
        if not self._stack:
            raise ValueError
        return self._stack[-1]

    def top(self) -> Any:
        return self._stack[-1]

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def drop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def last(self, count: int) -> tuple[Any, ...]:
        if len(self._stack) < count:
            raise IndexError
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        return items

    # ------------------------------------------------------------ the memo

    def put(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    def memoise(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, key: int) -> None:
        self._stack.append(self._memo[key])

    # ------------------------------------------------------------ containers

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Instance):
            target = target.elements
        if type(target) is not list:
            raise TypeError
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Instance):
            target = target.entries
        if type(target) is not dict:
            raise TypeError
        target.update(pairs(items))

    def add_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not set:
            raise TypeError
        target.update(map(key, items))

    # ------------------------------------------------------------ names and objects

    def name(self, module: str, name: str) -> None:
        self.push(named(module, name))

    def make(self, cls: object, arguments: object) -> None:
        """What is left of an object that its class would make: its name and arguments."""
        if not isinstance(cls, Global) or not isinstance(arguments, tuple):
            raise CheckpointError(
                f"it makes an object of something that is no class. {NOTHING_RAN}"
            )
        self.push(new(cls, arguments))

    def call(self) -> None:
        """REDUCE: the one operation that calls, and what it may call is in our own table."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise CheckpointError(f"it calls something that is no function. {NOTHING_RAN}")
        known = self._calls.get(str(function))
        if known is None:
            raise refusal(function)
        self.push(known(self, function, arguments))

    def build(self) -> None:
        """BUILD: an object's state is kept, in the object; no method of anything is called."""
        state, target = self.pop(), self.top()
        match target:
            case Instance():
                target.state = state
            case NumpyArray() | NumpyType():
                target.build(state)
            case dict():  # of an OrderedDict: attributes such as a state dict's _metadata
                pass
            case _:
                raise CheckpointError(
                    f"it sets the state of a {type(target).__name__}, which has none. {NOTHING_RAN}"
                )

    def persistent(self, identity: object) -> None:
        self.push(self._persistent(identity))


Call = Callable[[Machine, Global, tuple[Any, ...]], Any]
"""Answers a call in a pickle: of the reader, the name, the arguments."""
