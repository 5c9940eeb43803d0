"""``tools/analysis_tools/analyze_logs.py``: curves and times of trainings."""

import argparse
import sys
from pathlib import Path
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING

from blip2.cli.common import EXIT_FINE, EXIT_USAGE, positive

if TYPE_CHECKING:
    from blip2.visualization.training_log import TrainingLog

_PROG = "tools/analysis_tools/analyze_logs.py"
_EXAMPLES = """\
examples:
  analyze_logs.py plot work_dirs/mine                                    # loss, learning rate and scores: curves.png
  analyze_logs.py plot work_dirs/a work_dirs/b --keys loss CIDEr --legend small large --smooth 10
  analyze_logs.py time work_dirs/mine                                    # seconds an iteration

A LOG is a work folder of `blip2 train` (the runs of a resumed training are joined) or one scalars.json.
"""


def build_parser(prog: str = _PROG) -> argparse.ArgumentParser:
    """The options of the tool."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Draw the curves of trainings, or tell how long their iterations took.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="plot|time")
    plot = commands.add_parser("plot", help="draw curves", allow_abbrev=False)
    plot.add_argument("logs", nargs="+", metavar="LOG", help="a work folder or a scalars.json")
    plot.add_argument("--keys", nargs="+", metavar="NAME", help="scalars to draw (default: losses, lr, scores)")
    plot.add_argument("--legend", nargs="+", metavar="NAME", help="what the logs are called (default: their folders)")
    plot.add_argument("--smooth", type=positive, default=1, metavar="N", help="medians of N logged values (default: 1)")
    plot.add_argument("--out", default="curves.png", metavar="FILE", help=".png, .svg or .pdf (default: curves.png)")
    times = commands.add_parser("time", help="seconds an iteration", allow_abbrev=False)
    times.add_argument("logs", nargs="+", metavar="LOG", help="a work folder or a scalars.json")
    return parser


def main(argv: list[str] | None = None, prog: str = _PROG) -> int:
    """Runs the tool; returns 0, or 2 for wrong usage."""
    args = build_parser(prog).parse_args(argv)

    from blip2.visualization.training_log import TrainingLogError, read_training_log

    try:
        logs = [read_training_log(path) for path in args.logs]
        for log in logs:
            for file in log.cut_off:
                print(f"{prog}: the last line of {file} is not whole, and left out", file=sys.stderr)
        if args.command == "plot":
            _plot(args, logs)
        else:
            _time(logs)
    except (TrainingLogError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_FINE


def _plot(args: argparse.Namespace, logs: "list[TrainingLog]") -> None:
    from blip2.visualization.training_log import TrainingLogError, draw_curves

    if args.legend and len(args.legend) != len(logs):
        raise TrainingLogError(f"--legend has {len(args.legend)} names for {len(logs)} logs")
    if Path(args.out).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise TrainingLogError(f"--out {args.out}: the name must end in .png, .svg or .pdf")
    names = args.keys or _usual(logs)
    draw_curves(logs, names, args.out, legend=args.legend, smooth=args.smooth)
    print(args.out)


def _usual(logs: "list[TrainingLog]") -> list[str]:
    """Losses, learning rate and scores, each once."""
    training = [name for log in logs for name in log.training if "loss" in name or name == "lr"]
    scores = [name for log in logs for name in log.validation if name not in ("time", "data_time")]
    return list(dict.fromkeys([*training, *scores]))


def _time(logs: "list[TrainingLog]") -> None:
    from blip2.visualization.training_log import TrainingLogError

    print(f"{'seconds an iteration':<40}  median    mean   5 %    95 %   logged")
    for log in logs:
        seconds = log.seconds()
        if not seconds:
            raise TrainingLogError(f"{log.name} has no times of training")
        low, high = (seconds[0], seconds[0]) if len(seconds) == 1 else _tails(seconds)
        numbers = f"{median(seconds):8.3f}{mean(seconds):8.3f}{low:8.3f}{high:8.3f}{len(seconds):7d}"
        print(f"{log.name[-40:]:<40}{numbers}")


def _tails(seconds: list[float]) -> tuple[float, float]:
    cuts = quantiles(seconds, n=20, method="inclusive")
    return cuts[0], cuts[-1]


if __name__ == "__main__":
    sys.exit(main())
