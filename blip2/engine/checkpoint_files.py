"""Which file in a work folder is meant."""

import re
from pathlib import Path

from blip2.checkpoints import CheckpointError

# What training writes: one file every few epochs or iterations, the best ones by a metric, and the last one's path.
LAST = "last_checkpoint"
STEP_FILE = re.compile(r"(?:epoch|iter)_(\d+)\.pth")
BEST_FILE = re.compile(r"best_.+_(?:epoch|iter)_(\d+)\.pth")


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest resumable checkpoint of a work folder, or None.

    It is the one that ``last_checkpoint`` names (looked up in the folder itself when the folder has moved), otherwise
    the one of ``epoch_*.pth`` and ``iter_*.pth`` that was written last.
    """
    folder = Path(work_dir)
    note = folder / LAST
    if note.is_file():
        named = Path(note.read_text(encoding="utf-8").strip())
        for candidate in (named, folder / named.name):
            if candidate.is_file():
                return candidate
    steps = _numbered(folder, STEP_FILE)
    return max(steps, key=lambda path: path.stat().st_mtime_ns) if steps else None


def best_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest ``best_<metric>_<epoch or iter>_<n>.pth`` of a work folder, or None."""
    best = _numbered(Path(work_dir), BEST_FILE)
    return max(best, key=lambda path: path.stat().st_mtime_ns) if best else None


def find_checkpoint(path: str | Path) -> Path:
    """`path` itself if it is a file; for a work folder its best checkpoint, or its latest where none is marked best.

    Raises `FileNotFoundError` or `CheckpointError` that says what was looked for.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: check the path, or run the stage that writes it first"
        )
    found = best_checkpoint(path) or latest_checkpoint(path)
    if found is None:
        raise CheckpointError(f"{path} holds no checkpoint: no best_*.pth, no {LAST}, no epoch_*.pth, no iter_*.pth")
    return found


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [path for path in folder.glob("*.pth") if pattern.fullmatch(path.name)] if folder.is_dir() else []
