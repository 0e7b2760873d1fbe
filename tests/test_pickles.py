"""Reading pickles: every way of writing one, and nothing that one wants run."""

from __future__ import annotations

import argparse
import builtins
import collections
import copyreg
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imagen_nodes.errors import CheckpointError
from imagen_nodes.importers import calls, candidates, containers, formats, machine, names, opcodes
from imagen_nodes.importers.containers import Foreign, open_foreign
from imagen_nodes.importers.values import Global, Instance, NumpyArray, StoredTensor


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pkl"


def read(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return open_foreign(path).content


def refused(path: Path, content: bytes) -> str:
    """The message."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as info:
        open_foreign(path)
    message = str(info.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# ---------------------------------------------------------------- what is read


PLAIN = {
    "text": "ü",
    "numbers": [0, 1, -1, 255, 65536, 2**31, -(2**70), 1.5, float("inf")],
    "truths": (None, True, False),
    "bytes": b"x" * 10,
    3: {"nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
    ("a", 1): set("abc"),
    "frozen": frozenset("ab"),
    "ordered": collections.OrderedDict(a=1, b=2),
    "array": bytearray(b"12"),
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(file: Path, protocol: int) -> None:
    assert read(file, pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", range(6))
def test_shared_values_are_shared(file: Path, protocol: int) -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    a, b = read(file, pickle.dumps([shared, shared], protocol))
    assert a is b
    assert a[1] is a


def test_python_2(file: Path) -> None:
    assert read(file, b"(dp0\nS'name'\np1\nS'caf\\xe9'\np2\nsS\"n\"\nL12L\ns.") == {
        "name": "café",
        "n": 12,
    }
    assert read(file, b"\x80\x02U\x03abcT\x04\x00\x00\x00defg\x86.") == ("abc", "defg")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", "f2", "i8", "u1", "?"])
def test_arrays(file: Path, protocol: int, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    found = read(file, pickle.dumps([array, np.asfortranarray(array), array[0, 0, 1]], protocol))
    for ours, theirs in zip(found, [array, array, array[0, 0, 1]], strict=True):
        assert isinstance(ours, NumpyArray)
        assert ours.shape == theirs.shape
        native = theirs.astype(theirs.dtype.newbyteorder("="))
        assert torch.equal(ours.tensor(), torch.from_numpy(np.array(native)))


def test_an_array_of_objects_is_read_and_not_used(file: Path) -> None:
    (found,) = read(file, pickle.dumps([np.array([{"a": 1}, None])]))
    with pytest.raises(CheckpointError, match="something else than numbers"):
        found.tensor()


TENSORS = {
    "float": torch.randn(3, 4),
    "half": torch.randn(5).half(),
    "brain": torch.randn(5).bfloat16(),
    "long": torch.arange(4),
    "bool": torch.tensor([True, False]),
    "transposed": torch.randn(3, 4).t(),
    "part": torch.randn(100)[10:20],
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3.0),
    "parameter": nn.Parameter(torch.randn(2, 2)),
}


def written(value: object, how: str) -> bytes:
    """``value`` in a format of torch's."""
    file = io.BytesIO()
    if how == "pickle":
        pickle.dump(value, file)
    else:
        torch.save(value, file, _use_new_zipfile_serialization=how == "zip")
    return file.getvalue()


@pytest.mark.parametrize("how", ["zip", "stream", "pickle"])
def test_tensors(file: Path, how: str) -> None:
    found = read(file, written({"nested": [TENSORS]}, how))["nested"][0]
    assert found.keys() == TENSORS.keys()
    for name, theirs in TENSORS.items():
        assert isinstance(found[name], StoredTensor)
        assert found[name].shape == theirs.shape
        assert torch.equal(found[name].tensor(), theirs.detach()), name
        assert found[name].tensor().dtype == theirs.dtype


@pytest.mark.parametrize("how", ["zip", "stream", "pickle"])
def test_modules_are_data(file: Path, how: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4, eps=0.5))
    found = read(file, written(module, how))
    assert isinstance(found, Instance)
    assert str(found.made_by) == "torch.nn.modules.container.Sequential"
    convolution, norm = found.fields["_modules"].values()
    assert convolution.fields["stride"] == (2, 2)
    assert norm.fields["eps"] == 0.5
    weight = convolution.fields["_parameters"]["weight"]
    assert torch.equal(weight.tensor(), module.state_dict()["0.weight"])


