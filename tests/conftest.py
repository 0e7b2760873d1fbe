"""What several tests share."""

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
