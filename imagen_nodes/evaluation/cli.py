"""The verb ``evaluate``. Only :func:`main` imports torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cards
from ..console import progress_bar
from ..errors import CheckpointError, UsageError
from ..files import write_atomically
from ..folders import weights_at

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Measurement, Model
    from ..networks.architecture import Pictures as PicturesNeeded
    from .evaluator import Pictures
    from .features import FeatureSpace
    from .neighbours import Neighbours
    from .restoration import Degrade

# Decodes the pictures at a path to a height and width, and a number of channels.
Opener = Callable[[Path, tuple[int, int], int], "Pictures"]
# What makes the pictures that a network restores; or noise of a deviation, in steps of 1/255, and
# JPEG of a quality, the noise clipped or not.
DegradationOf = Callable[["Model", float | None, int | None, bool], "Degrade"]

# Kinds of tasks that learn translation from pictures that are no pairs.
UNPAIRED = ("cut", "cyclegan")
# Images to draw, where nothing is said.
SAMPLES = 50_000
# Of these the features alone take 5 GB.
MOST = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the evaluator's arguments on ``parser``."""
    parser.add_argument(
        "weights",
        type=Path,
        help="a generator's .safetensors file, or that of a network that "
        "enlarges, restores, fills in or translates pictures",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="real pictures: what the trainer's --data takes; to restore or translate, a folder or "
        "a picture",
    )
    parser.add_argument(
        "--target",
        type=Path,
        metavar="PATH",
        help="translate the pictures of --data, and compare them, as a set, with those of this "
        "folder (default: the pictures of --data hold input and target side by side)",
    )
    parser.add_argument(
        "--input",
        choices=["left", "right"],
        help="the side of such a picture that is the input (default: as trained, or left)",
    )
    parser.add_argument(
        "--noise",
        type=float,
        metavar="SIGMA",
        help="restore pictures with noise of this deviation, in steps of 1/255 (default: what the "
        "network was trained on)",
    )
    parser.add_argument(
        "--jpeg",
        type=int,
        metavar="QUALITY",
        help="restore pictures that are JPEG files of this quality, 1 to 100; with --noise they "
        "have that first",
    )
    parser.add_argument(
        "--told",
        action="store_true",
        help="tell the network what the noise's deviation is, where it wants to know (default: it "
        "is estimated)",
    )
    parser.add_argument(
        "--unclipped",
        action="store_true",
        help="leave noise as it is, as papers do, not cut to 0..1 and in steps of 1/255 as files "
        "have it",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="restore or enlarge pictures in eight orientations, and take the mean",
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help=f"images to draw (default: {SAMPLES})"
    )
    parser.add_argument(
        "--reference",
        type=int,
        metavar="N",
        help="real pictures to compare with, drawn at random with seed 0 (default: all)",
    )
    parser.add_argument(
        "--inception",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="also FID, KID, IS: with these weights; without FILE they are downloaded",
    )
    parser.add_argument(
        "--neighbours",
        type=Path,
        metavar="FILE.png",
        help="draw the images that are nearest to real ones, and say whether they are copies",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep the real pictures' features there"
    )
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--save",
        action="store_true",
        help="write the figures into the card, beside those of other pictures",
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


