"""``blip2 caption``: captions for picture files, folders and addresses."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2.cli.caption_output import Failure, Writer, open_writer
from blip2.utils.errors import MissingImageError
from blip2.utils.pictures import find_pictures, is_url
from blip2.utils.resources import resolve_resource

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from blip2.apis.inferencers import ImageCaptionInferencer

DEFAULT_MODEL = "blip2-tiny_shapes-caption"
PUBLISHED_MODEL = "blip2-opt2.7b_3rdparty-zeroshot_caption"

EXIT_FINE, EXIT_SOME_FAILED, EXIT_USAGE = 0, 1, 2

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
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help=f"a model name or a config's path (default: {DEFAULT_MODEL})")
    model.add_argument("--checkpoint", metavar="FILE", help="load these weights instead of the model's own")
    model.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda if there is one)")
    model.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default: fp32)")
    model.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="pictures at a time (default: 8)")
    captions = parser.add_argument_group("captions (default: as the model's config says)")
    captions.add_argument("--num-beams", type=_positive, metavar="N", help="beams of the search; 1 is greedy")
    captions.add_argument("--num-captions", type=_positive, metavar="N", help="captions for each picture")
    captions.add_argument("--max-txt-len", type=_positive, metavar="N", help="tokens of a caption at most")
    captions.add_argument("--min-length", type=_positive, metavar="N", help="tokens of a caption at least")
    captions.add_argument("--prompt", metavar="TEXT", help="the words that the caption continues")
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON list of path, caption and score")
    form.add_argument("--jsonl", action="store_true", help="the same as one JSON object a line, as they are made")
    output.add_argument("--out", metavar="FILE", help="write there; the suffix .json or .jsonl also chooses the form")
    output.add_argument("--show-dir", metavar="DIR", help="write each picture there with its caption below")
    return parser


class _UsageError(Exception):
    """What the user has to change in the command line; the text is all that is shown."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        inputs, failures = _collect(args.paths, args.recursive)
        inferencer = _load_inferencer(args)
        with ExitStack() as stack:
            try:
                writer = stack.enter_context(open_writer(args.out, json=args.json, jsonl=args.jsonl))
            except OSError as error:
                raise _UsageError(f"cannot write to {args.out}: {error.strerror}") from error
            for failure in failures:
                writer.fail(failure)
            failures += _caption(args, inferencer, inputs, writer)
    except _UsageError as error:
        print(f"blip2 caption: {error}", file=sys.stderr)
        return EXIT_USAGE
    if not failures:
        return EXIT_FINE
    print(f"blip2 caption: {len(failures)} picture(s) failed:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED


def _collect(paths: list[str], recursive: bool) -> tuple[list[str], list[Failure]]:
    """The pictures that `paths` name, and the paths that name none."""
    inputs: list[str] = []
    failures: list[Failure] = []
    for name in paths:
        # The demo pictures of an installed package are found from anywhere.
        path = name if is_url(name) else str(resolve_resource(name))
        if is_url(path) or Path(path).is_file():
            inputs.append(path)
        elif Path(path).is_dir():
            try:
                inputs += map(str, find_pictures(Path(path), recursive=recursive))
            except MissingImageError as error:
                raise _UsageError(str(error)) from error
        else:
            failures.append(Failure(path, "no such file or folder"))
    if not inputs:
        raise _UsageError("no picture to caption: " + ", ".join(map(str, failures)))
    return inputs, failures


def _load_inferencer(args: argparse.Namespace) -> "ImageCaptionInferencer":
    from blip2.apis.inferencers import ImageCaptionInferencer

    if args.model is None:
        print(
            f"blip2 caption: the default model {DEFAULT_MODEL} knows drawn scenes only; for photographs: "
            f"--model {PUBLISHED_MODEL}",
            file=sys.stderr,
        )
    try:
        inferencer = ImageCaptionInferencer(
            args.model or DEFAULT_MODEL,
            pretrained=args.checkpoint or True,
            device=args.device,
            precision=args.precision,
        )
        inferencer.dispatch(_call_options(args))
    except (ValueError, TypeError, OSError, ImportError) as error:
        hint = "" if args.checkpoint else " (on this command line: --checkpoint FILE)"
        raise _UsageError(str(error) + (hint if "no weights" in str(error) else "")) from error
    return inferencer


def _call_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, under the names of the inferencer's arguments."""
    names = ("num_beams", "num_captions", "max_txt_len", "min_length", "prompt", "show_dir")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _caption(
    args: argparse.Namespace, inferencer: "ImageCaptionInferencer", inputs: list[str], writer: Writer
) -> list[Failure]:
    """Captions `inputs` into `writer`; returns the pictures that failed."""
    import torch

    failures: list[Failure] = []
    with _progress(len(inputs)) as advance:
        predictions = inferencer.stream(inputs, args.batch_size, num_workers=2, **_call_options(args))
        while True:
            try:
                prediction = next(predictions, None)
            except torch.OutOfMemoryError as error:
                raise _UsageError(f"out of memory; try a smaller --batch-size or --precision bf16\n{error}") from error
            except (ValueError, OSError) as error:  # pictures' errors come as predictions; these concern all of them
                raise _UsageError(str(error)) from error
            if prediction is None:
                return failures
            if prediction.data_sample is None:
                failures.append(Failure(prediction.name, str(prediction.error)))
                writer.fail(failures[-1])
            else:
                writer.add(prediction.name, **inferencer.pack(prediction.data_sample))
            advance()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar with rate and time left on stderr if that is a terminal and there is something to wait for.

    Hands out what moves it on by one picture.
    """
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _rate_column(),
        TimeRemainingColumn(),
    )
    # Captions go above the bar when both share a terminal; a redirected stdout is left alone.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("captioning", total=total)
        yield lambda: progress.advance(task)


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} pictures/s" if task.speed else "")

    return Rate()


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number
