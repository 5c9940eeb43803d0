"""Shows or saves each picture with its prediction, as the arguments of a call ask."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blip2.structures import DataSample
from blip2.visualization import CaptionStyle, UniversalVisualizer

from .inputs import ImageInput, stem_of


@dataclass
class Drawing:
    """The drawing options of one call; draws nothing unless `show` or `show_dir` is given.

    Attributes:
        resize: the shorter edge in pixels, or (width, height), before drawing.
        rescale_factor: scales the picture instead of `resize`.
        draw_score: writes the score behind the caption or the answer.
        text_cfg: fields of `CaptionStyle`.
        show: opens a window for each picture.
        wait_time: seconds that a window stays; 0 waits for the space key.
        show_dir: a folder for one PNG a picture, named after its file. Two of one name in a call get numbers.
    """

    resize: int | tuple[int, int] | None = None
    rescale_factor: float | None = None
    draw_score: bool = False
    text_cfg: Mapping[str, Any] | CaptionStyle | None = None
    show: bool = False
    wait_time: float = 0
    show_dir: str | Path | None = None
    _visualizer: UniversalVisualizer | None = field(default=None, init=False)
    _taken: set[str] = field(default_factory=set, init=False)

    @classmethod
    def names(cls) -> frozenset[str]:
        """The options' names."""
        return frozenset(option.name for option in dataclasses.fields(cls) if option.init)

    def draw(self, pixels: NDArray[np.uint8], sample: DataSample, item: ImageInput, index: int) -> None:
        """`pixels` (H×W×3, BGR) with what the model said, to the window or the folder that was asked for."""
        if not self.show and self.show_dir is None:
            return
        name = self._free_name(stem_of(item, index))
        self.render(np.ascontiguousarray(pixels[:, :, ::-1]), sample, name)

    def render(self, image: NDArray[np.uint8], sample: DataSample, name: str) -> None:
        """One picture, H×W×3 in RGB order, with what the sample says below it; a child may draw something else."""
        self.visualizer.visualize(
            image,
            sample,
            resize=self.resize,
            rescale_factor=self.rescale_factor,
            draw_score=self.draw_score,
            text_cfg=self.text_cfg,
            **self.target(name),
        )

    def target(self, name: str) -> dict[str, Any]:
        """Where a drawn picture goes, as the visualizer's methods take it."""
        out_file = None if self.show_dir is None else Path(self.show_dir) / f"{name}.png"
        return {"show": self.show, "wait_time": self.wait_time, "out_file": out_file, "name": name}

    @property
    def visualizer(self) -> UniversalVisualizer:
        """Made when it is first needed."""
        if self._visualizer is None:
            self._visualizer = UniversalVisualizer()
        return self._visualizer

    def _free_name(self, stem: str) -> str:
        # Compared without case: some file systems know only one file of such names.
        name, number = stem, 2
        while name.casefold() in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name.casefold())
        return name
