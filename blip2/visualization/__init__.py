"""Draws what a person looks at, from data handed to it."""

from .caption import CaptionStyle, draw_caption
from .visualizer import UniversalVisualizer

__all__ = ["CaptionStyle", "UniversalVisualizer", "draw_caption"]
