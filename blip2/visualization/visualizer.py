"""The visualizer of configs (``visualizer = dict(type='UniversalVisualizer')``)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from numpy.typing import NDArray
from PIL import Image

from blip2.registry import VISUALIZERS
from blip2.utils.suggest import did_you_mean

from .answer import draw_answers
from .caption import CaptionStyle, draw_caption
from .contact_sheet import draw_contact_sheet

# Backends of matplotlib that draw into files and open no window.
_WINDOWLESS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


@VISUALIZERS.register_module()
class UniversalVisualizer(Visualizer):
    """Draws what a model said about a picture; takes mmengine's arguments (``vis_backends``, ``save_dir`` …)."""

    def visualize_image_caption(
        self,
        image: NDArray[np.uint8],
        data_sample: BaseDataElement,
        resize: int | tuple[int, int] | None = None,
        text_cfg: Mapping[str, Any] | CaptionStyle | None = None,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | Path | None = None,
        name: str = "",
        step: int = 0,
        *,
        rescale_factor: float | None = None,
        draw_score: bool = False,
    ) -> NDArray[np.uint8]:
        """Writes the caption on a strip below the picture.

        Args:
            image: H×W×3 uint8 in RGB order.
            data_sample: holds ``pred_caption`` (a text or a list of texts), and ``pred_score`` if `draw_score`.
            resize: the shorter edge in pixels, or (width, height), before drawing.
            text_cfg: fields of `CaptionStyle`: ``font_size``, ``font``, ``color``, ``background``.
            show: opens a window and waits.
            wait_time: seconds that the window stays; 0 waits for the space key.
            out_file: where to write the picture; folders are made. Without it the picture goes to ``vis_backends``.
            name: the window's title and the backends' key.
            step: the backends' step.
            rescale_factor: scales the picture before drawing (an alternative to `resize`).
            draw_score: writes the length-normalised log-probability behind each caption.

        Returns:
            The drawn picture, H'×W'×3 uint8 in RGB order.
        """
        captions, scores = _captions_of(data_sample, draw_score)
        picture = _resized(_as_picture(image), resize, rescale_factor)
        drawn = draw_caption(picture, captions, scores=scores, style=_style(text_cfg))
        return self._put(drawn, show, wait_time, out_file, name or "caption", step)

    def visualize_vqa(
        self,
        image: NDArray[np.uint8],
        data_sample: BaseDataElement,
        resize: int | tuple[int, int] | None = None,
        text_cfg: Mapping[str, Any] | CaptionStyle | None = None,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | Path | None = None,
        name: str = "",
        step: int = 0,
        *,
        rescale_factor: float | None = None,
        draw_score: bool = False,
    ) -> NDArray[np.uint8]:
        """Writes the question and its answer on a strip below the picture; see `visualize_image_caption`.

        `data_sample` holds ``question`` and ``pred_answer`` (texts, or lists of as many texts).
        """
        questions, answers, scores = _answers_of(data_sample, draw_score)
        picture = _resized(_as_picture(image), resize, rescale_factor)
        drawn = draw_answers(picture, questions, answers, scores=scores, style=_style(text_cfg))
        return self._put(drawn, show, wait_time, out_file, name or "answer", step)

    def visualize_t2i_retrieval(
        self,
        text: str,
        images: Sequence[NDArray[np.uint8]],
        scores: Sequence[float] | None = None,
        resize: int | None = None,
        text_cfg: Mapping[str, Any] | CaptionStyle | None = None,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | Path | None = None,
        name: str = "",
        step: int = 0,
        *,
        right: Sequence[bool] | None = None,
        width: int = 1600,
    ) -> NDArray[np.uint8]:
        """Draws the pictures that were found for a query, best first, below its words.

        Args:
            text: the query, or what it was in words.
            images: H×W×3 uint8 in RGB order, at least one.
            scores: one a picture, written below it.
            right: whether each picture belongs to the text, marked below it with ✓ or ✗.
            resize: the pictures' height in pixels (224).
            width: of the drawing in pixels at most; more pictures go on in the next row.
            text_cfg, show, wait_time, out_file, name, step: as in `visualize_image_caption`.

        Returns:
            The drawn picture, H'×W'×3 uint8 in RGB order.
        """
        labels = [""] * len(images) if scores is None else [f"{score:.2f}" for score in scores]
        if right is not None:
            labels = [f"{label} {'✓' if good else '✗'}".strip() for label, good in zip(labels, right, strict=True)]
        pictures = [_as_picture(image) for image in images]
        drawn = draw_contact_sheet(text, pictures, labels, height=resize or 224, width=width, style=_style(text_cfg))
        return self._put(drawn, show, wait_time, out_file, name or "retrieval", step)

    def visualize(self, image: NDArray[np.uint8], data_sample: BaseDataElement, **options: Any) -> NDArray[np.uint8]:
        """What the prediction in `data_sample` is, an answer or a caption, decides which of the above draws it."""
        draw = self.visualize_vqa if "pred_answer" in data_sample else self.visualize_image_caption
        return draw(image, data_sample, **options)

    def add_datasample(
        self,
        name: str,
        image: NDArray[np.uint8],
        data_sample: BaseDataElement | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        step: int = 0,
        out_file: str | Path | None = None,
    ) -> None:
        """mmengine's common entry: draws the prediction in `data_sample` (ground truth is not drawn)."""
        if data_sample is None or not draw_pred:
            return
        self.visualize(image, data_sample, show=show, wait_time=wait_time, out_file=out_file, name=name, step=step)

    def _put(
        self,
        drawn: Image.Image,
        show: bool,
        wait_time: float,
        out_file: str | Path | None,
        name: str,
        step: int,
    ) -> NDArray[np.uint8]:
        """Shows the drawn picture and writes it to `out_file` or the backends; returns its pixels."""
        pixels = np.asarray(drawn)
        if show:
            self._check_window()
            self.show(pixels, win_name=name, wait_time=wait_time)
        if out_file is not None:
            if is_main_process():
                Path(out_file).parent.mkdir(parents=True, exist_ok=True)
                drawn.save(out_file)
        else:
            # mmengine's local backend makes no folders, and loses a picture whose name has a slash without a word.
            self.add_image(name.replace("/", "_"), pixels, step=step)
        return pixels

    @staticmethod
    def _check_window() -> None:
        import matplotlib.pyplot as plt

        backend = plt.get_backend().lower()
        if backend in _WINDOWLESS:
            raise RuntimeError(
                f"show=True needs a display, and matplotlib found none (its backend here is {backend!r}); "
                "write the picture to a file instead: show_dir=... or out_file=..."
            )


