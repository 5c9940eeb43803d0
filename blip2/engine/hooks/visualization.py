"""Draws predictions during validation and test."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from blip2.engine.errors import OptionError
from blip2.engine.gallery import Gallery
from blip2.registry import HOOKS
from blip2.structures import DataSample

# How many of the best texts and pictures are drawn.
BEST = 5


@HOOKS.register_module()
class VisualizationHook(Hook):
    """Draws the prediction of every `interval`-th sample, as mmpretrain's hook of this name does.

    Args:
        enable: draw at all.
        interval: samples between two drawn ones.
        show: open a window for each.
        out_dir: folder for the drawn pictures (``<iteration>_…`` while training); without it they go to the
            visualizer's backends.
        wait_time: seconds that a window stays; 0 waits for a key.
    """

    def __init__(
        self,
        enable: bool = False,
        interval: int = 5000,
        show: bool = False,
        out_dir: str | None = None,
        wait_time: float = 0,
    ) -> None:
        if interval < 1:
            raise OptionError(f"VisualizationHook: interval must be at least 1, got {interval}")
        self.enable, self.interval = enable, interval
        self.show, self.wait_time = show, wait_time
        self.out_dir = Path(out_dir).expanduser() if out_dir else None

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._draw(runner, runner.val_dataloader, batch_idx, data_batch, outputs or [], step=runner.iter)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._draw(runner, runner.test_dataloader, batch_idx, data_batch, outputs or [], step=0)

    def _draw(
        self, runner: Any, loader: Any, batch_idx: int, data_batch: Any, outputs: Sequence[BaseDataElement], step: int
    ) -> None:
        if not self.enable:
            return
        size = getattr(loader.batch_sampler, "batch_size", None) or len(outputs)
        start = batch_idx * size
        first = math.ceil(start / self.interval) * self.interval
        for place in range(first, start + len(outputs), self.interval):
            sample = outputs[place - start]
            name = _name(sample, place)
            visualizer: Visualizer = runner.visualizer
            visualizer.add_datasample(
                name, _picture(data_batch["inputs"][place - start]), sample, **self._target(name, step)
            )

    def draw_ranking(
        self,
        runner: Any,
        gallery: Gallery,
        i2t: torch.Tensor,
        t2i: torch.Tensor,
        inputs_of: Callable[[int], torch.Tensor],
        step: int,
    ) -> None:
        """Draws the texts found for every `interval`-th picture, and the pictures found for its first text.

        Args:
            gallery: of B pictures and M texts.
            i2t, t2i: scores of all texts for each picture B×M, and of all pictures for each text M×B.
            inputs_of: gives the loader's picture with this number.
            step: iteration of the training, 0 in a test.
        """
        if not self.enable:
            return
        for number in range(0, len(i2t), self.interval):
            name = _safe(Path(gallery.picture_names[number]).stem)
            own = gallery.texts_of_picture[number]
            values, texts = (best.tolist() for best in i2t[number].topk(min(BEST, i2t.shape[1])))
            found = [f"{'✓' if text in own else '✗'} {gallery.texts[text]}" for text in texts]
            sample = DataSample(pred_caption=found, pred_score=values)
            picture, key = _picture(inputs_of(number)), f"{name}_texts"
            runner.visualizer.visualize_image_caption(
                picture, sample, draw_score=True, name=key, **self._target(key, step)
            )
            if not own:
                continue
            right = gallery.pictures_of_text[own[0]]
            values, places = (best.tolist() for best in t2i[own[0]].topk(min(BEST, t2i.shape[1])))
            pictures, key = [_picture(inputs_of(place)) for place in places], f"{name}_pictures"
            marks = [place in right for place in places]
            runner.visualizer.visualize_t2i_retrieval(
                gallery.texts[own[0]], pictures, values, right=marks, name=key, **self._target(key, step)
            )

    def _target(self, name: str, step: int) -> dict[str, Any]:
        """The visualizer's arguments for where a drawn picture goes."""
        out_file = None
        if self.out_dir is not None:
            out_file = str(self.out_dir / (f"{step}_{name}.png" if step else f"{name}.png"))
        return {"show": self.show, "wait_time": self.wait_time, "step": step, "out_file": out_file}


def _picture(inputs: torch.Tensor) -> np.ndarray:
    """A loader's picture (3×H×W, 0…255, BGR) as the visualizer wants it (H×W×3 uint8, RGB)."""
    pixels = inputs.detach().cpu().clamp(0, 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.flip(0).permute(1, 2, 0).numpy())


def _name(sample: BaseDataElement, place: int) -> str:
    """The picture's file name or id, safe as part of a path."""
    path = sample.get("img_path")
    name = Path(path).stem if path else sample.get("image_id", place)
    return _safe(str(name))


def _safe(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in name)