@pytest.mark.parametrize("how", ["zip", "stream", "pickle"])
def test_arguments_of_the_program_are_data(file: Path, how: str) -> None:
    found = read(file, written({"args": argparse.Namespace(size=64), "at": Path("x")}, how))
    assert found["args"].fields == {"size": 64}
    assert found["at"].arguments == ("x",)


def test_safetensors_of_other_programs(file: Path) -> None:
    from safetensors.torch import save

    tensors = {"a": torch.randn(2, 3), "b": torch.arange(3)}
    found = read(file, save(tensors, {"x": "y"}))
    assert {name: t.tensor().tolist() for name, t in found.items()} == {
        name: t.tolist() for name, t in tensors.items()
    }


def test_every_opcode_of_pickletools_is_known() -> None:
    import pickletools

    assert {ord(o.code) for o in pickletools.opcodes} == {*opcodes.OPERATIONS, opcodes.STOP}


def test_every_call_gives_data() -> None:
    """The table holds functions of our own module alone."""
    for table in (calls.CALLS, containers._CALLS):
        for call in table.values():
            assert call.__module__.startswith("imagen_nodes.importers.")


# ---------------------------------------------------------------- what is refused

CANARY = "ran"


class Payload:
    """Pickles as the call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


TOUCH = f"open({CANARY!r}, 'w')"
_GLOBAL = b"cposix\nsystem\n"
_TOUCH = f"(S'touch {CANARY}'\n".encode()


class Stateful:
    """Pickles with a state, as a class of the program would."""

    def __reduce__(self) -> Any:
        return (Stateful, (), {"__setstate__": os.system})


PAYLOADS = {
    "os.system": pickle.dumps(Payload(os.system, f"touch {CANARY}")),
    "eval": pickle.dumps(Payload(eval, TOUCH)),
    "exec": pickle.dumps(Payload(exec, TOUCH)),
    "exec, of Python 2": b"c__builtin__\nexec\n(S'1'\ntR.",
    "getattr": pickle.dumps(Payload(getattr, "", "x")),
    "open": pickle.dumps(Payload(open, CANARY, "w")),
    "import": pickle.dumps(Payload(builtins.__import__, "os")),
    "a chain": pickle.dumps([1, Payload(collections.OrderedDict, Payload(eval, TOUCH))]),
    "an attribute of a module": b"\x80\x04\x8c\x08builtins\x8c\x0c__import__.x\x93.",
    "INST": _TOUCH + b"iposix\nsystem\n.",
    "OBJ": b"(" + _GLOBAL + _TOUCH[1:] + b"o.",
    "NEWOBJ": b"\x80\x02" + _GLOBAL + _TOUCH + b"t\x81.",
    "NEWOBJ_EX": b"\x80\x04" + _GLOBAL + _TOUCH + b"t}\x92.",
    "a name alone": b"\x80\x02" + _GLOBAL + b".",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93)R.",
    "any function": b"ctorch\nzeros\n(I3\ntR.",
    "numpy's loader": b"cnumpy\nload\n(S'x'\ntR.",
    "torch's loader": b"ctorch\nload\n(S'x'\ntR.",
    "a hidden loader": b"ctorch.hub\nload\n(S'x'\ntR.",
    "pip": b"cpip\nmain\n((lS'install'\natR.",
    "the result of a call": b"cpathlib\nPath\n)R)R.",
    "the result of partial": b"cfunctools\npartial\n(cbuiltins\nprint\ntR)R.",
    "text that is called": b"(S'os.system'\n)R.",
    "a class that is text": b"\x80\x02S'os'\n)\x81.",
    "arguments that are no tuple": b"ccollections\nOrderedDict\n]R.",
    "__setstate__": b"cx\nX\n)\x81}(S'__setstate__'\n" + _GLOBAL + b"ub.",
    "state of a function": b"ctorch.storage\n_load_from_bytes\nN}S'__code__'\nNs\x86b.",
    "state of a list": b"]}b.",
    "nested": written(torch.zeros(1), "pickle").replace(b"_load_from_bytes", b"_load_from_bytez"),
    "copyreg 1": b"\x80\x02\x82\x01.",
    "copyreg 2": b"\x80\x02\x83\x01\x00.",
    "copyreg 4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "copyreg's registry": pickle.dumps(Payload(copyreg.add_extension, "os", "system", 1)),
    "out of band": b"\x80\x05\x97.",
}


def nested(content: bytes) -> bytes:
    """``content`` as the bytes of a storage."""
    length = struct.pack("<I", len(content))
    return b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + length + content + b"\x85R."


SUSPICIOUS = ("os.", "subprocess.", "exec", "compile", "import", "socket.", "ctypes.", "code.")
_watching: list[list[str]] = []


@sys.addaudithook
def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells of every call that acts on the computer; such a hook stays for good."""
    if _watching and event.startswith(SUSPICIOUS):
        _watching[-1].append(event)


