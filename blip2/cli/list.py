"""``blip2 list``: the models that a name loads."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip2.apis.metafile import ModelEntry

_EXAMPLES = """\
examples:
  blip2 list
  blip2 list '*caption*'
  blip2 list --json
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 if no name matches."""
    parser = argparse.ArgumentParser(
        prog="blip2 list",
        description="List the models that --model, get_model and inference_model know, one name a line.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pattern", nargs="?", help="only names like this; * and ? stand for any text, any letter")
    parser.add_argument("--json", action="store_true", help="a JSON list with tasks, config and weights")
    args = parser.parse_args(argv)

    from blip2.apis.hub import list_models
    from blip2.apis.metafile import model_entries

    names = list_models(args.pattern)
    if args.json:
        entries = model_entries()
        print(json.dumps([_record(entries[name]) for name in names], ensure_ascii=False, indent=2))
    else:
        for name in names:
            print(name)
    if not names:
        print(f"blip2 list: no model name matches {args.pattern!r}; `blip2 list` shows all", file=sys.stderr)
    return 0 if names else 1


def _record(entry: "ModelEntry") -> dict[str, Any]:
    return {
        "name": entry.name,
        "tasks": list(entry.tasks),
        "parameters": entry.parameters,
        "config": str(entry.config),
        "weights": entry.weights,
    }
