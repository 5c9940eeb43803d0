"""Names that resemble a misspelt one, for error messages."""

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest(name: str, choices: Iterable[str], count: int = 3, cutoff: float = 0.45) -> list[str]:
    """The `count` members of `choices` most like `name`, best first; a choice that contains `name` always counts.

    Case does not matter. An empty list means that nothing resembles it.
    """
    wanted = name.lower()
    scored = []
    for choice in choices:
        candidate = choice.lower()
        score = SequenceMatcher(None, wanted, candidate, autojunk=False).ratio()
        if wanted and (wanted in candidate or candidate in wanted):
            score += 1
        if score >= cutoff:
            scored.append((-score, choice))
    return [choice for _, choice in sorted(scored)[:count]]


def did_you_mean(name: str, choices: Iterable[str], count: int = 3) -> str:
    """`` Did you mean 'a', 'b'?`` with a leading space, or an empty string when nothing resembles `name`."""
    names = nearest(name, choices, count)
    return f" Did you mean {', '.join(map(repr, names))}?" if names else ""
