"""Diagnoses: what goes wrong with a training, told from its figures while it goes.

Every ``sample_kimg`` the session has the task examined (``examination.py`` computes what is looked
at). An illness is named when its signs have been there for several examinations in a row, and again
only after they have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..spec import Spec

Figures = Mapping[str, float]
"""Of one examination, and means of the signals since the one before."""

# Figures of an examination.
DIVERSITY = "diversity"
SATURATION = "saturation"
HELD_OUT_GAP = "held-out gap"
LEAK = "leak"
MOST_DIVERSE = "most diverse"
# Signals of every step.
ACCURACY = "accuracy"
MARGIN = "margin"


class Alarm(Spec):
    """A line of ``alarms.jsonl``."""

    nimg: int
    """Images shown so far."""
    kind: str
    """The illness, in a few words."""
    text: str
    """What was seen, a sentence."""
    advice: str
    """What to do, a sentence."""


@dataclass(frozen=True)
class Illness:
    """One kind: ``shows`` takes the last examinations, the newest last, and says whether it is
    there; ``text`` takes the newest."""

    kind: str
    shows: Callable[[Sequence[Figures]], bool]
    text: Callable[[Figures], str]
    advice: str


def lasting(count: int, sign: Callable[[Figures], bool]) -> Callable[[Sequence[Figures]], bool]:
    """Whether ``sign`` has been there for ``count`` examinations in a row."""
    return lambda history: len(history) >= count and all(map(sign, history[-count:]))


def _dead(f: Figures) -> bool:
    return f.get(SATURATION, 0) > 0.9 or f.get(DIVERSITY, 1) < 0.02


def _won(f: Figures) -> bool:
    return f.get(ACCURACY, 0) > 0.985


def _lags(f: Figures) -> bool:
    return f.get(ACCURACY, 1) < 0.36 and f.get(MARGIN, 0) < 0


def _alike(f: Figures) -> bool:
    """Less than a third as diverse as real images; and it is nobody else's fault."""
    return f.get(DIVERSITY, 1) < 0.33 and not (_dead(f) or _won(f) or _lags(f))


def _lost(f: Figures) -> bool:
    """Half of the diversity that there once was."""
    best = f.get(MOST_DIVERSE, 0)
    return best > 0.5 and f[DIVERSITY] < best / 2 and not _dead(f)


def _leaks(f: Figures) -> bool:
    """Images that are no images yet lie anywhere."""
    return 0.25 < f.get(LEAK, 0) < 2 and f.get(DIVERSITY, 0) > 0.5


ILLNESSES = (
    Illness(
        "dead generator",
        lasting(2, _dead),
        lambda f: (
            f"The generator draws the same image for every z: its images differ by "
            f"{f[DIVERSITY]:.0%} of what real ones do, and {f[SATURATION]:.0%} of their values are "
            "black or white."
        ),
        "It will not recover: start again, or from an earlier snapshot, with a lower learning rate "
        'for the generator (optimiser.rates={"generator": ...}).',
    ),
    Illness(
        "mode collapse",
        # Every generator begins with images that are alike.
        lambda history: lasting(6, _alike)(history) or lasting(2, _lost)(history),
        lambda f: (
            f"The generator draws few kinds of images: they differ by {f[DIVERSITY]:.0%} of what "
            f"real ones do (at best it was {f[MOST_DIVERSE]:.0%})."
        ),
        "Give the discriminator more weight: a higher learning rate for it or a lower one for the "
        "generator, several discriminator steps (task.generator_every), R1, or a relativistic loss "
        "with R1 and R2; larger batches help too.",
    ),
    Illness(
        "discriminator overfits",
        lasting(2, lambda f: f.get(HELD_OUT_GAP, 0) > 0.5),
        lambda f: (
            "The discriminator knows the training images by heart: it rates real images that it "
            f"has never seen {f[HELD_OUT_GAP]:.0%} of the way down to generated ones."
        ),
        'Augment what it sees (task.augment={"kind": "ada"} or "diff-augment"), add LeCam or a '
        "stronger R1, or get more pictures. Snapshots from before this point may be better ones.",
    ),
    Illness(
        "discriminator has won",
        lasting(4, _won),
        lambda f: (
            f"The discriminator tells {f[ACCURACY]:.1%} of real and generated images apart: the "
            "generator is left without a direction."
        ),
        "Lower the discriminator's learning rate or raise the generator's, add R1 or spectral "
        "norm, or augment what it sees; a loss that does not saturate helps (bce, hinge, "
        "relativistic).",
    ),
    Illness(
        "discriminator lags behind",
        lasting(3, _lags),
        lambda f: (
            f"The discriminator takes generated images for the real ones: it is right in "
            f"{f[ACCURACY]:.0%} of them, and teaches the generator nothing."
        ),
        "Raise its learning rate or give it several steps to one of the generator's "
        "(task.generator_every), weaken its regularisers, or make it wider.",
    ),
    Illness(
        "augmentation leaks",
        lasting(3, _leaks),
        lambda f: (
            "The generator draws what the augmentation makes of images: its own lie "
            f"{f[LEAK]:.0%} of the way from real images to augmented ones."
        ),
        "Lower p: what is done to every image cannot be told from the data. Or leave out the group "
        "that shows (task.augment.blit=0 and so on).",
    ),
)

REMEMBERED = 6
"""Examinations that a diagnosis looks back on."""


def diagnose(history: Sequence[Figures], known: set[str], nimg: int) -> list[Alarm]:
    """The illnesses that ``history``, the newest last, shows and that are not ``known`` yet.
    ``known`` is brought up to date."""
    alarms: list[Alarm] = []
    for illness in ILLNESSES:
        if not illness.shows(history):
            known.discard(illness.kind)
        elif illness.kind not in known:
            known.add(illness.kind)
            text = illness.text(history[-1])
            alarms.append(Alarm(nimg=nimg, kind=illness.kind, text=text, advice=illness.advice))
    return alarms
