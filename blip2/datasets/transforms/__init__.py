"""Transforms of a dataset's pipeline.

The names of mmcv's transforms (``Resize``, ``RandomFlip``, ``CenterCrop``, ``RandomApply`` …) can be used in configs as
well: the import of our modules registers them in the root that our registry falls back to.
"""

from .formatting import PackInputs
from .loading import LoadImageFromFile, pil_to_bgr, read_image
from .processing import RandomResizedCrop, ResizeEdge
from .text import CleanCaption

__all__ = [
    "CleanCaption",
    "LoadImageFromFile",
    "PackInputs",
    "RandomResizedCrop",
    "ResizeEdge",
    "pil_to_bgr",
    "read_image",
]
