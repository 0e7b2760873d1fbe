"""What is derived from a node's declaration."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import Field

from imagen_nodes.graph import describe
from imagen_nodes.graph.builtin import BUILTIN
from imagen_nodes.graph.node import DeclaredNode, Node
from imagen_nodes.graph.sockets import Choices, Image, ImageList, Mask, Seed, Ui, Widget
from imagen_nodes.nodes import NODES

HELP = Path(__file__).parent.parent / "nodes" / "web" / "docs"


class Given(NamedTuple):
    image: Image
    parts: ImageList
    count: int
    ui: Ui


class Brighten(Node):
    """Add light.

    To every pixel alike."""

    id = "TestBrighten"
    title = "Brighten"
    category = "Test"

    image: Image
    """Picture to brighten."""
    amount: Annotated[float, Field(ge=0, le=1), Widget(step=0.1)] = 0.5
    """How much."""
    mode: Literal["add", "multiply"] = "add"
    name: Annotated[str, Choices("weights")] = "a"
    seed: Seed = 0
    on: bool = True
    mask: Mask | None = None

    def run(self, host: Any) -> Given:
        brighter = self.image + self.amount
        return Given(brighter, [brighter], 1, {"text": ["done"]})


class Host:
    def choices(self, kind):
        return [f"{kind} file"]


def test_declaration_as_v1():
    assert describe.input_types(DeclaredNode(Brighten), Host()) == {
        "required": {
            "image": ("IMAGE", {"tooltip": "Picture to brighten."}),
            "amount": (
                "FLOAT",
                {"default": 0.5, "min": 0, "max": 1, "step": 0.1, "tooltip": "How much."},
            ),
            "mode": (["add", "multiply"], {"default": "add"}),
            "name": (["weights file"], {"default": "a"}),
            "seed": (
                "INT",
                {"default": 0, "min": 0, "max": 2**32 - 1, "control_after_generate": True},
            ),
            "on": ("BOOLEAN", {"default": True}),
        },
        "optional": {"mask": ("MASK", {})},
    }


def test_object_info_names_outputs_and_leaves_ui_out():
    info = describe.object_info(DeclaredNode(Brighten), Host())
    assert info["output"] == ["IMAGE", "IMAGE", "INT"]
    assert info["output_name"] == ["image", "parts", "count"]
    assert info["output_is_list"] == [False, True, False]
    assert info["description"] == "Add light.\n\nTo every pixel alike."


def test_run_checks_what_links_bring():
    node = DeclaredNode(Brighten)
    with pytest.raises(ValueError, match=r"image: .* 4 axes, got int") as caught:
        node.run(Host(), {"image": 3, "amount": 2.0})
    assert "amount: Input should be less than or equal to 1 (got 2.0)" in str(caught.value)


def test_run_gives_outputs_and_ui():
    import torch

    result = DeclaredNode(Brighten).run(Host(), {"image": torch.zeros(1, 2, 2, 3)})
    assert result.outputs[0].eq(0.5).all()
    assert result.outputs[2] == 1
    assert result.ui == {"text": ["done"]}


def test_ids_are_file_formats():
    """Workflows in the world hold these: never change one."""
    assert [(node.id, *node.model_fields) for node in NODES] == [
        ("ImagenLoadCheckpoint", "name"),
        ("ImagenSampleNoise", "model", "seed", "count", "truncation"),
        ("ImagenClassLabels", "model", "latent", "classes", "arrange"),
        ("ImagenInterpolateLatents", "latent", "frames", "way", "loop"),
        ("ImagenTruncate", "model", "latent", "psi", "cutoff"),
        ("ImagenMixStyles", "model", "first", "second", "first_layer", "last_layer", "arrange"),
        ("ImagenFindDirections", "model", "method", "count"),
        (
            "ImagenEditLatents",
            "model",
            "latent",
            "directions",
            "number",
            "strength",
            "first_layer",
            "last_layer",
        ),
        ("ImagenInvert", "model", "image", "steps", "rate", "perceptual", "label", "seed", "mask"),
        ("ImagenSaveLatents", "latent", "filename_prefix"),
        ("ImagenLoadLatents", "name", "number", "node"),
        ("ImagenGenerate", "model", "latent", "noise"),
        ("ImagenImageGrid", "image", "columns", "gap", "background"),
        ("ImagenRankByDiscriminator", "model", "image", "count", "label", "latent"),
        ("ImagenSuperResolve", "model", "image", "factor", "resize", "ensemble"),
        ("ImagenDenoise", "model", "image", "strength", "noise", "ensemble"),
        ("ImagenInpaint", "model", "image", "mask", "grow", "blur", "invert"),
        (
            "ImagenStyleTransfer",
            "model",
            "image",
            "style",
            "strength",
            "colours",
            "style_size",
            "weight",
            "weight_2",
            "weight_3",
            "weight_4",
            "style_2",
            "style_3",
            "style_4",
            "mask",
        ),
        ("ImagenTranslate", "model", "image", "size", "side"),
        (
            "ImagenInpaintByInversion",
            "model",
            "image",
            "steps",
            "rate",
            "perceptual",
            "label",
            "seed",
            "mask",
        ),
        ("ImagenRandomFlip", "image", "seed", "probability"),
        ("ImagenRandomCrop", "image", "seed", "crop"),
        ("ImagenRandomColour", "image", "seed", "strength"),
        ("ImagenCutout", "image", "seed", "size"),
        (
            "ImagenAugmentDataset",
            "model",
            "data",
            "per_class",
            "seed",
            "classes",
            "oversample",
            "truncation",
            "psi",
            "copy_distance",
            "duplicate_distance",
            "size",
            "only_generated",
            "altered",
            "flip",
            "crop",
            "colour",
            "cutout",
            "folder_prefix",
            "discriminator",
        ),
    ]


@pytest.mark.parametrize("node", [*NODES, *BUILTIN], ids=lambda node: node.id)
def test_every_node_is_complete(node):
    declared = DeclaredNode(node)
    assert declared.title
    assert declared.category
    assert declared.description
    assert declared.is_output or declared.outputs
    assert json.loads(describe.as_json([declared], Host()))
    if node in NODES:
        assert all("tooltip" in port.widget for port in declared.inputs)
        assert declared.category.startswith("Imagen/")


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.id)
def test_numbers_have_limits(node):
    """Which ComfyUI's widgets and `imagen-nodes check` keep to; others are met in the run alone."""
    for port in DeclaredNode(node).inputs:
        if port.type in ("INT", "FLOAT"):
            assert {"min", "max"} <= port.widget.keys(), port.name


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.id)
def test_help_pages_are_up_to_date(node):
    """If not: imagen-nodes nodes --help-pages nodes/web/docs"""
    page = HELP / f"{node.id}.md"
    assert page.read_text() == describe.help_page(DeclaredNode(node))


def test_there_is_no_page_without_a_node():
    assert {page.stem for page in HELP.iterdir()} == {node.id for node in NODES}
