"""``blip2 check-dataset``: looks whether the data of a config are there and whole."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from blip2.cli.runs import EXIT_FAILED, EXIT_FINE, ConfigOptions, HelpFormatter, guarded

if TYPE_CHECKING:
    from blip2.apis.dataset_check import DatasetReport

EXAMPLES = """\
examples:
  blip2 check-dataset blip2/blip2-opt2.7b_8xb32_caption.py                # files, counts, 20 pictures of each part
  blip2 check-dataset my_config.py --part test --all                      # decode every picture of the test part
  blip2 check-dataset my_config.py --json
  blip2 check-dataset my_config.py --cfg-options test_dataloader.dataset.data_root=/mnt/coco

CONFIG is a path, a bundled config or a model name. Exit code: 0 all is there, 1 something is missing or wrong,
2 the command line or the config cannot be used.
"""

# So many problems of one data set are told; --json has all.
SHOWN = 10


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blip2 check-dataset",
        description="Check the data of a config: files, counts as published, ids that belong together, pictures.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="path, bundled config or model name")
    parser.add_argument(
        "--part", action="append", choices=("train", "val", "test"), help="only this part (can be given again)"
    )
    parser.add_argument("--all", action="store_true", help="decode every picture")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="pictures to decode (default: 20)")
    parser.add_argument("--json", action="store_true", help="a JSON list with an object a data set")
    parser.add_argument(
        "--cfg-options", nargs="+", action=ConfigOptions, metavar="KEY=VALUE", help="overrides of the config"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; the exit codes are those of the help."""
    args = build_parser().parse_args(argv)
    return guarded("blip2 check-dataset", lambda: check(args))


def check(args: argparse.Namespace) -> int:
    """Checks as `args` say, and tells what was found."""
    from blip2.apis.config import load_config
    from blip2.apis.dataset_check import PARTS, check_datasets
    from blip2.engine.errors import OptionError

    if args.sample < 0:
        raise OptionError(f"--sample {args.sample} must be 0 or more")
    cfg = load_config(args.config, args.cfg_options)
    try:
        reports = check_datasets(cfg, args.part or PARTS, None if args.all else args.sample)
    except ValueError as error:
        raise OptionError(str(error)) from error
    if args.json:
        print(json.dumps([_record(report) for report in reports], ensure_ascii=False, indent=2))
    else:
        for report in reports:
            print("\n".join(_lines(report)))
    problems = sum(len(report.problems) for report in reports)
    if problems:
        print(f"blip2 check-dataset: {problems} problem(s)", file=sys.stderr)
    return EXIT_FAILED if problems else EXIT_FINE


def _lines(report: "DatasetReport") -> list[str]:
    lines = [f"{', '.join(report.parts)}: {report.type} {', '.join(report.files)}".rstrip()]
    if report.pictures is not None:
        as_published = report.published is not None and (report.published.pictures or report.published.texts)
        counted = " (as published)" if as_published and not report.problems else ""
        lines.append(f"  {report.pictures:,} pictures, {report.texts:,} texts{counted}; {report.decoded:,} decoded")
    for word, texts in (("problem", report.problems), ("left out", report.notes)):
        lines += [f"  {word}: {text}" for text in texts[:SHOWN]]
        if len(texts) > SHOWN:
            lines.append(f"  {word}: and {len(texts) - SHOWN:,} more (--json has all)")
    return lines


def _record(report: "DatasetReport") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(report)


if __name__ == "__main__":
    sys.exit(main())
