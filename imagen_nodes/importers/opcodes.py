"""The opcodes of pickles, and what each makes the reader do. Source: Python's ``pickletools``."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable

from ..errors import CheckpointError
from .machine import Machine
from .names import NOTHING_RAN, key, pairs

# Bytes of a whole number: nothing in a weights file needs more.
LONGEST_NUMBER = 64
# Bytes from which values stay in the file.
LARGE = 1024
# The protocols that there are.
PROTOCOLS = range(6)


_U1, _U2, _U4, _U8 = (struct.Struct(f"<{code}") for code in "BHIQ")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
STOP = ord(".")

Operation = Callable[[Machine], None]


def _push(value: Callable[[Machine], object]) -> Operation:
    return lambda m: m.push(value(m))


def _bytes(layout: struct.Struct) -> Operation:
    def read(m: Machine) -> None:
        content = m.take(m.number(layout))
        if len(content) < LARGE:
            m.budget.spend(0, len(content))
            content = bytes(content)
        m.push(content)

    return read


def _text(layout: struct.Struct, encoding: str) -> Operation:
    def read(m: Machine) -> None:
        content = m.take(m.number(layout))
        m.budget.spend(0, len(content))
        m.push(str(content, encoding, "surrogatepass"))

    return read


def _whole_number(length: int, m: Machine) -> int:
    if length > LONGEST_NUMBER:
        raise CheckpointError(f"it has a number of {length} bytes, which no weights need")
    return int.from_bytes(m.take(length), "little", signed=True)


def _whole_number_line(m: Machine) -> int:
    digits = m.line()
    if len(digits) > 2 * LONGEST_NUMBER:
        raise CheckpointError(f"it has a number of {len(digits)} digits, which no weights need")
    return int(digits.rstrip(b"L"))


def _integer_line(m: Machine) -> int | bool:
    """INT: ``00`` and ``01`` are False and True."""
    at = m.position
    digits = m.line()
    if digits in (b"00", b"01"):
        return digits == b"01"
    m.position = at
    return _whole_number_line(m)


def _quoted(m: Machine) -> str:
    """STRING: a Python 2 string between quotes."""
    line = m.long_line().strip()
    m.budget.spend(0, len(line))
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise ValueError
    return str(codecs.escape_decode(line[1:-1])[0], "latin1")  # pyright: ignore


def _unicode_line(m: Machine) -> str:
    line = m.long_line()
    m.budget.spend(0, len(line))
    return str(line, "raw-unicode-escape")


def _global(m: Machine) -> None:
    module = m.line().decode()
    m.name(module, m.line().decode())


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _instance(m: Machine) -> None:
    """INST: as GLOBAL, with what lies above the mark as arguments."""
    arguments = tuple(m.since_mark())
    _global(m)
    m.make(m.pop(), arguments)


def _object(m: Machine) -> None:
    """OBJ: the class is the first above the mark."""
    cls, *arguments = m.since_mark()
    m.make(cls, tuple(arguments))


def _new(m: Machine) -> None:
    arguments, cls = m.pop(), m.pop()
    m.make(cls, arguments)


def _new_with_keywords(m: Machine) -> None:
    keywords, arguments, cls = m.pop(), m.pop(), m.pop()
    m.make(cls, (*arguments, keywords) if type(arguments) is tuple else ())


def _protocol(m: Machine) -> None:
    version = m.number(_U1)
    if version not in PROTOCOLS:
        raise ValueError


def _registered(m: Machine) -> None:
    raise CheckpointError(
        f"it names classes by numbers of the program that wrote it (copyreg). {NOTHING_RAN}"
    )


def _out_of_band(m: Machine) -> None:
    raise CheckpointError("its values are in another place than the file (out-of-band buffers)")


def _drop_to_mark(m: Machine) -> None:
    m.since_mark()


def _frame(m: Machine) -> None:
    """How many bytes a reader may fetch at once."""
    m.number(_U8)


def _set_item(m: Machine) -> None:
    m.set_items(list(m.last(2)))


OPERATIONS: dict[int, Operation] = {
    # Numbers and constants
    ord("N"): _push(lambda m: None),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    ord("I"): _push(_integer_line),
    ord("J"): _push(lambda m: m.number(_I4)),
    ord("K"): _push(lambda m: m.number(_U1)),
    ord("M"): _push(lambda m: m.number(_U2)),
    ord("L"): _push(_whole_number_line),
    0x8A: _push(lambda m: _whole_number(m.number(_U1), m)),
    0x8B: _push(lambda m: _whole_number(m.number(_U4), m)),
    ord("F"): _push(lambda m: float(m.line())),
    ord("G"): _push(lambda m: m.number(_F8)),
    # Text and bytes
    ord("S"): _push(_quoted),
    ord("T"): _text(_U4, "latin1"),
    ord("U"): _text(_U1, "latin1"),
    ord("V"): _push(_unicode_line),
    0x8C: _text(_U1, "utf-8"),
    ord("X"): _text(_U4, "utf-8"),
    0x8D: _text(_U8, "utf-8"),
    ord("C"): _bytes(_U1),
    ord("B"): _bytes(_U4),
    0x8E: _bytes(_U8),
    0x96: _bytes(_U8),
    0x97: _out_of_band,
    0x98: _out_of_band,
    # Containers
    ord("("): Machine.mark,
    ord("]"): _push(lambda m: []),
    ord("}"): _push(lambda m: {}),
    0x8F: _push(lambda m: set()),
    ord(")"): _push(lambda m: ()),
    ord("l"): _push(lambda m: m.since_mark()),
    ord("d"): _push(lambda m: pairs(m.since_mark())),
    ord("t"): _push(lambda m: tuple(m.since_mark())),
    0x85: _push(lambda m: m.last(1)),
    0x86: _push(lambda m: m.last(2)),
    0x87: _push(lambda m: m.last(3)),
    0x91: _push(lambda m: frozenset(map(key, m.since_mark()))),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.since_mark()),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.since_mark()),
    0x90: lambda m: m.add_items(m.since_mark()),
    # The stack and the memo
    ord("0"): Machine.drop,
    ord("1"): _drop_to_mark,
    ord("2"): lambda m: m.push(m.top()),
    ord("p"): lambda m: m.put(_whole_number_line(m)),
    ord("q"): lambda m: m.put(m.number(_U1)),
    ord("r"): lambda m: m.put(m.number(_U4)),
    0x94: Machine.memoise,
    ord("g"): lambda m: m.get(_whole_number_line(m)),
    ord("h"): lambda m: m.get(m.number(_U1)),
    ord("j"): lambda m: m.get(m.number(_U4)),
    # Names and objects
    ord("c"): _global,
    0x93: _stack_global,
    ord("i"): _instance,
    ord("o"): _object,
    0x81: _new,
    0x92: _new_with_keywords,
    ord("R"): Machine.call,
    ord("b"): Machine.build,
    ord("P"): lambda m: m.persistent(m.line().decode()),
    ord("Q"): lambda m: m.persistent(m.pop()),
    0x82: _registered,
    0x83: _registered,
    0x84: _registered,
    # Framing
    0x80: _protocol,
    0x95: _frame,
}
