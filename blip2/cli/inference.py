"""What the commands that ask a model about pictures share: inputs, model options, progress, errors."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from blip2.cli.caption_output import Failure
from blip2.utils.errors import MissingImageError
from blip2.utils.pictures import find_pictures, is_url
from blip2.utils.resources import resolve_resource

EXIT_FINE, EXIT_SOME_FAILED, EXIT_USAGE = 0, 1, 2


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, count: int = 1) -> None: ...


class UsageError(Exception):
    """What the user has to change in the command line; the text is all that is shown."""


def add_model_options(parser: argparse.ArgumentParser, default: str) -> argparse._ArgumentGroup:
    """The options that choose the model `default` or another, its weights, device, precision and batch size."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help=f"a model name or a config's path (default: {default})")
    model.add_argument("--checkpoint", metavar="FILE", help="load these weights instead of the model's own")
    model.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda if there is one)")
    model.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default: fp32)")
    model.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pictures at a time (default: 8)")
    return model


def positive(text: str) -> int:
    """An option's text as a whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def collect_pictures(paths: Sequence[str], recursive: bool, purpose: str) -> tuple[list[str], list[Failure]]:
    """The pictures that `paths` (files, folders, addresses) name, and the paths that name none.

    Raises:
        UsageError: there is no picture at all, to `purpose` ('caption'), or a folder holds none.
    """
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
                raise UsageError(str(error)) from error
        else:
            failures.append(Failure(path, "no such file or folder"))
    if not inputs:
        raise UsageError(f"no picture to {purpose}: " + ", ".join(map(str, failures)))
    return inputs, failures


def model_arguments(args: argparse.Namespace, default: str) -> dict[str, Any]:
    """What an inferencer's constructor takes, from the options of `add_model_options`."""
    return {
        "model": args.model or default,
        "pretrained": args.checkpoint or True,
        "device": args.device,
        "precision": args.precision,
    }


def warn_of_small_model(command: str, default: str, published: str) -> None:
    """Says on stderr that the model `default`, used because none was named, knows drawn scenes only."""
    print(
        f"{command}: the default model {default} knows drawn scenes only; for photographs: --model {published}",
        file=sys.stderr,
    )


@contextmanager
def usage_errors(args: argparse.Namespace) -> Iterator[None]:
    """Errors that a user can act on become `UsageError`; those about memory and weights say which option helps."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        hint = "" if args.checkpoint else " (on this command line: --checkpoint FILE)"
        raise UsageError(str(error) + (hint if "no weights" in str(error) else "")) from error
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, by name: torch may not be imported yet
            raise
        raise UsageError(f"out of memory; try a smaller --batch-size or --precision bf16\n{error}") from error


def report_failures(command: str, failures: Sequence[Failure]) -> int:
    """Names the pictures that failed on stderr; returns the exit code."""
    if not failures:
        return EXIT_FINE
    print(f"{command}: {len(failures)} picture(s) failed:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED


@contextmanager
def progress_bar(total: int, doing: str, unit: str = "pictures") -> Iterator[Advance]:
    """A bar with rate and time left on stderr if that is a terminal and there is something to wait for.

    Hands out what moves it on by so many.
    """
    if total < 2 or not sys.stderr.isatty():
        yield lambda count=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _rate_column(unit),
        TimeRemainingColumn(),
    )
    # Results go above the bar when both share a terminal; a redirected stdout is left alone.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda count=1: progress.advance(task, count)


def _rate_column(unit: str) -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} {unit}/s" if task.speed else "")

    return Rate()
