"""Captions for pictures."""

from dataclasses import fields
from typing import Any

from blip2.models.blip2_caption import Blip2Caption
from blip2.registry import INFERENCERS
from blip2.structures import DataSample

from .base import BaseInferencer


@INFERENCERS.register_module()
class ImageCaptionInferencer(BaseInferencer):
    """Captions pictures; see `BaseInferencer` for the arguments, and for what counts as a picture.

    Examples:
        >>> from blip2 import ImageCaptionInferencer
        >>> inferencer = ImageCaptionInferencer("blip2-tiny_shapes-caption")
        >>> inferencer("demo/scene_0.png")[0]["pred_caption"]  # doctest: +SKIP
        'a small red circle above a large blue square'
        >>> inferencer(["a.png", "b.png"], batch_size=2, num_beams=3, show_dir="captioned")  # doctest: +SKIP

    A result is ``{'pred_caption': text, 'pred_score': score}``, where the score is the caption's length-normalised
    log-probability; with ``num_captions`` above 1 both are lists, best first.
    """

    task = "Image Caption"

    @property
    def forward_kwargs(self) -> frozenset[str]:
        """The generation options of a `Blip2Caption`; for another captioner what its `predict` takes by name."""
        if isinstance(self.model, Blip2Caption):
            return frozenset(option.name for option in fields(self.model.options))
        return super().forward_kwargs

    def pack(self, data_sample: DataSample) -> dict[str, Any]:
        """``pred_caption`` and ``pred_score``; plain Python values."""
        score = data_sample.get("pred_score")
        if hasattr(score, "tolist"):
            score = score.tolist()
        return {"pred_caption": data_sample.pred_caption, "pred_score": score}
