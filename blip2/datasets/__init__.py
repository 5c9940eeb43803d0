"""Datasets of pictures with text, and the transforms of their pipelines."""

from . import transforms
from .bad_images import BadImage, pseudo_collate_skipping_bad, set_skip_bad_images
from .base import BaseImageDataset

__all__ = ["BadImage", "BaseImageDataset", "pseudo_collate_skipping_bad", "set_skip_bad_images", "transforms"]
