"""The built-in nodes against ComfyUI's own results, and against bad input."""

import errno
import hashlib
import json
import os
import re
import shutil
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_nodes.errors import DataError, RunError, StorageError, UsageError, WorkflowError
from imagen_nodes.graph.builtin import BUILTIN, pixels
from imagen_nodes.graph.builtin.files import saved
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.graph.node import registry
from imagen_nodes.runner import Runner

GOLDEN = Path(__file__).parent / "data" / "golden"
VECTORS = sorted(path.name.removesuffix(".api.json") for path in GOLDEN.glob("*.api.json"))
TYPES = registry(BUILTIN)


@pytest.fixture(scope="module")
def golden_runner(tmp_path_factory):
    return Runner(input=GOLDEN / "input", output=tmp_path_factory.mktemp("output"))


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("name", VECTORS)
def test_golden(name, golden_runner):
    """The pixels that ComfyUI saves for a workflow, and the texts that it shows."""
    prompt = json.loads((GOLDEN / f"{name}.api.json").read_text())
    results = golden_runner.run(prompt)
    ends = [node for node in sorted(prompt, key=int) if prompt[node]["class_type"] == "SaveImage"]
    files = [file for node in ends for file in results[node].files]
    count = len(list(GOLDEN.glob(f"{name}.[0-9]*.png")))
    assert len(files) == count
    for i, file in enumerate(files):
        np.testing.assert_array_equal(read(file), read(GOLDEN / f"{name}.{i}.png"))
    texts = GOLDEN / f"{name}.text.json"
    for node, text in json.loads(texts.read_text()).items() if texts.exists() else ():
        found = results[node]["STRING"]
        assert (found if isinstance(found, list) else [found]) == text
