"""Reading workflows and changing their inputs."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imagen_nodes.errors import UsageError, WorkflowError
from imagen_nodes.graph import workflow

PROMPT = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        "_meta": {"title": "My. Image"},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    "3": {"class_type": "PrimitiveBoolean", "inputs": {"value": True}},
    "4": {"class_type": "Elsewhere", "inputs": {"knob": 1}},
}


def test_json_and_post_body(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(PROMPT))
    assert workflow.read(path) == PROMPT
    path.write_text(json.dumps({"prompt": PROMPT, "client_id": "x"}))
    assert workflow.read(path) == PROMPT


def test_a_picture_that_carries_its_workflow(tmp_path):
    info = PngInfo()
    info.add_text("prompt", json.dumps(PROMPT))
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    assert workflow.read(path) == PROMPT


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not JSON, nor a PNG that carries a workflow"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected an object of nodes"),
        (b"3", "expected an object of nodes"),
        (b"{}", "expected an object of nodes"),
        (b'{"a": 3}', "node 'a' should be an object with class_type and inputs, found 3"),
        (
            b'{"a": {"inputs": {"b": ' + b"[" * 700 + b"]" * 700 + b"}}}",
            "node a: values lie more than 100 deep in each other",
        ),
        (b'{"a": {"inputs": []}}', "node 'a' should be an object"),
        (b'{"a": {"inputs": {}, "_meta": 1}}', "node 'a' should be an object"),
        (b'{"nodes": [], "links": []}', "editor's format. Export it from ComfyUI"),
        (b"\x89PNG\r\n\x1a\nrubbish", "a damaged PNG"),
    ],
)
def test_what_is_no_workflow(tmp_path, content, text):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(WorkflowError, match=r"bad\.json: ") as caught:
        workflow.read(path)
    assert text in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_in_any_encoding(tmp_path, encoding):
    """As Windows' shell writes it."""
    path = tmp_path / "w.json"
    path.write_text('{"1": {"class_type": "é", "inputs": {}}}', encoding)
    assert workflow.read(path)["1"]["class_type"] == "é"


def test_what_comfyui_has_seen_of_files_is_forgotten():
    """With it, it would not look at them again."""
    node = {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "is_changed": ["abc"]}
    assert workflow.parse({"1": node}) == {"1": {k: node[k] for k in ("class_type", "inputs")}}
    assert "is_changed" in node


def test_a_picture_without_a_workflow(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(WorkflowError, match="carries no workflow"):
        workflow.read(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(WorkflowError, match=r"none\.json: cannot be read: No such file"):
        workflow.read(tmp_path / "none.json")


def changed(runner, *assignments):
    return workflow.override(PROMPT, assignments, runner.types)


def test_set_by_id_and_by_title(runner):
    prompt = changed(
        runner, "1.width=16", "My. Image.height=24", "SaveImage.filename_prefix=a=b.c", "4.knob=2.5"
    )
    assert prompt["1"]["inputs"] == {"width": 16, "height": 24, "batch_size": 1, "color": 0}
    assert prompt["2"]["inputs"]["filename_prefix"] == "a=b.c"
    assert prompt["4"]["inputs"]["knob"] == 2.5
    assert PROMPT["1"]["inputs"]["width"] == 8


def test_text_stays_text(runner):
    assert changed(runner, "2.filename_prefix=1e3")["2"]["inputs"]["filename_prefix"] == "1e3"


@pytest.mark.parametrize(("word", "value"), [("false", False), ("No", False), ("1", True)])
def test_booleans_are_what_they_say(runner, word, value):
    assert changed(runner, f"3.value={word}")["3"]["inputs"]["value"] is value


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("1.width", "expected NODE.INPUT=VALUE"),
        ("width=3", "a node's id or title and an input"),
        ("7.width=3", "no node '7'. There are: 1 (My. Image), 2 (SaveImage)"),
        ("1.breadth=3", "no input 'breadth'. It has: width, height, batch_size, color"),
        ("3.value=maybe", "expected true or false"),
    ],
)
def test_what_cannot_be_set(runner, assignment, text):
    with pytest.raises(UsageError) as caught:
        changed(runner, assignment)
    assert text in str(caught.value)


def test_a_title_that_several_nodes_have(runner):
    prompt = {**PROMPT, "5": {"class_type": "SaveImage", "inputs": {}}}
    with pytest.raises(UsageError, match="nodes 2, 5 are all called 'SaveImage': use an id"):
        workflow.override(prompt, ["SaveImage.filename_prefix=x"], runner.types)


def test_values_from_python_replace_links(runner):
    import torch

    image = torch.full((1, 4, 6, 3), 0.5)
    prompt = {"1": PROMPT["1"], "2": PROMPT["2"]}
    runner.run(prompt, {"2.images": image})
    (saved,) = runner.host.folders["output"].iterdir()
    with Image.open(saved) as picture:
        assert picture.size == (6, 4)
        assert picture.getpixel((0, 0)) == (127, 127, 127)
        assert json.loads(picture.text["prompt"])["2"]["inputs"]["images"] == "<Tensor>"
