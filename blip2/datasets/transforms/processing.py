"""Transforms of the picture that mmcv lacks; ``Resize``, ``RandomFlip``, ``CenterCrop`` and others are mmcv's own."""

import math
from collections.abc import Sequence

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from blip2.registry import TRANSFORMS

_INTERPOLATIONS = {
    "cv2": ("nearest", "bilinear", "bicubic", "area", "lanczos"),
    "pillow": ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"),
}


def _check_interpolation(interpolation: str, backend: str) -> None:
    if backend not in _INTERPOLATIONS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {list(_INTERPOLATIONS)}")
    if interpolation not in _INTERPOLATIONS[backend]:
        raise ValueError(
            f"interpolation={interpolation!r} is unknown to backend {backend!r}; "
            f"choose one of {list(_INTERPOLATIONS[backend])}"
        )


@TRANSFORMS.register_module()
class RandomResizedCrop(BaseTransform):
    """Cut out a box of random area and shape and resize it; the augmentation of training pictures.

    The box is drawn as torchvision's transform of the same name draws it, from numpy's generator: up to `max_attempts`
    times an area and a shape, then the largest centred box within the shape range. With ``backend='pillow'`` the pixels
    equal torchvision's on a Pillow picture.

    Args:
        scale: size of the result, one number for a square or (height, width).
        crop_ratio_range: smallest and largest share of the picture's area.
        aspect_ratio_range: smallest and largest width / height.
        max_attempts: draws before the centred box is taken.
        interpolation: with cv2 'nearest', 'bilinear', 'bicubic', 'area', 'lanczos'; with pillow also 'box' and
            'hamming', but not 'area'.
        backend: 'cv2' or 'pillow'.
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        max_attempts: int = 10,
        interpolation: str = "bilinear",
        backend: str = "cv2",
    ) -> None:
        height, width = (scale, scale) if isinstance(scale, int) else scale
        if min(height, width) <= 0:
            raise ValueError(f"scale={scale} must be positive")
        for name, (low, high) in {
            "crop_ratio_range": crop_ratio_range,
            "aspect_ratio_range": aspect_ratio_range,
        }.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}={(low, high)} must be (smallest, largest), both positive")
        if max_attempts < 0:
            raise ValueError(f"max_attempts={max_attempts} must not be negative")
        _check_interpolation(interpolation, backend)
        self.scale = (height, width)
        self.crop_ratio_range = (crop_ratio_range[0], crop_ratio_range[1])
        self.aspect_ratio_range = (aspect_ratio_range[0], aspect_ratio_range[1])
        self.max_attempts = max_attempts
        self.interpolation = interpolation
        self.backend = backend

    @cache_randomness
    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        """Top, left, height, width of the box in `img` (H×W×C)."""
        img_height, img_width = img.shape[:2]
        lowest, highest = self.aspect_ratio_range
        for _ in range(self.max_attempts):
            area = np.random.uniform(*self.crop_ratio_range) * img_height * img_width
            aspect = math.exp(np.random.uniform(math.log(lowest), math.log(highest)))
            height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < width <= img_width and 0 < height <= img_height:
                top = int(np.random.randint(0, img_height - height + 1))
                left = int(np.random.randint(0, img_width - width + 1))
                return top, left, height, width
        height, width = img_height, img_width
        if img_width / img_height < lowest:
            height = max(1, round(img_width / lowest))
        elif img_width / img_height > highest:
            width = max(1, round(img_height * highest))
        return (img_height - height) // 2, (img_width - width) // 2, height, width

    def transform(self, results: dict) -> dict:
        img = results["img"]
        top, left, height, width = self.rand_crop_params(img)
        box = np.ascontiguousarray(img[top : top + height, left : left + width])
        results["img"] = mmcv.imresize(
            box, (self.scale[1], self.scale[0]), interpolation=self.interpolation, backend=self.backend
        )
        results["img_shape"] = results["img"].shape[:2]
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(scale={self.scale}, crop_ratio_range={self.crop_ratio_range}, "
            f"aspect_ratio_range={self.aspect_ratio_range}, max_attempts={self.max_attempts}, "
            f"interpolation={self.interpolation!r}, backend={self.backend!r})"
        )


@TRANSFORMS.register_module()
class ResizeEdge(BaseTransform):
    """Resize so that one edge gets a given length, the proportions kept.

    Args:
        scale: length of the edge in pixels.
        edge: 'short', 'long', 'width' or 'height'.
        backend: 'cv2' or 'pillow'.
        interpolation: as in `RandomResizedCrop`.
    """

    _EDGES = ("short", "long", "width", "height")

    def __init__(self, scale: int, edge: str = "short", backend: str = "cv2", interpolation: str = "bilinear") -> None:
        if edge not in self._EDGES:
            raise ValueError(f"edge={edge!r} is unknown; choose one of {list(self._EDGES)}")
        if scale <= 0:
            raise ValueError(f"scale={scale} must be positive")
        _check_interpolation(interpolation, backend)
        self.scale = scale
        self.edge = edge
        self.backend = backend
        self.interpolation = interpolation

    def transform(self, results: dict) -> dict:
        height, width = results["img"].shape[:2]
        length = {"short": min(height, width), "long": max(height, width), "width": width, "height": height}[self.edge]
        # The other edge is rounded down, as torchvision's Resize with one number does.
        new_width, new_height = (
            self.scale if edge == length else max(1, int(self.scale * edge / length)) for edge in (width, height)
        )
        results["img"], *factors = mmcv.imresize(
            results["img"],
            (new_width, new_height),
            return_scale=True,
            interpolation=self.interpolation,
            backend=self.backend,
        )
        results["img_shape"] = results["img"].shape[:2]
        results["scale"] = (new_width, new_height)
        results["scale_factor"] = tuple(factors)
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(scale={self.scale}, edge={self.edge!r}, backend={self.backend!r}, "
            f"interpolation={self.interpolation!r})"
        )
