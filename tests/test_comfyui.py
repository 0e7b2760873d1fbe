"""The pack inside a real ComfyUI, on the CPU: runs where COMFYUI_DIR names one, whose own
requirements are installed for COMFYUI_PYTHON (default: this Python)."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from imagen_nodes import latents
from imagen_nodes.runner import Runner

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "workflows"
COMFYUI = os.environ.get("COMFYUI_DIR", "")
pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_DIR names no ComfyUI")


@pytest.fixture(autouse=True)
def float32():
    """Both run in the precision that they run in for their users."""


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory):
    """The address of a ComfyUI that has this checkout, linked, as its only pack; its output
    folder is ``comfyui.output``."""
    folder = tmp_path_factory.mktemp("comfyui")
    for name in ("packs", "user"):
        (folder / name).mkdir()
    (folder / "packs" / "imagen-nodes").symlink_to(ROOT)
    shutil.copytree(EXAMPLES.parent / "input", folder / "input")
    paths = folder / "paths.yaml"
    paths.write_text(f"test:\n  base_path: {folder}\n  custom_nodes: packs\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "--port": port,
        "--output-directory": folder / "output",
        "--input-directory": folder / "input",
        "--temp-directory": folder / "temp",
        "--user-directory": folder / "user",
        "--extra-model-paths-config": paths,
        "--database-url": "sqlite:///:memory:",
    }
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    call = [python, "main.py", "--cpu", "--disable-auto-launch"]
    call += [str(part) for pair in options.items() for part in pair]
    log = folder / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(call, cwd=COMFYUI, stdout=out, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert server.poll() is None, log.read_text()[-2000:]
            try:
                ask(f"{address}/system_stats")
                break
            except OSError:
                time.sleep(0.5)
        yield address, folder / "output"
    finally:
        server.terminate()
        server.wait(30)


def test_the_nodes_are_there_with_their_declarations(comfyui):
    ours = {node_id: t for node_id, t in Runner().types.items() if node_id.startswith("Imagen")}
    for node_id, node in ours.items():
        info = ask(f"{comfyui[0]}/object_info/{node_id}")[node_id]
        assert info["display_name"] == node.title
        assert info["output"] == [output.type for output in node.outputs]
        assert info["output_name"] == [output.name for output in node.outputs]
        given = info["input"]["required"] | info["input"].get("optional", {})
        assert list(given) == [port.name for port in node.inputs]
        for port in node.inputs:
            for key in ("default", "min", "max", "tooltip"):
                assert given[port.name][1].get(key) == port.widget.get(key)
        page = f"{comfyui[0]}/extensions/imagen-nodes/docs/{node_id}.md"
        assert urllib.request.urlopen(page, timeout=10).status == 200
    weights = ask(f"{comfyui[0]}/object_info/ImagenLoadCheckpoint")
    name = weights["ImagenLoadCheckpoint"]["input"]["required"]["name"]
    assert "dcgan-cifar10.safetensors" in name[1]["options"]


@pytest.mark.parametrize("name", sorted(p.stem for p in EXAMPLES.glob("*.json")))
def test_same_workflow_same_pixels(comfyui, tmp_path, name):
    address, output = comfyui
    prompt = json.loads((EXAMPLES / f"{name}.json").read_text())
    shown_there = outputs(address, {"prompt": prompt})
    runner = Runner(input=EXAMPLES.parent / "input", output=tmp_path)
    ours = runner.run(prompt)
    for node, shown in shown_there.items():
        for picture, file in zip(shown["images"], ours[node].files, strict=True):
            for a, b in zip(frames(output / picture["filename"]), frames(file), strict=True):
                assert np.array_equal(a, b)


def test_pictures_carry_latents(comfyui):
    """Where the page, which gives ``extra_pnginfo``, asks."""
    address, output = comfyui
    prompt = json.loads((EXAMPLES / "generate.json").read_text())
    (sample,) = (n for n in prompt.values() if n["class_type"] == "ImagenSampleNoise")
    (generate,) = (k for k, n in prompt.items() if n["class_type"] == "ImagenGenerate")
    sample["inputs"] |= {"seed": 77, "count": 3}
    body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": {}}}}
    ((picture,),) = (shown["images"] for shown in outputs(address, body).values())
    found = latents.load(output / picture["filename"], generate)
    assert np.array_equal(found.values, latents.sample(3, found.values.shape[1], 77).values)


def outputs(address, body):
    """What the nodes of a prompt showed."""
    prompt_id = ask(f"{address}/prompt", body)["prompt_id"]
    for _ in range(1200):
        history = ask(f"{address}/history/{prompt_id}")
        if history:
            break
        time.sleep(0.25)
    entry = history[prompt_id]
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry["outputs"]


def frames(path):
    with Image.open(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            yield np.asarray(frame.convert("RGB"))
