"""What a pickle may name, and what may be a key in it."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .values import Global, Instance

NOTHING_RAN = "Nothing of it was run"


# Modules whose functions act on the computer. None is ever called; that a file names one says what
# the file is.
HOSTILE = frozenset({
    "_ctypes", "_frozen_importlib", "_io", "_operator", "_pickle", "_thread", "aiohttp",
    "asyncio", "bdb", "cProfile", "cffi", "cloudpickle", "code", "codeop", "commands", "ctypes",
    "dill", "ftplib", "gc", "http", "httpx", "importlib", "inspect", "io", "joblib",
    "linecache", "marshal", "multiprocessing", "nt", "ntpath", "operator", "os", "pdb",
    "pickle", "pip", "pkgutil", "platform", "posix", "posixpath", "profile", "pty", "requests",
    "runpy", "setuptools", "shutil", "signal", "smtplib", "socket", "subprocess", "sys",
    "tempfile", "threading", "timeit", "types", "urllib", "webbrowser", "zipimport",
})  # fmt: skip
# What files may name of Python's built-ins: types, as data.
BUILTINS = frozenset({
    "NoneType", "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int",
    "list", "object", "range", "set", "slice", "str", "tuple", "type",
})  # fmt: skip
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def named(module: object, name: object) -> Global:
    """The name, checked.

    Raises:
        CheckpointError: no weights file has a use for it."""
    if type(module) is not str or type(name) is not str:
        raise CheckpointError("damaged: it names a class by something else than text")
    module = RENAMED.get(module, module)
    if module.startswith("numpy._core"):
        module = module.replace("numpy._core", "numpy.core", 1)
    found = Global(module, name)
    hostile = module.split(".", 1)[0] in HOSTILE and (module, name) not in HARMLESS
    if hostile or (module == "builtins" and name not in BUILTINS):
        raise refusal(found)
    return found


# Names of plain data in those modules.
HARMLESS = frozenset({("types", "SimpleNamespace")})


def refusal(found: Global) -> CheckpointError:
    """Why a file that wants ``found`` called is not read."""
    text = str(found) if len(str(found)) <= 100 else str(found)[:97] + "..."
    return CheckpointError(
        f"it wants {text!r} run, which rebuilds no tensor. {NOTHING_RAN}. "
        "A file of weights alone (torch.save(network.state_dict(), ...)) does not need that"
    )


def new(cls: Global, arguments: tuple[Any, ...]) -> Any:
    """A new object of ``cls``, before its state."""
    if str(cls) == "collections.OrderedDict" or str(cls) == "builtins.dict":
        return {}
    return Instance(cls, arguments)


# ---------------------------------------------------------------- keys


def key(value: Any) -> Any:
    """``value``, where it is a key: text, a number, a name, or a short flat tuple of those. Nested
    keys could nest, or branch, without end, and hashing would follow them.

    Raises:
        CheckpointError: it is something else."""
    parts = value if type(value) is tuple else (value,)
    if len(parts) > DEEPEST_KEY or any(type(part) in _UNFIT for part in parts):
        raise CheckpointError("damaged: a dictionary or set with a key of another kind")
    return value


DEEPEST_KEY = 16
_UNFIT = (tuple, list, dict, set, frozenset, memoryview, bytearray)


def pairs(items: list[Any]) -> dict[Any, Any]:
    """Keys and values in turn, as a dictionary."""
    if len(items) % 2:
        raise IndexError
    return dict(zip(map(key, items[::2]), items[1::2], strict=True))
