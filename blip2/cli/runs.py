"""What ``blip2 train`` and ``blip2 test`` share: options, the runner's life, errors without a traceback."""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import DictAction

# A registry's word for a type that it does not know, and Python's for an argument that a class does not take.
_UNBUILDABLE = re.compile(r"is not in the .* registry|unexpected keyword argument")

EXIT_FINE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
EXIT_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples as they are written."""


class ConfigOptions(argparse.Action):
    """``KEY=VALUE`` pairs as a dictionary: Python literals, mmengine's unquoted lists (``[a,b]``), or plain text."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        options = dict(getattr(namespace, self.dest) or {})
        for pair in values:
            key, equals, text = pair.partition("=")
            if not equals or not key:
                parser.error(f"{option_string}: {pair!r} is not KEY=VALUE")
            options[key] = _value(text)
        setattr(namespace, self.dest, options)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return DictAction._parse_iterable(text)
    except (AssertionError, RecursionError):
        return text


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that both commands take."""
    parser.add_argument(
        "--work-dir", metavar="DIR", help="folder for logs and results (default: work_dirs/<name of the config>)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="type of the computations (default: as the config says; if it says nothing, a test takes bf16 for large "
        "models where the device is fast at it, else fp32)",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision: bf16, or fp16 on GPUs without it")
    parser.add_argument(
        "--skip-bad-images", action="store_true", help="leave out pictures that cannot be read, and say which"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help="overrides of the config by dotted key, for example model.prompt='a photo of'",
    )
    parser.add_argument("--no-pin-memory", action="store_true", help="no page-locked memory in the data loaders")
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        help="what started the processes (default: found out under torchrun, else none)",
    )
    # Older launchers hand it over; torchrun sets an environment variable.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def chosen_precision(args: argparse.Namespace) -> str | None:
    """``--precision``, or what ``--amp`` means on the chosen device.

    Raises `OptionError` when the two contradict each other.
    """
    from blip2.engine.compat import use_device
    from blip2.engine.errors import OptionError
    from blip2.engine.precision import amp_precision

    if not args.amp:
        return args.precision
    if args.precision == "fp32":
        raise OptionError("--amp and --precision fp32 contradict each other: give one of them")
    return args.precision or amp_precision(use_device(args.device))


def guarded(name: str, command: Callable[[], int]) -> int:
    """Runs `command`; a mistake of the user's becomes one message and exit code 2, anything else keeps its
    traceback.
    """
    from blip2.apis.config import ConfigError
    from blip2.apis.metafile import MetafileError
    from blip2.checkpoints import CheckpointError
    from blip2.engine.errors import OptionError
    from blip2.engine.loops import BadImagesError
    from blip2.utils.errors import AnnotationError, ImageError, JavaNotFoundError, MissingPackageError

    mistakes = (
        *(ConfigError, MetafileError, CheckpointError, AnnotationError, ImageError, JavaNotFoundError),
        *(FileNotFoundError, NotADirectoryError, PermissionError, OptionError, FloatingPointError, MissingPackageError),
    )
    try:
        return command()
    except BadImagesError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(
            f"\n{name}: interrupted; what was written so far is kept (blip2 train goes on with --resume)",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    except mistakes as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (KeyError, TypeError) as error:
        message = str(error.args[0]) if error.args else ""
        if not _UNBUILDABLE.search(message):
            raise
        print(f"{name}: the config cannot be built: {message}", file=sys.stderr)
        return EXIT_USAGE


@contextmanager
def leaving_processes() -> Iterator[None]:
    """Leaves the group of processes at the end, if there is one, however the run ends."""
    import torch

    try:
        yield
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # who leaves while another is still talking to it can bring that one down
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
