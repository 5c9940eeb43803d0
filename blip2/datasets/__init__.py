"""Datasets of pictures with text, and the transforms of their pipelines."""

from . import transforms
from .bad_images import BadImage, set_skip_bad_images
from .base import BaseImageDataset
from .caption import CaptionDataset, COCOCaption
from .image_text import ImageTextDataset
from .text import TextDocuments

__all__ = [
    "BadImage",
    "BaseImageDataset",
    "COCOCaption",
    "CaptionDataset",
    "ImageTextDataset",
    "TextDocuments",
    "set_skip_bad_images",
    "transforms",
]
