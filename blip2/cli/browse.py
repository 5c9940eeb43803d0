"""``blip2 browse``: the predictions of a test as a page to look through."""

import argparse
import sys
from pathlib import Path

from blip2.cli.common import EXIT_FINE, EXIT_SOME_FAILED, EXIT_USAGE

_EXAMPLES = """\
examples:
  blip2 test CONFIG CHECKPOINT --out pred.json --out-item pred   # first: the predictions
  blip2 browse CONFIG pred.json                                  # pred.html, one file with small pictures in it
  blip2 browse CONFIG pred.json --out report                     # a folder: report/index.html and its pictures
  blip2 browse CONFIG pred.json --worst 200

The page opens in a browser without a server. It sorts (worst first), filters and searches. A .pkl is read as pickle,
which can run code: open your own only.

exit codes: 0 written, 1 written without some pictures, 2 wrong usage
"""


def build_parser(prog: str = "blip2 browse") -> argparse.ArgumentParser:
    """The options of ``blip2 browse``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write the predictions of a test (captions, answers or retrieval) as an HTML page.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="path, bundled config or model name that the test ran with")
    parser.add_argument("predictions", metavar="PREDICTIONS", help="what --out-item pred wrote: .json, .pkl or .pickle")
    parser.add_argument("--out", metavar="PATH", help="a .html file, or a folder (default: PREDICTIONS as .html)")
    parser.add_argument("--worst", type=int, metavar="N", help="only the N with the lowest scores")
    parser.add_argument("--title", help="what stands above (default: the names of config and predictions)")
    return parser


def main(argv: list[str] | None = None, prog: str = "blip2 browse") -> int:
    """Runs the command; returns the exit code."""
    args = build_parser(prog).parse_args(argv)
    from blip2.apis.browse import PredictionsError, read_predictions, report_items
    from blip2.apis.config import ConfigError, load_config
    from blip2.utils.errors import AnnotationError
    from blip2.visualization.report import write_report

    try:
        if args.worst is not None and args.worst < 1:
            raise PredictionsError(f"--worst {args.worst}: wanted 1 or more")
        items, measure = report_items(load_config(args.config), read_predictions(args.predictions))
        if args.worst is not None:
            items = sorted(items, key=lambda item: float("inf") if item.score is None else item.score)[: args.worst]
        out = Path(args.out or Path(args.predictions).with_suffix(".html"))
        title = args.title or f"{Path(args.config).stem}: {Path(args.predictions).name}"
        problems = write_report(items, out, title, measure)
    except (PredictionsError, ConfigError, AnnotationError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(out if out.is_file() else out / "index.html")
    for problem in problems:
        print(f"{prog}: {problem}", file=sys.stderr)
    return EXIT_SOME_FAILED if problems else EXIT_FINE
