"""What is timed of a captioner, and this package's own."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config
from mmengine.dataset.utils import pseudo_collate
from torch import Tensor

from blip2.apis.inferencers.pipeline import Pipeline
from blip2.apis.inferencers.placement import autocast, store_weights_in
from blip2.models.blip2_caption import Blip2Caption
from blip2.models.language.generation import DecodingState, LanguageModel, generate

from .work import Work


class Captioner(Protocol):
    """One library's way from picture files to token ids, whole and in stages.

    Letters: B pictures, N patches and class token, Q queries, T new tokens, D width.
    """

    name: str
    device: torch.device

    def decode(self, files: Sequence[Path]) -> Tensor:
        """Picture files to B×3×H×W, as the model takes them."""

    def vision(self, images: Tensor) -> Tensor:
        """B×3×H×W to patch features B×N×D, normalised."""

    def qformer(self, features: Tensor) -> Tensor:
        """B×N×D to what the language model is given to read, B×Q×D."""

    def generation(self, queries: Tensor) -> tuple[Tensor, float]:
        """Token ids B×T, and the seconds that the language model's first call (the prompt's) took."""

    def caption(self, files: Sequence[Path]) -> Tensor:
        """Picture files to token ids B×T, through the library's own front door."""

    def cast(self, dtype: torch.dtype) -> None:
        """Give all weights this dtype."""

    def set_precision(self, precision: str) -> None:
        """Compute in 'fp32', 'bf16' or 'fp16' from now on, the library's way."""


def seconds(action: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What `action` returns, and how long it took until the device had done it."""
    synchronize(device)
    start = time.perf_counter()
    result = action()
    synchronize(device)
    return result, time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class OwnCaptioner:
    """`Blip2Caption`, as the inferencers run it."""

    name = "blip2"

    def __init__(self, model: Blip2Caption, config: Config, work: Work) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.pipeline = Pipeline(config)
        self.options = work.options(model.options)
        self.precision = "fp32"

    def decode(self, files: Sequence[Path]) -> Tensor:
        batch = [self.pipeline(self.pipeline.load(file)) for file in files]
        return self.model.data_preprocessor(pseudo_collate(batch), False)["images"]

    def vision(self, images: Tensor) -> Tensor:
        with self._inference():
            return self.model.encode_image(images)

    def qformer(self, features: Tensor) -> Tensor:
        with self._inference():
            return self.model.vision_neck(self.model.query_image(features))

    def generation(self, queries: Tensor) -> tuple[Tensor, float]:
        tokenizer, language_model = self.model.tokenizer, self.model.text_backbone
        config = self.options.generation(tokenizer.token_id("\n"), tokenizer.pad_token_id)
        clocked = _PrefillClock(language_model, self.device)
        with self._inference():
            words = language_model.get_input_embeddings()(self._prompt().expand(len(queries), -1))
            embeds = torch.cat((queries.to(words.dtype), words), dim=1)
            return generate(clocked, embeds, None, config).sequences, clocked.seconds

    def caption(self, files: Sequence[Path]) -> Tensor:
        images = self.decode(files)
        with self._inference():
            return self.model.generate(images, self.options).sequences

    def cast(self, dtype: torch.dtype) -> None:
        self.model.to(dtype)

    def set_precision(self, precision: str) -> None:
        store_weights_in(self.model, precision)
        self.precision = precision

    def _prompt(self) -> Tensor:
        return torch.tensor(self.model.tokenizer.encode([self.options.prompt]), device=self.device)

    def _inference(self) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(autocast(self.device, self.precision))
        return stack


class _PrefillClock:
    """A language model whose `prefill` is timed."""

    def __init__(self, language_model: LanguageModel, device: torch.device) -> None:
        self.language_model = language_model
        self.device = device
        self.seconds = 0.0

    def prefill(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, num_beams: int, max_new_tokens: int
    ) -> tuple[Tensor, DecodingState]:
        def prefill() -> tuple[Tensor, DecodingState]:
            return self.language_model.prefill(inputs_embeds, attention_mask, num_beams, max_new_tokens)

        result, self.seconds = seconds(prefill, self.device)
        return result
