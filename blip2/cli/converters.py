"""What the scripts in tools/dataset_converters share: the options that all have, and how they end."""

import argparse
from collections.abc import Callable
from typing import Any

from blip2.utils.derived_files import write_files
from blip2.utils.errors import AnnotationError


def converter_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the examples in `description`; a script adds its sources, `run` the rest."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def run(parser: argparse.ArgumentParser, convert: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """Writes what `convert` makes of the command line; a mistake of the user's is one message and exit code 2."""
    parser.add_argument("folder", help="where to write; it is made")
    parser.add_argument("--force", action="store_true", help="write over files that are there")
    args = parser.parse_args()
    try:
        for path in write_files(args.folder, convert(args), replace=args.force):
            print(path)
    except (AnnotationError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
