"""``blip2 search``: the pictures of a folder that fit a text, or resemble a picture."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2.cli.common import (
    UsageError,
    add_model_options,
    add_output_options,
    ended,
    load_inferencer,
    model_errors,
    positive,
    progress,
    refused,
    told,
    writer_for,
)
from blip2.cli.match import DEFAULT_MODEL, PUBLISHED_MODEL
from blip2.cli.output import Failure, Writer
from blip2.utils.pictures import is_url
from blip2.utils.resources import resolve_resource

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from blip2.apis.inferencers import TextToImageRetrievalInferencer

DEFAULT_TOPK = 5

_EXAMPLES = f"""\
examples:
  blip2 search demo "a red square"
  blip2 search demo "a red square left of a ring" --rerank         # look again at the best, at picture and text at once
  blip2 search demo "a ring" "a star" --topk 3 --json
  blip2 search demo --image demo/scene_1.png                       # what resembles this picture
  blip2 search photos "a dog on the beach" --show-dir found --model {PUBLISHED_MODEL}

The pictures' features are kept on disk, so that a second search reads only what has changed.

exit codes: 0 fine, 1 some pictures of the folder could not be read (named at the end), 2 wrong usage, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 search``."""
    parser = argparse.ArgumentParser(
        prog="blip2 search",
        description="Find the pictures of a folder that fit a text, or that resemble a picture: a line a picture with "
        "its score, best first; with the text above them for each of several texts.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the folder of pictures to search in")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what is looked for")
    parser.add_argument("--image", metavar="IMAGE", help="look for what resembles this picture (a file or an address)")
    parser.add_argument("--topk", type=positive, metavar="N", help=f"pictures to find (default: {DEFAULT_TOPK})")
    parser.add_argument("-r", "--recursive", action="store_true", help="look into the folder's subfolders too")
    add_model_options(parser, DEFAULT_MODEL)
    ranking = parser.add_argument_group("ranking")
    ranking.add_argument(
        "--rerank",
        action="store_true",
        help="let the matching head rank the most similar pictures again; keeps features of whole pictures",
    )
    ranking.add_argument(
        "--cache", metavar="PATH", help="a file or folder for the pictures' features (default: ~/.cache/blip2)"
    )
    ranking.add_argument("--no-cache", action="store_true", help="keep no features on disk")
    add_output_options(
        parser, "query, rank, path and score", "the pictures found, on one sheet a query", one_each=False
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)  # texts may stand behind options
    try:
        _check(args)
        with told("search"), model_errors():
            inferencer = _load_inferencer(args)
            with writer_for(args) as writer:
                _search(args, inferencer, writer)
    except UsageError as error:
        return refused("search", error)
    gallery = inferencer.gallery
    return ended("search", [Failure(gallery.names[index], str(error)) for index, error in gallery.failures.items()])


def _check(args: argparse.Namespace) -> None:
    folder = resolve_resource(args.folder)
    if not folder.is_dir():
        raise UsageError(f"{args.folder} is no folder: search needs a folder of pictures")
    args.folder = str(folder)
    if bool(args.texts) == bool(args.image):
        raise UsageError("give what to look for: either TEXT behind the folder, or --image IMAGE")
    if args.image:
        args.image = args.image if is_url(args.image) else str(resolve_resource(args.image))
        if not is_url(args.image) and not Path(args.image).is_file():
            raise UsageError(f"--image {args.image}: no such file")
        if args.rerank:
            raise UsageError("--rerank compares pictures with texts: leave it out with --image")
    if args.cache and args.no_cache:
        raise UsageError("--cache and --no-cache exclude each other")
    for number, text in enumerate(args.texts, start=1):
        if not text.strip():
            raise UsageError(f"text {number} is empty ({text!r}): there is nothing to look for")


def _load_inferencer(args: argparse.Namespace) -> "TextToImageRetrievalInferencer":
    from blip2.apis.inferencers import TextToImageRetrievalInferencer

    with _reading() as move:
        kind = partial(
            TextToImageRetrievalInferencer,
            prototype=args.folder,
            prototype_cache=False if args.no_cache else args.cache,
            fast_match=not args.rerank,
            prepare_batch_size=args.batch_size,
            on_bad_item="skip",
            recursive=args.recursive,
            progress=move,
        )
        return load_inferencer(
            kind,
            args,
            command="search",
            default=DEFAULT_MODEL,
            published=PUBLISHED_MODEL,
        )


@contextmanager
def _reading() -> Iterator[Callable[[int, int], None]]:
    """What moves a bar to so many pictures of so many; the bar appears when there is something to wait for."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        state: dict[str, Any] = {"done": 0}

        def move(done: int, total: int) -> None:
            if "advance" not in state:
                state["advance"] = stack.enter_context(progress(total, "reading pictures"))
            for _ in range(done - state["done"]):
                state["advance"]()
            state["done"] = done

        yield move


def _search(args: argparse.Namespace, inferencer: "TextToImageRetrievalInferencer", writer: Writer) -> None:
    topk = args.topk or min(DEFAULT_TOPK, len(inferencer.gallery.ranked))
    drawing = {} if args.show_dir is None else {"show_dir": args.show_dir}
    if args.image:
        queries, key = [args.image], "image"
        results = inferencer.search_by_image(args.image, topk=topk, **drawing)
    else:
        queries, key = args.texts, "text"
        results = inferencer(args.texts, batch_size=args.batch_size, topk=topk, **drawing)
    for query, matches in zip(queries, results, strict=True):
        heading = [f"{query}:"] if len(queries) > 1 else []
        for rank, match in enumerate(matches, start=1):
            path, score = match["sample"]["img_path"], match["match_score"]
            line = f"{score:6.3f}  {path}"
            writer.add({key: query, "rank": rank, "path": path, "score": score}, [*heading, line])
            heading = []