def main(args: argparse.Namespace, open_data: Opener, degradation_of: DegradationOf) -> int:
    """Evaluate as ``args`` say, on the pictures that ``open_data`` reads, or on degraded ones; the
    exit code.

    Raises:
        ImagenError: the weights or the pictures cannot be used, or a file cannot be written.
    """
    from .. import checkpoint
    from ..devices import open_device
    from ..foreign import open_model
    from ..memory import keep_memory
    from ..networks.architecture import GeneratorArchitecture

    _check(args)
    keep_memory()
    args.weights = weights_at(args.weights)
    model = open_model(args.weights)
    a, pictures = model.architecture, model.architecture.pictures
    _check_fits(args, model)
    device = open_device(args.device)
    result: Result | RestorationResult | TranslationResult
    if isinstance(a, GeneratorArchitecture):
        spaces = _spaces(args, device)
        data = open_data(args.data, a.size, a.channels)
        checkpoint.placed(model, device)
        result = Result()
        for space in spaces:
            _measure(args, space, data, model, result)
    elif pictures is not None and pictures.channels in (1, 3):
        checkpoint.placed(model, device)
        if model.card.task == "translation":
            result = _translation(args, model, pictures, device, open_data)
        else:
            degrade = degradation_of(model, args.noise, args.jpeg, not args.unclipped)
            result = _restoration(args, model, pictures, device, degrade)
    else:
        kind = model.card.architecture["kind"]
        raise CheckpointError(
            f"{args.weights}: a {kind}, which neither generates images nor restores or translates "
            "pictures"
        )
    if args.json:
        print(result.as_json())
    else:
        print(result)
        for doubt in result.doubts:
            print(f"warning: {doubt}", file=sys.stderr)
    if args.save:
        # What was found on other pictures, or on the same degraded otherwise, goes on to hold.
        found = {(figure.metric, figure.reference): figure for figure in result.figures}
        kept = [old for old in model.card.quality if (old.metric, old.reference) not in found]
        card = model.card.model_copy(update={"quality": (*kept, *found.values())})
        checkpoint.recard(args.weights, card)
    return 0


@dataclass
class Result:
    """What one call found."""

    figures: list[Measurement] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    neighbours: Neighbours | None = None

    def __str__(self) -> str:
        first = self.figures[0]
        lines = [f"{figure.metric:30} {cards.value(figure)}" for figure in self.figures]
        lines.append(f"{first.samples:,} samples against {first.reference}; [95% interval]")
        lines += [str(self.neighbours)] if self.neighbours else []
        return "\n".join(lines)

    def as_json(self) -> str:
        """``{"figures": [...], "warnings": [...], "neighbours": {"ratio", "copied"} or null}``."""
        near = self.neighbours
        found = {
            "figures": [figure.model_dump(mode="json") for figure in self.figures],
            "warnings": self.doubts,
            "neighbours": near and {"ratio": round(near.ratio, 4), "copied": near.copied},
        }
        return json.dumps(found)


@dataclass
class RestorationResult:
    """The same of a network that restores pictures."""

    figures: tuple[Measurement, ...]
    without: tuple[Measurement, ...]
    """Of what it was given; enlarged by bicubic interpolation, where it enlarges; each masked pixel
    as the nearest one, where it fills in."""
    name: str
    """Of that."""
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{'':15}{'result':>10}  {self.name}"]
        for ours, theirs in zip(self.figures, self.without, strict=True):
            lines.append(f"{ours.metric:15}{cards.value(ours):>10}  {cards.value(theirs)}")
        first = self.figures[0]
        return "\n".join([*lines, f"means of {first.samples:,} pictures of {first.reference}"])

    def as_json(self) -> str:
        return _as_json(self.figures, self.without, self.doubts)


@dataclass
class TranslationResult:
    """The same of a network that translates pictures."""

    figures: tuple[Measurement, ...]
    without: tuple[Measurement, ...]
    """Of what it was given."""
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{'':30}{'result':>26}  input"]
        for ours, theirs in zip(self.figures, self.without, strict=True):
            lines.append(f"{ours.metric:30}{cards.value(ours):>26}  {cards.value(theirs)}")
        first = self.figures[0]
        return "\n".join([*lines, f"{first.samples:,} pictures, against {first.reference}"])

    def as_json(self) -> str:
        return _as_json(self.figures, self.without, self.doubts)


def _as_json(
    figures: tuple[Measurement, ...], without: tuple[Measurement, ...], doubts: tuple[str, ...]
) -> str:
    """``{"figures": [...], "without": [...], "warnings": [...]}``."""
    found: dict[str, Any] = {
        "figures": [figure.model_dump(mode="json") for figure in figures],
        "without": [figure.model_dump(mode="json") for figure in without],
    }
    return json.dumps(found | {"warnings": list(doubts)})


