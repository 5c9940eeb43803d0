"""Metrics of predictions against ground truth."""

from .coco_caption import COCOCaption
from .gathered import GatheredMetric
from .scene_caption import DocumentAccuracy, SceneCaptionAccuracy
from .scorers import caption_scores

__all__ = ["COCOCaption", "DocumentAccuracy", "GatheredMetric", "SceneCaptionAccuracy", "caption_scores"]
