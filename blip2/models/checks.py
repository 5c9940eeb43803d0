"""Checks of constructor arguments: what is wrong is named, together with the nearest right thing."""

import difflib
from collections.abc import Iterable, Sequence


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        valid = ", ".join(map(repr, choices))
        raise ValueError(f"{name}={value!r} is unknown{nearest(value, choices)}. Choose one of {valid}.")


def check_keys(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise ValueError unless all keys in `given` are `known`."""
    for key in given:
        if key not in known:
            raise ValueError(f"{name} has an unknown key {key!r}{nearest(key, known)}. It takes {', '.join(known)}.")


def nearest(word: object, choices: Iterable[object]) -> str:
    """`` (did you mean 'x'?)`` with the choice that looks most like `word`, or nothing."""
    found = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
