"""``blip2 scenes``: writes the small model's data."""

import argparse
import sys
from pathlib import Path

EXAMPLES = """\
examples:
  blip2 scenes data/scenes                             # what the recipe of the small model trains on (60,000 pictures)
  blip2 scenes data/few --train 2000 --documents 5000  # to try things out
  blip2 scenes pictures --train 0 --documents 0 --val 0 --held-out 0 --test 20 --size 384   # a few large pictures
"""


def parser() -> argparse.ArgumentParser:
    from blip2.datasets.scenes.generate import DEFAULT_COUNTS

    parser = argparse.ArgumentParser(
        prog="blip2 scenes",
        description="Write a data set of drawn scenes: pictures, captions in COCO's forms, scene graphs, documents.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to; must not exist yet, or be empty")
    for name, count in DEFAULT_COUNTS.items():
        flag, what = f"--{name.replace('_', '-')}", "text documents" if name == "documents" else f"pictures of {name}"
        parser.add_argument(flag, type=int, default=count, metavar="N", help=f"{what} (default: {count})")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels (default: 96)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes (default: 0)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 when the folder cannot be used."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from blip2.datasets.scenes.generate import DEFAULT_COUNTS, generate

    args = parser().parse_args(argv)
    counts = {name: getattr(args, name) for name in DEFAULT_COUNTS}
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            tasks = {name: progress.add_task(name, total=total) for name, total in counts.items()}
            for name, done, _ in generate(args.folder, counts, args.size, args.seed, args.workers):
                progress.update(tasks[name], completed=done)
    except (FileExistsError, ValueError) as error:
        print(f"blip2 scenes: {error}", file=sys.stderr)
        return 2
    print(f"written to {args.folder}")
    return 0
