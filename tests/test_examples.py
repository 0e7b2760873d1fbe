"""The example workflows, each as its user would run it."""

import numpy as np
import pytest
from PIL import Image

from imagen_nodes.folders import shipped
from imagen_nodes.runner import Runner

EXAMPLES = sorted(shipped("examples/workflows").glob("*.json"))
# Of what each writes: its size, and the number of its frames.
SIZES = {
    "generate": ((270, 270), 1),
    "class_sheet": ((338, 270), 1),
    "latent_walk": ((128, 128), 72),
    "super_resolve": ((384, 448), 1),
    "inpaint": ((320, 240), 1),
    "inpaint_by_inversion": ((64, 64), 1),
    "denoise": ((240, 280), 1),
    "style_transfer": ((451, 300), 1),
    "translate": ((300, 200), 1),
    "augment": ((586, 226), 1),
    "style_mixing": ((398, 332), 1),
    "invert_and_edit": ((460, 64), 1),
}


def test_all_are_listed():
    assert {path.stem for path in EXAMPLES} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_an_example(name, tmp_path):
    runner = Runner(output=tmp_path, input=EXAMPLES[0].parent.parent / "input")
    results = runner.run(name)
    (file,) = [file for result in results.values() for file in result.files]
    with Image.open(file) as picture:
        assert (picture.size, getattr(picture, "n_frames", 1)) == SIZES[name]
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50
