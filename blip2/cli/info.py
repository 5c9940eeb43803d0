"""``blip2 info``: what is known of one model."""

import argparse
import json
import sys
import textwrap
from typing import TYPE_CHECKING

from blip2.cli.list import millions, record

if TYPE_CHECKING:
    from blip2.apis.metafile import ModelEntry
    from blip2.apis.zoo import Need

_EXAMPLES = """\
examples:
  blip2 info blip2-flant5xl_lavis-zeroshot_vqa
  blip2 info blip2-tiny_shapes-caption --json
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 for a name that nobody knows."""
    parser = argparse.ArgumentParser(
        prog="blip2 info",
        description="Tell what is known of a model: tasks, size, published scores and their protocols, licences, where "
        "its parts come from and which of them are on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="a model of `blip2 list`")
    parser.add_argument("--json", action="store_true", help="a JSON object")
    args = parser.parse_args(argv)

    from blip2.apis.config import ConfigError
    from blip2.apis.zoo import entry_named, needs_of, weights_source

    try:
        entry = entry_named(args.name)
    except ConfigError as error:
        print(f"blip2 info: {error}", file=sys.stderr)
        return 2
    needs = needs_of(entry, weights_source(entry))
    if args.json:
        parts = [{"kind": need.kind, "source": need.source, "path": _text(need)} for need in needs]
        print(json.dumps({**record(entry), "parts": parts, "notes": entry.notes}, ensure_ascii=False, indent=2))
    else:
        print("\n".join(_lines(entry, needs)))
    return 0


def _text(need: "Need") -> str | None:
    path = need.path()
    return None if path is None else str(path)


def _lines(entry: "ModelEntry", needs: "list[Need]") -> list[str]:
    lines = [entry.name, f"  tasks       {', '.join(entry.tasks)}", f"  size        {_size(entry)}"]
    lines += [f"  config      {entry.config}", "  parts"]
    missing = False
    for need in needs:
        path = _text(need)
        missing |= path is None
        lines.append(f"    {need.kind:<15} {need.source}")
        lines.append(f"    {'':<15} {'not here' if path is None else path}")
    if missing:
        lines.append(f"    `blip2 download {entry.name}` fetches what is not here")
    lines += [f"  also at     {source}" for source in entry.other_sources]
    lines.append(f"  licence     weights: {entry.license.weights}")
    if entry.license.language_model:
        lines.append(f"              language model: {entry.license.language_model}")
    lines += _wrapped(entry.license.note, "              ")
    lines.append("  scores      as published; docs/protocols.md tells the protocols")
    for result in entry.results:
        values = ", ".join(f"{name} {value:.2f}" for name, value in result.metrics.items()) or "none published"
        by = f", protocol: {result.protocol}" if result.protocol else ""
        lines.append(f"    {result.dataset}, {result.task}{by}: {values}")
    for note in entry.notes:
        lines += _wrapped(note, "    ", "  - ")
    return lines


def _size(entry: "ModelEntry") -> str:
    built, published = entry.parameters_built, entry.parameters
    other = f" (published: {millions(published)})" if published not in (None, built) else ""
    return f"{millions(built)} parameters{other}"


def _wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=first or indent, subsequent_indent=indent)
