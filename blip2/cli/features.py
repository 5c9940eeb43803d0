"""``blip2 features``: features of pictures and texts, written to a file."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2.cli.common import (
    UsageError,
    add_model_options,
    collect_pictures,
    ended,
    load_inferencer,
    model_errors,
    progress,
    refused,
    told,
)
from blip2.cli.match import DEFAULT_MODEL, PUBLISHED_MODEL, read_texts
from blip2.cli.output import Failure

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blip2.apis.inferencers import FeatureExtractor

SUFFIXES = (".npz", ".safetensors")
_TEXTS_A_CALL = 256

_EXAMPLES = """\
examples:
  blip2 features demo --out demo.npz                                  # what is compared with texts: 16 rows a picture
  blip2 features demo --stage qformer --pool mean --normalize --out demo.safetensors
  blip2 features --text "a red square" --text "a ring" --out texts.npz
  blip2 features --texts-file captions.txt --stage qformer --out texts.npz    # a row a token, and a mask
  blip2 features demo --text "a red square" --out pairs.npz           # each picture together with the text

In the file: 'features' (items × width, or items × rows × width), 'mask' (items × rows) if the items have different
numbers of rows, 'names' (paths or texts; in safetensors among the metadata, as JSON) and 'texts' of pairs.

exit codes: 0 fine, 1 some pictures failed (named at the end, and not in the file), 2 wrong usage, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 features``."""
    parser = argparse.ArgumentParser(
        prog="blip2 features",
        description="Write features of pictures, of texts, or of pictures each with a text.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a picture, a folder of pictures, or a web address")
    parser.add_argument("-r", "--recursive", action="store_true", help="look into the subfolders of folders too")
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="a text; may be given repeatedly")
    parser.add_argument("--texts-file", metavar="FILE", help="the lines of this file too")
    parser.add_argument("--out", required=True, metavar="FILE", help=f"write there: {' or '.join(SUFFIXES)}")
    add_model_options(parser, DEFAULT_MODEL)
    features = parser.add_argument_group("features")
    features.add_argument(
        "--stage",
        choices=("backbone", "qformer", "projection"),
        help="of the image encoder, of the Q-Former, or what pictures and texts are compared by (default; of pairs: "
        "qformer)",
    )
    features.add_argument(
        "--pool", choices=("mean", "first"), help="one row an item: the mean, or the first (default: all rows)"
    )
    features.add_argument("--normalize", action="store_true", help="scale rows to length 1")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)  # texts may stand behind options
    try:
        _check(args)
        texts = read_texts(args.text, args.texts_file)
        inputs, failures = collect_pictures(args.paths, "look at", recursive=args.recursive) if args.paths else ([], [])
        if inputs and len(texts) not in (0, 1, len(inputs)):
            raise UsageError(f"{len(texts)} texts for {len(inputs)} pictures: give one for all, or one for each")
        with told("features"):
            extractor = _load_extractor(args)
            with model_errors():
                names, rows = _extract(args, extractor, inputs, texts, failures)
        _write(args, names, rows, texts, inputs)
    except UsageError as error:
        return refused("features", error)
    return ended("features", failures)


def _check(args: argparse.Namespace) -> None:
    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {args.out}: the name must end in {' or '.join(SUFFIXES)}")
    if not args.paths and not args.text and not args.texts_file:
        raise UsageError("nothing to look at: give pictures (PATH), --text TEXT or --texts-file FILE")


def _load_extractor(args: argparse.Namespace) -> "FeatureExtractor":
    from blip2.apis.inferencers import FeatureExtractor

    return load_inferencer(FeatureExtractor, args, command="features", default=DEFAULT_MODEL, published=PUBLISHED_MODEL)


def _extract(
    args: argparse.Namespace,
    extractor: "FeatureExtractor",
    inputs: list[str],
    texts: list[str],
    failures: list[Failure],
) -> tuple[list[int], list[Any]]:
    """Numbers of the items that have features, and the features; adds those without to `failures`."""
    options: dict[str, Any] = {"stage": args.stage, "pool": args.pool, "normalize": args.normalize}
    items = inputs or texts
    size = args.batch_size if inputs else _TEXTS_A_CALL
    found: list[int] = []
    rows = []
    with progress(len(items), "extracting") as advance:
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            if inputs:
                own = None if not texts else texts * len(chunk) if len(texts) == 1 else texts[start : start + size]
                made = extractor(chunk, args.batch_size, texts=own, num_workers=2, on_error="return", **options)
            else:
                made = extractor(texts=chunk, **options)
            for index, row in enumerate(made, start=start):
                if isinstance(row, dict):
                    failures.append(Failure(items[index], row["error"]))
                else:
                    found.append(index)
                    rows.append(row)
                advance()
    if not rows:
        raise UsageError("no picture could be read: " + ", ".join(map(str, failures)))
    return found, rows


def _write(args: argparse.Namespace, found: list[int], rows: list[Any], texts: list[str], inputs: list[str]) -> None:
    """Writes the file under another name, and renames it when it is whole."""
    import os

    import numpy as np
    from safetensors.numpy import save_file

    arrays = _stacked(rows)
    names = {"names": [(inputs or texts)[index] for index in found]}
    if inputs and texts:
        names["texts"] = [texts[0 if len(texts) == 1 else index] for index in found]
    target = Path(args.out)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.suffix.lower() == ".npz":
                np.savez(
                    partial, allow_pickle=False, **arrays, **{key: np.array(value) for key, value in names.items()}
                )
            else:
                about = {key: json.dumps(value, ensure_ascii=False) for key, value in names.items()}
                save_file(arrays, partial, metadata=about)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {args.out}: {error.strerror or error}") from error


def _stacked(rows: list[Any]) -> "dict[str, NDArray[Any]]":
    """One array of all items, padded with zeros to the longest, and a mask if there was anything to pad."""
    import numpy as np

    arrays = [row.numpy() for row in rows]
    if len({array.shape for array in arrays}) == 1:
        return {"features": np.stack(arrays)}
    length = max(len(array) for array in arrays)
    features = np.zeros((len(arrays), length, arrays[0].shape[-1]), np.float32)
    mask = np.zeros((len(arrays), length), bool)
    for index, array in enumerate(arrays):
        features[index, : len(array)], mask[index, : len(array)] = array, True
    return {"features": features, "mask": mask}