def _captions_of(data_sample: BaseDataElement, with_scores: bool) -> tuple[list[str], list[float] | None]:
    if "pred_caption" not in data_sample:
        raise ValueError(f"the data sample has no pred_caption to draw; it holds: {sorted(data_sample.keys())}")
    caption = data_sample.pred_caption
    captions = [caption] if isinstance(caption, str) else list(caption)
    if not with_scores or "pred_score" not in data_sample:
        return captions, None
    scores = np.atleast_1d(np.asarray(data_sample.pred_score, dtype=float)).tolist()
    if len(scores) != len(captions):
        raise ValueError(f"{len(captions)} captions, but {len(scores)} scores")
    return captions, scores


def _answers_of(
    data_sample: BaseDataElement, with_scores: bool
) -> tuple[list[str | None], list[str], list[float] | None]:
    """Questions, answers and scores, as many of each; of several answers to a question only the best."""
    answers = data_sample.get("pred_answer")
    if answers is None:
        raise ValueError(f"the data sample has no pred_answer to draw; it holds: {sorted(data_sample.keys())}")
    questions, scores = data_sample.get("question"), data_sample.get("pred_score")
    if not isinstance(questions, list):
        questions, answers, scores = [questions], [answers], [scores]
    best = [answer if isinstance(answer, str) else answer[0] for answer in answers]
    if not with_scores or scores is None or None in scores:
        return questions, best, None
    return questions, best, [float(np.atleast_1d(np.asarray(score, dtype=float))[0]) for score in scores]


def _as_picture(image: NDArray[np.uint8]) -> Image.Image:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image: wanted a uint8 array of H×W×3 in RGB order, got {found}")
    return Image.fromarray(image)


def _resized(picture: Image.Image, resize: int | tuple[int, int] | None, rescale_factor: float | None) -> Image.Image:
    if resize is not None and rescale_factor is not None:
        raise ValueError("resize and rescale_factor exclude each other: give one of them")
    if resize is not None:
        if isinstance(resize, int):
            scale = resize / min(picture.size)
            size = (round(picture.width * scale), round(picture.height * scale))
        else:
            size = (int(resize[0]), int(resize[1]))
    elif rescale_factor is not None:
        size = (round(picture.width * rescale_factor), round(picture.height * rescale_factor))
    else:
        return picture
    if min(size) < 1:
        raise ValueError(f"resize={resize}, rescale_factor={rescale_factor}: nothing would be left of {picture.size}")
    return picture.resize(size, Image.Resampling.LANCZOS)


def _style(text_cfg: Mapping[str, Any] | CaptionStyle | None) -> CaptionStyle:
    if isinstance(text_cfg, CaptionStyle):
        return text_cfg
    text_cfg = dict(text_cfg or {})
    valid = [field.name for field in dataclasses.fields(CaptionStyle)]
    for key in text_cfg:
        if key not in valid:
            raise TypeError(f"text_cfg has no {key!r}.{did_you_mean(key, valid)} It knows: {', '.join(valid)}.")
    return CaptionStyle(**text_cfg)
