"""The static pass, against what ComfyUI 0.26.0 answered to the same prompts
(tests/data/validation.json: its answers, less tracebacks and widget options)."""

import json
from pathlib import Path

import pytest

from imagen_nodes.errors import CheckpointError, WorkflowError
from imagen_nodes.folders import WEIGHTS, files, offered_weights, shipped
from imagen_nodes.spec import short

FEATURES = "metrics/mobilenet-v2-features.safetensors"
VECTORS = json.loads((Path(__file__).parent / "data" / "validation.json").read_text())


def comparable(node_errors):
    found = {}
    for node_id, entry in node_errors.items():
        errors = []
        for error in entry["errors"]:
            drop = ("traceback", "input_config")
            extra = {k: v for k, v in error["extra_info"].items() if k not in drop}
            errors.append({**error, "extra_info": extra})
        errors.sort(key=lambda e: (e["type"], e["details"]))
        found[node_id] = {**entry, "errors": errors}
        found[node_id]["dependent_outputs"] = sorted(entry["dependent_outputs"])
    return found


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_answers_as_comfyui_does(vector, runner):
    if vector["accepted"]:
        runner.check(vector["prompt"])
        return
    with pytest.raises(WorkflowError) as caught:
        runner.check(vector["prompt"])
    report = caught.value.report
    assert report["error"] == vector["error"]
    if vector["error"]["type"] != "missing_node_type":  # where ComfyUI lists nothing, we list all
        assert comparable(report["node_errors"]) == vector["node_errors"]


def image(**inputs):
    inputs = {"width": 32, "height": 32, "batch_size": 1, "color": 0, **inputs}
    return {"class_type": "EmptyImage", "inputs": inputs}


def save(node, slot=0):
    return {"class_type": "SaveImage", "inputs": {"images": [node, slot], "filename_prefix": "x"}}


def complaint(runner, prompt):
    with pytest.raises(WorkflowError) as caught:
        runner.check(prompt)
    return str(caught.value)


def test_every_problem_at_once(runner):
    prompt = {
        "1": image(width=-1, batch_size="many"),
        "2": {"class_type": "ImageBlurr", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "InvertMask", "inputs": {"mask": ["1", 0]}},
        "4": {"class_type": "ImageInvert", "inputs": {"image": ["8", 0]}},
        "5": {"class_type": "ImageInvert", "inputs": {"image": ["3", 7]}},
        "6": save("2"),
        "7": {"class_type": "ImageBatch", "inputs": {"image1": ["4", 0], "image2": ["5", 0]}},
        "9": save("7"),
    }
    text = complaint(runner, prompt)
    for line in (
        "6 problems",
        "node 1 (EmptyImage): input width: -1 is smaller than 1",
        "node 1 (EmptyImage): input batch_size: expected INT, found 'many'",
        "node 2 (ImageBlurr): unknown node type 'ImageBlurr'. Closest: ImageBlur",
        "node 3 (InvertMask): input mask takes MASK, but output 0 of node 1 (EmptyImage) is IMAGE",
        "node 4 (ImageInvert): input image links to node '8', which does not exist",
        "node 5 (ImageInvert): input image links to output 7 of node 3 (InvertMask), which has 1",
    ):
        assert line in text


def test_networks_that_measure_are_no_weights_to_choose(runner):
    """They ship beside the generators, for the evaluator alone."""
    assert FEATURES in files([shipped("weights")], WEIGHTS)
    offered = runner.host.choices("weights")
    assert "dcgan-cifar10.safetensors" in offered
    assert FEATURES not in offered
    assert FEATURES not in runner.host.choices("upscale_models")
    with pytest.raises(CheckpointError, match="no weights"):
        runner.host.weights(FEATURES)


