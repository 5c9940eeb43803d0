"""Accuracy of answers that ten people may disagree on."""

from collections.abc import Mapping, Sequence
from typing import Any

from blip2.evaluation.gathered import GatheredMetric
from blip2.evaluation.lemmas import find_lemmatizer
from blip2.evaluation.vqa_answers import TYPES, mean_scores, normalise_answer, questions_of
from blip2.registry import METRICS

_FIELDS = ("question_id", "gt_answer", "gt_answer_weight", *TYPES)


@METRICS.register_module()
class VQAAcc(GatheredMetric):
    """Accuracy in percent by mmpretrain's definition (``acc``), and on request the official one (``official_acc``).

    A question scores min(weight / `full_score_weight`, 1), where weight is the sum of ``gt_answer_weight`` over the
    true answers that equal ``pred_answer`` after `normalise_answer`; without weights all true answers weigh the same.
    The official score is the average of min(matches / 3, 1) over the sets of all annotators but one.

    Where data samples carry ``answer_type`` or ``question_type``, each score also comes by type, as
    ``acc/answer_type/yes_no``. A sample with several questions of one picture counts as so many (see `questions_of`);
    a ``question_id`` that comes again counts once.

    Args:
        full_score_weight: share of the annotators that is enough for the full score.
        collect_device, prefix: as in mmengine's ``BaseMetric``.
        official: report the official accuracy as well.
        lemmatizer: bring the words of ``pred_answer`` into their ground form before it is compared, as LAVIS and the
            paper do for OK-VQA, whose true answers are in that form: 'auto', 'spacy' or 'simplemma' (see
            `blip2.evaluation.lemmas`); None compares answers as they are.

    Raises:
        ValueError: a `full_score_weight` that is no share, an unknown `lemmatizer`.
        MissingPackageError: the lemmatizer isn't installed; says how to get it.
    """

    default_prefix = "VQA"

    def __init__(
        self,
        full_score_weight: float = 0.3,
        collect_device: str = "cpu",
        prefix: str | None = None,
        official: bool = False,
        lemmatizer: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not 0 < full_score_weight <= 1:
            raise ValueError(f"full_score_weight={full_score_weight} must be a share of the annotators, 0 < … ≤ 1")
        self.full_score_weight = full_score_weight
        self.official = official
        self.lemmatize = None if lemmatizer is None else find_lemmatizer(lemmatizer)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Scores each question of the data samples.

        Raises:
            KeyError: a data sample has no answer, predicted or true.
            ValueError: lists of different lengths, or weights that cannot be counts of annotators.
        """
        for sample in data_samples:
            for question in questions_of(sample, _FIELDS, shared=TYPES):
                self.results.append(self._score(question))

    def _score(self, question: dict) -> dict[str, Any]:
        truths, weights = question["gt_answer"], question["gt_answer_weight"]
        name = f"question {question['question_id']}" if question["question_id"] is not None else "a question"
        if not truths:
            raise KeyError(
                f"{name} has no 'gt_answer': add it to algorithm_keys of PackInputs, and give the data set its "
                "ann_file; a split without answers is for ReportVQA"
            )
        truths = [truths] if isinstance(truths, str) else list(truths)
        if weights is not None and len(weights) != len(truths):
            raise ValueError(f"{name} has {len(truths)} answers and {len(weights)} gt_answer_weight")
        shares = [1 / len(truths)] * len(truths) if weights is None else [float(weight) for weight in weights]
        said = question["pred_answer"]
        answer = normalise_answer(said if self.lemmatize is None else self.lemmatize(said))
        right = [normalise_answer(truth) == answer for truth in truths]
        share = sum(weight for weight, equal in zip(shares, right, strict=True) if equal)
        scores = {"acc": 100 * min(1.0, share / self.full_score_weight)}
        if self.official:
            counts = annotator_counts(shares, name) if weights is not None else [1] * len(truths)
            if sum(counts) < 2:
                raise ValueError(
                    f"{name} has one answer and no gt_answer_weight, but the official accuracy compares with what "
                    "several people answered: leave official=True out for such data"
                )
            matches = sum(count for count, equal in zip(counts, right, strict=True) if equal)
            scores["official_acc"] = 100 * official_accuracy(matches, sum(counts))
        return {"question_id": question["question_id"], "scores": scores, **{kind: question[kind] for kind in TYPES}}

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        return mean_scores(results)


def official_accuracy(matches: int, annotators: int) -> float:
    """The mean of min(m / 3, 1) over the sets of all `annotators` but one, m of each set having given the answer.

    `matches` of all annotators, at least two, did. Source: VQA evaluation, https://visualqa.org/evaluation.html.
    """
    without_a_match = matches * min((matches - 1) / 3, 1)
    without_another = (annotators - matches) * min(matches / 3, 1)
    return (without_a_match + without_another) / annotators


def annotator_counts(shares: Sequence[float], name: str) -> list[int]:
    """How many annotators stand behind each of `shares`: ten in all if that fits, else the fewest that do, up to 100.

    Raises `ValueError` that names the question by `name` for shares that no number of people gives.
    """
    for total in (10, *range(2, 101)):
        counts = [round(share * total) for share in shares]
        if sum(counts) == total and all(abs(share * total - n) < 1e-3 for share, n in zip(shares, counts, strict=True)):
            return counts
    raise ValueError(
        f"{name}: gt_answer_weight={list(shares)} are not the shares of up to 100 annotators, which the official "
        "accuracy counts; leave official=True out for such data"
    )
