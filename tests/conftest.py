"""What several tests share."""

import sys
import types

import pytest

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
