"""How long a newcomer waits: from the start of the process to the first caption of the small model."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from blip2.utils.pictures import find_pictures
from blip2.utils.resources import resources_root

from . import machine
from .spread import Spread

MODEL = "blip2-tiny_shapes-caption"
TARGET_SECONDS = 10.0


class ColdStartError(RuntimeError):
    """The command that was to be timed failed; the text is its own."""


def first_caption(model: str, picture: Path) -> tuple[float, str]:
    """Seconds from the start of ``blip2 caption`` to its first line, and that line."""
    command = [sys.executable, "-m", "blip2.cli.main", "caption", str(picture), "--model", model, "--jsonl"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        elapsed = time.perf_counter() - start
        _, errors = process.communicate()
    if process.returncode or not line:
        raise ColdStartError(f"{' '.join(command[1:])} ended with exit code {process.returncode}:\n{errors.strip()}")
    return elapsed, line.strip()


def cold_start(
    model: str = MODEL,
    picture: Path | None = None,
    *,
    repeats: int = 5,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time `repeats` cold starts; plain values for a JSON file, seconds throughout.

    The very first run also reads Python's and torch's files from the disk, if nothing has before: it is the first of
    ``values``.

    Raises:
        ColdStartError: the command failed.
        FileNotFoundError: no demo picture.
    """
    picture = picture or find_pictures(resources_root() / "demo")[0]
    spread = Spread()
    caption = ""
    for index in range(repeats):
        say(f"start {index + 1} of {repeats}")
        elapsed, caption = first_caption(model, picture)
        spread.values.append(elapsed)
    return {
        "machine": machine.describe(torch.device("cpu")),
        "cold_start": {
            "model": model,
            "picture": picture.name,
            "output": caption,
            "seconds": spread.as_dict(),
            "target": TARGET_SECONDS,
            "met": spread.median <= TARGET_SECONDS,
        },
    }
