"""The command line, as its user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imagen_nodes.__main__ import main

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples" / "workflows").glob("*.json"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder: no input, no output, no weights of one's own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs(example, capsys):
    assert main(["run", str(example), "--input", str(ROOT / "examples" / "input")]) == 0
    files = capsys.readouterr().out.split()
    assert files
    for file in files:
        Image.open(file).verify()


def test_generate_writes_a_grid_of_64():
    assert main(["run", str(ROOT / "examples/workflows/generate.json")]) == 0
    with Image.open("output/generate_00001_.png") as picture:
        assert picture.size == (8 * 32 + 7 * 2, 8 * 32 + 7 * 2)


def test_a_saved_picture_runs_again_and_gives_the_same_pixels():
    main(["run", "generate", "--set", "Sample Noise.seed=9", "--output", "a"])
    assert main(["run", "a/generate_00001_.png", "--output", "b"]) == 0
    first, second = (Image.open(f"{d}/generate_00001_.png") for d in "ab")
    assert first.tobytes() == second.tobytes()


def test_json_gives_one_event_a_line(capsys):
    assert main(["run", "examples/workflows/generate.json", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events[:2]] == ["start", "node"]
    assert events[-1] == {"event": "done"}
    (output,) = [e for e in events if e["event"] == "output"]
    assert output["node"] == "5"
    assert Path(output["files"][0]).is_file()
    assert output["images"][0]["filename"] == "generate_00001_.png"
    assert {"event": "progress", "node": "3", "done": 64, "total": 64} in events


def test_own_weights_come_before_those_that_ship(capsys):
    Path("mine").mkdir()
    Path("mine/dcgan-cifar10.safetensors").write_bytes(b"no weights")
    assert main(["run", "generate", "--weights", "mine"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "error: node 1 (Load Checkpoint): mine/dcgan-cifar10.safetensors: not a"
    )


def write(prompt):
    Path("w.json").write_text(json.dumps(prompt))
    return "w.json"


BAD = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_wrong_workflow_is_exit_code_2(verb, capsys):
    assert main([verb, write(BAD)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error: w.json: the workflow has 1 problem:\n"
        "  node 1 (EmptyImage): input width: 0 is smaller than 1\n"
    )
    assert not Path("output").exists()


def test_a_wrong_workflow_as_json_is_what_comfyui_answers(capsys):
    assert main(["check", write(BAD), "--json"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "error"
    assert event["error"]["type"] == "prompt_outputs_failed_validation"
    (problem,) = event["node_errors"]["1"]["errors"]
    assert problem["type"] == "value_smaller_than_min"
    assert event["node_errors"]["1"]["dependent_outputs"] == ["2"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (["run", "nowhere.json"], "nowhere.json: cannot be read"),
        (["run", ""], ".: cannot be read: Is a directory"),
        (["check", "a\0b"], "cannot be read: embedded null"),
        (["run", "generate", "--weights", "nowhere"], "--weights nowhere: no such folder"),
        (["run", "generate", "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["run", "generate", "--set", "Sample Noise.sed=1"], "no input 'sed'"),
        (["run", "generate", "--set", "Sample Noise.seed=4294967296"], "is bigger than 4294967295"),
        (["check", "generate", "--set", "1.name=cats.safetensors"], "There is: cgan-cifar10"),
        (["run", "super_resolve"], "pearl.png: no such file of pictures in the input folder input"),
        (["run", "super_resolve"], "Another folder is named by --input"),
        (
            ["check", "generate", "--set", "Generate.model=dcgan-cifar10.safetensors"],
            "input model: takes a link to an output of type IMAGEN_MODEL, found 'dcgan-cifar10",
        ),
        (
            ["check", "generate", "--set", "1.name=cats.pkl"],
            "'cats.pkl' is a pickle, which can run",
        ),
    ],
)
def test_a_wrong_call_is_exit_code_2(call, text, capsys):
    assert main(call) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error


def test_a_class_that_is_no_text(capsys):
    bad = {"1": {"class_type": ["x"], "inputs": {"a": 1}}}
    assert main(["check", write(bad), "--set", "1.a=2"]) == 2
    assert "unknown node type" in capsys.readouterr().err


def test_text_that_no_terminal_shows(capsys):
    shown = {"1": {"class_type": "PreviewAny", "inputs": {"source": "a\ud800b"}}}
    assert main(["run", write(shown)]) == 0
    assert capsys.readouterr().out == "a\\ud800b\n"


@pytest.mark.parametrize("json_too", [[], ["--json"]])
@pytest.mark.parametrize("call", [["run", "{" * 300], ["inspect", "x" * 300], ["run", "a"]])
def test_paths_that_cannot_be_looked_at(call, json_too, monkeypatch, capsys):
    """Too long a name; no permission, which root always has."""

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", "a.png")

    if call == ["run", "a"]:
        monkeypatch.setattr("imagen_nodes.runner.Runner.check", refuse)
    assert main([*call, *json_too]) == (2 if call[1].startswith("{") else 1)
    captured = capsys.readouterr()
    said = json.loads(captured.out)["message"] if "--json" in json_too else captured.err
    assert "Permission denied" in said if call == ["run", "a"] else "File name too long" in said


def test_a_circle_of_links_is_no_picture(capsys):
    Path("input").mkdir()
    Path("input/circle.png").symlink_to("circle.png")
    assert main(["run", "super_resolve", "--set", "Load Image.image=circle.png"]) == 2
    assert "circle.png" in capsys.readouterr().err


def test_check_says_what_is_odd(capsys):
    prompt = {**BAD, "1": {**BAD["1"], "inputs": {**BAD["1"]["inputs"], "width": 8, "hue": 1}}}
    assert main(["check", write(prompt)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "w.json: valid, 2 nodes\n"
    assert "warning: node 1 (EmptyImage): unknown input 'hue'" in captured.err


def test_a_failed_run_is_exit_code_1_in_json_too(capsys):
    Path("weights").mkdir()
    Path("weights/dcgan-cifar10.safetensors").write_bytes(b"")
    assert main(["run", "generate", "--json"]) == 1
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (event["event"], event["node_id"], event["node_type"]) == (
        "error",
        "1",
        "ImagenLoadCheckpoint",
    )


def test_nodes_are_listed(capsys):
    assert main(["nodes"]) == 0
    assert "ImagenGenerate" in capsys.readouterr().out
    assert main(["nodes", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["ImagenSampleNoise"]["input"]["required"]["count"][1]["max"] == 4096
    assert info["LoadImage"]["output"] == ["IMAGE", "MASK"]


def test_inspect_shows_all_of_a_folder_as_json(capsys):
    assert main(["inspect", str(ROOT / "weights"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["denoise.safetensors"]["card"]["task"] == "restoration"
    assert main(["inspect", "denoise.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found["denoise.safetensors"]


def test_inspect_shows_the_card(capsys):
    file = str(ROOT / "weights" / "dcgan-cifar10.safetensors")
    assert main(["inspect", file]) == 0
    assert "dcgan-generator" in capsys.readouterr().out
    assert main(["inspect", file, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["card"]["architecture"]["resolution"] == 32
    assert shown["tensors"]["main.0.weight"] == {"shape": [100, 512, 4, 4], "dtype": "F16"}


@pytest.mark.parametrize(
    "call",
    [
        ["check", "generate"],
        ["nodes"],
        ["nodes", "--json"],
        ["inspect", str(ROOT / "weights" / "dcgan-cifar10.safetensors")],
        ["train", "--help"],
    ],
    ids=lambda call: call[0],
)
def test_verbs_that_need_no_tensor_import_no_torch(call):
    code = (
        "import sys; from imagen_nodes.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True)
    assert done.stderr.strip() == "False"
