"""The evaluator's command line. Only :func:`main` imports torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..console import progress_bar
from ..errors import CheckpointError, DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..checkpoint import Measurement, Model

# Below this the Frechet distance, which falls with the sample count, says little.
FEW = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the evaluator's arguments on ``parser``."""
    parser.add_argument("weights", type=Path, help="a generator's .safetensors file")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="real pictures: what the trainer's --data takes",
    )
    parser.add_argument(
        "--samples", type=int, default=50_000, metavar="N", help="images to draw (default: 50000)"
    )
    parser.add_argument(
        "--reference",
        type=int,
        default=0,
        metavar="N",
        help="real pictures to compare with, drawn at random with seed 0 (default: all)",
    )
    parser.add_argument("--save", action="store_true", help="write the figures into the card")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")


class Pictures(Protocol):
    """A data set: ``images [n h w c]`` uint8."""

    @property
    def name(self) -> str: ...
    @property
    def images(self) -> NDArray[np.uint8]: ...


# Decodes the pictures at a path to a resolution and a number of channels.
Opener = Callable[[Path, int, int], Pictures]


def main(args: argparse.Namespace, open_data: Opener) -> int:
    """Evaluate as ``args`` say, on the pictures that ``open_data`` reads; the exit code.

    Raises:
        ImagenError: the weights or the pictures cannot be used.
    """
    if args.samples < 2 or args.reference < 0:
        raise UsageError("--samples takes 2 or more, --reference 0 or more")
    from .. import checkpoint

    model = checkpoint.load(args.weights)
    figures = _measure(model, args, open_data)
    if args.samples < FEW:
        text = f"note: {args.samples:,} samples: distances are too high, compare like with like"
        print(text, file=sys.stderr)
    if args.json:
        print(json.dumps([figure.model_dump(mode="json") for figure in figures]))
    else:
        for figure in figures:
            print(f"{figure.metric:30} {figure.value:10.4f}")
        print(f"{args.samples:,} samples against {figures[0].reference}")
    if args.save:
        card = model.card.model_copy(update={"quality": figures})
        checkpoint.save(args.weights, card, model.network)
    return 0


def _measure(model: Model, args: argparse.Namespace, open_data: Opener) -> tuple[Measurement, ...]:
    import numpy as np
    import torch

    from .evaluate import measure

    side = model.card.architecture.get("resolution")
    if not isinstance(side, int):
        raise CheckpointError(f"{model.name}: no generator of images, so nothing to evaluate")
    data = open_data(args.data, side, 3)
    images = data.images
    if args.reference:
        if args.reference > len(images):
            raise DataError(f"{args.data}: --reference {args.reference}, it has {len(images)}")
        images = images[np.random.RandomState(0).permutation(len(images))[: args.reference]]
    with progress_bar() as progress:
        return measure(model, torch.from_numpy(images), data.name, args.samples, progress)
