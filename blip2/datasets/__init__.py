"""Datasets of pictures with text, and the transforms of their pipelines."""

from . import transforms
from .bad_images import BadImage, set_skip_bad_images
from .base import BaseImageDataset
from .caption import CaptionDataset, COCOCaption
from .image_text import ImageTextDataset
from .retrieval import COCORetrieval
from .samplers import SequentialSampler
from .text import TextDocuments
from .vqa import COCOVQA, GQA, QuestionDataset

__all__ = [
    "COCOVQA",
    "GQA",
    "BadImage",
    "BaseImageDataset",
    "COCOCaption",
    "COCORetrieval",
    "CaptionDataset",
    "ImageTextDataset",
    "QuestionDataset",
    "SequentialSampler",
    "TextDocuments",
    "set_skip_bad_images",
    "transforms",
]
