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
  blip2 list '*flant5*'
  blip2 list --task caption --here
  blip2 list --names
  blip2 list --json

Scores are the publishers', the first for each model: `blip2 info NAME` has all, and docs/protocols.md says how they
were measured. Weights that are not here are fetched at their first use, or before it with `blip2 download NAME`.
"""
# Short words for the metafiles' tasks.
TASKS = {
    "Image Caption": "caption",
    "Visual Question Answering": "vqa",
    "Image-To-Text Retrieval": "retrieval",
    "Text-To-Image Retrieval": "retrieval",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0, or 1 if no model is like that."""
    parser = argparse.ArgumentParser(
        prog="blip2 list",
        description="List the models that --model, get_model and inference_model know: task, size in parameters, "
        "published score, licence of the weights, whether they are on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pattern", nargs="?", help="only names like this; * and ? stand for any text, any letter")
    parser.add_argument("--task", choices=sorted(set(TASKS.values())), help="only models for this task")
    parser.add_argument("--here", action="store_true", help="only models whose weights are on this machine")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--names", action="store_true", help="only the names, one a line")
    form.add_argument("--json", action="store_true", help="a JSON list with all that is known")
    args = parser.parse_args(argv)

    from blip2.apis.hub import list_models
    from blip2.apis.metafile import model_entries

    entries = [entry for name, entry in model_entries().items() if name in list_models(args.pattern)]
    entries = [entry for entry in entries if args.task is None or args.task in tasks_of(entry)]
    if args.here:
        entries = [entry for entry in entries if are_here(entry)]
    entries.sort(key=lambda entry: entry.name)
    if args.json:
        print(json.dumps([record(entry) for entry in entries], ensure_ascii=False, indent=2))
    elif args.names:
        print("".join(f"{entry.name}\n" for entry in entries), end="")
    elif entries:
        print(_table([_row(entry) for entry in entries]))
    if not entries:
        print(f"blip2 list: no model is like that{_asked(args)}; `blip2 list` shows all", file=sys.stderr)
    return 0 if entries else 1


def tasks_of(entry: "ModelEntry") -> list[str]:
    """The short words for a model's tasks."""
    return list(dict.fromkeys(TASKS.get(task, task) for task in entry.tasks))


def are_here(entry: "ModelEntry") -> bool:
    """Whether the weights, from any of their sources, are on this machine."""
    from blip2.apis.zoo import sources_of
    from blip2.checkpoints.fetch import cached

    return any(cached(source) for source in sources_of(entry))


def record(entry: "ModelEntry") -> dict[str, Any]:
    """What is known of a model, as JSON takes it."""
    return {
        "name": entry.name,
        "tasks": list(entry.tasks),
        "parameters": entry.parameters,
        "parameters_built": entry.parameters_built,
        "config": str(entry.config),
        "weights": entry.weights,
        "other_sources": list(entry.other_sources),
        "sha256": entry.sha256,
        "here": are_here(entry),
        "license": {
            "weights": entry.license.weights,
            "language_model": entry.license.language_model,
            "note": entry.license.note,
        },
        "results": [
            {
                "task": result.task,
                "dataset": result.dataset,
                "protocol": result.protocol,
                "metrics": result.metrics,
                "config": str(result.config or entry.config),
            }
            for result in entry.results
        ],
    }


def millions(count: int | None) -> str:
    """A number of parameters in a few characters."""
    if count is None:
        return "?"
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _row(entry: "ModelEntry") -> list[str]:
    scored = next((result for result in entry.results if result.metrics), None)
    score = "–"
    if scored is not None:
        # Of a list of scores the last says most of captions (CIDEr), the first of the rest.
        name = "CIDEr" if "CIDEr" in scored.metrics else next(iter(scored.metrics))
        score = f"{name} {scored.metrics[name]:.1f} on {scored.dataset}"
    weights = "here" if are_here(entry) else "–" if entry.weights is None else "to fetch"
    size = millions(entry.parameters_built)
    return [entry.name, " ".join(tasks_of(entry)), size, score, entry.license.weights, weights]


def _table(rows: list[list[str]]) -> str:
    rows = [["NAME", "TASK", "SIZE", "SCORE", "LICENCE", "WEIGHTS"], *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _asked(args: argparse.Namespace) -> str:
    parts = [f"name {args.pattern!r}"] if args.pattern else []
    parts += [f"task {args.task}"] if args.task else []
    parts += ["weights here"] if args.here else []
    return f" ({', '.join(parts)})" if parts else ""
