"""The test pipeline of a config, for pictures from anywhere."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config

from blip2.datasets.transforms import LoadImageFromFile
from blip2.registry import TRANSFORMS

from .inputs import ImageInput, read_input


class Pipeline:
    """A config's test pipeline whose loading transform takes any `ImageInput` instead of a path.

    Args:
        cfg: a config with ``test_dataloader.dataset.pipeline``.

    Raises:
        ValueError: the config has no test pipeline.
    """

    def __init__(self, cfg: Config) -> None:
        transforms = [TRANSFORMS.build(transform) for transform in pipeline_of(cfg)]
        loaders = [transform for transform in transforms if isinstance(transform, LoadImageFromFile)]
        # What the config says about loading holds for pictures in memory too.
        self.loader = loaders[0] if loaders else LoadImageFromFile()
        self.transforms: list[Callable[[dict[str, Any]], dict[str, Any] | None]] = [
            transform for transform in transforms if transform not in loaders
        ]

    def load(self, item: ImageInput) -> np.ndarray:
        """The picture as H×W×3 uint8 in BGR order; raises OSError or ValueError if it cannot be read."""
        return read_input(item, ignore_orientation=self.loader.color_type == "color_ignore_orientation")

    def __call__(
        self, pixels: np.ndarray, img_path: str | None = None, fields: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """`pixels` (H×W×3 uint8, BGR) → ``dict(inputs=3×H'×W' tensor, data_samples=DataSample)``.

        `fields` (``question`` …) are there for the transforms too, which clean and pack them as those of a data set.
        """
        shape = pixels.shape[:2]
        image = pixels.astype(np.float32) if self.loader.to_float32 else pixels
        results: dict[str, Any] = {**(fields or {}), "img": image, "img_shape": shape, "ori_shape": shape}
        if img_path is not None:
            results["img_path"] = img_path
        for transform in self.transforms:
            transformed = transform(results)
            if transformed is None:
                raise ValueError(f"the transform {type(transform).__name__} of the test pipeline gave no picture back")
            results = transformed
        return results


def pipeline_of(cfg: Config) -> list[dict[str, Any]]:
    """The test pipeline as the config writes it; a dataset that wraps another is looked into."""
    dataloader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    dataset = dataloader.get("dataset") if dataloader else None
    while dataset is not None and "pipeline" not in dataset:
        dataset = dataset.get("dataset")
    if dataset is None:
        raise ValueError(
            f"the config {cfg.filename or ''} has no test_dataloader.dataset.pipeline, which tells how a picture "
            "is prepared; take a config under configs/ as a model"
        )
    return list(dataset["pipeline"])
