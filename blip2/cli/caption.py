"""``blip2 caption``: captions for picture files, folders and addresses."""

import argparse
from typing import TYPE_CHECKING

from blip2.cli.common import (
    UsageError,
    add_model_options,
    add_output_options,
    collect_pictures,
    ended,
    given,
    load_inferencer,
    model_errors,
    positive,
    progress,
    refused,
    writer_for,
)
from blip2.cli.output import Failure, Writer

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
    add_output_options(parser, "path, caption and score", "its caption below")
    return parser


_CALL_OPTIONS = ("num_beams", "num_captions", "max_txt_len", "min_length", "prompt", "show_dir")
_NO_CAPTION = {"caption": None, "score": None}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        inputs, failures = collect_pictures(args.paths, "caption", recursive=args.recursive)
        inferencer = _load_inferencer(args)
        with writer_for(args) as writer:
            for failure in failures:
                writer.fail(failure, **_NO_CAPTION)
            failures += _caption(args, inferencer, inputs, writer)
    except UsageError as error:
        return refused("caption", error)
    return ended("caption", failures)


def _load_inferencer(args: argparse.Namespace) -> "ImageCaptionInferencer":
    from blip2.apis.inferencers import ImageCaptionInferencer

    options = given(args, _CALL_OPTIONS)
    return load_inferencer(
        ImageCaptionInferencer, args, command="caption", default=DEFAULT_MODEL, published=PUBLISHED_MODEL, **options
    )


def _caption(
    args: argparse.Namespace, inferencer: "ImageCaptionInferencer", inputs: list[str], writer: Writer
) -> list[Failure]:
    """Captions `inputs` into `writer`; returns the pictures that failed."""
    failures: list[Failure] = []
    options = given(args, _CALL_OPTIONS)
    with progress(len(inputs), "captioning") as advance, model_errors():
        # A picture's own error comes as a prediction.
        for prediction in inferencer.stream(inputs, args.batch_size, num_workers=2, **options):
            if prediction.data_sample is None:
                failures.append(Failure(prediction.name, str(prediction.error)))
                writer.fail(failures[-1], **_NO_CAPTION)
            else:
                result = inferencer.pack(prediction.data_sample)
                caption, score = result["pred_caption"], result["pred_score"]
                captions = [caption] if isinstance(caption, str) else caption
                record = {"path": prediction.name, "caption": caption, "score": score}
                writer.add(record, [f"{prediction.name}: {text}" for text in captions])
            advance()
    return failures
