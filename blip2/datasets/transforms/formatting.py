"""The last transform of a pipeline: a sample in the form that the model's data preprocessor takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from PIL import Image

from blip2.registry import TRANSFORMS
from blip2.structures import DataSample


@TRANSFORMS.register_module()
class PackInputs(BaseTransform):
    """Packs a sample to ``dict(inputs=3×H×W tensor, data_samples=DataSample)``; all other keys are dropped.

    A key that the sample does not have is left out, because one pipeline serves data with and without ground truth; the
    model or the metric that needs it says so.

    Args:
        input_key: where the picture is: an H×W×C or H×W array, a Pillow picture, a tensor (taken as it is), or a list
            of them.
        algorithm_keys: annotations, such as ``gt_caption``, which become fields of the data sample.
        meta_keys: which become meta information of the data sample. A benchmark needs ``image_id`` among them.
    """

    DEFAULT_META_KEYS = ("sample_idx", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")

    def __init__(
        self,
        input_key: str = "img",
        algorithm_keys: Sequence[str] = (),
        meta_keys: Sequence[str] = DEFAULT_META_KEYS,
    ) -> None:
        for name, keys in {"algorithm_keys": algorithm_keys, "meta_keys": meta_keys}.items():
            if isinstance(keys, str):
                raise TypeError(f"{name}={keys!r} must be a list of keys, such as [{keys!r}]")
        self.input_key = input_key
        self.algorithm_keys = tuple(algorithm_keys)
        self.meta_keys = tuple(meta_keys)

    @staticmethod
    def format_input(picture: Any) -> Any:
        """`picture` as a tensor, channels first; its order of channels and its type stay."""
        if isinstance(picture, torch.Tensor):
            return picture
        if isinstance(picture, list):
            return [PackInputs.format_input(item) for item in picture]
        if isinstance(picture, Image.Image):
            picture = np.array(picture)
        if not isinstance(picture, np.ndarray) or picture.ndim not in (2, 3):
            what = f"an array of shape {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
            raise TypeError(f"PackInputs takes a picture (array H×W×C or H×W, Pillow picture, tensor), not {what}")
        if picture.ndim == 2:
            picture = picture[..., None]
        # A copy: the result owns its memory, is contiguous, and can be written to.
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())  # C×H×W

    def transform(self, results: dict) -> dict:
        packed: dict[str, Any] = {}
        if self.input_key in results:
            packed["inputs"] = self.format_input(results[self.input_key])
        data_sample = DataSample()
        for key in self.algorithm_keys:
            if key in results:
                data_sample.set_field(results[key], key)
        for key in self.meta_keys:
            if key in results:
                data_sample.set_field(results[key], key, field_type="metainfo")
        packed["data_samples"] = data_sample
        return packed

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(input_key={self.input_key!r}, algorithm_keys={self.algorithm_keys}, "
            f"meta_keys={self.meta_keys})"
        )
