"""Which way imports flow (docs/architecture.md), and that they have no effects."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import imagen_nodes

ROOT = Path(__file__).parent.parent
# A module, or a package, and what of ours it must not import.
FORBIDDEN = {
    "imagen_nodes/errors.py": {""},
    "imagen_nodes/spec.py": {""},
    "imagen_nodes/images.py": {"graph", "networks", "checkpoint", "training", "nodes"},
    "imagen_nodes/tiles.py": {"graph", "networks", "checkpoint", "training", "nodes"},
    "imagen_nodes/networks": {"graph", "checkpoint", "training", "evaluation", "nodes", "comfy"},
    "imagen_nodes/checkpoint.py": {"graph", "training", "evaluation", "nodes", "comfy"},
    "imagen_nodes/graph": {"networks", "training", "evaluation", "nodes", "comfy"},
    "imagen_nodes/training": {"graph", "nodes", "comfy"},
    "imagen_nodes/evaluation": {"graph", "nodes", "training", "comfy"},
    "imagen_nodes/augmentation": {"nodes", "comfy"},
    "imagen_nodes/importers": {"graph", "nodes", "training", "evaluation", "comfy"},
    "nodes": {"networks", "training", "comfy"},
}


def imported(path):
    """The modules of ours that a file imports, relative to the package."""
    parts = path.relative_to(ROOT).parent.parts[1:]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join((*base, name)) for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imagen_nodes"):
            names = [node.module] if node.module != "imagen_nodes" else []
            names = names or [f"imagen_nodes.{alias.name}" for alias in node.names]
            yield from (name.removeprefix("imagen_nodes.") for name in names)


@pytest.mark.parametrize("place", FORBIDDEN)
def test_imports_flow_one_way(place):
    path = ROOT / place
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        for module in imported(file):
            for forbidden in FORBIDDEN[place]:
                assert not f"{module}.".startswith(f"{forbidden}." if forbidden else ""), (
                    f"{file} imports {module}"
                )


def test_the_library_imports_no_torch():
    code = "import sys, imagen_nodes, imagen_nodes.nodes; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_comfyuis_door_does_nothing_elsewhere():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r})\n"
        "before = set(sys.modules)\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print([m for m in set(sys.modules) - before if m.startswith('imagen')])\n"
        "print(hasattr(module, 'WEB_DIRECTORY'))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "False"]


def test_public_names():
    assert imagen_nodes.__all__ == sorted(imagen_nodes.__all__)
    assert all(hasattr(imagen_nodes, name) for name in imagen_nodes.__all__)


def test_the_wheel_has_every_package():
    """pyproject.toml lists them, since two lie beside the library."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {path.parent for path in (ROOT / "imagen_nodes").rglob("__init__.py")}
    names = {".".join(path.relative_to(ROOT).parts) for path in packages}
    assert names <= set(listed)
