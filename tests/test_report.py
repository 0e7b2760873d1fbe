"""The report of a run and the comparison of several: what they say of a folder in any condition."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagen_nodes.__main__ import main
from imagen_nodes.evaluation import comparison, filmstrip, svg
from imagen_nodes.evaluation.figures import figures, remaining
from imagen_nodes.evaluation.filmstrip import moments, picture, spread
from imagen_nodes.evaluation.records import read_run, thin
from imagen_nodes.evaluation.report import recipe_groups, write_report

TICKS = 40


def write_run(folder: Path, lr: float = 0.1, offset: float = 0.0) -> Path:
    """A run of 40 kimg with everything that a run may have; FD has its minimum at 30 kimg."""
    (folder / "samples").mkdir(parents=True)
    recipe = {"name": "a<b>", "kimg": 80, "optimiser": {"lr": lr}, "task": {"kind": "generate"}}
    plan = {"recipe": recipe, "data": "p", "data_name": "cats", "images": 7, "new field": 1}
    (folder / "recipe.json").write_text(json.dumps(plan))
    lines = [
        {
            "nimg": 1000 * (i + 1),
            "losses": {"discriminator": offset + 1 / (i + 1), "generator": 2.0},
            "signals": {"real logit": float(i)},
            "images_per_second": 100 + i,
            "seconds": 90.0 * (i + 1),
        }
        for i in range(TICKS)
    ]
    (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = [
        {"nimg": 1000 * k, "ema": ema, "metrics": {"FD": abs(k - 30) + ema + offset}}
        for k in (10, 20, 30, 40)
        for ema in (5.0, 50.0)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    alarm = {"nimg": 9000, "kind": "mode collapse", "text": "All <alike>.", "advice": "Change it."}
    (folder / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")
    for kimg in (0, 10, 20, 40):
        write_sheet(folder / "samples" / f"{kimg:06d}.png", kimg)
    return folder


def write_sheet(path: Path, kimg: int, side: int = 4) -> None:
    """8 x 8 tiles; each is of the colour (row, column, kimg)."""
    tiles = np.zeros((8, side, 8, side, 3), np.uint8)
    tiles[..., 0] = np.arange(8)[:, None, None, None]
    tiles[..., 1] = np.arange(8)[None, None, :, None]
    tiles[..., 2] = kimg
    Image.fromarray(tiles.reshape(8 * side, 8 * side, 3)).save(path)


class Reader(HTMLParser):
    """The page's text, the addresses that it names, and whether its tags are balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("br", "img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader(path.read_text())
    assert reader.open == []
    return reader


def test_the_page_says_what_happened(tmp_path: Path) -> None:
    page = read(write_report(write_run(tmp_path / "run")))
    text = " ".join(page.text)
    for part in (
        "a<b> on cats",
        "40",
        "of 80 kimg",
        "120",  # the median speed
        "images a second",
        "mode collapse",
        "All <alike>.",
        "Change it.",
        "The averaged generator after 40 kimg",
        "best FD, EMA 5 kimg",
        "real logit",
        "cats",
        "No snapshot yet.",
    ):
        assert part in text, part
    # It needs nothing but itself, and runs nothing.
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    source = (tmp_path / "run/report.html").read_text()
    assert "<script" not in source
    assert "default-src &#x27;none&#x27;" in source
    with Image.open(tmp_path / "run/filmstrip.png") as strip:
        assert strip.size == (4 * 64, 22 + 8 * 64)


def test_the_figures(tmp_path: Path) -> None:
    found = figures(read_run(write_run(tmp_path / "run")))
    assert found["kimg"] == 40
    assert found["kimg planned"] == 80
    assert found["hours"] == 1
    assert found["FD (EMA 5 kimg), best"] == 5
    assert found["FD (EMA 5 kimg), best at kimg"] == 30
    assert found["FD (EMA 5 kimg), last"] == 15
    assert found["FD (EMA 50 kimg), best"] == 50
    assert found["loss of generator, last"] == pytest.approx(2)


def test_whatever_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "recipe.json").write_text("{")
    with (run / "stats.jsonl").open("a") as file:
        file.write('{"nimg": 41')
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "?", *lines[1:]]) + "\n")
    (run / "samples/000040.png").write_bytes(b"no picture")
    (run / "snapshots").mkdir()
    (run / "snapshots/a.safetensors").write_bytes(b"")
    text = " ".join(read(write_report(run)).text)
    for part in (
        "recipe.json: not the recipe of a run",
        "stats.jsonl: its last line is not whole, and is left out",
        "metrics.jsonl: 1 lines are not valid, and are left out; the first: 2",
        "samples/000040.png: left out: cannot be read: not a picture",
        "snapshots/a.safetensors: truncated",
        "after 20 kimg",
    ):
        assert part in text, part


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").write_text('{"recipe": {"name": "n"}}')
    text = " ".join(read(write_report(tmp_path / "run")).text)
    assert "No sample grid yet." in text
    assert "No line in stats.jsonl yet." in text
    assert not (tmp_path / "run/filmstrip.png").exists()


