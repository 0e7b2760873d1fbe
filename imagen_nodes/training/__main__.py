"""``python -m imagen_nodes.training``: the trainer by itself."""

from __future__ import annotations

import argparse
import sys

from ..errors import ImagenError
from . import cli


def main() -> int:
    """Train as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m imagen_nodes.training", description=cli.HELP)
    cli.add_arguments(parser)
    try:
        return cli.main(parser.parse_args())
    except ImagenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
