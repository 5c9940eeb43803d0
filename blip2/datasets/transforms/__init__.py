"""Transforms of a dataset's pipeline.

The names of mmcv's transforms (``Resize``, ``RandomFlip``, ``CenterCrop``, ``RandomApply`` …) can be used in configs as
well: the import of our modules registers them in the root that our registry falls back to.
"""

from .augmentations import (
    Augmentation,
    AutoContrast,
    Brightness,
    ColorTransform,
    Contrast,
    Equalize,
    Invert,
    MagnitudeAugmentation,
    Posterize,
    Rotate,
    Sharpness,
    Shear,
    Solarize,
    SolarizeAdd,
    Translate,
)
from .formatting import PackInputs
from .loading import LoadImageFromFile, pil_to_bgr, read_image
from .processing import RandomResizedCrop, ResizeEdge
from .rand_augment import RANDAUG_POLICIES, RandAugment
from .text import CleanCaption

__all__ = [
    "RANDAUG_POLICIES",
    "Augmentation",
    "AutoContrast",
    "Brightness",
    "CleanCaption",
    "ColorTransform",
    "Contrast",
    "Equalize",
    "Invert",
    "LoadImageFromFile",
    "MagnitudeAugmentation",
    "PackInputs",
    "Posterize",
    "RandAugment",
    "RandomResizedCrop",
    "ResizeEdge",
    "Rotate",
    "Sharpness",
    "Shear",
    "Solarize",
    "SolarizeAdd",
    "Translate",
    "pil_to_bgr",
    "read_image",
]
