"""Where the configs, tools, demo pictures and small weights lie: inside the wheel, or at the repository's root."""

from functools import cache
from pathlib import Path

import blip2


@cache
def resources_root() -> Path:
    """The folder that holds ``configs/``, ``tools/``, ``demo/`` and ``model-index.yml``.

    In a wheel it is ``blip2/.mim``; in a clone (editable installs too) the repository's root.
    """
    package = Path(blip2.__file__).resolve().parent
    bundled = package / ".mim"
    return bundled if bundled.is_dir() else package.parent


def resolve_resource(path: str | Path) -> Path:
    """`path` as it is if it exists or is absolute, else below the resources; may name something that does not exist."""
    path = Path(path).expanduser()
    if path.is_absolute() or path.exists():
        return path
    bundled = resources_root() / path
    return bundled if bundled.exists() else path
