"""Pictures as users hand them in: files, folders, addresses, bytes, PIL pictures, arrays, tensors."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from blip2.datasets.transforms.loading import pil_to_bgr, read_image
from blip2.utils.errors import ImageError
from blip2.utils.pictures import find_pictures, is_url

from .download import read_url

ImageInput = str | Path | bytes | bytearray | memoryview | Image.Image | np.ndarray | torch.Tensor

_WANTED = (
    "a path, a web address, bytes, a PIL picture, a numpy array (BGR, as OpenCV reads) or an RGB tensor, "
    "or a list of them"
)


class BadInputsError(ImageError):
    """Pictures of a list that could not be read, raised after all others were done.

    Attributes:
        failures: the index of each such picture, and what was wrong with it.
        results: what the call would have returned; those of unreadable pictures hold only ``error``.
    """

    failures: dict[int, Exception]
    results: list[Any]

    @classmethod
    def of_list(cls, failures: dict[int, Exception], items: list[ImageInput], results: list[Any]) -> "BadInputsError":
        """The error that names the first ten of `failures` by index, picture and reason."""
        lines = [
            f"  images[{index}] ({describe(items[index])}): {getattr(error, 'reason', error)}"
            for index, error in list(failures.items())[:10]
        ]
        if len(failures) > len(lines):
            lines.append(f"  … and {len(failures) - len(lines)} more")
        error = cls(
            f"{len(failures)} of {len(items)} pictures could not be read:\n"
            + "\n".join(lines)
            + "\nThe other results are in this error's .results; on_error='return' gives them without an error."
        )
        error.failures, error.results = failures, results
        return error


def inputs_to_list(images: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """One picture, a folder's pictures, or a list, as a list whose items all have a known type.

    Raises:
        TypeError: names the item's index and type.
        ValueError: an empty list.
        FileNotFoundError: a folder without pictures.
    """
    if isinstance(images, str | Path) and is_folder(images):
        return list(find_pictures(Path(images)))
    if isinstance(images, ImageInput):
        return [images]
    if not isinstance(images, list | tuple):
        raise TypeError(f"images is a {type(images).__name__}; wanted {_WANTED}")
    if not images:
        raise ValueError("images is an empty list; wanted at least one picture")
    for index, item in enumerate(images):
        if not isinstance(item, ImageInput):
            raise TypeError(f"images[{index}] is a {type(item).__name__}; wanted {_WANTED}")
    return list(images)


def is_folder(images: ImageInput | Sequence[ImageInput]) -> bool:
    """Whether this is the path of a folder, which stands for its pictures."""
    if not isinstance(images, str | Path):
        return False
    return not (isinstance(images, str) and is_url(images)) and Path(images).is_dir()


def missing_files(items: list[ImageInput]) -> list[str]:
    """Those items that are paths of no file."""
    paths = [item for item in items if isinstance(item, str | Path) and not (isinstance(item, str) and is_url(item))]
    return [str(path) for path in paths if not Path(path).is_file()]


def describe(item: ImageInput) -> str:
    """The picture in words: its path or address if it has one, else its kind and size."""
    if isinstance(item, str | Path):
        return str(item)
    if isinstance(item, Image.Image):
        return f"PIL picture {item.width}×{item.height}"
    if isinstance(item, np.ndarray):
        return f"array {'×'.join(map(str, item.shape))} {item.dtype}"
    if isinstance(item, torch.Tensor):
        return f"tensor {'×'.join(map(str, item.shape))} {str(item.dtype).removeprefix('torch.')}"
    return f"{len(item)} bytes"


def stem_of(item: ImageInput, index: int) -> str:
    """A file name without suffix for what is drawn from this input."""
    if isinstance(item, str) and is_url(item):
        stem = Path(unquote(urlsplit(item).path)).stem
    elif isinstance(item, str | Path):
        stem = Path(item).stem
    else:
        stem = ""
    stem = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", stem)[:100]
    return stem or f"picture_{index:04d}"


def read_input(item: ImageInput, *, ignore_orientation: bool = False) -> NDArray[np.uint8]:
    """The picture as a person sees it: H×W×3 uint8 in BGR order.

    Args:
        item: the picture.
        ignore_orientation: leave files and PIL pictures as stored, whatever their EXIF orientation.

    Raises:
        OSError, ValueError: no such file, no picture, a broken one, an array of another shape or type.
    """
    if isinstance(item, str) and is_url(item):
        return read_image(read_url(item), name=item, ignore_orientation=ignore_orientation)
    if isinstance(item, Image.Image):
        return pil_to_bgr(item, ignore_orientation=ignore_orientation)
    if isinstance(item, np.ndarray):
        return _from_array(item)
    if isinstance(item, torch.Tensor):
        return _from_tensor(item)
    return read_image(item, ignore_orientation=ignore_orientation)


def _from_array(array: NDArray) -> NDArray[np.uint8]:
    """H×W grey, H×W×1 grey, H×W×3 BGR or H×W×4 BGRA; uint8, uint16 over its full range, or float from 0 to 1."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(f"the array has the shape {array.shape}; wanted H×W, H×W×1, H×W×3 (BGR) or H×W×4 (BGRA)")
    pixels = _to_uint8(array)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        return pil_to_bgr(Image.fromarray(np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3]]), "RGBA"))
    return np.ascontiguousarray(pixels)


def _from_tensor(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """3×H×W RGB or 1×H×W grey; uint8, or float from 0 to 1."""
    if tensor.ndim == 4:
        raise ValueError(f"the tensor has the shape {tuple(tensor.shape)}; give a batch as a list: list(tensor)")
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or tensor.numel() == 0:
        raise ValueError(f"the tensor has the shape {tuple(tensor.shape)}; wanted 3×H×W in RGB order, or 1×H×W grey")
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()  # numpy knows no bfloat16
    array = _to_uint8(tensor.detach().cpu().permute(1, 2, 0).numpy())
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, ::-1])


def _to_uint8(array: NDArray) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)  # as `read_image` does with files of 16 bit
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"values of type {array.dtype}; wanted uint8 (0 to 255) or float (0 to 1)")
    low, high = float(array.min()), float(array.max())  # NaN if any value is
    # Interpolated floats overshoot a little.
    if not (low >= -0.01 and high <= 1.01):
        raise ValueError(f"float values from {low:g} to {high:g}; wanted 0 to 1, or uint8 from 0 to 255")
    return np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
