"""Models as config files."""

from pathlib import Path
from typing import Any

from mmengine.config import Config


def as_config(model: dict[str, Any], folder: Path) -> Path:
    """A config file with this model."""
    path = folder / "config.py"
    Config(dict(model=model)).dump(path)
    return path
