#!/usr/bin/env python
"""Prints the README's command of a name, so that CI runs what the README says.

    python .ci/readme.py install
    python .ci/readme.py test

A command is the fenced block below the line ``<!-- ci: NAME -->``.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def command(name: str, text: str) -> str:
    """The block of `text` that is marked with `name`; raises `LookupError` unless there is exactly one."""
    found = re.findall(rf"^<!-- ci: {re.escape(name)} -->\n+```shell\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise LookupError(f"README.md has {len(found)} blocks below '<!-- ci: {name} -->', not one")
    return found[0].strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(command(sys.argv[1], README.read_text(encoding="utf-8")))
