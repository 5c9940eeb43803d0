"""Datasets of pictures with text, and the transforms of their pipelines."""

from . import transforms
from .bad_images import BadImage, set_skip_bad_images
from .base import BaseImageDataset
from .caption import CaptionDataset, COCOCaption
from .flickr30k import Flickr30kCaption, Flickr30kRetrieval
from .image_text import ImageTextDataset
from .nocaps import NoCaps
from .questions import QuestionDataset
from .retrieval import COCORetrieval
from .samplers import SequentialSampler
from .text import TextDocuments
from .textvqa import TextVQA
from .visual_genome import VisualGenomeQA
from .vizwiz import VizWiz
from .vqa import COCOVQA, GQA

__all__ = [
    "COCOVQA",
    "GQA",
    "BadImage",
    "BaseImageDataset",
    "COCOCaption",
    "COCORetrieval",
    "CaptionDataset",
    "Flickr30kCaption",
    "Flickr30kRetrieval",
    "ImageTextDataset",
    "NoCaps",
    "QuestionDataset",
    "SequentialSampler",
    "TextDocuments",
    "TextVQA",
    "VisualGenomeQA",
    "VizWiz",
    "set_skip_bad_images",
    "transforms",
]
