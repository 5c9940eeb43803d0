"""Picture files in folders, and addresses of pictures, told by their names alone."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from blip2.utils.errors import MissingImageError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif")


def is_url(text: str) -> bool:
    """Whether `text` has the form ``scheme://…`` (a Windows drive is no scheme)."""
    return "://" in text and len(urlsplit(text).scheme) > 1


def find_pictures(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The picture files of a folder in natural order (2 before 10); other files and hidden ones are ignored.

    Raises:
        FileNotFoundError: the folder holds no picture.
    """
    walk = folder.rglob("*") if recursive else folder.iterdir()
    found = [
        path
        for path in walk
        if path.suffix.lower() in PICTURE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        deeper = "" if recursive else "; its subfolders were not looked into"
        raise MissingImageError(
            f"no picture in the folder {str(folder)!r} (known suffixes: {' '.join(PICTURE_SUFFIXES)}){deeper}"
        )
    return sorted(found, key=_natural_key)


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    # Digits compare as numbers and before letters; the plain text decides between 01 and 1.
    pieces = re.split(r"(\d+)", str(path).casefold())
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece], str(path)
