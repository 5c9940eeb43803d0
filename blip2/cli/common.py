"""What the commands that show pictures to a model share: their options, the loading of the model, how they end."""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blip2.cli.output import Failure, Writer, open_writer
from blip2.utils.errors import InputWarning, LeftOutWarning, MissingImageError
from blip2.utils.pictures import find_pictures, is_url
from blip2.utils.resources import resolve_resource

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from blip2.apis.inferencers import BaseInferencer

EXIT_FINE, EXIT_SOME_FAILED, EXIT_USAGE = 0, 1, 2

_T = TypeVar("_T", bound="BaseInferencer")


class UsageError(Exception):
    """What the user has to change in the command line; the text is all that is shown."""


# ----- options -----


def positive(text: str) -> int:
    """For argparse: a whole number of 1 or more."""
    return _whole_number(text, least=1)


def not_negative(text: str) -> int:
    """For argparse: a whole number of 0 or more."""
    return _whole_number(text, least=0)


def _whole_number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
    return number


def add_model_options(
    parser: argparse.ArgumentParser, default: str, *, batch_size: int | None = 8
) -> argparse._ArgumentGroup:
    """--model, --checkpoint, --device, --precision, and --batch-size unless its default is None."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help=f"a model name or a config's path (default: {default})")
    model.add_argument("--checkpoint", metavar="FILE", help="load these weights instead of the model's own")
    model.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda if there is one)")
    model.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: bf16 for large models where the device is fast at it, else fp32 (default: auto)",
    )
    if batch_size is not None:
        model.add_argument(
            "--batch-size",
            type=positive,
            default=batch_size,
            metavar="N",
            help=f"pictures at a time (default: {batch_size})",
        )
    return model


def add_output_options(
    parser: argparse.ArgumentParser, record: str, drawn: str | None, *, one_each: bool = True
) -> argparse._ArgumentGroup:
    """--json, --jsonl, --out and --show-dir.

    Args:
        record: what is in an object.
        drawn: what is on a drawn picture, besides the picture if there is `one_each`; None for no --show-dir.
    """
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=f"a JSON list of {record}")
    form.add_argument("--jsonl", action="store_true", help="the same as one JSON object a line, as they are made")
    output.add_argument("--out", metavar="FILE", help="write there; the suffix .json or .jsonl also chooses the form")
    if drawn is not None:
        what = f"each picture there with {drawn}" if one_each else f"there {drawn}"
        output.add_argument("--show-dir", metavar="DIR", help=f"write {what}")
    return output


def given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The options among `names` that were given, under the names of the inferencer's arguments."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


# ----- pictures and model -----


def collect_pictures(
    paths: Sequence[str], what_for: str, *, recursive: bool = False
) -> tuple[list[str], list[Failure]]:
    """The pictures that `paths` (files, folders, addresses) name, and the paths that name none.

    Raises:
        UsageError: a folder without pictures, or nothing at all.
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
        raise UsageError(f"no picture to {what_for}: " + ", ".join(map(str, failures)))
    return inputs, failures


def load_inferencer(
    kind: Callable[..., _T], args: argparse.Namespace, *, command: str, default: str, published: str, **options: Any
) -> _T:
    """The inferencer that the options of `add_model_options` ask for.

    Args:
        command: the command's name, for what is told on stderr.
        default: the model without --model; it knows drawn scenes only, and that is told.
        published: the model for photographs that is named then.
        options: arguments of later calls, checked now.

    Raises:
        UsageError: an unknown name, device or option, or weights that cannot be had.
    """
    if args.model is None:
        print(
            f"blip2 {command}: the default model {default} knows drawn scenes only; for photographs: "
            f"--model {published}",
            file=sys.stderr,
        )
    try:
        inferencer = kind(
            args.model or default, pretrained=args.checkpoint or True, device=args.device, precision=args.precision
        )
        inferencer.dispatch(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        hint = "" if args.checkpoint else " (on this command line: --checkpoint FILE)"
        raise UsageError(str(error) + (hint if "no weights" in str(error) else "")) from error
    return inferencer


@contextmanager
def model_errors(advice: str = "try a smaller --batch-size or --precision bf16") -> Iterator[None]:
    """Errors of the model itself, which concern all pictures, as `UsageError`; `advice` is for a full memory."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UsageError(f"out of memory; {advice}\n{error}") from error
    except BrokenPipeError:
        raise  # the reader of our output has gone, which is no error of the model
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


@contextmanager
def told(command: str) -> Iterator[None]:
    """What the user's input gives rise to (`InputWarning`) as lines on stderr; what is left out, `ended` names."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.simplefilter("ignore", LeftOutWarning)
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, InputWarning):
                print(f"blip2 {command}: {message}", file=sys.stderr)
            else:
                plain(message, category, *place, **more)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


# ----- output and end -----


@contextmanager
def writer_for(args: argparse.Namespace) -> Iterator[Writer]:
    """The writer that the options of `add_output_options` ask for."""
    with ExitStack() as stack:
        try:
            writer = stack.enter_context(open_writer(args.out, json=args.json, jsonl=args.jsonl))
        except OSError as error:
            raise UsageError(f"cannot write to {args.out}: {error.strerror}") from error
        yield writer


def ended(command: str, failures: Sequence[Failure], what: str = "picture(s)") -> int:
    """Names the pictures (or `what` they are) that failed on stderr; returns the exit code."""
    if not failures:
        return EXIT_FINE
    print(f"blip2 {command}: {len(failures)} {what} failed:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED


def refused(command: str, error: UsageError) -> int:
    """Tells what was wrong with the command line; returns the exit code."""
    print(f"blip2 {command}: {error}", file=sys.stderr)
    return EXIT_USAGE


@contextmanager
def progress(total: int, doing: str) -> Iterator[Callable[[], None]]:
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
    # Results go above the bar when both share a terminal; a redirected stdout is left alone.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda: bar.advance(task)


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} pictures/s" if task.speed else "")

    return Rate()
