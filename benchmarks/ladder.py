"""The tutorial's ladder: every idea of the presets on CIFAR-10, at the same image budget.

    python benchmarks/ladder.py --data CIFAR-10 [--kimg 100] [--width 64] [--out runs/ladder]

Trains each preset of the ladder for ``--kimg`` thousand images with networks of ``--width``
channels, one after another, evaluates the averaged generator of its end, and writes one table,
``ladder.md``, and a picture of all, ``ladder.png``. Trainings that are there are gone on with, or
not repeated, so it may be stopped and started again. A speed is the one that a tenth of the log
lines of the last quarter exceed, where all have their full resolution: what else the machine has to
do only slows it down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from imagen_nodes.training.presets import PRESETS
from imagen_nodes.training.recipe import Recipe
from imagen_nodes.training.tasks.generate import Generate

LADDER = {
    "dcgan-cifar10": "DCGAN, cross-entropy",
    "lsgan-cifar10": "least squares",
    "wgan-gp-cifar10": "WGAN-GP, 5 discriminator steps",
    "sn-hinge-cifar10": "spectral norm, hinge",
    "sagan-cifar10": "and self-attention",
    "rpgan-cifar10": "relativistic, R1 and R2",
    "cgan-cifar10": "conditional, R1",
    "progressive-cifar10": "progressive growing, WGAN-GP",
    "multi-scale-cifar10": "discriminators at three scales",
}
METRICS = ("FD-MobileNetV2", "KID-MobileNetV2", "precision", "recall")
SHOWN = 16  # px of the picture's rows: this many images of each


def main() -> None:
    parser = argparse.ArgumentParser(description="The tutorial's ladder on CIFAR-10.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kimg", type=float, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--reference", type=int, default=10_000)
    args = parser.parse_args()
    rows: list[str] = []
    for name, idea in LADDER.items():
        train(args, name)
        figures = evaluate(args, name)
        cells = [f"{figures[metric]:.{digits(metric)}f}" for metric in METRICS]
        rows.append(f"| `{name}` | {idea} | {' | '.join(cells)} | {speed(args.out / name):.0f} |")
        print(rows[-1], flush=True)
    header = (
        f"{args.kimg:g} kimg each, width {args.width}, {args.samples:,} samples against "
        f"{args.reference:,} images\n\n"
        "| preset | idea | FD-MobileNetV2 | KID | precision | recall | img/s |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    (args.out / "ladder.md").write_text(header + "\n".join(rows) + "\n")
    picture(args.out).save(args.out / "ladder.png")


def train(args: argparse.Namespace, name: str) -> None:
    run = args.out / name
    began = (run / "recipe.json").is_file()
    words = ["--resume", run] if began else [name, "--data", args.data, "--run", run]
    changes = settings(PRESETS[name], args.kimg, args.width)
    if began:
        recipe = json.loads((run / "recipe.json").read_text())["recipe"]
        for field, value in changes.items():
            found = recipe
            for part in field.split("."):
                found = found[part]
            if field.startswith("task.") and found != value:
                raise SystemExit(f"{run}: was begun with {field} {found}: give another --out")
    else:
        for field, value in changes.items():
            words += ["--set", f"{field}={value}"]
    command("train", *words, "--kimg", args.kimg)


def settings(recipe: Recipe, kimg: float, width: int) -> dict[str, Any]:
    """What the budget and the width change in a preset: growing takes its usual share of it."""
    assert isinstance(recipe.task, Generate)
    found: dict[str, Any] = {"sample_kimg": kimg, "snapshot_kimg": kimg / 2}
    for network, fields in (
        ("generator", recipe.task.generator.model_dump()),
        ("discriminator", recipe.task.discriminator.model_dump()),
    ):
        if "finest" in fields:
            found[f"task.{network}.finest.width"] = width
        elif "width" in fields:
            found[f"task.{network}.width"] = width
        else:  # a progressive one: as wide at half the resolution
            found[f"task.{network}.width_base"] = width * fields["resolution"] // 4
    if recipe.task.growth:
        for field in ("hold_kimg", "fade_kimg"):
            usual = getattr(recipe.task.growth, field)
            found[f"task.growth.{field}"] = usual * kimg / recipe.kimg
    return found


def evaluate(args: argparse.Namespace, name: str) -> dict[str, float]:
    *_, newest = sorted((args.out / name / "snapshots").glob("*.safetensors"))
    about = f"{newest.stem}-{args.samples}-{args.reference}"
    found = args.out / name / f"evaluation-{about}.json"
    if not found.is_file():
        options = ("--samples", args.samples, "--reference", args.reference, "--json")
        found.write_text(command("evaluate", newest, "--data", args.data, *options))
    figures = json.loads(found.read_text())["figures"]
    return {metric: value_of(figures, metric) for metric in METRICS}


def value_of(figures: list[dict[str, Any]], metric: str) -> float:
    return next(figure["value"] for figure in figures if figure["metric"].startswith(metric))


def digits(metric: str) -> int:
    return 1 if metric.startswith("FD") else 3


def speed(run: Path) -> float:
    lines = (run / "stats.jsonl").read_text().splitlines()
    speeds = [json.loads(line)["images_per_second"] for line in lines[-len(lines) // 4 :]]
    return statistics.quantiles(speeds, n=10, method="inclusive")[-1]


def picture(out: Path) -> Image.Image:
    """A row of each preset's samples, in the table's order."""
    rows: list[Image.Image] = []
    for name in LADDER:
        newest = sorted((out / name / "samples").glob("*.png"))[-1]
        with Image.open(newest) as grid:
            side = grid.width // 8
            row = Image.new("RGB", (SHOWN * side, side))
            for i in range(SHOWN):
                left, top = i % 8 * side, i // 8 * side
                row.paste(grid.crop((left, top, left + side, top + side)), (i * side, 0))
            rows.append(row)
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * row.height))
    return sheet


def command(*words: object) -> str:
    """Run ``imagen-nodes``; what it printed."""
    call = [sys.executable, "-m", "imagen_nodes", *map(str, words)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
