"""Draws what was found for a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blip2.structures import DataSample

from .drawing import Drawing


@dataclass
class MatchedTexts(Drawing):
    """The options of `Drawing`; a picture with the best texts below it, numbered if there are several."""

    draw_score: bool = True

    def render(self, image: NDArray[np.uint8], sample: DataSample, name: str) -> None:
        texts = [match["text"] for match in sample.matches]
        scores = [match["match_score"] for match in sample.matches]
        super().render(image, DataSample(pred_caption=texts, pred_score=scores), name)


@dataclass
class MatchedPictures(Drawing):
    """The options of `Drawing` (`resize` is the pictures' height); a query with the best pictures below it.

    Attributes:
        figsize: width and height in hundreds of pixels, as in mmpretrain; the width is where a row of pictures ends,
            the height grows with the rows.
    """

    draw_score: bool = True
    figsize: tuple[float, float] = (16, 9)

    def draw_query(
        self, query: str, pictures: Sequence[NDArray[np.uint8]], matches: Sequence[dict[str, Any]], index: int
    ) -> None:
        """The query's words above `pictures` (H×W×3 in BGR order), which are those of `matches`."""
        self.visualizer.visualize_t2i_retrieval(
            query,
            [np.ascontiguousarray(pixels[:, :, ::-1]) for pixels in pictures],
            [match["match_score"] for match in matches] if self.draw_score else None,
            resize=self.resize if isinstance(self.resize, int) else None,
            width=round(100 * self.figsize[0]),
            text_cfg=self.text_cfg,
            **self.target(f"query_{index:04d}"),
        )

    @property
    def wanted(self) -> bool:
        """Whether there is anything to draw for."""
        return self.show or self.show_dir is not None
