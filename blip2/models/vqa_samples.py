"""Questions, prompts and weighted answers of a data sample, checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blip2.structures import DataSample

from .blip2_generative import picture_name

Weighted = Mapping[str, float]  # answers to one question and what they count


@dataclass(frozen=True)
class Asked:
    """What is asked about one picture.

    Attributes:
        prompts: what the language model reads, one text a question, without spaces at the end.
        questions: the questions alone; the prompts where a sample has no question of its own.
        several: whether the sample has lists, and so gets lists.
    """

    prompts: list[str]
    questions: list[str]
    several: bool

    def __len__(self) -> int:
        return len(self.prompts)


def asked(sample: DataSample, template: str) -> Asked:
    """The prompts of a sample: its own ``prompt`` as it is, or `template` with the ``question`` in place of ``{}``.

    Raises ValueError, naming the picture, for a missing or empty question, for a template that has no place for it, and
    for lists of different lengths.
    """
    own, question = sample.get("prompt"), sample.get("question")
    name = picture_name(sample)
    if question is None and own is None:
        if "{}" in template:
            raise ValueError(
                f"{name} has no question: let PackInputs pass it on (algorithm_keys=['question']), or give the sample "
                "a prompt of its own"
            )
        own = template
    several = any(isinstance(value, list | tuple) for value in (own, question))
    questions = None if question is None else _texts(name, "question", question)
    prompts = None if own is None else _texts(name, "prompt", own)
    if questions is not None and prompts is not None and len(questions) != len(prompts):
        raise ValueError(f"{name} has {len(questions)} questions and {len(prompts)} prompts: give one for each")
    if prompts is None:
        assert questions is not None
        if "{}" not in template:
            raise ValueError(
                f"{name} has a question, but the prompt {template!r} has no {{}} to put it in; to use a prompt as it "
                "is, write it into the data sample's field prompt, or leave out the question"
            )
        prompts = [template.replace("{}", text) for text in questions]
    return Asked([prompt.rstrip() for prompt in prompts], questions or prompts, several)


def weighted_answers(sample: DataSample, questions: Asked) -> list[Weighted]:
    """The answers to each question with their weights, those of weight 0 left out and repeated ones added up.

    Raises ValueError, naming the picture and the question, for answers or weights that are missing or impossible.
    """
    name = picture_name(sample)
    answers, weights = sample.get("gt_answer"), sample.get("gt_answer_weight")
    if answers is None:
        raise ValueError(
            f"{name} has no gt_answer to learn from: let PackInputs pass it on "
            "(algorithm_keys=['question', 'gt_answer', 'gt_answer_weight'])"
        )
    if not questions.several:
        answers, weights = [answers], None if weights is None else [weights]
    count = len(questions)
    for key, values in (("gt_answer", answers), ("gt_answer_weight", weights)):
        if values is not None and (isinstance(values, str) or len(values) != count):
            raise ValueError(f"{name} has {count} questions: its {key} must be a list of {count}, not {values!r}")
    rows = zip(questions.questions, answers, weights or [None] * count, strict=True)
    return [_weighted(f"{name}, question {question!r}", *row) for question, *row in rows]


def _weighted(name: str, answers: Any, weights: Any) -> Weighted:
    if isinstance(answers, str):
        answers = [answers]
        weights = weights if weights is None or isinstance(weights, Sequence) else [weights]
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError(f"{name}: gt_answer={answers!r} must be a text, or a list of texts, none of them empty")
    if weights is None:
        weights = [1 / len(answers)] * len(answers)
    if len(weights) != len(answers):
        raise ValueError(f"{name}: {len(answers)} answers came with {len(weights)} weights in gt_answer_weight")
    if not all(weight >= 0 and math.isfinite(weight) for weight in weights) or not sum(weights) > 0:
        raise ValueError(f"{name}: gt_answer_weight={list(weights)} must be finite, not negative and not all 0")
    total: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if weight:
            total[answer.strip()] = total.get(answer.strip(), 0.0) + float(weight)
    return total


def _texts(name: str, key: str, value: Any) -> list[str]:
    texts = list(value) if isinstance(value, list | tuple) else [value]
    if not texts:
        raise ValueError(f"{name} has an empty list as its {key}")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{name}: {key}={text!r} is not a text")
        if not text.strip():
            raise ValueError(f"{name} has an empty {key}: there is nothing to answer")
    return texts
