"""``blip2 explain``: where a model looks."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2.cli.common import (
    EXIT_FINE,
    UsageError,
    add_model_options,
    collect_pictures,
    load_inferencer,
    model_errors,
    not_negative,
    refused,
    told,
)
from blip2.cli.match import DEFAULT_MODEL, PUBLISHED_MODEL

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_EXAMPLES = f"""\
examples:
  blip2 explain demo/scene_1.png "a purple ring on the left of a red square"   # scene_1_explained.png
  blip2 explain demo/scene_1.png "a red square" --out where.png
  blip2 explain demo/scene_1.png --queries                                     # each query, without a text
  blip2 explain demo/scene_1.png --queries --model blip2-tiny_shapes-vqa
  blip2 explain photo.jpg "a dog on a sofa" --model {PUBLISHED_MODEL} --precision bf16

A map shows where a word draws the attention of the queries when the model matches text and picture; all maps are on one
scale of colours, green little, red much. docs/visualization.md says how they are made and what they are worth.

exit codes: 0 written, 2 wrong usage, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 explain``."""
    parser = argparse.ArgumentParser(
        prog="blip2 explain",
        description="Draw heat maps over a picture: where each word of a text, or each query, has the model look.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="IMAGE", help="a picture's path or web address")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="a map for each of its words (retrieval models)")
    parser.add_argument("--queries", action="store_true", help="a map for each query instead (any BLIP-2 model)")
    parser.add_argument(
        "--layer",
        type=not_negative,
        metavar="N",
        help="layer of the Q-Former, from 0 (default: for words the first with cross-attention in the second half, for "
        "queries the last)",
    )
    parser.add_argument("--out", metavar="FILE", help="(default: <name of the picture>_explained.png in this folder)")
    add_model_options(parser, DEFAULT_MODEL, batch_size=None)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)  # the text may stand behind options
    try:
        _check(args)
        inputs, failures = collect_pictures([args.path], "explain")
        if failures or len(inputs) != 1:
            raise UsageError(f"{args.path} is a folder of {len(inputs)} pictures: give one of them")
        out = Path(args.out or f"{Path(inputs[0]).stem}_explained.png")
        with told("explain"), model_errors("try --precision bf16"):
            sheet = _drawn(args, inputs[0])
        _write(sheet, out)
    except UsageError as error:
        return refused("explain", error)
    print(out)
    return EXIT_FINE


def _check(args: argparse.Namespace) -> None:
    if args.queries == (args.text is not None):
        raise UsageError("give either a TEXT, for a map of each word, or --queries, for a map of each query")
    if args.text is not None and not args.text.strip():
        raise UsageError(f"the text is empty ({args.text!r}): there is no word to look for")
    if args.out and Path(args.out).suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {args.out}: the name must end in {', '.join(SUFFIXES)}")


def _drawn(args: argparse.Namespace, path: str) -> "Image.Image":
    from PIL import Image

    from blip2.apis.explain import query_attention, word_maps
    from blip2.apis.inferencers.encoding import EncodingInferencer
    from blip2.apis.inferencers.placement import autocast
    from blip2.visualization import draw_heat_maps

    inferencer = load_inferencer(
        EncodingInferencer, args, command="explain", default=DEFAULT_MODEL, published=PUBLISHED_MODEL
    )
    pixels = inferencer.pipeline.load(path)
    maps: list[tuple[str, Any]]
    try:
        with autocast(inferencer.device, inferencer.precision):
            if args.queries:
                found = query_attention(inferencer.model, pixels, args.layer)
                maps = [(f"query {number}", query) for number, query in enumerate(found)]
            else:
                maps = list(word_maps(inferencer.model, pixels, args.text, args.layer))
    except TypeError as error:  # a model that cannot
        raise UsageError(str(error) + ("" if args.queries else " (on this command line: --queries)")) from error
    picture = Image.fromarray(pixels[:, :, ::-1])
    return draw_heat_maps(args.text or f"queries of {args.model or DEFAULT_MODEL}", picture, maps)


def _write(sheet: "Image.Image", out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(out)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror or error}") from error
