"""``blip2 benchmark``: how fast a task is here, beside the same work done another way."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

_TASKS = ("caption", "vqa", "retrieval")
_WORK = ("batch_size", "num_beams", "max_new_tokens", "questions", "texts", "topk")

_PICTURES = (".png", ".svg", ".pdf")

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_EXAMPLES = """\
examples:
  {prog}                                       # 12 layers 768 wide, fp32, on the CPU: some minutes
  {prog} --preset tiny --repeats 3             # seconds; to see that it works
  {prog} --precision bf16 --json speed.json
  {prog} --config blip2-opt2.7b_8xb32_caption --device cuda --precision bf16 --no-peer
  {prog} --task vqa --questions 5              # beside each picture read and encoded again for each question
  {prog} --task vqa --peer transformers
  {prog} --task retrieval --texts 160          # beside a picture's features repeated for each candidate text
  {prog} load                                  # time and memory of loading weights; {prog} load --help
  {prog} --task retrieval --peer mmpretrain=/envs/mmpretrain/bin/python
  {prog} --suite --peer mmpretrain=PYTHON --peer lavis=PYTHON --json suite.json --plot suite.png
  {prog} --growth num-beams=1,3,5,8            # how the stages grow; pixels=224,364,490 works too
  {prog} --cold-start                          # process start to first caption of the small model

Weights are random, pictures and texts are drawn, so nothing is fetched. Answers (token ids; for retrieval candidates
and scores) are compared before anything is timed.

exit codes: 0 measured, 1 the answers differ (ratios void) or the timed command failed, 2 wrong usage
"""


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of ``blip2 benchmark``."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Time the stages of captioning, question answering or retrieval and the whole pipeline beside the "
        "same work in transformers, or done as upstream does it, with the same weights, in turn, in one process.",
        epilog=_EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", choices=_TASKS, default="caption", help="what is timed (default: caption)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--preset",
        default="mid",
        metavar="NAME",
        help="sizes by name: mid, tiny, wide (ViT-g-wide features), full (ViT-g and OPT-2.7B, for GPUs) (default: mid)",
    )
    what.add_argument("--config", metavar="CONFIG", help="a config of the task's model: a path, a bundled one, a name")
    parser.add_argument(
        "--suite", action="store_true", help="all comparisons that have a target, one after another; tens of minutes"
    )
    what.add_argument("--cold-start", action="store_true", help="time the first caption of a fresh process instead")
    parser.add_argument(
        "--growth",
        type=_varied,
        metavar="NAME=N,N…",
        help="time blip2 alone at several values of one of the numbers below, or of 'pixels'",
    )
    work = parser.add_argument_group("work (default: the preset's, or mid's)")
    work.add_argument("--batch-size", type=_positive, metavar="N", help="pictures in a round; of retrieval the gallery")
    work.add_argument("--num-beams", type=_positive, metavar="N", help="beams of the search; 1 is greedy")
    work.add_argument("--max-new-tokens", type=_positive, metavar="N", help="tokens of a caption or answer, exactly")
    work.add_argument("--questions", type=_positive, metavar="N", help="vqa: questions about each picture")
    work.add_argument("--texts", type=_positive, metavar="N", help="retrieval: texts in a round")
    work.add_argument("--topk", type=_positive, metavar="N", help="retrieval: most similar ones that are ranked again")
    how = parser.add_argument_group("how")
    how.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of both (default: fp32)")
    how.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    how.add_argument("--threads", type=_positive, metavar="N", help="threads of torch (default: as torch decides)")
    how.add_argument("--repeats", type=_positive, default=5, metavar="N", help="measured rounds (default: 5)")
    how.add_argument("--warmup", type=_count, default=1, metavar="N", help="rounds before them (default: 1)")
    how.add_argument("--compile", action="store_true", help="torch.compile for our image encoder and Q-Former")
    beside = how.add_mutually_exclusive_group()
    beside.add_argument(
        "--peer",
        action="append",
        metavar="NAME[=PYTHON]",
        help="what ours is timed beside: transformers (caption, vqa), repeated (vqa, retrieval: the same model used "
        "as upstream does; default of these two), padded (retrieval: the same, texts padded as upstream does), or, run "
        "by the interpreter PYTHON that has it, mmpretrain (caption, retrieval) or lavis (caption); with --suite once "
        "for each",
    )
    beside.add_argument("--no-peer", action="store_true", help="time blip2 alone")
    how.add_argument("--peer-precision", choices=("fp32", "bf16", "fp16"), help="of the peer (default: as ours)")
    parser.add_argument("--plot", metavar="FILE", help="draw the stages as bars there (.png, .svg, .pdf)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    return parser


def main(argv: list[str] | None = None, prog: str = "blip2 benchmark") -> int:
    """Runs the command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["load"]:
        from blip2.cli.benchmark_load import main as load

        return load(arguments[1:], f"{prog} load")
    args = build_parser(prog).parse_args(arguments)
    run = _suite if args.suite else _cold_start if args.cold_start else _growth if args.growth else _benchmark
    try:
        for file in (args.json, args.plot):
            if file:
                _check_writable(Path(file))
        if args.plot:
            _check_drawable(Path(args.plot), args)
        record, text, code = run(args)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(text)
    if args.json:
        Path(args.json).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return code


