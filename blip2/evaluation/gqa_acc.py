"""Accuracy of answers of which one is right."""

from collections.abc import Mapping, Sequence
from typing import Any

from blip2.evaluation.gathered import GatheredMetric
from blip2.evaluation.vqa_answers import TYPES, mean_scores, normalise_answer, questions_of
from blip2.registry import METRICS


@METRICS.register_module()
class GQAAcc(GatheredMetric):
    """Share of questions, from 0 to 1 as in mmpretrain, whose ``pred_answer`` equals ``gt_answer``.

    Both are compared as `normalise_answer` writes them. Types of questions, several questions of a picture and repeated
    ``question_id`` are as in `VQAAcc`.

    Args:
        collect_device, prefix: as in mmengine's ``BaseMetric``.
    """

    default_prefix = "GQA"

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Compares each question's answers.

        Raises:
            KeyError: a data sample has no answer, predicted or true.
            ValueError: a question has several true answers; lists of different lengths.
        """
        for sample in data_samples:
            for question in questions_of(sample, ("question_id", "gt_answer", *TYPES), shared=TYPES):
                truth = _one(question["gt_answer"], question["question_id"])
                right = normalise_answer(question["pred_answer"]) == normalise_answer(truth)
                types = {kind: question[kind] for kind in TYPES}
                self.results.append({"question_id": question["question_id"], "scores": {"acc": float(right)}, **types})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        return mean_scores(results)


def _one(answer: str | Sequence[str] | None, question_id: Any) -> str:
    name = "a question" if question_id is None else f"question {question_id}"
    if not answer:
        raise KeyError(f"{name} has no 'gt_answer': add it to algorithm_keys of PackInputs")
    if not isinstance(answer, str) and len(answer) > 1:
        raise ValueError(f"{name} has {len(answer)} true answers {list(answer)}: GQAAcc knows one, use VQAAcc")
    return answer if isinstance(answer, str) else answer[0]
