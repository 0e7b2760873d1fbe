"""Pickles, read without running anything.

A pickle is a program for a small stack machine, and Python's own readers let that program import
and call what it likes. The :class:`Machine` here is one that cannot: a name of a class or function
becomes a :class:`~.values.Global`, which is only a name; "call this" is answered from a table of
our own functions (``calls.py``) that rebuild tensors and containers, and refused for every other
name; "set this object's state" stores the state in an inert :class:`~.values.Instance`.

Python's C reader is no base for this, even with ``find_class`` in our hands: it calls any callable
that it meets on its stack, sets attributes of classes and functions, takes classes from a cache of
copyreg that no hook sees, clears a memo of a size that the file names (64 GiB for five bytes), and
hashes keys that nest as deep as the file likes, which ends the process. What is large in a weights
file is values, and those are not copied here: they stay in the mapped file.

Work is bounded by ``Budget``, lengths by the file's own; keys may not nest. Source of the opcodes:
Python's ``pickletools``.
"""

from __future__ import annotations

import struct
from typing import Any

from ..errors import CheckpointError
from .machine import Machine
from .opcodes import OPERATIONS, STOP


def load(machine: Machine) -> Any:
    """The next pickle's value; the machine's position is then behind it.

    Raises:
        CheckpointError: it wants something run, is damaged or truncated, or is a bomb."""
    machine.clear()
    start = machine.position
    try:
        return _run(machine)
    except IndexError:
        if machine.position < len(machine.memory):
            raise _damaged(machine, start) from None
        raise CheckpointError(
            f"truncated: it ends at byte {len(machine.memory)}, within a pickle. Get it again"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error):
        raise _damaged(machine, start) from None


def _run(machine: Machine) -> Any:
    memory, budget = machine.memory, machine.budget
    while True:
        code = memory[machine.position]
        machine.position += 1
        if code == STOP:
            return machine.result()
        budget.operations -= 1
        if budget.operations < 0:
            budget.spend(0)
        OPERATIONS[code](machine)


def _damaged(machine: Machine, start: int) -> CheckpointError:
    if machine.position - start <= 2:
        return CheckpointError("not a pickle")
    return CheckpointError(f"damaged: its pickle makes no sense at byte {machine.position - 1}")
