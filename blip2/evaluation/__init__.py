"""Metrics of predictions against ground truth."""

from .caption_scores import caption_scores
from .coco_caption import COCOCaption
from .gathered import GatheredMetric

__all__ = ["COCOCaption", "GatheredMetric", "caption_scores"]
