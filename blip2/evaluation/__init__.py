"""Metrics of predictions against ground truth."""

from .coco_caption import COCOCaption
from .gathered import GatheredMetric
from .scorers import caption_scores

__all__ = ["COCOCaption", "GatheredMetric", "caption_scores"]
