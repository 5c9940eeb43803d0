"""What the demo takes, and how it refuses the rest."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blip2.datasets.transforms.loading import read_image
from blip2.utils.errors import ImageError


class RefusedError(ValueError):
    """Input that the demo does not take; the text is shown to the visitor."""


@dataclass(frozen=True)
class Limits:
    """How much a visitor may ask for.

    Attributes:
        upload_mb: size of an uploaded file, in 10^6 bytes.
        megapixels: size of a picture once it is decoded.
        gallery: pictures of an uploaded collection.
        texts: texts to compare with a picture, or to search in.
        characters: length of each text.
        queue: visitors' requests that wait; one more is refused.
    """

    upload_mb: int = 20
    megapixels: int = 40
    gallery: int = 200
    texts: int = 200
    characters: int = 500
    queue: int = 20

    def picture(self, path: str | Path | None) -> NDArray[np.uint8]:
        """The picture, H×W×3 in BGR order. One with too many pixels is refused before it is decoded.

        Raises:
            RefusedError: no picture, none that can be read, too large a one.
        """
        if not path:
            raise RefusedError("Give a picture first: upload one, or choose one of the examples.")
        name = Path(path).name
        try:
            if (size := Path(path).stat().st_size) > self.upload_mb * 1_000_000:
                raise RefusedError(f"{name} has {size / 1e6:.1f} MB; at most {self.upload_mb} are taken.")
            return read_image(path, max_pixels=self.megapixels * 1_000_000)
        except ImageError as error:  # its text has the path on the server
            raise RefusedError(f"{name} cannot be read: {error.reason}.") from error
        except OSError as error:
            raise RefusedError(f"{name} is no longer here. Upload it again.") from error

    def pictures(self, paths: Sequence[str]) -> list[str]:
        """The paths of a collection. Files that are no pictures are among them: they are left out when it is read.

        Raises:
            RefusedError: none, too many, or one with too many pixels to decode.
        """
        if not paths:
            raise RefusedError("Upload the pictures to search in first.")
        if len(paths) > self.gallery:
            raise RefusedError(f"{len(paths)} pictures are too many: at most {self.gallery} are taken.")
        for path in paths:
            if _pixels(path) > self.megapixels * 1_000_000:
                name = Path(path).name
                raise RefusedError(f"{name} has more than {self.megapixels} million pixels. Make it smaller.")
        return list(paths)

    def lines(self, text: str | None, what: str = "text") -> list[str]:
        """The lines of a field that are not empty.

        Raises:
            RefusedError: none, too many, or one that is too long.
        """
        lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
        if not lines:
            raise RefusedError(f"Write a {what} first.")
        if len(lines) > self.texts:
            raise RefusedError(f"{len(lines)} lines are too many: at most {self.texts} are taken.")
        for number, line in enumerate(lines, start=1):
            if len(line) > self.characters:
                where = f"Line {number}" if len(lines) > 1 else f"The {what}"
                raise RefusedError(f"{where} has {len(line)} characters; at most {self.characters} are taken.")
        return lines

    def line(self, text: str | None, what: str) -> str:
        """The text of a field as one line; raises `RefusedError` for none or too long a one."""
        return " ".join(self.lines(" ".join((text or "").split()), what))


def _pixels(path: str | Path) -> float:
    """The number of pixels that a picture's header tells; 0 of a file that is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.width * image.height
    except Image.DecompressionBombError:
        return float("inf")
    except Exception:  # Pillow's plugins raise nearly every built-in exception on broken files
        return 0
