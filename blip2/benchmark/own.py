"""This package's own models, as the inferencers run them: what all tasks share."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset.utils import pseudo_collate
from torch import Tensor

from blip2.apis.inferencers.pipeline import Pipeline
from blip2.apis.inferencers.placement import autocast, store_weights_in
from blip2.models.blip2_base import Blip2Base

from .contender import OURS


class OwnModel:
    """A model with its config's test pipeline, at a precision.

    Args:
        model: in fp32.
        config: has the test pipeline.
        fields: texts that go with each picture and that the pipeline asks for.
    """

    name = OURS

    def __init__(self, model: Blip2Base, config: Config, fields: Mapping[str, Any] | None = None) -> None:
        self.base = model
        self.device = next(model.parameters()).device
        self.pipeline = Pipeline(config)
        self.fields = fields
        self.precision = "fp32"

    def decode(self, files: Sequence[Path]) -> Tensor:
        """Picture files to B×3×H×W, as the model takes them."""
        batch = [self.pipeline(self.pipeline.load(file), fields=self.fields) for file in files]
        return self.base.data_preprocessor(pseudo_collate(batch), False)["images"]

    def vision(self, images: Tensor) -> Tensor:
        """B×3×H×W to patch features B×N×D, normalised."""
        with self.inference():
            return self.base.encode_image(images)

    def cast(self, dtype: torch.dtype) -> None:
        self.base.to(dtype)

    def set_precision(self, precision: str) -> None:
        store_weights_in(self.base, precision)
        self.precision = precision

    def inference(self) -> ExitStack:
        """A context without gradients, at the precision that is set."""
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast(self.device, self.precision))
        return stack