def test_the_strip_shows_the_same_latents(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    strip = moments(run.sheets)
    assert [moment.kimg for moment in strip] == [0, 10, 20, 40]
    rows = [moment.tiles[5].getpixel((0, 0)) for moment in strip]
    assert len({colour[:2] for colour in rows if isinstance(colour, tuple)}) == 1
    # A latent a row, labels run along the sheet's rows: all columns are met.
    columns = {tile.getpixel((0, 0))[1] for tile in strip[0].tiles}  # pyright: ignore
    assert len(columns) == 8
    sheet = np.asarray(picture(strip))
    assert (sheet[22:86, :64] == np.asarray(strip[0].tiles[0])[0, 0]).all()
    # Sheets of a growing network are smaller at first.
    small = filmstrip.resized(strip[0].tiles[0], (8, 8))
    assert small.size == (8, 8)


def test_moments_are_spread_by_ratios() -> None:
    assert spread(range(5)) == [0, 1, 2, 3, 4]
    chosen = spread([25 * i for i in range(41)])
    assert len(chosen) == len(set(chosen)) == 12
    assert (chosen[0], chosen[-1]) == (0, 40)
    gaps = np.diff(chosen)
    assert gaps[0] < gaps[-1]


def test_thinning_keeps_means(tmp_path: Path) -> None:
    (curve, _) = read_run(write_run(tmp_path / "run")).losses()
    thinned = thin(curve, 4)
    wanted = curve.values.reshape(4, 10).mean(1)
    np.testing.assert_allclose(thinned.values, wanted)


def test_runs_are_compared(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "two", lr=0.2, offset=1)
    records = [read_run(one), read_run(other)]
    named = comparison.names(records)
    assert comparison.differences(named) == {"optimiser.lr": {"one": 0.1, "two": 0.2}}
    page = tmp_path / "page.html"
    page.write_bytes(comparison.comparison(records))
    text = " ".join(read(page).text)
    assert "2 runs compared" in text
    assert "optimiser.lr" in text
    # The better one of each metric is marked, and no loss is.
    won = re.findall(r'<tr><th>([^<]*)</th><td class="won">', page.read_text())
    assert "FD (EMA 5 kimg), best" in won
    assert not any(name.startswith("loss") for name in won)


def test_a_figure_has_one_name_in_all_runs_and_what_is_missing_wins_nothing(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "two", offset=1)
    lines = [
        line for line in (other / "metrics.jsonl").read_text().splitlines() if '"ema": 5.0' in line
    ]
    (other / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (other / "recipe.json").unlink()
    page = tmp_path / "page.html"
    page.write_bytes(comparison.comparison([read_run(one), read_run(other)]))
    assert '<td class="won">-' not in page.read_text()
    assert "<th>FD, best</th>" not in page.read_text()
    won = re.findall(r'<tr><th>([^<]*)</th><td class="won">', page.read_text())
    assert "FD (EMA 5 kimg), best" in won


def test_no_infinity_in_json_and_in_times(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")
    plan = json.loads((folder / "recipe.json").read_text())
    plan["recipe"]["kimg"] = 1e15
    (folder / "recipe.json").write_text(json.dumps(plan))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"nimg": 41000, "ema": 5.0, "metrics": {"FD": Infinity}}\n')
    with (folder / "stats.jsonl").open("a") as file:
        file.write('{"nimg": 19500, "losses": {"generator": 1e308, "discriminator": -1e308}}\n')
        file.write('{"nimg": 1' + "0" * 400 + '}\n{"nimg": 20001, "seconds": NaN}\n')
    text = " ".join(read(write_report(folder)).text)
    assert "stats.jsonl: 2 lines are not valid, and are left out" in text
    record = read_run(folder)
    assert remaining(record) == timedelta(seconds=1e9)
    (run,) = comparison.as_json([record])["runs"]
    json.dumps(run, allow_nan=False)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("one"))
    write_run(Path("two"), lr=0.2)
    assert main(["report", "one"]) == 0
    assert capsys.readouterr().out.strip() == "one/report.html"
    assert main(["report", "one", "two", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["page"] == "report.html"
    assert [run["name"] for run in found["runs"]] == ["one", "two"]
    assert found["differences"] == {"optimiser.lr": {"one": 0.1, "two": 0.2}}
    assert Path("report.html").is_file()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["none"], "none: no such folder; expected that of a run"),
        (["empty"], "not the folder of a run. Looked for recipe.json"),
        (["."], "There are runs in it: one"),
        (["one", "./one"], "a run is given twice"),
        (["one", "--output", "page.pdf"], "expected a name that ends in .html"),
    ],
)
def test_wrong_calls(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("one"))
    Path("empty").mkdir()
    assert main(["report", *words]) == 2
    assert text in capsys.readouterr().err


def test_groups_of_a_recipe() -> None:
    found = recipe_groups({"kimg": 1, "task": {"loss": "bce", "generator": {"width": 8}}})
    assert found == {
        "training": {"kimg": 1},
        "task": {"loss": "bce"},
        "task.generator": {"width": 8},
    }


@pytest.mark.parametrize(
    ("low", "high", "log", "wanted"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3.0, 7.0, False, [-2, 0, 2, 4, 6]),
        (1.0, 100.0, True, [1, 2, 5, 10, 20, 50]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, wanted: list[float]) -> None:
    ticks = svg.Axis(low, high, 0, 100, log=log).ticks(5)
    np.testing.assert_allclose(ticks, wanted, atol=1e-9)


def test_places_on_an_axis() -> None:
    axis = svg.Axis(1, 100, 0, 100, log=True)
    np.testing.assert_allclose(axis.place(np.array([1.0, 10.0, 100.0])), [0, 50, 100])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12345.6, "12,346"), (0.123456, "0.1235"), (1e-7, "1e-07"), (3e9, "3e+09")],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert svg.number(value) == text
