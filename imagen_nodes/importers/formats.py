"""The formats that are known, and which of them a file is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..checkpoint import Card
from ..errors import CheckpointError, UsageError
from ..spec import problems
from . import (
    adain,
    biggan,
    dcgan,
    gan_zoo,
    lucidrains,
    mimicry,
    r3gan,
    stylegan2,
    stylegan3,
    translation,
)
from .candidates import Candidate, candidates
from .containers import Foreign, open_foreign
from .imported import Imported, Other
from .told import Told

if TYPE_CHECKING:
    from torch import nn

Importer = Callable[[Candidate], Imported]
Asking = Callable[[Candidate, Told], Imported]

# Whose files leave something open.
ASKING: dict[str, Asking] = {
    "pix2pix's U-Net": translation.unet_generator,
    "CycleGAN's, CUT's or pix2pixHD's ResNet": translation.resnet_generator,
    "pix2pixHD with local enhancers": translation.enhanced_generator,
    "AnimeGANv2": translation.animegan_generator,
}


def _by_default(name: str, candidate: Candidate) -> Imported:
    """What is left open as is usual."""
    return ASKING[name](candidate, Told({}))


# Beside a file, and its greatest length in bytes.
SETTINGS, LONGEST = ".config.json", 100_000

FORMATS: dict[str, Importer] = {
    "StyleGAN2 of NVIDIA's PyTorch code": stylegan2.nvidia_generator,
    "StyleGAN2 of NVIDIA's TensorFlow code": stylegan2.tensorflow_generator,
    "StyleGAN2 of rosinality's code": stylegan2.rosinality_generator,
    "StyleGAN3 of NVIDIA's PyTorch code": stylegan3.generator,
    "StyleGAN2 of lucidrains' code": lucidrains.stylegan2,
    "lightweight-gan": lucidrains.lightweight,
    "progressive GAN of pytorch_GAN_zoo": gan_zoo.generator,
    "R3GAN": r3gan.generator,
    "BigGAN-deep of Hugging Face": biggan.hugging_face_deep,
    "BigGAN of BigGAN-PyTorch": biggan.pytorch_generator,
    "AdaIN of pytorch-AdaIN": adain.generator,
    "SNGAN or SAGAN of mimicry": mimicry.generator,
    "DCGAN, a stack of transposed convolutions": dcgan.generator,
    "StyleGAN2 of NVIDIA's PyTorch code, the discriminator": stylegan2.nvidia_discriminator,
    **{name: partial(_by_default, name) for name in ASKING},
}


@dataclass(frozen=True)
class Found:
    """A network in a file, and what it is."""

    candidate: Candidate
    format: str
    imported: Imported
    unused: tuple[str, ...] = ()
    """Options that say of it what it does not leave open."""


@dataclass(frozen=True)
class Unmet:
    """A network in a file of a known format, which takes more than that."""

    candidate: Candidate
    format: str
    needs: str
    """What it takes, and how to give that."""


@dataclass
class Contents:
    """What is in a file."""

    container: str
    found: list[Found] = field(default_factory=list[Found])
    unmet: list[Unmet] = field(default_factory=list[Unmet])
    others: list[tuple[Candidate, dict[str, str]]] = field(
        default_factory=list[tuple[Candidate, dict[str, str]]]
    )
    """Candidates of no known format, and by format why not."""


def _candidates(foreign: Foreign) -> list[Candidate]:
    try:
        return candidates(foreign.content)
    except CheckpointError as error:
        raise CheckpointError(f"{foreign.path}: {error}") from None


def read(
    path: Path,
    layers: str = "",
    encoder: Path | None = None,
    told: Mapping[str, str] | None = None,
) -> Contents:
    """Everything in a file, the most likely network first.

    Args:
        layers: see :func:`.dcgan.generator`.
        encoder: a second file, see :func:`.adain.generator`.
        told: what the file does not say, by name: see :class:`.told.Told`.

    Raises:
        CheckpointError: it cannot be read safely, or holds no tensors.
        UsageError: ``layers`` or ``told`` does not fit."""
    told = told or {}
    foreign = open_foreign(path)
    encoders = _candidates(open_foreign(encoder)) if encoder else []
    with_options: dict[Importer, Importer] = {
        dcgan.generator: partial(dcgan.generator, layers=layers),
        adain.generator: partial(adain.generator, encoders=encoders),
    }
    formats = {name: with_options.get(importer, importer) for name, importer in FORMATS.items()}
    options = {"--layers": (layers, dcgan.generator), "--encoder": (encoder, adain.generator)}
    contents = Contents(foreign.container)
    for found in _candidates(foreign):
        candidate = replace(found, settings=partial(settings_of, path))
        reasons: dict[str, str] = {}
        for name, importer in formats.items():
            answers = Told(dict(told))
            try:
                asking = ASKING.get(name)
                imported = importer(candidate) if asking is None else asking(candidate, answers)
            except Other as error:
                reasons[name] = str(error)
            except ValidationError as error:
                for problem in error.errors():
                    of = str(problem["loc"][0]) if problem["loc"] else ""
                    if of in told and of not in answers.unused:
                        raise UsageError(f"--set {of}={told[of]}: {problem['msg']}") from None
                reasons[name] = problems(error).splitlines()[0]
            except UsageError:
                raise
            except CheckpointError as error:
                contents.unmet.append(Unmet(candidate, name, str(error)))
                break
            except Exception as error:
                # Tensors of the format's names, in shapes that are not: whatever they make fail.
                reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            else:
                unused = [f"--set {x}" for x in answers.unused]
                unused += [x for x, (said, of) in options.items() if said and FORMATS[name] != of]
                contents.found.append(Found(candidate, name, imported, tuple(unused)))
                break
        else:
            contents.others.append((candidate, reasons))
    if not (contents.found or contents.unmet or contents.others):
        raise CheckpointError(f"{path}: a {foreign.container}, with no named tensors in it")
    return contents


def settings_of(path: Path) -> dict[str, Any]:
    """What lucidrains' programs write beside their files, ``.config.json``; {}: there is none.

    Raises:
        CheckpointError: it cannot be read."""
    beside = path.parent / SETTINGS
    if not beside.is_file():
        return {}
    try:
        if beside.stat().st_size > LONGEST:
            raise ValueError(f"longer than {LONGEST} bytes")
        found = json.loads(beside.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{beside}: the settings of {path.name} cannot be read: {error}"
        ) from None
    return found if isinstance(found, dict) else {}


def choose(path: Path, contents: Contents, place: str | None) -> Found:
    """The network at ``place``, or the most likely one.

    Raises:
        CheckpointError: there is none of a known format there, or it takes more than the file.
        UsageError: the user has said more of it than it leaves open."""
    found = [f for f in contents.found if place is None or f.candidate.place == place]
    if found:
        if unused := found[0].unused:
            raise UsageError(
                f"{', '.join(unused)}: a file of {found[0].format} does not leave that open"
            )
        return found[0]
    for unmet in contents.unmet:
        if place is None or unmet.candidate.place == place:
            raise CheckpointError(f"{path}: {unmet.needs}")
    if place is not None:
        places = [repr(f.candidate.place) for f in contents.found]
        raise CheckpointError(
            f"{path}: no network of a known format at {place!r}. There is: "
            f"{', '.join(places) or 'none'}"
        )
    raise CheckpointError(f"{path}: {_looks_like(contents)}")


def _looks_like(contents: Contents) -> str:
    """What an unknown file looks like, and what is supported."""
    candidate, reasons = contents.others[0]
    sample = ", ".join(
        f"{name} {list(tensor.shape)}" for name, tensor in list(candidate.tensors.items())[:3]
    )
    shrinks = any("a discriminator" in reason for reason in reasons.values())
    what = "looks like a discriminator alone; give the generator's file. " if shrinks else ""
    known = "\n".join(f"  {name}: {reasons.get(name, '')}" for name in FORMATS)
    return (
        f"a {contents.container} of no known format. {what}Its tensors begin with {sample}.\n"
        f"Formats that are known, and why it is none of them:\n{known}\n"
        "What Load Checkpoint and Load Upscale Model take, our own files and networks of pictures "
        "that spandrel knows, needs no import: put the file into the folder weights"
    )


def network_of(found: Found) -> nn.Module:
    """The network with its weights.

    Raises:
        CheckpointError: they do not fit."""
    import torch

    with torch.device("meta"):
        network = found.imported.architecture.build()
    wanted = network.state_dict()
    state = {
        name: tensor.to(wanted[name].dtype).contiguous() if name in wanted else tensor
        for name, tensor in found.imported.state.items()
    }
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{found.format}: its tensors do not fit the network that they look like: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return network.requires_grad_(False).eval()


def card_of(path: Path, found: Found) -> Card:
    """What the new file says of itself."""
    imported = found.imported
    classes = getattr(imported.architecture, "classes", 0)
    return Card(
        title=path.stem,
        description=f"Imported from {path.name} ({found.format}"
        + (f", {found.candidate.place})." if found.candidate.place else ")."),
        architecture=imported.architecture.model_dump(mode="json"),
        task=imported.task,
        value_range=imported.value_range,
        class_names=tuple(map(str, range(classes))),
        licence="unknown: that of the imported file",
    )
