"""The verb ``import``: a file of another program becomes a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from .candidates import Candidate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments on ``parser``."""
    parser.add_argument(
        "file", type=Path, help="a .pkl, .pt, .pth, .bin, .ckpt or .safetensors file"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.safetensors", help="the checkpoint to write"
    )
    parser.add_argument(
        "--network", metavar="PLACE", help="which of its networks, as --info names it"
    )
    parser.add_argument(
        "--layers",
        default="",
        metavar="K/S/P,...",
        help="kernel/stride/padding of each layer of a DCGAN (default: the usual ones)",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="FILE",
        help="of AdaIN, beside its decoder: vgg_normalised.pth",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what a file for translation leaves open, as the notes name it, such as "
        "statistics=stored or resolution=512; repeatable",
    )
    parser.add_argument("--info", action="store_true", help="say what is in it, and write nothing")
    parser.add_argument("--json", action="store_true", help="with --info: as JSON")


def main(args: argparse.Namespace) -> int:
    """Import as ``args`` say; the exit code.

    Raises:
        ImagenError: the file cannot be read or written, or is of no known format."""
    from .. import checkpoint
    from .formats import card_of, choose, network_of, read
    from .told import told

    if args.info == (args.output is not None):
        raise UsageError("import: give either -o OUT.safetensors, or --info")
    if args.output and args.output.suffix != ".safetensors":
        raise UsageError(f"-o {args.output}: takes the name of a .safetensors file")
    contents = read(args.file, args.layers, args.encoder, told(args.set))
    if args.info:
        rows = [(f.candidate, f.format, "") for f in contents.found]
        rows += [(f.candidate, f.format, f.needs) for f in contents.unmet]
        rows += [(candidate, "", "") for candidate, _ in contents.others]
        described = [_described(*row) for row in rows]
        print(
            json.dumps({"container": contents.container, "networks": described})
            if args.json
            else _text(contents.container, described)
        )
        return 0
    found = choose(args.file, contents, args.network)
    network = network_of(found)
    checkpoint.save(args.output, card_of(args.file, found), network)
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    print(f"{args.output}: {found.imported.architecture.model_dump()['kind']}, {values:,} values")
    place = found.candidate.place
    print(f"from {args.file}{f', {place}' if place else ''}: {found.format}")
    if args.network is None and (others := [f for f in contents.found if f is not found]):
        places = ", ".join(f"{f.candidate.place} ({f.format})" for f in others)
        print(f"note: there is more in it, which --network takes: {places}")
    for note in found.imported.notes:
        print(f"note: {note}")
    return 0


def _described(candidate: Candidate, name: str, needs: str) -> dict[str, object]:
    sample = {n: list(t.shape) for n, t in list(candidate.tensors.items())[:4]}
    return {
        "place": candidate.place,
        "format": name or None,
        "needs": needs or None,
        "tensors": len(candidate.tensors),
        "values": sum(tensor.count for tensor in candidate.tensors.values()),
        "first": sample,
    }


def _text(container: str, described: list[dict[str, object]]) -> str:
    lines = [f"a {container}"]
    for row in described:
        lines.append(f"{row['place'] or '(all of it)'}: {row['format'] or 'no known format'}")
        lines += [f"  {row['needs']}"] if row["needs"] else []
        lines.append(f"  {row['tensors']} tensors, {row['values']:,} values")
        first = row["first"]
        assert isinstance(first, dict)
        lines += [f"  {name} {shape}" for name, shape in first.items()]  # pyright: ignore
    return "\n".join(lines)
