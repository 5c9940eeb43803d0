"""Reads a picture of any ordinary kind into an array, as a person would see it."""

import io
import os
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image

from blip2.registry import TRANSFORMS
from blip2.utils.errors import ImageError, MissingImageError

ImageSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO

# Pillow's own limit, above which it speaks of a decompression bomb: about 179 megapixels, 0.5 GiB once decoded.
MAX_PIXELS = 178_956_970

# Formats that hold one picture for the screen. Pillow knows more, EPS among them, which runs another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO", "QOI")

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    source: ImageSource, *, name: str | None = None, max_pixels: int = MAX_PIXELS, ignore_orientation: bool = False
) -> np.ndarray:
    """Decode a picture to H×W×3 uint8 in BGR order, OpenCV's.

    Plain RGB pictures come out bit for bit as ``cv2.imread`` gives them. What OpenCV gets wrong or lets pass is put
    right: palettes, greyscale, 16 bit (the high byte), CMYK (Adobe's inverted ink values too), transparency (laid on
    white), EXIF orientation; a truncated picture is an error. Of an animation the first frame is taken.

    Args:
        source: a path, the file's bytes, or a file object opened for reading bytes.
        name: what messages call the picture; by default the path.
        max_pixels: refuse larger pictures before they are decoded.
        ignore_orientation: leave the rows and columns as stored.

    Raises:
        MissingImageError: no file at that path.
        ImageError: anything else that keeps the picture from being read.
        TypeError: `source` is none of the above.
    """
    data, name = _read_bytes(source, name)
    if not data:
        raise ImageError.of(name, "the file is empty (0 bytes)", "Fetch or export it again")
    try:
        # One context for opening and decoding: Pillow's plugins raise nearly every built-in exception on broken files.
        with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
            _check_size(image, name, max_pixels)
            return _decode(image, name, ignore_orientation)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, f"more than {MAX_PIXELS} pixels") from None
    except Image.UnidentifiedImageError:
        reason = f"it is not a picture of a known format ({', '.join(_known_formats())}); it begins with {data[:16]!r}"
        raise ImageError.of(name, reason, "Convert it to JPEG or PNG") from None
    except Exception as error:
        raise _corrupt(name, error) from error


def pil_to_bgr(image: Image.Image, *, ignore_orientation: bool = False) -> np.ndarray:
    """A Pillow picture of any mode as H×W×3 uint8 in BGR order, by the rules of `read_image`.

    Raises:
        ImageError: the picture, opened but not yet decoded, proves corrupt, or its mode has no display.
    """
    name = str(getattr(image, "filename", "") or "given as PIL.Image")
    try:
        return _decode(image, name, ignore_orientation)
    except ImageError:
        raise
    except Exception as error:
        raise _corrupt(name, error) from error


def _read_bytes(source: Any, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), name or "given as bytes"
    if hasattr(source, "read"):
        data = source.read()
        name = name or str(getattr(source, "name", "") or "given as a file object")
        if not isinstance(data, bytes):
            raise TypeError(f"the picture file object {name} is opened as text; open it with mode 'rb'")
        return data, name
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"a picture is a path, bytes or a file object, not {type(source).__name__}")
    path = Path(source).expanduser()
    name = name or str(path)
    if not path.exists():
        error = MissingImageError.of(
            name, "there is no such file", "Check the path and the folder that it is relative to"
        )
        raise error
    if path.is_dir():
        raise ImageError.of(name, "it is a folder", "Give a picture file")
    try:
        return path.read_bytes(), name
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError.of(name, reason, "Check the file's permissions and its disk") from error


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    # Pillow's own check can be switched off globally (`Image.MAX_IMAGE_PIXELS = None`) by any other library.
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width}×{height} pixels, more than {max_pixels}")


def _too_large(name: str, size: str) -> ImageError:
    return ImageError.of(name, f"it claims {size} (a decompression bomb?)", "Scale it down first if it is genuine")


def _corrupt(name: str, error: Exception) -> ImageError:
    reason = f"it is corrupt or truncated ({type(error).__name__}: {error})"
    return ImageError.of(name, reason, "Fetch or export it again")


def _decode(image: Image.Image, name: str, ignore_orientation: bool) -> np.ndarray:
    image.load()
    orientation = 1 if ignore_orientation else _orientation(image)
    rgb = _to_rgb(image, name)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return mmcv.rgb2bgr(np.asarray(rgb))  # H×W×3


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        # Broken metadata does not spoil the pixels.
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image, name)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Greyscale of 16 bit, 32 bit (with 16-bit values) or floating point (0 to 1) in 8 bit; Pillow would clip it."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        return Image.fromarray((values * 255 + 0.5).astype(np.uint8))
    if image.mode != "F" and low >= 0 and high <= 65535:
        return Image.fromarray((values >> 8).astype(np.uint8))
    reason = f"its values run from {low} to {high} (mode {image.mode}), so what is black and what is white is not known"
    raise ImageError.of(name, reason, "Save it with 8 or 16 bits a channel")


@TRANSFORMS.register_module()
class LoadImageFromFile(BaseTransform):
    """mmcv's transform of this name over `read_image`: adds ``img``, ``img_shape`` and ``ori_shape`` to ``img_path``.

    Args:
        to_float32: give float32 (0 to 255) instead of uint8.
        color_type: 'color', or 'color_ignore_orientation' to leave EXIF orientation unapplied; always three channels,
            BGR.
        imdecode_backend: 'cv2' or 'pillow'. The decoder is Pillow's, whose result on plain pictures equals OpenCV's.
        ignore_empty: give ``None`` for a picture that cannot be read, upon which a training dataset draws another.
        backend_args, file_client_args: how mmengine reads the bytes; the second is the first's old name.

    Raises:
        ImageError: the picture cannot be read.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        file_client_args: dict | None = None,
        ignore_empty: bool = False,
        *,
        backend_args: dict | None = None,
    ) -> None:
        if color_type not in ("color", "color_ignore_orientation"):
            raise ValueError(
                f"color_type={color_type!r} is not supported: the models take three channels; "
                "choose 'color' or 'color_ignore_orientation'"
            )
        if imdecode_backend not in ("cv2", "pillow"):
            raise ValueError(f"imdecode_backend={imdecode_backend!r} is not supported; choose 'cv2' or 'pillow'")
        if file_client_args is not None and backend_args is not None:
            raise ValueError("file_client_args is the old name of backend_args: give the latter alone")
        self.to_float32 = to_float32
        self.color_type = color_type
        self.imdecode_backend = imdecode_backend
        self.ignore_empty = ignore_empty
        self.backend_args = file_client_args if backend_args is None else backend_args

    def transform(self, results: dict) -> dict | None:
        path = results["img_path"]
        try:
            image = self._read(path)
        except ImageError:
            if self.ignore_empty:
                return None
            raise
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _read(self, path: str | os.PathLike) -> np.ndarray:
        ignore_orientation = self.color_type == "color_ignore_orientation"
        if self.backend_args is None and "://" not in str(path):
            return read_image(path, ignore_orientation=ignore_orientation)
        try:
            data = fileio.get(path, backend_args=self.backend_args)
        except Exception as error:
            reason = f"it could not be fetched ({type(error).__name__}: {error})"
            raise ImageError.of(str(path), reason, "Check the address and backend_args") from error
        return read_image(data, name=str(path), ignore_orientation=ignore_orientation)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(to_float32={self.to_float32}, color_type={self.color_type!r}, "
            f"imdecode_backend={self.imdecode_backend!r}, ignore_empty={self.ignore_empty}, "
            f"backend_args={self.backend_args})"
        )
