"""Metrics of predictions against ground truth."""

from .coco_caption import COCOCaption
from .gathered import GatheredMetric
from .gqa_acc import GQAAcc
from .nocaps import NocapsCaption, NocapsSave
from .report_vqa import ReportVQA
from .retrieval_recall import RetrievalRecall
from .scene_caption import DocumentAccuracy, SceneCaptionAccuracy
from .scorers import caption_scores
from .vqa_acc import VQAAcc

__all__ = [
    "COCOCaption",
    "DocumentAccuracy",
    "GQAAcc",
    "GatheredMetric",
    "NocapsCaption",
    "NocapsSave",
    "ReportVQA",
    "RetrievalRecall",
    "SceneCaptionAccuracy",
    "VQAAcc",
    "caption_scores",
]
