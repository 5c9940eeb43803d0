"""What is timed of models that write, and this package's own captioner."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

import torch
from mmengine.config import Config
from torch import Tensor

from blip2.models.blip2_caption import Blip2Caption
from blip2.models.blip2_generative import Blip2Generative, GenerationOptions, Options
from blip2.models.language.generation import DecodingState, LanguageModel

from .answers import TokenIds
from .contender import Steps, seconds, timed
from .own import OwnModel
from .work import Work


class Captioner(ABC):
    """One library's way from picture files to token ids, whole and in stages.

    Letters: B pictures, N patches and class token, Q queries, R answers, T new tokens, D width.

    Attributes:
        sharing: how many answers share a picture that is encoded once.
        sharing_queries: how many share what the Q-Former found in it.
    """

    name: str
    device: torch.device
    sharing = 1
    sharing_queries = 1

    @abstractmethod
    def decode(self, files: Sequence[Path]) -> Tensor:
        """Picture files to B×3×H×W, as the model takes them."""

    @abstractmethod
    def vision(self, images: Tensor) -> Tensor:
        """B×3×H×W to patch features B×N×D, normalised."""

    @abstractmethod
    def qformer(self, features: Tensor) -> Tensor:
        """B×N×D to what the language model is given to read, B×Q×D."""

    @abstractmethod
    def generation(self, queries: Tensor) -> tuple[Tensor, float]:
        """Token ids R×T, and the seconds that the language model's first call (the prompts') took."""

    @abstractmethod
    def answer(self, files: Sequence[Path]) -> TokenIds:
        """Picture files to token ids, through the library's own front door."""

    def steps(self, files: Sequence[Path]) -> Steps:
        images = self.decode(files)
        features = self.vision(images)
        queries = self.qformer(features)

        def generation() -> dict[str, float]:
            (_, prefill), total = seconds(lambda: self.generation(queries), self.device)
            return {"prefill": prefill, "decode_steps": total - prefill}

        return {
            "decode": timed("decode", lambda: self.decode(files), self.device),
            "vision": timed("vision", lambda: self.vision(images), self.device),
            "qformer": timed("qformer", lambda: self.qformer(features), self.device),
            "generation": generation,
            "pipeline": timed("pipeline", lambda: self.answer(files), self.device),
        }

    def states(self, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
        """As many rows as answers, so that those that read a picture once compare with those that read it again."""
        images = self.decode(files)
        yield "picture decoding", images.repeat_interleave(self.sharing, 0)
        features = self.vision(images)
        yield "vision", features.repeat_interleave(self.sharing, 0)
        yield "Q-Former", self.qformer(features).repeat_interleave(self.sharing_queries, 0)


class OwnWriter(OwnModel, Captioner, Generic[Options]):
    """The stages of a `Blip2Generative`, as the inferencers run it."""

    def __init__(
        self, model: Blip2Generative[Options], config: Config, work: Work, fields: dict[str, Any] | None = None
    ) -> None:
        super().__init__(model, config, fields)
        self.writer = model
        self.work = work
        self.options = work.options(model.options)

    @abstractmethod
    def prompts(self, count: int) -> list[str]:
        """What the language model reads after the queries of each of `count` answers."""

    def sizes(self) -> dict[str, int]:
        """Of texts; for the report."""
        longest = max(map(len, self.writer.tokenizer.encode(self.prompts(self.work.answers))))
        return {"prompt_tokens": longest, "vocabulary": self.writer.text_backbone.vocab_size}

    def generation(self, queries: Tensor) -> tuple[Tensor, float]:
        with self.inference(), _PrefillClock(self.writer.text_backbone, self.device) as clock:
            queries = queries.repeat_interleave(self.sharing_queries, 0)
            prompts = self.writer.tokenizer.encode(self.prompts(len(queries)))
            return self.writer.write(queries, prompts, self.options).sequences, clock.seconds


class OwnCaptioner(OwnWriter[GenerationOptions]):
    """`Blip2Caption`."""

    def __init__(self, model: Blip2Caption, config: Config, work: Work) -> None:
        super().__init__(model, config, work)
        self.model = model

    def prompts(self, count: int) -> list[str]:
        return [self.options.prompt.rstrip()] * count

    def qformer(self, features: Tensor) -> Tensor:
        with self.inference():
            return self.model.vision_neck(self.model.query_image(features))

    def answer(self, files: Sequence[Path]) -> TokenIds:
        images = self.decode(files)
        with self.inference():
            return TokenIds(self.model.generate(images, self.options).sequences)


class _PrefillClock:
    """Times a language model's `prefill` while it is open."""

    def __init__(self, language_model: LanguageModel, device: torch.device) -> None:
        self.language_model: Any = language_model
        self.device = device
        self.seconds = 0.0

    def __enter__(self) -> "_PrefillClock":
        prefill = self.language_model.prefill

        def clocked(*args: Any) -> tuple[Tensor, DecodingState]:
            result, self.seconds = seconds(lambda: prefill(*args), self.device)
            return result

        self.language_model.prefill = clocked  # the instance's, before the class's
        return self

    def __exit__(self, *_: object) -> None:
        del self.language_model.prefill