def _translation(
    args: argparse.Namespace,
    model: Model,
    needs: PicturesNeeded,
    device: torch.device,
    open_data: Opener,
) -> TranslationResult:
    from . import translation
    from .evaluator import Evaluator
    from .features import mobilenet
    from .restoration import pictures_at

    ways = (translation.by_network(model, needs, device), translation.unchanged)
    with progress_bar() as progress:
        if args.target is None:
            paths = pictures_at(args.data)
            side = args.input or model.card.task_recipe.get("input", "left")
            found = [
                translation.paired_figures(
                    way,
                    translation.pairs(
                        paths,
                        side,
                        lambda i, k=k: progress(k * len(paths) + i, 2 * len(paths)),
                    ),
                    f"pairs of {args.data.resolve().name}"
                    + (f", {side} given" if args.input else ""),
                )
                for k, way in enumerate(ways)
            ]
            progress(1, 1)
            return TranslationResult(found[0], found[1])
        side = _side(model)
        given, target = (open_data(path, (side, side), 3) for path in (args.data, args.target))
        total, done = 2 * len(given.images) + len(target.images), 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress(min(done, total), total)

        evaluator = Evaluator(mobilenet(device), target, args.reference or 0, args.cache)
        of = f", of {args.data.resolve().name}"
        found = [
            tuple(
                figure.model_copy(update={"reference": figure.reference + of})
                for figure in translation.set_figures(way, given, evaluator, report)
            )
            for way in ways
        ]
        progress(total, total)
        return TranslationResult(found[0], found[1], evaluator.doubts(len(given.images)))


def _side(model: Model) -> int:
    """Of the pictures that a translator was trained on, px: where they were no pairs, whole ones
    were read at that side, whatever its size."""
    recipe = model.card.task_recipe
    read = recipe.get("read") if recipe.get("kind") in UNPAIRED else None
    return read if isinstance(read, int) else getattr(model.architecture, "resolution", 256)


def _restoration(
    args: argparse.Namespace,
    model: Model,
    needs: PicturesNeeded,
    device: torch.device,
    degrade: Degrade,
) -> RestorationResult:
    from . import restoration

    scale, crop, reference = needs.scale, restoration.border(needs.scale), _reference(args, needs)
    paths = restoration.pictures_at(args.data)
    least = max(restoration.smallest(crop), needs.sizes.minimum * scale)
    found: list[tuple[Measurement, ...]] = []
    with progress_bar() as progress:
        total = 2 * len(paths)
        without = restoration.by_nearest if needs.masked else restoration.by_bicubic(scale)
        noise = args.noise / 255 if args.told else None
        ours = restoration.by_network(
            model, needs, device, noise, not args.unclipped, args.ensemble
        )
        ways = (ours, without)
        for way, restore in enumerate(ways):
            pictures = restoration.read(
                paths, scale, least, lambda i, way=way: progress(way * len(paths) + i, total)
            )
            found.append(restoration.figures(restore, degrade, pictures, crop, reference))
        progress(total, total)
    name = "bicubic" if scale > 1 else "nearest pixel" if needs.masked else "as given"
    return RestorationResult(found[0], found[1], name)


def _reference(args: argparse.Namespace, needs: PicturesNeeded) -> str:
    """The pictures, and what was asked of them beyond what a network was trained for."""
    words = [args.data.resolve().name]
    if args.noise is not None:
        words.append(f"noise of {args.noise:g}/255")
    if args.jpeg is not None:
        words.append(f"JPEG of quality {args.jpeg}")
    told = args.told and needs.noise_map
    asked = {"told": told, "unclipped": args.unclipped, "ensemble": args.ensemble}
    return ", ".join([*words, *(word for word, was in asked.items() if was)])


