"""``blip2 benchmark``: how fast captioning is here, beside ``transformers``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_EXAMPLES = """\
examples:
  {prog}                                       # 12 layers 768 wide, fp32, on the CPU: some minutes
  {prog} --preset tiny --repeats 3             # seconds; to see that it works
  {prog} --precision bf16 --json speed.json
  {prog} --config blip2-opt2.7b_8xb32_caption --device cuda --precision bf16 --no-peer
  {prog} --cold-start                          # process start to first caption of the small model

Weights are random and pictures are drawn, so nothing is fetched. Token ids are compared before anything is timed.

exit codes: 0 measured, 1 the answers differ (ratios void) or the timed command failed, 2 wrong usage
"""


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of ``blip2 benchmark``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Time the stages of captioning (picture decoding, vision, Q-Former, prefill, decode steps) and the "
        "whole pipeline beside the same work in transformers, with the same weights, in turn, in one process.",
        epilog=_EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", default="mid", metavar="NAME", help="sizes by name: mid or tiny (default: mid)")
    what.add_argument("--config", metavar="CONFIG", help="a caption model's config: a path, a bundled one, a name")
    what.add_argument("--cold-start", action="store_true", help="time the first caption of a fresh process instead")
    work = parser.add_argument_group("work (default: the preset's, or 8 pictures, 5 beams, 20 tokens)")
    work.add_argument("--batch-size", type=_positive, metavar="N", help="pictures in a round")
    work.add_argument("--num-beams", type=_positive, metavar="N", help="beams of the search; 1 is greedy")
    work.add_argument("--max-new-tokens", type=_positive, metavar="N", help="tokens of a caption, exactly")
    how = parser.add_argument_group("how")
    how.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of both (default: fp32)")
    how.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    how.add_argument("--threads", type=_positive, metavar="N", help="threads of torch (default: as torch decides)")
    how.add_argument("--repeats", type=_positive, default=5, metavar="N", help="measured rounds (default: 5)")
    how.add_argument("--warmup", type=_count, default=1, metavar="N", help="rounds before them (default: 1)")
    how.add_argument("--no-peer", action="store_true", help="time blip2 alone")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    return parser


def main(argv: list[str] | None = None, prog: str = "blip2 benchmark") -> int:
    """Runs the command; returns the exit code."""
    args = build_parser(prog).parse_args(argv)
    try:
        if args.json:
            _check_writable(Path(args.json))
        record, text, code = _cold_start(args) if args.cold_start else _benchmark(args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(text)
    if args.json:
        Path(args.json).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return code


def _benchmark(args: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from dataclasses import replace

    from blip2.apis.config import load_config
    from blip2.benchmark.run import benchmark
    from blip2.benchmark.table import render
    from blip2.benchmark.work import Work, preset

    config, work = (load_config(args.config), Work()) if args.config else preset(args.preset)
    given = {name: getattr(args, name) for name in ("batch_size", "num_beams", "max_new_tokens")}
    work = replace(
        work,
        precision=args.precision,
        device=args.device,
        **{name: value for name, value in given.items() if value is not None},
    )
    report = benchmark(
        config,
        work,
        name=Path(args.config).stem if args.config else args.preset,
        repeats=args.repeats,
        warmup=args.warmup,
        threads=args.threads,
        with_peer=not args.no_peer,
        say=_say,
    )
    return report.as_dict(), render(report), EXIT_FAILED if report.void else EXIT_FINE


def _cold_start(args: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from blip2.benchmark import machine
    from blip2.benchmark.cold_start import ColdStartError, cold_start

    try:
        record = cold_start(repeats=args.repeats, say=_say)
    except ColdStartError as error:
        return {}, str(error), EXIT_FAILED
    found = record["cold_start"]
    times = found["seconds"]
    lines = [
        f"first caption of {found['model']} ({found['picture']}) after {times['median']:.1f} s from process start "
        f"({times['min']:.1f}–{times['max']:.1f} in {len(times['values'])} starts; the first {times['values'][0]:.1f})",
        f"target {found['target']:.0f} s: {'met' if found['met'] else 'MISSED'}",
        f"machine: {machine.in_words(record['machine'])}",
    ]
    return record, "\n".join(lines), EXIT_FINE


def _check_writable(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.absolute().parent}")


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    return _whole(text, 1)


def _count(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return number
