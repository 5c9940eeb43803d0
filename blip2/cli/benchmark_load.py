"""``blip2 benchmark load``: how long loading takes, and how much memory."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_EXAMPLES = """\
examples:
  {prog}                              # the size of the preset 'mid': half a minute
  {prog} --config blip2-opt2.7b_8xb32_caption --precision bf16
                                              # full size: three files of 2 to 7.5 GB
  {prog} --config blip2-opt2.7b_8xb32_caption --precision fp32 --ways blip2 --folder /data/tmp

Weights are random and written first. The exit code is 1 if a target is missed.
"""


def main(argv: list[str], prog: str) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Time and memory of loading a captioner's weights in fresh processes, relative to reading the "
        "file's bytes and to the weights' size, warm and cold, beside transformers' from_pretrained.",
        epilog=_EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="CONFIG", help="a captioner's config (default: the preset 'mid')")
    parser.add_argument(
        "--stored", choices=("fp32", "bf16", "fp16"), default="bf16", help="type in the file (default: bf16)"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16", help="loaded (default: bf16)")
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=("blip2", "pth", "transformers"),
        default=["blip2", "pth", "transformers"],
        help="safetensors, OpenMMLab's .pth, transformers' from_pretrained (default: all)",
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds (default: 3)")
    parser.add_argument("--folder", type=Path, help="where the weights are written, and removed again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)

    from blip2.apis.config import load_config
    from blip2.benchmark.loading import LoadingError, measure_loading, render, write_weights
    from blip2.benchmark.work import preset

    def say(text: str) -> None:
        print(f"… {text}", file=sys.stderr, flush=True)

    try:
        config = load_config(args.config) if args.config else preset("mid", "caption")[0]
        with tempfile.TemporaryDirectory(prefix="blip2-load-", dir=args.folder) as folder:
            say(f"writing random weights to {folder}")
            write_weights(config, Path(folder), args.stored, args.ways)
            record = measure_loading(Path(folder), args.precision, args.ways, repeats=args.repeats, say=say)
    except (ValueError, OSError, LoadingError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    record |= {"config": args.config or "mid", "stored": args.stored}
    print(render(record))
    if args.json:
        args.json.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return EXIT_FINE if all(row["met"] is not False for row in record["loading"]) else EXIT_FAILED