def _check(args: argparse.Namespace) -> None:
    from .evaluator import FEWEST

    if args.noise is not None and not 0 <= args.noise <= 255:
        raise UsageError("--noise takes a deviation of 0 to 255")
    if args.jpeg is not None and not 1 <= args.jpeg <= 100:
        raise UsageError("--jpeg takes a quality of 1 to 100")
    if args.jpeg is not None and args.unclipped:
        raise UsageError("--unclipped: a JPEG file cuts its values; leave --jpeg or this out")
    for name in ("told", "unclipped"):
        if getattr(args, name) and args.noise is None:
            raise UsageError(f"--{name} is about the noise that --noise SIGMA adds; give that too")
    if args.samples is not None and not FEWEST <= args.samples <= MOST:
        raise UsageError(f"--samples takes {FEWEST} to {MOST:,}")
    if args.reference and args.reference < FEWEST:
        raise UsageError(f"--reference takes {FEWEST} or more, or 0: all")
    if args.neighbours and args.neighbours.suffix.lower() != ".png":
        raise UsageError(f"--neighbours {args.neighbours}: takes the name of a .png file")


def _check_fits(args: argparse.Namespace, model: Model) -> None:
    """
    Raises:
        UsageError: what is asked for is not for such a network."""
    from ..foreign import Foreign

    pictures = model.architecture.pictures
    translates = pictures is not None and model.card.task == "translation"
    restores = pictures is not None and not pictures.masked and not translates
    told = pictures is not None and pictures.noise_map
    generates, of_sets = pictures is None, args.target is not None
    options = {
        "restore or enlarge pictures": (restores, ("noise", "jpeg", "ensemble")),
        "are told how strong noise is": (told, ("told",)),
        "translate pictures": (translates, ("target", "input")),
        "generate images": (generates, ("inception", "neighbours", "samples")),
        "generate images, or translate them to --target": (
            generates or (translates and of_sets),
            ("reference", "cache"),
        ),
    }
    for what, (does, names) in options.items():
        for name in names:
            given = getattr(args, name)
            if given is not None and given is not False and not does:
                raise UsageError(f"--{name} is for networks that {what}; {args.weights} is none")
    pairs = args.target is None and args.input is None
    if translates and pairs and model.card.task_recipe.get("kind") in UNPAIRED:
        raise UsageError(
            f"{args.weights} was trained on two kinds of pictures, which are no pairs: give those "
            "of the kind that it makes with --target; or say with --input which side of pairs is "
            "its input"
        )
    if args.save and isinstance(model.architecture, Foreign):
        raise UsageError(
            f"--save: {args.weights} is a file of another program, without a card to write figures "
            "into; leave it out, or take the figures from --json"
        )


def _spaces(args: argparse.Namespace, device: torch.device) -> list[FeatureSpace]:
    from .features import mobilenet
    from .inception import inception

    spaces = [mobilenet(device)]
    if args.inception is not None:
        spaces.append(inception(device, None if args.inception == Path() else args.inception))
    return spaces


def _measure(
    args: argparse.Namespace, space: FeatureSpace, data: Pictures, model: Model, result: Result
) -> None:
    """Add what ``space`` says of the model; the neighbours in the first space only."""
    from . import neighbours
    from .evaluator import Evaluator

    architecture: Any = model.architecture
    samples = SAMPLES if args.samples is None else args.samples
    done = 0
    with progress_bar() as progress:

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress(done, len(evaluator.indices) + samples)

        evaluator = Evaluator(space, data, args.reference or 0, args.cache, report)
        features = evaluator.features(architecture, model.network, samples)
    result.figures += evaluator.compare(features)
    result.doubts += evaluator.doubts(samples)
    if args.neighbours and result.neighbours is None:
        result.neighbours = neighbours.find(evaluator, features)
        sheet = neighbours.sheet(evaluator, model, result.neighbours)
        write_atomically(args.neighbours, lambda file: sheet.save(file, "PNG"))
