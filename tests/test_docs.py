"""What README and docs say is what the program does."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from imagen_nodes import cards
from imagen_nodes.__main__ import _parser
from imagen_nodes.graph.builtin import BUILTIN
from imagen_nodes.graph.node import DeclaredNode
from imagen_nodes.nodes import NODES
from imagen_nodes.training.cli import _changed
from imagen_nodes.training.presets import PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "weights/QUEUE.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def blocks(text, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_two_commands():
    assert blocks(README)[0].splitlines() == [
        "pip install -e . && imagen-nodes run examples/workflows/generate.json",
        "pip install -e '.[dev]' && pytest",
    ]


def test_ci_runs_the_two_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    (function,) = re.findall(r"^readme_line\(\).*$", script, re.MULTILINE)
    for number, line in enumerate(blocks(README)[0].splitlines(), 1):
        done = subprocess.run(
            ["bash", "-c", f"{function}\nreadme_line {number}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.stdout.strip() == line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_docs_is_one(page):
    commands = [
        line
        for block in blocks(page.read_text())
        for line in block.splitlines()
        if line.startswith("imagen-nodes ") and "[--" not in line
    ]
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        assert _parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, place in re.findall(r"\]\(([^)#]*)(#[^)]+)?\)", page.read_text()):
        if target.startswith("http"):
            continue
        other = page.parent / target if target else page
        assert other.exists(), target
        if place:
            titles = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
            assert place[1:] in anchors, place


def test_every_preset_is_in_the_guide():
    page = (ROOT / "docs" / "training.md").read_text()
    assert [name for name in PRESETS if f"`{name}`" not in page] == []


def test_the_queue_s_recipes_are_taken_and_small_enough():
    """Weights in half precision of each; what follows in a block is for `sngan-cifar10`."""
    page = (ROOT / "weights" / "QUEUE.md").read_text()
    more = shlex.split(blocks(page)[-1])
    rows = re.findall(r"^\| \d+ \| `([\w-]+)` \| `(?:.* )?imagen-nodes (train [^`]*)`", page, re.M)
    assert len(rows) > 15
    for name, command in rows:
        words = shlex.split(command) + (more if name == "sngan-cifar10" else [])
        args = _parser().parse_args(words)
        recipe = _changed(PRESETS[args.preset], args)
        with torch.device("meta"):
            network = recipe.task.architectures[recipe.task.shipped].build()
        size = 2 * sum(tensor.numel() for tensor in network.state_dict().values())
        assert size < 6_000_000 or name == "dcgan-cifar10", (name, size)


def test_the_node_table_is_complete():
    for node in map(DeclaredNode, NODES):
        inputs, outputs = (
            ", ".join(p.name for p in ports) for ports in (node.inputs, node.outputs)
        )
        assert f"| {node.title} | {inputs} | {outputs} |" in README


def test_the_changelog_names_every_node():
    page = (ROOT / "CHANGELOG.md").read_text()
    assert [node.title for node in map(DeclaredNode, NODES) if node.title not in page] == []


def test_the_built_in_nodes_are_listed():
    page = (ROOT / "docs" / "headless.md").read_text()
    assert ", ".join(node.id for node in BUILTIN) + "." in page
    assert f"ours, and {len(BUILTIN)} of ComfyUI's own" in README


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(README, "python")
    names = {}
    exec(code, names)
    assert names["results"]["3"]["image"].shape == (16, 32, 32, 3)
    assert all(file.is_file() for file in names["results"]["5"].files)


def test_a_card_is_changed_as_the_docs_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    shutil.copy(ROOT / "weights" / "cgan-cifar10.safetensors", "weights/mine.safetensors")
    (change,) = blocks((ROOT / "docs" / "checkpoints.md").read_text(), "python")
    exec(change, {})
    assert "CC0-1.0" in cards.overview(Path("weights"))


def test_the_page_on_weights_is_up_to_date():
    """If not: imagen-nodes inspect weights > weights/README.md"""
    assert (ROOT / "weights" / "README.md").read_text() == cards.overview(ROOT / "weights")
