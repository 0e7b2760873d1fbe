"""What several tests share."""

import subprocess
import sys
import tracemalloc
import types
from contextlib import contextmanager

import pytest
import torch

from imagen_nodes.runner import Runner


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Nodes run in float32, since tests compare numbers, also where bfloat16 is faster."""
    monkeypatch.setattr("imagen_nodes.devices.is_fast_in_bfloat16", lambda device: False)


@pytest.fixture
def runner(tmp_path):
    """A runner whose folders are in ``tmp_path``; its events are in ``runner.events``."""
    (tmp_path / "input").mkdir()
    events = []
    runner = Runner(input=tmp_path / "input", output=tmp_path / "output", listen=events.append)
    runner.events = events
    return runner


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder, which is the one to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def peak():
    """Runs code in a process of its own; what that printed, and the memory that it took at its
    highest, with what torch itself takes, GiB."""

    def run(code):
        # Not ru_maxrss, in which a child begins with its parent's.
        code += "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert not done.returncode, done.stderr
        *printed, kib = done.stdout.split()
        return " ".join(printed), int(kib) / 2**20

    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    return run


@pytest.fixture
def traced():
    """What is entered to hear afterwards how many bytes Python and numpy held at their highest."""

    @contextmanager
    def trace():
        peak = []
        tracemalloc.start()
        try:
            yield peak
        finally:
            peak.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    return trace


@pytest.fixture
def persistence(monkeypatch):
    """NVIDIA's module that objects of theirs name, and that must not be called."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise SystemExit("run")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)


@pytest.fixture
def one_thread():
    """Sums are the same in every process, and tests beside each other do not fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pictures(place):
    """A folder ``pictures`` of the one to work in: 20 of 16 px in two classes."""
    from .small_runs import write_pictures

    write_pictures(place / "pictures", 20)
    return place / "pictures"
