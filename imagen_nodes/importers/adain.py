"""AdaIN of naoto0804's pytorch-AdaIN and its copies: ``decoder.pth``, and the encoder that it was
trained with, ``vgg_normalised.pth``. Both are bare sequences of layers, numbered in order, of which
those without weights (reflection padding, ReLU, pooling, doubling) show in the gaps between the
numbers.

Source of the layers: Huang & Belongie, "Arbitrary Style Transfer in Real-time with Adaptive
Instance Normalization", 2017, section 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..networks.adain import AdaIN
from ..networks.vgg import DEPTHS
from .candidates import Candidate
from .imported import Imported, Names, Other

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = ("module.", "decoder.", "encoder.", "vgg.", "net.", "model.")
# Numbers of the convolutions. Each has its padding in front and its ReLU behind, and so lies three
# after the one before, or four where there is a pooling or doubling layer between.
DECODER = (1, 5, 8, 11, 14, 18, 21, 25, 28)
ENCODER = (0, 2, 5, 9, 12, 16, 19, 22, 25, 29)


def generator(candidate: Candidate, encoders: Sequence[Candidate] = ()) -> Imported:
    """The decoder, with the encoder that is among ``encoders``, the contents of a second file.

    Raises:
        Other: it is none.
        CheckpointError: it is, but the encoder is not there, or is another one's."""
    names = Names(candidate.without_prefix(*PREFIXES))
    if _numbers(names)[: len(ENCODER)] == ENCODER:
        raise CheckpointError(
            "an encoder of AdaIN: give the decoder's file, and this one with --encoder"
        )
    if _numbers(names) != DECODER:
        raise Other("no sequence of nine convolutions with doubling behind the 1st, 5th and 7th")
    shapes = [names.shape(f"{number}.weight") for number in DECODER]
    if any(a[0] != b[1] for a, b in pairwise(shapes)) or shapes[-1][0] != 3:
        raise Other("convolutions whose channels do not follow each other to three")
    if not encoders:
        raise CheckpointError(
            "a decoder of AdaIN, whose encoder is a file of its own: give that too, with --encoder "
            "vgg_normalised.pth"
        )
    widths, state = _encoder(encoders)
    if widths[-1] != shapes[0][1]:
        raise CheckpointError(
            f"a decoder of AdaIN for features of {shapes[0][1]} channels, but those of the file "
            f"given with --encoder have {widths[-1]}: it is another one's"
        )
    architecture = AdaIN.model_validate(
        {
            "widths": widths,
            "decoder_widths": (shapes[-1][1], shapes[5][0], shapes[1][0]),
            "slope": 0.0,
        }
    )
    # Ours has no layers of padding.
    place = 0
    for before, number in pairwise((-2, *DECODER)):
        place += 0 if number == 1 else 2 + (number - before == 4)
        for part in ("weight", "bias"):
            state[f"decoder.{place}.{part}"] = names.take(f"{number}.{part}")
    names.finish()
    return Imported(architecture, state, "style transfer", (0.0, 1.0))


def _encoder(candidates: Sequence[Candidate]) -> tuple[tuple[int, ...], dict[str, Tensor]]:
    """Channels of its four stages, and its tensors by our names; layers behind relu4_1 are left
    out.

    Raises:
        CheckpointError: there is none."""
    for candidate in candidates:
        names = Names(candidate.without_prefix(*PREFIXES))
        if _numbers(names)[: len(ENCODER)] == ENCODER:
            break
    else:
        raise CheckpointError(
            "the file given with --encoder is no sequence of VGG-19's layers, as "
            "vgg_normalised.pth is"
        )
    ours = ["first"]
    ours += [f"stages.{k}.{i}" for k in range(3) for i in range(DEPTHS[k])]
    ours.append("stages.3.0")
    state = {
        f"encoder.{name}.{part}": names.take(f"{number}.{part}")
        for name, number in zip(ours, ENCODER, strict=True)
        for part in ("weight", "bias")
    }
    return tuple(len(state[f"encoder.stages.{k}.0.weight"]) for k in range(4)), state


def _numbers(names: Names) -> tuple[int, ...]:
    """Of the layers, all of them convolutions; empty: they are something else."""
    found: set[int] = set()
    for name in names.stored:
        number, _, part = name.partition(".")
        if not number.isdigit() or part not in ("weight", "bias"):
            return ()
        if part == "weight" and len(names.shape(name)) != 4:
            return ()
        found.add(int(number))
    return tuple(sorted(found))
