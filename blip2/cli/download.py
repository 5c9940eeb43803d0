"""``blip2 download``: fetches what models need, for machines without a network."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip2.apis.zoo import Need

_EXAMPLES = """\
examples:
  blip2 download blip2-opt2.7b_3rdparty-zeroshot_caption
  blip2 download blip2-flant5xl_lavis-zeroshot_vqa --hub    # from Hugging Face, language model included
  blip2 download 'blip2_*'                                   # a pattern of names
  blip2 download https://example.org/weights-0123abcd.pth hf://owner/name

Files go to $BLIP2_HOME (default: ~/.cache/blip2), what comes from Hugging Face's hub to its own cache ($HF_HOME). Copy
both to a machine without a network, and set BLIP2_OFFLINE=1 there. What was interrupted goes on where it stopped.
BLIP2_URL_MAPPING='https://old.example/=https://mirror.example/' takes a mirror in the place of an address.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0, 1 if something could not be fetched, 2 for a name that nobody knows."""
    parser = argparse.ArgumentParser(
        prog="blip2 download",
        description="Fetch weights, tokenizers and language models before they are needed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a model of `blip2 list`, a pattern, or an address")
    parser.add_argument("--hub", action="store_true", help="weights from Hugging Face's hub where they are there too")
    args = parser.parse_args(argv)

    from blip2.apis.config import ConfigError

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        needs = [need for name in args.names for need in _needs(name, hub=args.hub)]
    except ConfigError as error:
        print(f"blip2 download: {error}", file=sys.stderr)
        return 2
    failed = [need for need in dict.fromkeys(needs) if not _fetched(need)]
    if failed:
        print(f"blip2 download: {len(failed)} of {len(set(needs))} could not be fetched", file=sys.stderr)
    return 1 if failed else 0


def _needs(name: str, hub: bool) -> "list[Need]":
    from blip2.apis.hub import list_models
    from blip2.apis.zoo import Need, entry_named, needs_of

    if "://" in name:
        return [Need("weights", name)]
    needs = []
    for model in list_models(name) if "*" in name or "?" in name else [name]:
        entry = entry_named(model)
        other = next((source for source in entry.other_sources if source.startswith("hf://")), None)
        needs += needs_of(entry, other if hub else None)
    return needs or needs_of(entry_named(name))  # a pattern that fits nothing is named like a wrong name


def _fetched(need: "Need") -> bool:
    from blip2.checkpoints.read import CheckpointError

    try:
        print(f"{need.kind} {need.source}: {need.fetch()}")
    except (CheckpointError, FileNotFoundError) as error:
        print(f"blip2 download: {need.kind}: {error}", file=sys.stderr)
        return False
    return True
