"""A captioner whose caption is the picture's mean colour, for tests of what lies around a model."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from blip2.registry import MODELS
from blip2.structures import DataSample


@MODELS.register_module(force=True)
class ToyCaptioner(BaseModel):
    """Says 'red green blue' as numbers from 0 to 255; keeps the sizes of the batches that it saw."""

    def __init__(self, prompt: str = "", data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.scale.weight)
        self.norm = nn.LayerNorm(1)
        self.prompt = prompt
        self.batch_sizes: list[int] = []
        self.product_dtype: torch.dtype | None = None

    def forward(
        self, images: Tensor, data_samples: Sequence[DataSample] | None = None, mode: str = "tensor", **options
    ):
        assert mode == "predict" and not self.training and torch.is_inference_mode_enabled()
        return self.predict(images, data_samples, **options)

    def predict(
        self,
        images: Tensor,
        data_samples: Sequence[DataSample],
        num_beams: int = 1,
        prompt: str | None = None,
        num_captions: int = 1,
        max_txt_len: int = 20,
        min_length: int = 1,
    ) -> list[DataSample]:
        self.batch_sizes.append(len(images))
        self.product_dtype = self.scale(images.mean(dim=(2, 3), keepdim=True)[:1, :1]).dtype
        prefix = self.prompt if prompt is None else prompt
        for image, sample in zip(images, data_samples, strict=True):
            colour = " ".join(f"{value:.0f}" for value in image.mean(dim=(1, 2)).tolist())
            captions = [f"{prefix}{colour}"] + [f"{prefix}{colour} again" for _ in range(num_captions - 1)]
            scores = [-0.5 - rank for rank in range(num_captions)]
            sample.pred_caption = captions if num_captions > 1 else captions[0]
            sample.pred_score = scores if num_captions > 1 else scores[0]
        return list(data_samples)
