"""``blip2 caption``: captions for picture files, folders and addresses."""

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from blip2.cli.caption_output import Failure, Writer, open_writer
from blip2.cli.inference import (
    EXIT_USAGE,
    UsageError,
    add_model_options,
    collect_pictures,
    model_arguments,
    positive,
    progress_bar,
    report_failures,
    usage_errors,
    warn_of_small_model,
)

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from blip2.apis.inferencers import ImageCaptionInferencer

DEFAULT_MODEL = "blip2-tiny_shapes-caption"
PUBLISHED_MODEL = "blip2-opt2.7b_3rdparty-zeroshot_caption"

_EXAMPLES = f"""\
examples:
  blip2 caption picture.jpg
  blip2 caption demo                               # every picture in a folder
  blip2 caption photos --recursive --json > captions.json
  blip2 caption photos --out captions.jsonl        # a line a picture, written as it is made
  blip2 caption photos --show-dir captioned        # copies with the caption below the picture
  blip2 caption https://example.org/cat.jpg --model {PUBLISHED_MODEL} --precision bf16

exit codes: 0 all captioned, 1 some pictures failed (named at the end), 2 wrong usage, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 caption``."""
    parser = argparse.ArgumentParser(
        prog="blip2 caption",
        description="Caption pictures: by default one line each, 'path: caption'.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a picture, a folder of pictures, or a web address")
    parser.add_argument("-r", "--recursive", action="store_true", help="look into the subfolders of folders too")
    add_model_options(parser, DEFAULT_MODEL)
    captions = parser.add_argument_group("captions (default: as the model's config says)")
    captions.add_argument("--num-beams", type=positive, metavar="N", help="beams of the search; 1 is greedy")
    captions.add_argument("--num-captions", type=positive, metavar="N", help="captions for each picture")
    captions.add_argument("--max-txt-len", type=positive, metavar="N", help="tokens of a caption at most")
    captions.add_argument("--min-length", type=positive, metavar="N", help="tokens of a caption at least")
    captions.add_argument("--prompt", metavar="TEXT", help="the words that the caption continues")
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON list of path, caption and score")
    form.add_argument("--jsonl", action="store_true", help="the same as one JSON object a line, as they are made")
    output.add_argument("--out", metavar="FILE", help="write there; the suffix .json or .jsonl also chooses the form")
    output.add_argument("--show-dir", metavar="DIR", help="write each picture there with its caption below")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        inputs, failures = collect_pictures(args.paths, args.recursive, "caption")
        inferencer = _load_inferencer(args)
        with ExitStack() as stack:
            try:
                writer = stack.enter_context(open_writer(args.out, json=args.json, jsonl=args.jsonl))
            except OSError as error:
                raise UsageError(f"cannot write to {args.out}: {error.strerror}") from error
            for failure in failures:
                writer.fail(failure)
            failures += _caption(args, inferencer, inputs, writer)
    except UsageError as error:
        print(f"blip2 caption: {error}", file=sys.stderr)
        return EXIT_USAGE
    return report_failures("blip2 caption", failures)


def _load_inferencer(args: argparse.Namespace) -> "ImageCaptionInferencer":
    from blip2.apis.inferencers import ImageCaptionInferencer

    if args.model is None:
        warn_of_small_model("blip2 caption", DEFAULT_MODEL, PUBLISHED_MODEL)
    with usage_errors(args):
        inferencer = ImageCaptionInferencer(**model_arguments(args, DEFAULT_MODEL))
        inferencer.dispatch(_call_options(args))
    return inferencer


def _call_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, under the names of the inferencer's arguments."""
    names = ("num_beams", "num_captions", "max_txt_len", "min_length", "prompt", "show_dir")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _caption(
    args: argparse.Namespace, inferencer: "ImageCaptionInferencer", inputs: list[str], writer: Writer
) -> list[Failure]:
    """Captions `inputs` into `writer`; returns the pictures that failed."""
    failures: list[Failure] = []
    with progress_bar(len(inputs), "captioning") as advance:
        predictions = inferencer.stream(inputs, args.batch_size, num_workers=2, **_call_options(args))
        while True:
            with usage_errors(args):  # pictures' errors come as predictions; these concern all of them
                prediction = next(predictions, None)
            if prediction is None:
                return failures
            if prediction.data_sample is None:
                failures.append(Failure(prediction.name, str(prediction.error)))
                writer.fail(failures[-1])
            else:
                writer.add(prediction.name, **inferencer.pack(prediction.data_sample))
            advance()
