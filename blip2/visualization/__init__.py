"""Draws what a person looks at, from data handed to it."""

from .answer import draw_answers
from .caption import CaptionStyle, draw_caption
from .contact_sheet import draw_contact_sheet
from .heat_map import draw_heat_map, draw_heat_maps
from .mlflow import MLflowVisBackend
from .tensorboard import TensorboardVisBackend
from .visualizer import UniversalVisualizer

__all__ = [
    "CaptionStyle",
    "MLflowVisBackend",
    "TensorboardVisBackend",
    "UniversalVisualizer",
    "draw_answers",
    "draw_caption",
    "draw_contact_sheet",
    "draw_heat_map",
    "draw_heat_maps",
]
