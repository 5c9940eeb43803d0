"""An answerer that says how red the picture is and how many words its prompt has, for tests of what lies around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from blip2.registry import MODELS
from blip2.structures import DataSample


@dataclass
class ToyOptions:
    prompt: str = "Question: {} Answer:"
    max_txt_len: int = 2
    num_beams: int = 1
    answers: Sequence[str] | None = None


class _Words:
    """A tokenizer whose tokens are words."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[0] * len(text.split()) for text in texts]


class _Positions:
    def check_length(self, length: int) -> None:
        if length > 24:
            raise ValueError(f"{length} tokens exceed the 24 positions of this language model")


@MODELS.register_module(force=True)
class ToyAnswerer(BaseModel):
    """Answers '<red from 0 to 255> <words of the prompt>'; of candidates the longest is the likeliest."""

    def __init__(self, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.scale = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.scale.weight)
        self.query_tokens = torch.zeros(1, 2, 1)
        self.options = ToyOptions()
        self.tokenizer, self.text_backbone = _Words(), _Positions()

    def forward(self, images: Tensor, data_samples: Sequence[DataSample], mode: str = "tensor", **options):
        assert mode == "predict" and not self.training
        return self.predict(images, data_samples, **options)

    def predict(self, images: Tensor, data_samples: Sequence[DataSample], **overrides) -> list[DataSample]:
        options = SimpleNamespace(**{**vars(self.options), **overrides})
        for image, sample in zip(images, data_samples, strict=True):
            red = f"{image[0].mean().item():.0f}"
            several = isinstance(sample.question, list)
            questions = sample.question if several else [sample.question]
            prompts = sample.get("prompt", [options.prompt.replace("{}", question) for question in questions])
            prompts = [prompts] if isinstance(prompts, str) else prompts
            for prompt in prompts:
                self.text_backbone.check_length(2 + len(prompt.split()) + options.max_txt_len - 1)
            found = [self._answer(red, prompt, options.answers) for prompt in prompts]
            for name in found[0]:
                setattr(sample, name, [row[name] for row in found] if several else found[0][name])
        return list(data_samples)

    def _answer(self, red: str, prompt: str, answers: Sequence[str] | None) -> dict:
        if answers is None:
            return {"pred_answer": f"{red} {len(prompt.split())}", "pred_score": -0.5}
        scores = [float(len(text)) - 10 for text in answers]
        best = max(range(len(answers)), key=scores.__getitem__)
        return {"pred_answer": answers[best], "pred_score": scores[best], "pred_answer_scores": scores}