def _benchmark(args: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from blip2.apis.config import load_config
    from blip2.benchmark.run import benchmark
    from blip2.benchmark.table import render
    from blip2.benchmark.work import WORKS, preset

    config, work = (load_config(args.config), WORKS[args.task]()) if args.config else preset(args.preset, args.task)
    work = _changed(work, args)
    peers = _peers(args.peer)
    if len(peers) > 1:
        raise ValueError(f"one --peer at a time without --suite, not {' and '.join(peers)}")
    peer, python = next(iter(peers.items()), (None, None))
    report = benchmark(
        config,
        work,
        name=Path(args.config).stem if args.config else args.preset,
        repeats=args.repeats,
        warmup=args.warmup,
        threads=args.threads,
        with_peer=not args.no_peer,
        peer=peer,
        python=python,
        peer_precision=args.peer_precision,
        compiled=args.compile,
        say=_say,
    )
    if args.plot and report.times:
        from blip2.benchmark.plot import plot

        plot([report], Path(args.plot))
    return report.as_dict(), render(report), EXIT_FAILED if report.void else EXIT_FINE


def _growth(args: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from blip2.apis.config import load_config
    from blip2.benchmark.growth import growth, render
    from blip2.benchmark.work import WORKS, preset

    if args.peer or args.peer_precision or args.plot:
        raise ValueError("--growth times blip2 alone and draws nothing: leave out --peer, --peer-precision and --plot")
    config, work = (load_config(args.config), WORKS[args.task]()) if args.config else preset(args.preset, args.task)
    found = growth(
        config,
        _changed(work, args),
        *args.growth,
        say=_say,
        name_of_run=Path(args.config).stem if args.config else args.preset,
        repeats=args.repeats,
        warmup=args.warmup,
        threads=args.threads,
        compiled=args.compile,
    )
    return found.as_dict(), render(found), EXIT_FINE


def _suite(args: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from blip2.benchmark import table
    from blip2.benchmark.suite import render, suite

    set_by_it = ("config", "no_peer", "cold_start", "growth", "peer_precision", "compile", *_WORK)
    given = [_option(name) for name in set_by_it if getattr(args, name)]
    given += ["--task"] * (args.task != "caption") + ["--precision"] * (args.precision != "fp32")
    if given:
        raise ValueError(f"--suite says itself what is done: it goes not with {', '.join(given)}")
    peers = _peers(args.peer)
    pythons = {name: python for name, python in peers.items() if python is not None}
    if needless := [name for name in peers if name not in pythons]:
        raise ValueError(f"--suite takes --peer NAME=PYTHON only, not --peer {needless[0]}")
    found = suite(
        pythons,
        sizes=args.preset,
        device=args.device,
        repeats=args.repeats,
        warmup=args.warmup,
        threads=args.threads,
        say=_say,
        show=lambda report: print(table.render(report) + "\n", flush=True),
    )
    if args.plot:
        from blip2.benchmark.plot import plot

        plot(found.reports, Path(args.plot))
    return found.as_dict(), render(found), EXIT_FAILED if found.void else EXIT_FINE


def _peers(given: list[str] | None) -> dict[str, str | None]:
    """Peer → its interpreter, or None for one that needs none; raises ValueError for an interpreter nobody can run."""
    from blip2.benchmark.worker import WORKERS
    from blip2.utils.suggest import did_you_mean

    found: dict[str, str | None] = {}
    for text in given or ():
        name, equals, python = text.partition("=")
        if equals and name not in WORKERS:
            raise ValueError(
                f"no peer {name!r} that runs in an interpreter of its own.{did_you_mean(name, WORKERS)} Peers: "
                f"{', '.join(WORKERS)}"
            )
        found[name] = python if equals else None
    return found


def _changed(work: Any, args: argparse.Namespace) -> Any:
    """`work` as the options want it; raises ValueError for one that the task has no use for."""
    from dataclasses import replace

    given = {name: getattr(args, name) for name in _WORK if getattr(args, name) is not None}
    for name in given:
        if not hasattr(work, name):
            known = ", ".join(_option(option) for option in _WORK if hasattr(work, option))
            raise ValueError(f"{_option(name)} means nothing for --task {args.task}, whose work has {known}")
    return replace(work, precision=args.precision, device=args.device, **given)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _cold_start(args: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from blip2.benchmark import machine
    from blip2.benchmark.cold_start import ColdStartError, cold_start

    if args.task != "caption":
        raise ValueError(f"--cold-start times the first caption: it goes not with --task {args.task}")
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


def _check_drawable(path: Path, args: argparse.Namespace) -> None:
    if args.cold_start:
        raise ValueError("--plot draws stages, and a cold start has none: leave one of the two out")
    if path.suffix.lower() not in _PICTURES:
        raise ValueError(f"cannot draw {path}: its name must end in {', '.join(_PICTURES)}")


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def _varied(text: str) -> tuple[str, list[int]]:
    """``num-beams=1,3,5`` as the number's name and its values."""
    name, equals, values = text.partition("=")
    if not name or not equals or not values:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N,N… such as num-beams=1,3,5")
    return name.replace("-", "_"), [_positive(value) for value in values.split(",")]


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
