"""The command line: ``imagen-nodes VERB``. One function a verb; each imports what it needs."""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import Cancelled, DataError, ImagenError, WorkflowError

if TYPE_CHECKING:
    from .checkpoint import Header


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code: 0 done, 1 the run failed, 2 the workflow or the call is
    wrong, 130 cancelled."""
    args = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names and texts that it cannot write are told
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _terminable():
            return args.verb(args)
    except KeyboardInterrupt:
        return _complain(args, Cancelled("cancelled"))
    except ImagenError as error:
        return _complain(args, error)
    except BrokenPipeError:  # the reader of our output has left: `imagen-nodes nodes | head`
        sys.stderr.close()
        return 0
    except OSError as error:  # of a path that was given: no permission, too long a name, ...
        where = f"{error.filename}: " if error.filename else ""
        return _complain(args, DataError(f"{where}{error.strerror or error}"))


@contextmanager
def _terminable() -> Generator[None]:
    """SIGTERM ends what runs meanwhile as Ctrl-C does, so that nothing half-written stays."""
    if threading.current_thread() is not threading.main_thread():  # signals come to that alone
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(args: argparse.Namespace, error: ImagenError) -> int:
    if getattr(args, "json", False):
        event: dict[str, Any] = {"event": "error", "message": str(error)}
        if isinstance(error, WorkflowError):
            event |= error.report
        event |= {key: value for key, value in vars(error).items() if key != "report"}
        print(json.dumps(event, default=str), flush=True)
    else:
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def run(args: argparse.Namespace) -> int:
    """Run a workflow and say which files it wrote."""
    from .console import Console
    from .memory import keep_memory
    from .runner import Runner

    keep_memory()
    with Console(json=args.json) as console:
        runner = Runner(
            input=args.input,
            output=args.output,
            weights=args.weights,
            device=args.device,
            listen=console.listen,
        )
        checked = runner.check(args.workflow, args.set)
        console.warn(checked.warnings)
        if args.device:
            _ = runner.host.device  # a wrong call, not a failed run, where there is none
        runner.run_checked(checked)
    return 0


def check(args: argparse.Namespace) -> int:
    """Judge a workflow without running it."""
    from .console import Console
    from .runner import Runner

    runner = Runner(input=args.input, weights=args.weights)
    checked = runner.check(args.workflow, args.set)
    with Console(json=args.json) as console:
        console.warn(checked.warnings)
    if args.json:
        print(json.dumps({"event": "valid", "nodes": len(checked.order)}))
    else:
        print(f"{args.workflow}: valid, {len(checked.order)} nodes")
    return 0


def nodes(args: argparse.Namespace) -> int:
    """List the nodes that there are."""
    from .graph import describe
    from .nodes import NODES  # pyright: ignore[reportMissingImports]
    from .runner import Runner

    runner = Runner()
    types = runner.types.values()
    if args.help_pages:
        describe.write_help_pages(NODES, args.help_pages)
    else:
        print(describe.as_json(types, runner.host) if args.json else describe.table(types))
    return 0


def inspect(args: argparse.Namespace) -> int:
    """Show what a weights file says of itself, or a folder of them as Markdown."""
    from . import cards, checkpoint
    from .folders import weights_at

    args.file = weights_at(args.file)
    if args.file.is_dir() and not args.json:
        print(cards.overview(args.file), end="")
    elif args.file.is_dir():
        headers = cards.headers(args.file)
        print(json.dumps({name: _as_json(header) for name, header in headers.items()}))
    elif args.json:
        print(json.dumps(_as_json(checkpoint.inspect(args.file))))
    else:
        print(cards.describe(checkpoint.inspect(args.file)))
    return 0


def _as_json(header: Header) -> dict[str, Any]:
    """The whole card, and the tensors."""
    tensors = {name: {"shape": t.shape, "dtype": t.dtype} for name, t in header.tensors.items()}
    return {"card": header.card.model_dump(mode="json"), "tensors": tensors}


def import_(args: argparse.Namespace) -> int:
    """Make a checkpoint of a file of another program, of which nothing is run."""
    from .importers import cli

    return cli.main(args)


def evaluate(args: argparse.Namespace) -> int:
    """Measure how good a network is, against real pictures."""
    from .evaluation import cli
    from .training.data import open_data
    from .training.degradation import degradation_of

    return cli.main(args, open_data, degradation_of)


def data(args: argparse.Namespace) -> int:
    """Say what a data set holds, before training on it."""
    from .training.data import cli
    from .training.presets import PRESETS

    return cli.main(args, PRESETS)


def augment(args: argparse.Namespace) -> int:
    """Expand a labelled folder with generated pictures."""
    from .augmentation import cli

    return cli.main(args)


def compare(args: argparse.Namespace) -> int:
    """Measure how far pictures are from those that they should be."""
    from .evaluation import compare

    return compare.main(args)


def train(args: argparse.Namespace) -> int:
    """Train a recipe on pictures."""
    from .training import cli

    return cli.main(args)


def export(args: argparse.Namespace) -> int:
    """Write another network of a training than its snapshots hold: the discriminator."""
    from .training import export

    return export.main(args)


def report(args: argparse.Namespace) -> int:
    """Show how a training went, or compare several, as a page."""
    from .evaluation import report_cli

    return report_cli.main(args)


def _parser() -> argparse.ArgumentParser:
    from .augmentation import cli as augmentation
    from .evaluation import cli as evaluation
    from .evaluation import compare as comparison
    from .evaluation import report_cli
    from .importers import cli as importers
    from .training import cli as training
    from .training import export as exporting
    from .training.data import cli as survey

    parser = argparse.ArgumentParser("imagen-nodes", description="GANs as nodes.")
    parser.add_argument("--version", action="version", version=f"imagen-nodes {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(verb: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        name = verb.__name__.rstrip("_")
        sub = verbs.add_parser(name, help=verb.__doc__, description=verb.__doc__)
        sub.set_defaults(verb=verb)
        return sub

    for sub in (add(run), add(check)):
        sub.add_argument(
            "workflow", help="JSON in ComfyUI's API format, a PNG that carries one, or an example"
        )
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NODE.INPUT=VALUE",
            help="change an input; NODE is an id or a title; repeatable",
        )
        sub.add_argument(
            "--input", type=Path, default="input", metavar="DIR", help="pictures to read"
        )
        sub.add_argument(
            "--weights",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help="weights, before ./weights and those that ship; repeatable",
        )
        sub.add_argument("--json", action="store_true", help="one JSON event a line")
        if sub.get_default("verb") is run:
            sub.add_argument(
                "--output", type=Path, default="output", metavar="DIR", help="pictures to write"
            )
            sub.add_argument("--device", default="", help="cpu, cuda, cuda:1, ...")
    sub = add(nodes)
    sub.add_argument("--json", action="store_true", help="as ComfyUI's /object_info")
    sub.add_argument("--help-pages", type=Path, metavar="DIR", help="write our help pages there")
    sub = add(inspect)
    sub.add_argument("file", type=Path, help="a .safetensors file, one that ships, or a folder")
    sub.add_argument("--json", action="store_true", help="the whole card and the tensors")
    importers.add_arguments(add(import_))
    evaluation.add_arguments(add(evaluate))
    comparison.add_arguments(add(compare))
    survey.add_arguments(add(data))
    augmentation.add_arguments(add(augment))
    training.add_arguments(add(train))
    exporting.add_arguments(add(export))
    report_cli.add_arguments(add(report))
    return parser


if __name__ == "__main__":
    sys.exit(main())
