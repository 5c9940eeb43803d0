"""Captions for pictures."""

from typing import Any

from blip2.registry import INFERENCERS
from blip2.structures import DataSample

from .base import BaseInferencer, plain


@INFERENCERS.register_module()
class ImageCaptionInferencer(BaseInferencer):
    """Captions pictures; see `BaseInferencer` for the arguments, and for what counts as a picture.

    Examples:
        >>> from blip2 import ImageCaptionInferencer
        >>> inferencer = ImageCaptionInferencer("blip2-tiny_shapes-caption")
        >>> inferencer("demo/scene_1.png")[0]["pred_caption"]  # doctest: +SKIP
        'a purple ring on the left of a red square'
        >>> inferencer(["a.png", "b.png"], batch_size=2, num_beams=3, show_dir="captioned")  # doctest: +SKIP

    `prompt` is a text that all captions continue, or a list of texts, one a picture (instructed generation).

    A result is ``{'pred_caption': text, 'pred_score': score}``, where the score is the caption's length-normalised
    log-probability; with ``num_captions`` above 1 both are lists, best first.
    """

    task = "Image Caption"

    def pack(self, data_sample: DataSample) -> dict[str, Any]:
        """``pred_caption`` and ``pred_score``; plain Python values."""
        return {"pred_caption": data_sample.pred_caption, "pred_score": plain(data_sample.get("pred_score"))}
