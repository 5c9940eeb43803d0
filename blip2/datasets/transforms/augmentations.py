"""The operations of `RandAugment`: each changes a picture with a probability, some by a magnitude.

The arithmetic is mmcv's; names, arguments and defaults are mmpretrain's, and so is the order in which numbers are drawn
from numpy's generator (whether to act, the magnitude, its sign).
"""

import math
from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from blip2.registry import TRANSFORMS

_DIRECTIONS = ("horizontal", "vertical")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "lanczos")


class Augmentation(BaseTransform):
    """An operation that acts on the picture ``img`` (H×W×3, uint8, BGR) with a probability.

    A child implements ``apply(img) -> picture``.

    Args:
        prob: probability of acting, 0 to 1.
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob={prob} must lie between 0 and 1")
        self.prob = prob

    @cache_randomness
    def random_disable(self) -> bool:
        return bool(np.random.rand() > self.prob)

    def apply(self, img: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def transform(self, results: dict) -> dict:
        if not self.random_disable():
            img = results["img"]
            results["img"] = self.apply(img).astype(img.dtype)
        return results

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({shown})"


class MagnitudeAugmentation(Augmentation):
    """An operation with a magnitude: one that is given, or one drawn from a range.

    A child implements ``apply_magnitude(img, magnitude) -> picture`` and names its magnitude as ``ARGUMENT`` ('angle').

    Args:
        fixed: the magnitude; None draws it from `magnitude_range`. Exactly one of the two is given.
        prob: probability of acting.
        random_negative_prob: probability that the magnitude's sign is turned; None where it has no sign.
        magnitude_range: the magnitudes at the levels 0 and `total_level`; the second may be the smaller one.
        magnitude_level: the level, from 0 to `total_level`.
        magnitude_std: above 0: the level is drawn from a normal distribution around `magnitude_level` with this
            deviation, and kept within 0 to `total_level`. 'inf': evenly from 0 to `magnitude_level`. Else it is fixed.
        total_level: the highest level.
    """

    ARGUMENT = "magnitude"

    def __init__(
        self,
        fixed: float | None,
        prob: float,
        random_negative_prob: float | None,
        magnitude_level: float = 10,
        magnitude_range: Sequence[float] | None = None,
        magnitude_std: float | str = 0.0,
        total_level: float = 10,
    ) -> None:
        super().__init__(prob)
        if (fixed is None) == (magnitude_range is None):
            raise ValueError(
                f"{type(self).__name__} takes either {self.ARGUMENT} or magnitude_range, not "
                + ("neither" if fixed is None else "both")
            )
        if random_negative_prob is not None and not 0 <= random_negative_prob <= 1:
            raise ValueError(f"random_negative_prob={random_negative_prob} must lie between 0 and 1")
        check_levels(magnitude_level, total_level, magnitude_std)
        if magnitude_range is not None and len(magnitude_range) != 2:
            raise ValueError(f"magnitude_range={magnitude_range} must be two numbers: at level 0 and at {total_level}")
        setattr(self, self.ARGUMENT, fixed)
        self.random_negative_prob = random_negative_prob
        self.magnitude_level = magnitude_level
        self.magnitude_range = magnitude_range
        self.magnitude_std = magnitude_std
        self.total_level = total_level

    @cache_randomness
    def random_magnitude(self) -> float:
        """A magnitude from the range."""
        level = self.magnitude_level
        if self.magnitude_std == "inf":
            level = np.random.uniform(0, level)
        elif self.magnitude_std > 0:  # type: ignore[operator]  # the only text is 'inf'
            level = np.clip(np.random.normal(level, self.magnitude_std), 0, self.total_level)  # type: ignore[arg-type]
        assert self.magnitude_range is not None
        lowest, highest = self.magnitude_range
        return float((level / self.total_level) * (highest - lowest) + lowest)

    @cache_randomness
    def random_negative(self, value: float) -> float:
        return -value if np.random.rand() < (self.random_negative_prob or 0) else value

    def apply(self, img: np.ndarray) -> np.ndarray:
        magnitude = getattr(self, self.ARGUMENT)
        if magnitude is None:
            magnitude = self.random_magnitude()
        if self.random_negative_prob is not None:
            magnitude = self.random_negative(magnitude)
        return self.apply_magnitude(img, magnitude)

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        raise NotImplementedError


def check_levels(magnitude_level: float, total_level: float, magnitude_std: float | str) -> None:
    """Refuses levels that make no sense, by their names."""
    if total_level <= 0:
        raise ValueError(f"total_level={total_level} must be above 0")
    if magnitude_level < 0:
        raise ValueError(f"magnitude_level={magnitude_level} must not be negative")
    if isinstance(magnitude_std, str) and magnitude_std != "inf":
        raise ValueError(f"magnitude_std={magnitude_std!r} must be a number or 'inf'")


# ----- geometry -----


class _Moved(MagnitudeAugmentation):
    """A change of geometry, which lays parts of the result open: those get `pad_val` (one number, or one a channel in
    the picture's own order).
    """

    def __init__(
        self,
        fixed: float | None,
        pad_val: int | Sequence[int],
        prob: float,
        random_negative_prob: float,
        interpolation: str,
        **levels: Any,
    ) -> None:
        super().__init__(fixed, prob, random_negative_prob, **levels)
        if interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation={interpolation!r} is unknown; choose one of {list(_INTERPOLATIONS)}")
        self.pad_val = pad_val
        self.interpolation = interpolation

    def _border(self, img: np.ndarray) -> tuple[int, ...]:
        # One number means all channels: OpenCV would fill the first alone, as mmpretrain's `Rotate` does.
        channels = img.shape[2] if img.ndim == 3 else 1
        return (self.pad_val,) * channels if isinstance(self.pad_val, int) else tuple(self.pad_val)


class _MovedAlong(_Moved):
    """A change of geometry along `direction`, 'horizontal' or 'vertical'."""

    def __init__(self, direction: str, *arguments: Any, **levels: Any) -> None:
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction={direction!r} is unknown; choose one of {list(_DIRECTIONS)}")
        super().__init__(*arguments, **levels)
        self.direction = direction


@TRANSFORMS.register_module()
class Shear(_MovedAlong):
    """Shears the picture: a row (or column) moves by `magnitude` times its number. See `MagnitudeAugmentation`."""

    def __init__(
        self,
        magnitude: float | None = None,
        pad_val: int | Sequence[int] = 128,
        prob: float = 0.5,
        direction: str = "horizontal",
        random_negative_prob: float = 0.5,
        interpolation: str = "bicubic",
        **levels: Any,
    ) -> None:
        super().__init__(direction, magnitude, pad_val, prob, random_negative_prob, interpolation, **levels)

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.imshear(
            img, magnitude, self.direction, border_value=self._border(img), interpolation=self.interpolation
        )


@TRANSFORMS.register_module()
class Translate(_MovedAlong):
    """Moves the picture by `magnitude` times its width or height. See `MagnitudeAugmentation`."""

    def __init__(
        self,
        magnitude: float | None = None,
        pad_val: int | Sequence[int] = 128,
        prob: float = 0.5,
        direction: str = "horizontal",
        random_negative_prob: float = 0.5,
        interpolation: str = "nearest",
        **levels: Any,
    ) -> None:
        super().__init__(direction, magnitude, pad_val, prob, random_negative_prob, interpolation, **levels)

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        offset = magnitude * img.shape[1 if self.direction == "horizontal" else 0]
        return mmcv.imtranslate(
            img, offset, self.direction, border_value=self._border(img), interpolation=self.interpolation
        )


@TRANSFORMS.register_module()
class Rotate(_Moved):
    """Turns the picture by `angle` degrees, clockwise. See `MagnitudeAugmentation`.

    Args:
        center: (x, y) in pixels; None is the picture's middle.
        scale: factor of size.
    """

    ARGUMENT = "angle"

    def __init__(
        self,
        angle: float | None = None,
        center: tuple[float, float] | None = None,
        scale: float = 1.0,
        pad_val: int | Sequence[int] = 128,
        prob: float = 0.5,
        random_negative_prob: float = 0.5,
        interpolation: str = "nearest",
        **levels: Any,
    ) -> None:
        super().__init__(angle, pad_val, prob, random_negative_prob, interpolation, **levels)
        self.center = tuple(center) if center is not None else None
        self.scale = scale

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.imrotate(
            img, magnitude, self.center, self.scale, border_value=self._border(img), interpolation=self.interpolation
        )


# ----- values of pixels -----


@TRANSFORMS.register_module()
class AutoContrast(Augmentation):
    """Stretches each channel's values to the whole range."""

    def apply(self, img: np.ndarray) -> np.ndarray:
        return mmcv.auto_contrast(img)


@TRANSFORMS.register_module()
class Equalize(Augmentation):
    """Equalizes each channel's histogram."""

    def apply(self, img: np.ndarray) -> np.ndarray:
        return mmcv.imequalize(img)


@TRANSFORMS.register_module()
class Invert(Augmentation):
    """Turns a value v into 255 - v."""

    def apply(self, img: np.ndarray) -> np.ndarray:
        return mmcv.iminvert(img)


@TRANSFORMS.register_module()
class Solarize(MagnitudeAugmentation):
    """Inverts the values that are not below `thr`. See `MagnitudeAugmentation`."""

    ARGUMENT = "thr"

    def __init__(self, thr: float | None = None, prob: float = 0.5, **levels: Any) -> None:
        super().__init__(thr, prob, random_negative_prob=None, **levels)

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.solarize(img, magnitude)


@TRANSFORMS.register_module()
class SolarizeAdd(MagnitudeAugmentation):
    """Adds `magnitude` to the values below `thr`, up to 255. See `MagnitudeAugmentation`."""

    def __init__(self, magnitude: float | None = None, thr: float = 128, prob: float = 0.5, **levels: Any) -> None:
        super().__init__(magnitude, prob, random_negative_prob=None, **levels)
        self.thr = thr

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        # As float: the sum of a uint8 array and a whole number would wrap around at 256.
        return np.where(img < self.thr, np.minimum(img.astype(np.float32) + magnitude, 255), img)


@TRANSFORMS.register_module()
class Posterize(MagnitudeAugmentation):
    """Keeps the highest `bits` of each value (0 to 8; a fraction counts as the next whole number). See
    `MagnitudeAugmentation`.
    """

    ARGUMENT = "bits"

    def __init__(self, bits: int | None = None, prob: float = 0.5, **levels: Any) -> None:
        super().__init__(bits, prob, random_negative_prob=None, **levels)
        if bits is not None and not 0 <= bits <= 8:
            raise ValueError(f"bits={bits} must lie between 0 and 8")

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.posterize(img, math.ceil(magnitude))


class _Enhanced(MagnitudeAugmentation):
    """A blend of the picture with a plain version of it: 0 is the picture, -1 the plain version, above 0 the
    contrary of it. See `MagnitudeAugmentation`.
    """

    def __init__(
        self, magnitude: float | None = None, prob: float = 0.5, random_negative_prob: float = 0.5, **levels: Any
    ) -> None:
        super().__init__(magnitude, prob, random_negative_prob, **levels)


@TRANSFORMS.register_module()
class ColorTransform(_Enhanced):
    """More colour, or less; the plain version is grey."""

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.adjust_color(img, alpha=1 + magnitude)


@TRANSFORMS.register_module()
class Contrast(_Enhanced):
    """More contrast, or less; the plain version is the mean grey."""

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.adjust_contrast(img, factor=1 + magnitude)


@TRANSFORMS.register_module()
class Brightness(_Enhanced):
    """Brighter, or darker; the plain version is black."""

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.adjust_brightness(img, factor=1 + magnitude)


@TRANSFORMS.register_module()
class Sharpness(_Enhanced):
    """Sharper, or softer; the plain version is smoothed."""

    def apply_magnitude(self, img: np.ndarray, magnitude: float) -> np.ndarray:
        return mmcv.adjust_sharpness(img, factor=1 + magnitude)
