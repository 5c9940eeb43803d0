"""What the page shows as HTML. Everything that a visitor or a model wrote is escaped."""

from collections.abc import Sequence
from html import escape

from .service import Scored

STYLE = """
.scored {width: 100%; border-collapse: collapse; border: none !important}
.scored th, .scored td {
  padding: 0.35em 0.6em !important; text-align: left; border: none !important;
  border-bottom: 1px solid var(--border-color-primary) !important;
}
.scored .score {width: 22%; white-space: nowrap; font-variant-numeric: tabular-nums}
.scored .bar {height: 0.5em; min-width: 1px; background: var(--color-accent); border-radius: 0.2em}
.note {opacity: 0.75; font-size: 0.9em; margin: 0.2em 0}
"""


def table(rows: Sequence[Scored], heading: str = "text") -> str:
    """A row a text with its scores; those that have a share get a bar of that length."""
    names = list(rows[0].scores) if rows else []
    head = "".join(f"<th class='score'>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr><td>{escape(row.text)}</td>{''.join(map(_cell, row.scores.values()))}</tr>" for row in rows)
    return (
        f"<table class='scored'><thead><tr><th>{escape(heading)}</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(score: tuple[float, float]) -> str:
    number, share = score
    bar = f"<div class='bar' style='width: {100 * min(max(share, 0.0), 1.0):.1f}%'></div>" if share else ""
    return f"<td class='score'>{number:.3f}{bar}</td>"


def note(text: str) -> str:
    """A line in small print."""
    return f"<p class='note'>{escape(text)}</p>"