def test_weights_in_a_folder_that_is_a_link(tmp_path):
    """As in ComfyUI, to the models of another program; not in a circle."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x.safetensors").write_bytes(b"")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "weights")
    assert list(offered_weights([tmp_path / "weights"])) == ["linked/x.safetensors"]
    assert list(files([tmp_path / "weights"], WEIGHTS)) == []


def test_a_missing_weights_file_is_answered_with_what_there_is(runner):
    prompt = {
        "1": {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": "dcgan-cats.safetensors"}},
        "2": {
            "class_type": "ImagenSampleNoise",
            "inputs": {"model": ["1", 0], "seed": 0, "count": 1},
        },
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    text = complaint(runner, prompt)
    assert "input name: there is no 'dcgan-cats.safetensors'" in text
    assert "There is: cgan-cifar10.safetensors, dcgan-cifar10.safetensors, denoise" in text


def test_constants_are_converted_in_a_copy(runner):
    prompt = {"1": image(width="40", height=33.9, color=True), "2": save("1")}
    checked = runner.check(prompt)
    assert checked.prompt["1"]["inputs"] == {"width": 40, "height": 33, "batch_size": 1, "color": 1}
    assert prompt["1"]["inputs"]["width"] == "40"


def test_unknown_inputs_are_warned_of(runner):
    checked = runner.check({"1": image(colour="red"), "2": save("1")})
    assert checked.warnings == (
        "node 1 (EmptyImage): unknown input 'colour' is ignored. "
        "It has: batch_size, color, height, width",
    )


def test_circles_of_all_with_all_are_told_in_brief(runner):
    """There are more of them than could be listed."""
    ids = [str(i) for i in range(60)]
    inputs = {"image": ["0", 0], **{f"more{i}": [i, 0] for i in ids}}
    prompt = {i: {"class_type": "ImageInvert", "inputs": inputs} for i in ids}
    prompt["end"] = {"class_type": "PreviewImage", "inputs": {"images": ["0", 0]}}
    with pytest.raises(WorkflowError) as caught:
        runner.check(prompt)
    found = caught.value.report["node_errors"]
    assert sorted(found) == sorted(ids)
    assert all(len(node["errors"]) == 1 for node in found.values())
    assert len(str(caught.value)) < 100_000


def test_sources_come_first_in_a_long_chain(runner):
    prompt = {"0": image()}
    for i in range(1, 3000):  # longer than Python's recursion limit
        prompt[str(i)] = {"class_type": "ImageInvert", "inputs": {"image": [str(i - 1), 0]}}
    order = runner.check({**prompt, "end": save("2999")}).order
    assert order == (*map(str, range(3000)), "end")


@pytest.mark.parametrize(
    "value", [None, [], {}, {"a": {}}, [["1"], 0], [1, 0], ["1", "0"], ["1", 0.0], ["1", None]]
)
def test_nonsense_in_the_place_of_a_link_or_constant(runner, value):
    prompt = {"1": image(width=value), "2": save("1")}
    assert "node 1 (EmptyImage)" in complaint(runner, prompt)


@pytest.mark.parametrize("value", [["a.png"], ["1", 0], {"b": 1}, None])
def test_a_picture_in_the_object_that_lists_travel_in(runner, value):
    load = {"class_type": "LoadImage", "inputs": {"image": {"__value__": value}}}
    text = complaint(runner, {"1": load, "2": save("1")})
    assert "node 1 (LoadImage): input image: expected COMBO, found" in text


def test_folders_are_listed_once_and_only_where_that_matters(runner, monkeypatch):
    listed = []
    monkeypatch.setattr(runner.host, "choices", lambda kind: listed.append(kind) or ["w"])
    (runner.host.folders["input"] / "a.png").write_bytes(b"")
    loads = {
        str(i): {"class_type": "LoadImage", "inputs": {"image": "a.png"}} for i in range(10, 13)
    }
    weights = {
        str(i): {"class_type": "ImagenLoadCheckpoint", "inputs": {"name": "w"}} for i in range(3)
    }
    shown = {
        f"s{i}": {"class_type": "PreviewAny", "inputs": {"source": [i, 0]}}
        for i in (*loads, *weights)
    }
    runner.check({**loads, **weights, **shown})
    assert listed == ["weights"]


@pytest.mark.parametrize("class_type", [None, 3, ["EmptyImage"], {}, ""])
def test_nonsense_in_the_place_of_a_class(runner, class_type):
    assert "node 1" in complaint(runner, {"1": {"class_type": class_type}, "2": save("1")})


def test_what_a_message_quotes_has_an_end():
    """Pairs of pairs of ...: a text of 2^60 characters, of a file of 100 bytes."""
    value = ()
    for _ in range(60):
        value = (value, value)
    assert len(short(value)) == 80
    assert short([["1"], 0]) == "[['1'], 0]"
    assert short("x" * 500) == "'" + "x" * 76 + "..."
