"""The verb ``export``: a network of a run that its snapshots do not hold, as a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TrainingError, UsageError

if TYPE_CHECKING:
    from .run import Plan, Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments on ``parser``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--network",
        default="discriminator",
        metavar="NAME",
        help="which of its networks (default: discriminator)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT.safetensors",
        help="the checkpoint to write (default: PRESET-NAME.safetensors, in RUN/snapshots)",
    )


def main(args: argparse.Namespace) -> int:
    """Export as ``args`` say; the exit code.

    Raises:
        UsageError: the run has no such network, or its snapshots hold it.
        TrainingError: there is no run, no state that can be read, or it is still growing."""
    import sys

    from .. import checkpoint
    from .run import SNAPSHOTS, Run

    run = Run(args.run)
    plan = run.plan()
    name: str = args.network
    output = args.output or run.folder / SNAPSHOTS / f"{plan.recipe.name}-{name}.safetensors"
    if output.suffix != ".safetensors":
        raise UsageError(f"-o {output}: takes the name of a .safetensors file")
    _check(plan, run, name)
    state = _state(run, lambda text: print(text, file=sys.stderr))
    network = plan.recipe.task.architectures[name].build()
    network.load_state_dict(state["networks"][name])
    network.requires_grad_(False).eval()
    _check_grown(network, run)
    checkpoint.save(output, _card(plan, name, state["nimg"]), network)
    print(output)
    return 0


def _check(plan: Plan, run: Run, name: str) -> None:
    from .run import SNAPSHOTS

    task = plan.recipe.task
    others = [known for known in task.architectures if known != task.shipped]
    if name == task.shipped:
        raise UsageError(f"--network {name}: its average is in {run.folder / SNAPSHOTS} already")
    if name not in others:
        raise UsageError(
            f"--network {name}: {plan.recipe.name} trains {', '.join(others) or 'no other network'}"
            f" beside the {task.shipped}"
        )


def _state(run: Run, say: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if run.restore(found.update, say) is None:
        raise TrainingError(f"{run.folder}: it has no state yet; wait for its first snapshot")
    return found


def _check_grown(network: Any, run: Run) -> None:
    from ..networks.architecture import Growing

    if isinstance(network, Growing) and (network.share < 1 or not _is_whole(network)):
        raise TrainingError(
            f"{run.folder}: its networks are still growing, at {network.resolution} px; train on"
        )


def _is_whole(network: Any) -> bool:
    side = network.resolution
    network.grow(network.grown)
    return side == network.resolution


def _card(plan: Plan, name: str, nimg: int) -> Any:
    from ..checkpoint import Card, Training

    recipe = plan.recipe
    architecture = recipe.task.architectures[name].model_dump(mode="json")
    return Card(
        title=f"{recipe.name} {name}",
        description=f"The {name} of {recipe.name}, a {architecture['kind']}, after "
        f"{nimg / 1000:.1f} kimg on {plan.images} images of {plan.data_name}.",
        architecture=architecture,
        task="discriminate",
        class_names=plan.class_names,
        training=Training(
            recipe=recipe.model_dump(mode="json"),
            data=plan.data_name,
            images=plan.images,
            nimg=nimg,
        ),
    )
