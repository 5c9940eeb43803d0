"""Metrics of predictions against ground truth."""

from .coco_caption import COCOCaption
from .gathered import GatheredMetric
from .scene_caption import DocumentAccuracy, SceneCaptionAccuracy
from .scorers import caption_scores
from .vqa_acc import VQAAcc

__all__ = ["COCOCaption", "DocumentAccuracy", "GatheredMetric", "SceneCaptionAccuracy", "VQAAcc", "caption_scores"]
