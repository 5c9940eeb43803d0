"""``blip2 match``: how well texts fit a picture."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from blip2.cli.common import (
    UsageError,
    add_model_options,
    add_output_options,
    collect_pictures,
    ended,
    load_inferencer,
    model_errors,
    progress,
    refused,
    told,
    writer_for,
)
from blip2.cli.output import Failure, Writer

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from blip2.apis.inferencers import ImageToTextRetrievalInferencer

# ``blip2 search`` and ``blip2 features`` take these too.
DEFAULT_MODEL = "blip2-tiny_shapes-retrieval"
PUBLISHED_MODEL = "blip2_3rdparty_retrieval"

_EXAMPLES = f"""\
examples:
  blip2 match demo/scene_1.png "a red square" "a blue square" "a purple ring"
  blip2 match demo/scene_1.png --texts-file captions.txt       # a text a line
  blip2 match demo "a red square" --json                       # every picture of a folder
  blip2 match photo.jpg "a cat" "a dog" --model {PUBLISHED_MODEL} --precision bf16

ITC is the similarity of picture and text, each looked at by itself: -1 to 1. ITM is the probability that they belong
together, from looking at both at once: 0 to 1, and the better judge of details.

exit codes: 0 all compared, 1 some pictures or texts failed (named at the end), 2 wrong usage, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 match``."""
    parser = argparse.ArgumentParser(
        prog="blip2 match",
        description="Compare a picture with texts: a line a text with both scores (ITC, ITM), best ITM first; with the "
        "path above them for each of several pictures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="IMAGE", help="a picture, a folder of pictures, or a web address")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="compared with every picture")
    parser.add_argument("--texts-file", metavar="FILE", help="compare with the lines of this file too")
    parser.add_argument("-r", "--recursive", action="store_true", help="look into the subfolders of a folder too")
    add_model_options(parser, DEFAULT_MODEL)
    add_output_options(parser, "path, text, itc and itm, in the order of the texts", None)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)  # texts may stand behind options
    try:
        texts = read_texts(args.texts, args.texts_file)
        if not texts:
            raise UsageError("no text to compare with: give some behind the picture, or --texts-file FILE")
        inputs, failures = collect_pictures([args.path], "compare", recursive=args.recursive)
        with told("match"):
            inferencer = _load_inferencer(args, texts)
        with writer_for(args) as writer:
            failures += _compare(args, inferencer, inputs, texts, writer)
    except UsageError as error:
        return refused("match", error)
    return ended("match", failures, "picture(s) or text(s)")


def read_texts(texts: list[str], file: str | None) -> list[str]:
    """The texts of the command line and those of a file, a line each; empty lines do not count.

    Raises:
        UsageError: an empty text, or a file that cannot be read.
    """
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise UsageError(f"text {number} is empty ({text!r}): there is nothing to compare")
    if file is None:
        return texts
    from blip2.apis.inferencers.gallery import texts_of

    try:
        return [*texts, *texts_of(file)[0]]
    except (OSError, ValueError) as error:
        raise UsageError(f"--texts-file: {error}") from error


def _load_inferencer(args: argparse.Namespace, texts: list[str]) -> "ImageToTextRetrievalInferencer":
    from blip2.apis.inferencers import ImageToTextRetrievalInferencer

    # A few texts are encoded sooner than looked up.
    kind = partial(ImageToTextRetrievalInferencer, prototype=texts, prototype_cache=False, on_bad_item="skip")
    return load_inferencer(kind, args, command="match", default=DEFAULT_MODEL, published=PUBLISHED_MODEL)


def _compare(
    args: argparse.Namespace,
    inferencer: "ImageToTextRetrievalInferencer",
    inputs: list[str],
    texts: list[str],
    writer: Writer,
) -> list[Failure]:
    """Compares `inputs` with all texts into `writer`; returns the pictures and texts that failed."""
    gallery = inferencer.gallery
    failures = [Failure(repr(texts[index]), str(error)) for index, error in gallery.failures.items()]
    with progress(len(inputs), "comparing") as advance, model_errors():
        for start in range(0, len(inputs), args.batch_size):
            chunk = inputs[start : start + args.batch_size]
            for path, result in zip(chunk, inferencer.compare(chunk, args.batch_size, num_workers=2), strict=True):
                if "error" in result:
                    failures.append(Failure(path, result["error"]))
                    writer.fail(failures[-1], text=None, itc=None, itm=None)
                else:
                    _write(path, texts, result, len(inputs) > 1, writer)
                advance()
    return failures


def _write(path: str, texts: list[str], result: dict[str, Any], several: bool, writer: Writer) -> None:
    """One picture's scores: objects in the order of the texts, lines best first."""
    scored = list(zip(texts, result["itc"], result["itm"], strict=True))
    best = sorted((row for row in scored if row[1] is not None), key=lambda row: -row[2])
    lines = [f"{path}:"] if several else []
    lines += ["   ITC    ITM  text", *(f"{itc:6.3f}  {itm:5.3f}  {text}" for text, itc, itm in best)]
    for text, itc, itm in scored:
        writer.add({"path": path, "text": text, "itc": itc, "itm": itm}, lines)
        lines = []  # a table is written once