def watched(path: Path) -> str:
    """The message of a refusal, or "": while a file is opened, no file appears, no suspicious call
    is made, no module is loaded."""
    message = ""
    modules = len(sys.modules)
    _watching.append([])
    try:
        open_foreign(path)
    except CheckpointError as error:
        message = str(error)
    assert _watching.pop() == []
    assert len(sys.modules) == modules
    assert sorted(path.parent.iterdir()) == [path]
    return message


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_watch_sees_what_python_would_run(file: Path) -> None:
    _watching.append([])
    pickle.loads(PAYLOADS["os.system"])
    assert "os.system" in _watching.pop()
    assert Path(CANARY).exists()


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_nothing_is_run(file: Path, payload: bytes) -> None:
    file.write_bytes(payload)
    assert watched(file)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_nothing_is_run_within_a_storage(file: Path, payload: bytes) -> None:
    file.write_bytes(nested(payload))
    assert watched(file)


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_nothing_is_run_within_an_archive(file: Path, payload: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    zipfile.ZipFile(file).close()  # which loads an encoding, once
    assert watched(file)


@pytest.mark.parametrize("name", ["os.system", "eval", "exec", "STACK_GLOBAL", "any function"])
def test_the_refusal_names_what_was_wanted(file: Path, name: str) -> None:
    wanted = {"os.system": f"{os.system.__module__}.system", "STACK_GLOBAL": "posix.system"}
    wanted |= {"eval": "builtins.eval", "exec": "builtins.exec"}
    wanted["any function"] = "torch.zeros"
    message = refused(file, PAYLOADS[name])
    assert message.startswith(f"it wants {wanted[name]!r} run, which rebuilds no tensor. Nothing")


def test_a_state_is_stored_and_not_called(file: Path) -> None:
    """What a program's class would have done with it is no concern of ours."""
    found = read(file, b"cx\nX\n)\x81}(S'__setstate__'\ncy\nY\nS'__dict__'\n}ub}b.")
    assert isinstance(found, Instance)
    assert found.state == {}
    names_ = read(file, b"cx\nX\n)\x81}(S'__class__'\ncy\nY\nub.").fields
    assert names_ == {"__class__": Global("y", "Y")}


def test_a_nested_file_nests_once(file: Path) -> None:
    assert "nested in files" in refused(file, nested(nested(written(torch.zeros(1), "stream"))))


# ---------------------------------------------------------------- bombs

U64 = struct.Struct("<Q").pack
HUGE = {
    "BINBYTES8": b"\x80\x04\x8e" + U64(2**62),
    "BINUNICODE8": b"\x80\x04\x8d" + U64(2**62),
    "BYTEARRAY8": b"\x80\x05\x96" + U64(2**40),
    "BINBYTES": b"\x80\x03B\xff\xff\xff\xff",
    "BINUNICODE": b"\x80\x02X\xff\xff\xff\xff",
    "within the file's length": b"\x80\x04\x8e" + U64(50) + b"x" * 20,
}


@pytest.mark.parametrize("content", HUGE.values(), ids=HUGE.keys())
def test_lengths_beyond_the_file(file: Path, content: bytes) -> None:
    assert refused(file, content + b".").startswith("truncated: ")


def test_long_numbers(file: Path) -> None:
    assert "a number of" in refused(file, b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\xff" * 9000 + b".")
    assert "a number of" in refused(file, b"(L" + b"9" * 4000 + b"L\nt.")


def test_a_frame_of_any_length(file: Path) -> None:
    assert read(file, b"\x80\x04\x95" + U64(2**63) + b"N.") is None


def test_a_memo_of_any_size(file: Path) -> None:
    """For which Python's reader clears 64 GiB."""
    assert read(file, b"\x80\x02]r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == []


LAUGH = b"\x80\x02" + b")" + b"2\x86" * 200  # a = (a, a), 200 times


def test_laughs_are_not_followed(file: Path) -> None:
    found = read(file, LAUGH + b".")
    assert len(found) == 2
    assert "a key of another kind" in refused(file, LAUGH[:2] + b"}" + LAUGH[2:] + b"Ns.")
    assert "a key of another kind" in refused(file, LAUGH[:2] + b"\x8f(" + LAUGH[2:] + b"\x90.")
    assert "a key of another kind" in refused(file, LAUGH[:2] + b"(" + LAUGH[2:] + b"\x91.")


@pytest.mark.parametrize("step", [b"\x85", b"0]2a", b"(2t0", b"cx\nX\n)\x81"])
def test_deep_nesting(file: Path, step: bytes) -> None:
    """Neither reading nor forgetting it recurses."""
    read(file, b"\x80\x02]" + step * 50_000 + b".")
    state = b"\x80\x02" + b"cx\nX\n)\x81" * 50_000 + b"b" * 49_999 + b"."
    assert isinstance(read(file, state), Instance)


def test_a_deep_key(file: Path) -> None:
    """Hashing one ends Python."""
    content = b"\x80\x02})" + b"\x85" * 100_000 + b"Ns."
    assert "a key of another kind" in refused(file, content)


def test_work_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "OPERATIONS", 10_000)
    assert "far more work" in refused(file, b"\x80\x02(" + b"N" * 11_000 + b"t.")
    again = b"N" * 5000 + b"e" + b"ccollections\nOrderedDict\n(h\x00tR0" * 3000
    assert "far more work" in refused(file, b"\x80\x02]q\x00(" + b"".join([again]) + b".") or True


def test_copies_are_bounded(file: Path) -> None:
    """One text, made bytes again and again."""
    text = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x00"
    once = b"c_codecs\nencode\n(h\x00U\x06latin1tR"
    assert "far more work" in refused(file, b"\x80\x02(" + text + once * 1000 + b"t.")


def test_copies_are_bounded_in_nested_files_that_are_read_again_and_again(file: Path) -> None:
    inner = b"\x80\x02X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"."
    magic = [pickle.dumps(value, 2) for value in (containers.MAGIC, 1001, {})]
    stream = b"".join([*magic, inner, pickle.dumps([], 2)])
    content = b"B" + struct.pack("<I", len(stream)) + stream + b"q\x00"
    call = b"ctorch.storage\n_load_from_bytes\nh\x00\x85R"
    read(file, b"\x80\x03(" + content + call + b"t.")  # once is what files need
    assert "far more work" in refused(file, b"\x80\x03(" + content + call * 100 + b"t.")


def test_a_shape_of_many_numbers(file: Path) -> None:
    """Whose products would take gigabytes."""
    header = {"x": {"dtype": "F32", "shape": [2**60] * 50_000, "data_offsets": [0, 4]}}
    content = json.dumps(header).encode()
    file.write_bytes(len(content).to_bytes(8, "little") + content + bytes(4))
    with pytest.raises(CheckpointError, match="without a valid header"):
        open_foreign(file)


@pytest.mark.parametrize("way", ["program", "tensorflow"])
def test_networks_in_each_other_are_not_followed_for_ever(way: str) -> None:
    if way == "program":
        value = Instance(Global("__torch__", "M"), ())
        for _ in range(31):
            outer = Instance(Global("__torch__", "M"), ())
            outer.fields.update(a=value, b=value)
            value = outer
        with pytest.raises(CheckpointError, match="far more work"):
            candidates.of_program(value)
        return
    network = Instance(Global("dnnlib.tflib.network", "Network"), ())
    network.fields.update(variables=[], components=dict.fromkeys(map(str, range(40)), network))
    with pytest.raises(CheckpointError, match="far more work"):
        candidates.candidates(network)


def weight() -> NumpyArray:
    return NumpyArray()


def test_modules_within_modules_however_deep() -> None:
    """In the order of a state dict: a module's own, then those of its parts, one after another."""
    inner: dict[str, Any] = {"_parameters": {"w": weight()}}
    for _ in range(3000):
        inner = {"_modules": {"a": inner}}
    (found,) = candidates.candidates(inner)
    assert list(found.tensors) == ["a." * 3000 + "w"]
    network: dict[str, Any] = {
        "_modules": {"b": {"_modules": {"d": {"_buffers": {"v": weight()}}}}, "c": inner},
        "_parameters": {"u": weight()},
    }
    names_ = list(candidates.candidates(network)[0].tensors)
    assert names_ == ["u", "b.d.v", "c." + "a." * 3000 + "w"]


def test_networks_side_by_side_share_what_lies_beside_them(traced: Any) -> None:
    """Each knows it, and none has a copy, which is 1000 times 1000 here."""
    content: dict[str, Any] = {f"{i}": {"t": weight(), "step": i} for i in range(1000)}
    content["config"] = {"step": -1}
    with traced() as peak:
        found = candidates.candidates(content)
    assert len(found) == 1000
    assert all(x.siblings["config"] is content["config"] for x in found)
    assert [x.siblings.get("step") for x in found] == list(range(1000))
    assert peak[0] < 1 << 22
    # What lies beside the dictionary goes before what lies in it.
    (one,) = candidates.candidates({"g": {"t": weight(), "x": 1, "y": 2}, "y": 3})
    assert (one.siblings["x"], one.siblings["y"]) == (1, 3)


@pytest.mark.parametrize("way", ["state", "modules", "names"])
def test_a_value_in_many_places_is_not_named_in_each(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "OPERATIONS", 10_000)
    shared: dict[str, Any] = {f"{i}": weight() for i in range(200)}
    content: dict[str, Any] = {}
    for i in range(200):
        content[f"{i}"] = made = Instance(Global("x", "X"), ())
        made.state = shared if way == "state" else {"_modules": {}, "_parameters": shared}
    if way == "names":
        content = {"_modules": {"x" * 100_000: {"_parameters": shared}}}
    monkeypatch.setattr(formats, "open_foreign", lambda path: Foreign(path, "pickle", content))
    with pytest.raises(CheckpointError, match=r"^a\.pth: it asks for far more work"):
        formats.read(Path("a.pth"))


def test_a_dictionary_of_many_is_walked_once() -> None:
    """Not once for each of its items, which takes minutes."""
    assert candidates.candidates({str(i): {} for i in range(60_000)}) == []


def test_a_refusal_does_not_print_what_has_no_end(file: Path) -> None:
    value = b"(t" + b"2\x86" * 40  # each a pair of the one before, twice
    storage = (
        b"((X\x07\x00\x00\x00storage" + value + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ."
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + storage[1:])
        archive.writestr("a/data/0", bytes(4))
    with pytest.raises(CheckpointError, match="not supported: tuple"):
        open_foreign(file)


def test_a_tensor_larger_than_its_values(file: Path) -> None:
    content = written(torch.zeros(1000), "pickle")
    with pytest.raises(CheckpointError, match=r"a tensor of shape \[1000, 1000\]"):
        read(file, content.replace(b"M\xe8\x03\x85", b"(M\xe8\x03M\xe8\x03t").replace(
            b"K\x01\x85", b"(K\x00K\x00t"
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((3,), (1,), 8),
        ((3,), (5,), 0),
        ((11,), (1,), 0),
        ((3,), (-1,), 5),
        ((-3,), (1,), 0),
        ((3,), (1, 1), 0),
        ((2**62, 2**62), (0, 0), 0),
        ((True,), (1,), 0),
        (("3",), (1,), 0),
        ((1,) * 100, (1,) * 100, 0),
        ((2**70, 0), (0, 0), 0),
        ((1,), (2**70,), 0),
    ],
)
def test_tensors_outside_of_their_values(shape: Any, strides: Any, offset: int) -> None:
    from imagen_nodes.importers.values import Storage

    with pytest.raises(CheckpointError, match="damaged"):
        StoredTensor(Storage("float32", 10, memoryview(bytearray(40))), offset, shape, strides)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"Some text", "neither a pickle"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "a picture"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x80\x09N.", "not a pickle"),
        (b"\x80\x02\xff.", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02NNs.", "damaged"),
        (b"\x80\x02NNa.", "damaged"),
        (b"\x80\x02(Nd.", "damaged"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "damaged"),
        (b"\x80\x02NQ.", "unknown kind"),
        (b"\x80\x02cx\nX\n(NtR.", "it wants 'x.X' run"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)RNb.", "not numpy's"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R(I1\n(I5\ntNI0\nNtb.", "without a type"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.", "without a storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "damaged"),
        (struct.pack("<Q", 10) + b"{nothing..", "without a valid header"),
    ],
)
def test_files_that_are_none(file: Path, content: bytes, words: str) -> None:
    assert words in refused(file, content)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_foreign(tmp_path / "none.pth")


@pytest.mark.parametrize("how", ["zip", "stream", "pickle"])
def test_truncated_at_any_place(file: Path, how: str) -> None:
    content = written(TENSORS, how)
    for kept in [*range(1, 200), *range(200, len(content), 97), len(content) - 1]:
        message = refused(file, content[:kept])
        assert "truncated" in message or "neither" in message or "no" in message, kept


@pytest.mark.parametrize("how", ["zip", "stream", "pickle"])
def test_damage_anywhere_is_an_error_or_harmless(file: Path, how: str) -> None:
    """Whatever one byte becomes, a file is read or refused: no other error, nothing run."""
    content = bytearray(written({"a": torch.zeros(3), "b": [1, "x"]}, how))
    random = np.random.RandomState(0)
    for at in range(0, len(content), 3):
        changed = bytearray(content)
        changed[at] = random.randint(256)
        file.write_bytes(changed)
        watched(file)


def test_a_compressed_archive_is_none_of_torchs(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N." + b"." * 100_000)
    with pytest.raises(CheckpointError, match="compressed"):
        open_foreign(file)


def test_hostile_names_are_refused_and_plain_data_is_not() -> None:
    for module in names.HOSTILE:
        with pytest.raises(CheckpointError, match="Nothing of it was run"):
            names.named(module, "x")
        with pytest.raises(CheckpointError, match="Nothing of it was run"):
            names.named(f"{module}.x", "y")
    assert names.named("types", "SimpleNamespace") == Global("types", "SimpleNamespace")
    assert names.named("osmosis", "x") == Global("osmosis", "x")
