"""``imagen-nodes data``: every figure against pictures that were made to give it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imagen_nodes.__main__ import main
from imagen_nodes.errors import DataError
from imagen_nodes.training.data.duplicates import difference_hash, equal_groups, near_groups
from imagen_nodes.training.data.survey import Range, fitting, survey
from imagen_nodes.training.presets import PRESETS

# ---------------------------------------------------------------- duplicates


def by_hand(hashes: NDArray[np.uint64], threshold: int) -> list[list[int]]:
    """Every pair compared, groups merged one by one."""
    group = list(range(len(hashes)))
    for i in range(len(hashes)):
        for j in range(i):
            if int(hashes[i] ^ hashes[j]).bit_count() <= threshold:
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    found = [[i for i, g in enumerate(group) if g == k] for k in sorted(set(group))]
    return sorted(members for members in found if len(members) > 1)


def scattered(count: int) -> NDArray[np.uint64]:
    """Some equal, some a few bits apart, most unrelated."""
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, count, np.uint64)
    for i in range(0, count, 3):
        for bit in draw.integers(0, 64, draw.integers(0, 6)):
            hashes[i] = hashes[(i * 7) % count] ^ (np.uint64(1) << np.uint64(bit))
    return hashes


HASHES = {
    "none": np.empty(0, np.uint64),
    "one": np.zeros(1, np.uint64),
    "all equal": np.zeros(9, np.uint64),
    "scattered": scattered(150),
    # All in one corner, so that bands are shared by many and divided again.
    "crowded": np.unique(np.random.default_rng(1).integers(0, 2**22, 350, np.uint64)) * 3,
}


@pytest.mark.parametrize("case", HASHES)
@pytest.mark.parametrize("threshold", [0, 1, 3])
@pytest.mark.parametrize("crowd", [8, 256])
def test_near_groups(
    case: str, threshold: int, crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagen_nodes.training.data.duplicates.CROWD", crowd)
    found = near_groups(HASHES[case], threshold)
    assert sorted(sorted(map(int, group)) for group in found) == by_hand(HASHES[case], threshold)


def test_equal_groups() -> None:
    found = equal_groups(np.array([5, 3, 5, 9, 3, 5], np.uint64))
    assert [group.tolist() for group in found] == [[1, 4], [0, 2, 5]]


def photograph(seed: int, side: int = 96) -> Image.Image:
    """Smooth shapes and some noise."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (7, 7, 3), np.uint8))
    picture = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray((picture + draw.normal(0, 2, picture.shape)).clip(0, 255).astype("B"))


def test_the_hash_survives_what_copies_suffer() -> None:
    picture = photograph(0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    copies = [Image.open(buffer), picture.resize((48, 48)), picture.point(lambda v: v * 0.9)]
    for copy in copies:
        assert (difference_hash(copy) ^ difference_hash(picture)).bit_count() <= 3
    assert (difference_hash(photograph(1)) ^ difference_hash(picture)).bit_count() > 12


def test_the_hash_bit_by_bit() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8)
    bits = "".join(str(int(row[i + 1] > row[i])) for row in grey.astype(int) for i in range(8))
    assert difference_hash(Image.fromarray(grey)) == int(bits, 2)


# ---------------------------------------------------------------- the survey


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with ``set``: six pictures and a broken one in two classes."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
    cats, dogs = tmp_path / "set/cat", tmp_path / "set/dog"
    photograph(0).save(cats / "a.png")
    photograph(0).save(cats / "b.png")  # the same bytes
    photograph(0).save(dogs / "c.jpg", quality=80)  # the same picture
    photograph(2).crop((0, 0, 90, 60)).save(dogs / "d.png")
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 15
    Image.fromarray(deep).save(dogs / "e.png")
    clear = photograph(3).convert("RGBA")
    clear.putpixel((5, 5), (0, 0, 0, 0))
    clear.putpixel((50, 50), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear.crop((0, 0, 96, 72)).save(dogs / "f.png", exif=exif)
    (cats / "broken.png").write_bytes((cats / "a.png").read_bytes()[:900])
    return tmp_path


def test_a_survey(place: Path) -> None:
    found, _ = survey(place / "set", PRESETS)
    assert (found.layout, found.count) == ("pictures", 6)
    assert found.formats == {"PNG": 5, "JPEG": 1}
    assert found.width == Range(min=64, median=93, max=96)
    assert found.height == Range(min=60, median=96, max=96)
    assert found.aspect == Range(min=0.75, median=1, max=1.5)
    assert found.colours == {"RGB": 5, "grey": 1}
    assert (found.alpha, found.transparent) == (1, 1)
    assert found.bits == {8: 5, 16: 1}
    assert found.classes == {"cat": 2, "dog": 4}
    assert found.duplicates == (("cat/a.png", "cat/b.png"),)
    assert found.near_duplicates == (("cat/a.png", "dog/c.jpg"),)
    assert len(found.unreadable) == 1
    assert found.unreadable[0].startswith("cat/broken.png: ")
    assert found.presets[0] == "dcgan-64"


def test_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "set", "--sheet", "sheets/sheet.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "pictures        6" in lines
    assert "classes         2 (of 2 to 4): cat: 2, dog: 4" in lines
    assert "                cat/a.png = dog/c.jpg" in lines
    with Image.open("sheets/sheet.png") as sheet:
        assert sheet.size == (6 * 64, 64)
        colours = np.asarray(sheet)
    np.testing.assert_allclose(
        colours[32, 32], np.asarray(photograph(0).resize((64, 64)))[32, 32], atol=12
    )
    assert main(["data", "set", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 6


def test_arrays_are_surveyed_too(place: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (250, 28, 28), np.uint8)
    images[7] = images[3]
    np.savez("set.npz", images=images, labels=np.arange(250) % 3)
    found, sheet = survey(Path("set.npz"), PRESETS)
    assert (found.layout, found.count, found.colours) == ("npz", 250, {"grey": 250})
    assert found.classes == {"0": 84, "1": 83, "2": 83}
    assert found.duplicates == (("image 3", "image 7"),)
    assert found.near_duplicates == ()
    assert sheet.size == (640, 640)


def test_nothing_to_survey(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "none").mkdir()
    (place / "none" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of its 1 pictures can be read; 1\.png: not a pic"):
        survey(place / "none", PRESETS)
    assert main(["data", "nowhere"]) == 1
    assert "nowhere: no such folder or file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("side", "first"), [(28, "dcgan-cifar10"), (32, "dcgan-cifar10"), (500, "dcgan-64")]
)
def test_the_preset_that_fits(side: float, first: str) -> None:
    assert fitting(PRESETS, side, 3, 0)[0] == first


def test_presets_for_translation_fit_two_kinds_only() -> None:
    names = [fitting(PRESETS, 256, 3, classes) for classes in (0, 2, 3)]
    assert ["monet" in found for found in names] == [False, True, False]
    assert not any("facades" in found for found in names)
