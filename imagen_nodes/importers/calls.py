"""What a pickle may have called: our own functions under the names that files use.

Each takes the reader (for its budget), the name, and the arguments, and gives data. The names are
those of torch, numpy and Python; their own functions are never called.
"""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .machine import Call, Machine
from .names import key, new
from .values import (
    SIZES,
    Global,
    Instance,
    NumpyArray,
    NumpyType,
    Storage,
    StoredTensor,
    Tensor,
)

# torch's names of typed storages.
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}  # fmt: skip


def _named(found: object) -> str:
    """A name's text; of anything else, whose text may have no end, its kind."""
    return str(found) if isinstance(found, Global) else type(found).__name__


def storage_type(found: object) -> str:
    """The dtype of a storage class.

    Raises:
        CheckpointError: there is none of that name."""
    if isinstance(found, Global) and found.name in STORAGES:
        return STORAGES[found.name]
    raise CheckpointError(f"it holds tensors of a kind that is not supported: {_named(found)}")


# ---------------------------------------------------------------- tensors


def _tensor(m: Machine, name: Global, arguments: tuple[Any, ...]) -> StoredTensor:
    """``_rebuild_tensor`` and ``_v2``: ``(storage, offset, shape, strides, ...)``."""
    storage, offset, shape, strides = arguments[:4]
    return _stored(storage, offset, shape, strides, "")


def _typed_tensor(m: Machine, name: Global, arguments: tuple[Any, ...]) -> StoredTensor:
    """``_rebuild_tensor_v3``: as the others, with the dtype as seventh."""
    storage, offset, shape, strides, _, _, dtype = arguments[:7]
    if not isinstance(dtype, Global) or dtype.name not in SIZES:
        raise CheckpointError(f"it holds tensors of a kind that is not supported: {_named(dtype)}")
    return _stored(storage, offset, shape, strides, dtype.name)


def _stored(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise CheckpointError("damaged: a tensor without a storage")
    if type(shape) is not tuple or type(strides) is not tuple:
        raise CheckpointError("damaged: a tensor without a shape")
    return StoredTensor(storage, offset, shape, strides, dtype)


def _parameter(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``_rebuild_parameter``: its tensor."""
    if not isinstance(arguments[0], Tensor):
        raise CheckpointError("damaged: a parameter without a tensor")
    return arguments[0]


def _tensor_of_type(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``_rebuild_from_type_v2``: ``(function, class, arguments, state)``."""
    function = arguments[0]
    if isinstance(function, Global) and str(function).startswith("torch._utils._rebuild_"):
        return CALLS[str(function)](m, function, arguments[2])
    raise CheckpointError("damaged: a tensor that nothing rebuilds")


def _shape(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``torch.Size``: a tuple."""
    return arguments[0]


# ---------------------------------------------------------------- numpy


def _array(m: Machine, name: Global, arguments: tuple[Any, ...]) -> NumpyArray:
    """``_reconstruct``: an array, before its state."""
    return NumpyArray()


def _array_of_buffer(m: Machine, name: Global, arguments: tuple[Any, ...]) -> NumpyArray:
    """``_frombuffer``: ``(bytes, dtype, shape, order)``."""
    values, kind, shape, order = arguments
    array = NumpyArray()
    array.fill(shape, kind, order == "F", values)
    return array


def _array_type(m: Machine, name: Global, arguments: tuple[Any, ...]) -> NumpyType:
    return NumpyType(arguments[0])


def _scalar(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``scalar``: ``(dtype, bytes)``, as an array of no dimensions."""
    array = NumpyArray()
    array.fill((), arguments[0], False, arguments[1] if len(arguments) > 1 else b"")
    return array


# ---------------------------------------------------------------- Python's own


def _ordered(m: Machine, name: Global, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """``OrderedDict``, empty or of pairs (Python 2)."""
    items = arguments[0] if arguments else []
    if type(items) is not list:
        raise CheckpointError("damaged: a dictionary of something else than pairs")
    m.budget.spend(len(items))
    return {key(name): value for name, value in items}


def _set(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    items = arguments[0] if arguments else []
    if type(items) is not list:
        raise CheckpointError("damaged: a set of something else than a list")
    m.budget.spend(len(items))
    return set(map(key, items)) if name.name == "set" else frozenset(map(key, items))


def _encoded(m: Machine, name: Global, arguments: tuple[Any, ...]) -> memoryview | bytes:
    """``_codecs.encode``: how old protocols spell bytes."""
    text, encoding = (*arguments, "latin1")[:2]
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise CheckpointError("damaged: bytes that are no text in Latin-1")
    m.budget.spend(1, len(text))
    return text.encode("latin1")


def _bytes(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``bytes`` and ``bytearray``, as old protocols spell them."""
    content = arguments[0] if arguments else b""
    if type(content) is str:
        return _encoded(m, name, arguments)
    if not isinstance(content, memoryview | bytes):
        raise CheckpointError("damaged: bytes of something else")
    return content


def _reconstructed(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``copyreg._reconstructor``: ``(class, base, state)``, how old protocols spell an object."""
    cls, base, state = arguments
    made = _object(m, name, (cls,))
    if isinstance(made, Instance) and isinstance(base, Global) and base.name != "object":
        made.state = state
    return made


def _object(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Any:
    """``copyreg.__newobj__``: ``(class, *arguments)``."""
    if not isinstance(arguments[0], Global):
        raise CheckpointError("damaged: an object of something that is no class")
    return new(arguments[0], arguments[1:])


def _kept(m: Machine, name: Global, arguments: tuple[Any, ...]) -> Instance:
    """Of no use to us and no harm as data: the name and its arguments."""
    return Instance(name, arguments)


CALLS: dict[str, Call] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "torch.Size": _shape,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "numpy.dtype": _array_type,
    "collections.OrderedDict": _ordered,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _reconstructed,
    "copyreg.__newobj__": _object,
}
CALLS |= dict.fromkeys(
    [
        # StyleGAN2-ADA and its descendants: {type, version, module_src, class_name, state}
        "torch_utils.persistence._reconstruct_persistent_obj",
        "argparse.Namespace",
        "builtins.complex",
        "builtins.range",
        "builtins.slice",
        "collections.Counter",
        "collections.defaultdict",
        "collections.deque",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "functools.partial",
        "numpy.random.__RandomState_ctor",
        "numpy.random._pickle.__bit_generator_ctor",
        "numpy.random._pickle.__generator_ctor",
        "numpy.random._pickle.__randomstate_ctor",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib.WindowsPath",
        "torch.device",
        "torch.serialization._get_layout",
    ],
    _kept,
)
