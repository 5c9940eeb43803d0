"""``blip2 demo``: the models on a web page."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from blip2.cli.common import EXIT_FINE, UsageError, positive, refused
from blip2.utils.errors import MissingImageError, MissingPackageError
from blip2.utils.pictures import find_pictures
from blip2.utils.resources import resolve_resource

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_EXAMPLES = """\
examples:
  blip2 demo                                                 # the small models, on http://127.0.0.1:7860
  blip2 demo --folder photos --port 8000
  blip2 demo --model blip2-opt2.7b_3rdparty-zeroshot_caption --precision bf16
  blip2 demo --model blip2_3rdparty_retrieval --model blip2-opt2.7b_3rdparty-zeroshot_vqa --folder photos

Each model named brings its tabs: captions; questions; match and search. Heat maps work with any of them. The page is
for this machine alone unless --host says otherwise; then everybody who reaches the address can use it.

exit codes: 0 ended (SIGTERM), 2 wrong usage, 130 interrupted (Ctrl-C)
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 demo``."""
    parser = argparse.ArgumentParser(
        prog="blip2 demo",
        description="Try the models on a web page: captions, questions, matching, search, heat maps. Needs the extra "
        "'demo' (Gradio); nothing is fetched from or sent to anywhere else.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="NAME",
        help="a model name or a config's path; give it again for another task (default: the three small models)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda if there is one)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="(default: auto)")
    parser.add_argument("--folder", metavar="DIR", default="demo", help="pictures to search in (default: demo)")
    page = parser.add_argument_group("page")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    page.add_argument("--port", type=positive, default=7860, metavar="N", help="(default: 7860)")
    page.add_argument("--max-upload-mb", type=positive, default=20, metavar="N", help="size of a file (default: 20)")
    page.add_argument(
        "--max-megapixels", type=positive, default=40, metavar="N", help="size of a picture (default: 40)"
    )
    page.add_argument(
        "--max-queue", type=positive, default=20, metavar="N", help="requests that may wait (default: 20)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command until it is interrupted; returns the exit code."""
    args = build_parser().parse_args(argv)
    folder = resolve_resource(args.folder)
    try:
        _check_folder(folder, args.folder)
        _serve(args, folder)
    except UsageError as error:
        return refused("demo", error)
    return EXIT_FINE


def _check_folder(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise UsageError(f"--folder {name} is no folder")
    try:
        find_pictures(folder)
    except MissingImageError as error:
        raise UsageError(f"--folder: {error}") from error


def _wait() -> None:
    """Until the process is told to end: SIGTERM, as service managers send it, or Ctrl-C, which raises."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        ended.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(args: argparse.Namespace, folder: Path) -> None:
    from blip2.webdemo.serve import serving

    try:
        from blip2.webdemo.limits import Limits
        from blip2.webdemo.service import SMALL_MODELS, Service, models_by_task

        limits = Limits(upload_mb=args.max_upload_mb, megapixels=args.max_megapixels, queue=args.max_queue)
        models = models_by_task(args.models or SMALL_MODELS)
        service = Service(models, folder, args.device, args.precision, limits)
        with serving(service, args.host, args.port) as address:
            if args.host not in LOOPBACK:
                print(f"blip2 demo: everybody who reaches {args.host} can use this page", file=sys.stderr)
            print(f"{address} (Ctrl-C ends it)", flush=True)
            _wait()
    except (ValueError, TypeError, ImportError, MissingPackageError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(
            f"cannot listen on {args.host}:{args.port}, which may be taken: choose another --port, or --host"
        ) from error
