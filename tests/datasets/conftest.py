"""Small pictures made on the spot."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _smooth_rgb(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def smooth_rgb() -> Callable[..., np.ndarray]:
    """``smooth_rgb(height, width, seed=0)``: H×W×3 uint8 without sharp edges, which JPEG keeps well."""
    return _smooth_rgb


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """``encode(image, format, **options)``: the bytes of a picture file."""

    def to_bytes(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """A folder with three JPEG pictures under COCO's names (ids 7, 42, 139) in ``val2014/``."""
    (tmp_path / "val2014").mkdir()
    for image_id in (7, 42, 139):
        path = tmp_path / "val2014" / f"COCO_val2014_{image_id:012d}.jpg"
        Image.fromarray(_smooth_rgb(20, 30, image_id)).save(path)
    return tmp_path
