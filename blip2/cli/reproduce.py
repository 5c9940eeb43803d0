"""``blip2 reproduce``: measures the published scores of a model again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.cli.common import positive
from blip2.cli.runs import (
    EXIT_FINE,
    HelpFormatter,
    add_common_options,
    chosen_precision,
    guarded,
    leaving_processes,
)

if TYPE_CHECKING:
    from blip2.apis.reproduce import Row

EXAMPLES = """\
examples:
  blip2 reproduce blip2-tiny_shapes-caption --data-root data/scenes
  blip2 reproduce blip2-tiny_shapes-vqa --data-root data/scenes --limit 20    # a trial
  blip2 reproduce blip2_3rdparty_retrieval --precision bf16 --work-dir work_dirs/retrieval
  blip2 reproduce blip2-tiny_shapes-caption --dataset '*held-out*' --out report.json

NAME is a model of the zoo (`blip2 list`). What is run for a score is the config that its metafile names, or the model's
own; `blip2 check-dataset CONFIG` looks at its data before. Predictions are kept in the work folder: the same command
after an interruption goes on from there. The exit code says whether everything was run, not how near the scores are.
"""

COLUMNS = ("task", "data set", "protocol", "metric", "published", "measured", "difference")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blip2 reproduce",
        description="Measure a model's published scores again, and print measured beside published.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="a model of the zoo")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data (default: as the configs say)")
    parser.add_argument("--dataset", default="*", metavar="PATTERN", help="only scores on data sets like this")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N samples: a trial")
    parser.add_argument("--out", metavar="FILE", help="the report (default: report.json in the work folder)")
    parser.add_argument("--no-resume", action="store_true", help="predict everything anew")
    add_common_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0, 1 when pictures could not be read, 2 after a message about what to change."""
    args = build_parser().parse_args(argv)
    return guarded("blip2 reproduce", lambda: reproduce(args))


def reproduce(args: argparse.Namespace) -> int:
    """Measures as `args` say."""
    from mmengine.dist import is_main_process

    from blip2.apis.metafile import model_entries
    from blip2.apis.reproduce import reproduce as measure
    from blip2.apis.reproduce import runs_of
    from blip2.engine.errors import OptionError
    from blip2.utils.suggest import did_you_mean

    entries = model_entries()
    if args.name not in entries:
        raise OptionError(f"no model is called {args.name!r}.{did_you_mean(args.name, entries)} `blip2 list` shows all")
    entry = entries[args.name]
    runs, without_config = runs_of(entry, args.dataset)
    work_dir = Path(args.work_dir or Path("work_dirs/reproduce") / entry.name)
    report = Path(args.out) if args.out else work_dir / "report.json"
    rows: list[Row] = []
    with leaving_processes():
        for more in measure(
            entry,
            runs,
            work_dir=work_dir,
            data_root=args.data_root,
            limit=args.limit,
            resume=not args.no_resume,
            cfg_options=args.cfg_options,
            report=report,
            device=args.device,
            precision=chosen_precision(args),
            launcher=args.launcher,
            skip_bad_images=args.skip_bad_images,
        ):
            rows += more
        if is_main_process():
            print("\n".join(_table(rows)))
            if args.limit:
                print(f"the first {args.limit} samples alone: a trial, not the published protocol")
            for result in without_config:
                print(f"not run: {result.task} on {result.dataset}, for which the metafile names no config")
            if rows:
                print(f"written to {report}")
    return EXIT_FINE


def _table(rows: "Sequence[Row]") -> list[str]:
    """The rows as lines of text, in columns."""
    cells = [list(COLUMNS)]
    for row in rows:
        measured, difference = (
            "–" if value is None else format(value, form)
            for value, form in ((row.measured, ".2f"), (row.difference, "+.2f"))
        )
        numbers = [f"{row.published:.2f}", measured, difference]
        cells.append([row.task, row.dataset, row.protocol or "–", row.metric, *numbers])
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return [
        "  ".join(
            text.ljust(width) if column < 4 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


if __name__ == "__main__":
    sys.exit(main())
