"""``tools/analysis_tools/get_flops.py``: parameters and operations of a model's parts."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from blip2.cli.common import EXIT_FINE, EXIT_USAGE, positive

if TYPE_CHECKING:
    from blip2.benchmark.complexity import Complexity

_PROG = "tools/analysis_tools/get_flops.py"
_EXAMPLES = """\
examples:
  get_flops.py blip2-opt2.7b_3rdparty-zeroshot_caption
  get_flops.py configs/blip2/blip2_8xb32_retrieval.py --tokens 12
  get_flops.py blip2-tiny_shapes-vqa --shape 96 --json

No weights are needed, and no memory for them. Operations are those of products, convolutions and attention; a
multiplication and an addition are two (halve them for MACs). Norms, softmax and activations are left out.
"""


def main(argv: list[str] | None = None, prog: str = _PROG) -> int:
    """Runs the tool; returns 0, or 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Count parameters and operations of a BLIP-2 model, part by part, for one picture.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="a config's path, a bundled config, or a model name")
    parser.add_argument(
        "--shape", type=positive, nargs="+", metavar="N", help="height and width in pixels, or one number for both"
    )
    parser.add_argument("--tokens", type=positive, default=8, metavar="N", help="of the prompt or text (default: 8)")
    parser.add_argument("--json", action="store_true", help="a JSON object")
    args = parser.parse_args(argv)
    if args.shape and len(args.shape) > 2:
        parser.error(f"--shape takes one number or two, not {len(args.shape)}")

    from blip2.apis.config import load_config
    from blip2.benchmark.complexity import complexity

    try:
        size = None if args.shape is None else (args.shape[0], args.shape[-1])
        found = complexity(load_config(args.config), size, args.tokens)
    except (ValueError, TypeError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(json.dumps(asdict(found), indent=2) if args.json else _table(found))
    return EXIT_FINE


def _table(found: "Complexity") -> str:
    rows = [("part", "parameters", "trained", "GFLOP", "for each")]
    for part in found.parts:
        flops = "unknown" if part.flops is None else f"{part.flops / 1e9:,.3f}"
        numbers = (_millions(part.parameters), _millions(part.trainable)) if part.parameters else ("", "")
        rows.append((part.name, *numbers, flops, part.each))
    rows.append(("all", _millions(found.parameters), _millions(found.trainable), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            text.rjust(width) if 0 < column < 4 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    height, width = found.size
    return "\n".join([f"picture {height}×{width}, {found.tokens} tokens of text", *lines])


def _millions(number: int) -> str:
    return f"{number / 1e6:,.2f} M"


if __name__ == "__main__":
    sys.exit(main())
