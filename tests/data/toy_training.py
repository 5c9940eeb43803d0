"""A toy of everything that a training needs: a net with dropout, noisy data, a metric.

Configs name it in ``custom_imports``; its folder has to be on sys.path.
"""

import random
import time
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from blip2.registry import DATASETS, METRICS, MODELS
from blip2.structures import DataSample


@MODELS.register_module(force=True)
class ToyNet(BaseModel):
    """Two linear layers with dropout between them; the first can be frozen."""

    def __init__(self, freeze_first: bool = False, pause: float = 0.0, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.first, self.norm, self.second = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1)
        self.dropout = nn.Dropout(0.3)
        self.pause = pause  # seconds that a prediction takes
        if freeze_first:
            self.first.requires_grad_(False)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        x = torch.stack(list(inputs)) if not isinstance(inputs, Tensor) else inputs
        y = self.second(self.dropout(self.norm(self.first(x)).relu())).squeeze(-1)
        if mode == "loss":
            return {"loss": (y.float() - x.sum(-1)).square().mean()}
        time.sleep(self.pause)
        for sample, value in zip(data_samples, y.float().tolist(), strict=True):
            sample.pred_score = value
        return list(data_samples)


@DATASETS.register_module(force=True)
class ToyData(Dataset):
    """Deterministic vectors plus noise from all three generators, as augmentations draw it."""

    def __init__(
        self, length: int = 22, noise: bool = True, bad: tuple[int, ...] = (), skip_bad_images: bool = False
    ) -> None:
        self.length, self.noise, self.bad = length, noise, bad
        self.metainfo = {"name": "toy"}
        self.skip_bad_images = skip_bad_images

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            if not self.skip_bad_images:
                raise ValueError(f"picture {index} is broken")
            return BadRecord(f"{index}.png", "broken")
        x = torch.sin(torch.arange(4.0) + index)
        if self.noise:
            x = x + random.random() + float(np.random.rand()) + torch.rand(4)
        sample = DataSample(metainfo={"image_id": index, "ori_shape": (index, 3)})
        return {"inputs": x, "data_samples": sample}


class BadRecord:
    def __init__(self, img_path: str, reason: str) -> None:
        self.img_path, self.reason = img_path, reason

    def __str__(self) -> str:
        return f"{self.img_path}: {self.reason}"


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    """The ordered ids and the sum of the scores."""

    default_prefix = "toy"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [(sample["image_id"], sample["ori_shape"], sample["pred_score"]) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        assert all(shape == (image_id, 3) for image_id, shape, _ in results)
        total = 0.0
        for _, _, score in results:
            total += score
        ids = [image_id for image_id, _, _ in results]
        return {"exact": total, "count": len(ids), "ordered": float(ids == sorted(ids))}
