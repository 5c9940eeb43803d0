"""Recall of retrieval: is one of the right ones among the first k?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blip2.evaluation.gathered import GatheredMetric
from blip2.registry import METRICS


@METRICS.register_module()
class RetrievalRecall(GatheredMetric):
    """``Recall@k``: share of queries, in percent, that have a right candidate among the k with the highest scores.

    With several k there is their mean as well, ``mean_recall``. Of equal scores the candidate that comes first ranks
    higher. A k beyond the number of candidates takes them all.

    A data sample is a query: ``pred_score`` (a score for each candidate) and ``gt_label`` (the number or numbers of the
    right candidates) or ``gt_score`` (not zero for the right ones). The retrieval loops make them for both directions.

    Args:
        topk: k, or several.
        collect_device, prefix: as in mmengine's ``BaseMetric``.
    """

    default_prefix = "retrieval"

    def __init__(self, topk: int | Sequence[int], collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = _checked(topk)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the best rank of a right candidate for each query.

        Raises:
            KeyError: a data sample lacks a field.
            ValueError: scores that are no numbers; a label beyond the candidates; no right candidate.
        """
        for sample in data_samples:
            if sample.get("pred_score") is None:
                raise KeyError("a data sample has no 'pred_score': RetrievalRecall goes with RetrievalTestLoop")
            if sample.get("gt_score") is not None:
                labels = _one_hot_to_labels(sample["gt_score"], "gt_score")
            elif sample.get("gt_label") is not None:
                labels = torch.as_tensor(sample["gt_label"]).flatten().long()
            else:
                raise KeyError("a data sample has neither 'gt_label' nor 'gt_score', the right candidates")
            self.results.append(best_rank(torch.as_tensor(sample["pred_score"]), labels))

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        if not results:
            raise ValueError("there are no queries to score")
        recalls = [100 * sum(rank < k for rank in results) / len(results) for k in self.topk]
        scores = {f"Recall@{k}": recall for k, recall in zip(self.topk, recalls, strict=True)}
        if len(recalls) > 1:
            scores["mean_recall"] = sum(recalls) / len(recalls)
        return scores

    @staticmethod
    def calculate(
        pred: np.ndarray | Tensor | Sequence,
        target: np.ndarray | Tensor | Sequence,
        topk: int | Sequence[int],
        pred_indices: bool = False,
        target_indices: bool = False,
    ) -> list[Tensor]:
        """The recall in percent for each k in `topk`; arguments and result as mmpretrain's.

        Args:
            pred: scores, queries × candidates; with `pred_indices` the candidates of each query, best first.
            target: queries × candidates, not zero for the right ones; with `target_indices` their numbers for each
                query.

        Raises:
            TypeError: `pred` or `target` is of no such kind.
            ValueError: different numbers of queries, or none; otherwise as `process`.
        """
        ks = _checked(topk)
        if len(pred) != len(target) or not len(pred):
            raise ValueError(f"pred has {len(pred)} queries and target {len(target)}: they must be as many, not 0")
        ranks: list[int] = []
        for scores, right in zip(pred, target, strict=True):
            labels = _indices(right, "target") if target_indices else _one_hot_to_labels(right, "target")
            if not len(labels):
                raise ValueError(f"query {len(ranks)} has no right candidate, so no recall")
            if pred_indices:
                hits = torch.isin(_indices(scores, "pred"), labels).nonzero()
                ranks.append(int(hits[0]) if len(hits) else max(ks))
            else:
                ranks.append(best_rank(torch.as_tensor(scores), labels))
        return [100 * torch.tensor([rank < k for rank in ranks]).float().mean() for k in ks]


def best_rank(scores: Tensor, labels: Tensor) -> int:
    """How many of the candidates with `scores` come before the best of those in `labels`.

    Raises `ValueError` when that cannot be told.
    """
    if scores.ndim != 1 or not len(scores):
        raise ValueError(
            f"the scores of a query have the shape {tuple(scores.shape)}; one for each candidate is wanted"
        )
    if scores.isnan().any():
        raise ValueError(
            f"{int(scores.isnan().sum())} of the {len(scores)} scores of a query are no numbers (NaN): they cannot be "
            "ranked; look at the model's weights and precision"
        )
    if not len(labels) or labels.min() < 0 or labels.max() >= len(scores):
        raise ValueError(
            f"the right candidates {labels.tolist()} of a query are not among its {len(scores)} candidates"
        )
    labels = labels.to(scores.device).sort().values
    best = labels[scores[labels].argmax()]  # the first one of equals
    before = (scores > scores[best]).sum() + (scores[:best] == scores[best]).sum()
    return int(before)


def _checked(topk: int | Sequence[int]) -> tuple[int, ...]:
    ks = tuple(topk) if isinstance(topk, Sequence) else (topk,)
    if not ks or any(not isinstance(k, int) or k < 1 for k in ks):
        raise ValueError(f"topk={topk!r} must be a whole number above 0, or several")
    return ks


def _indices(row: Any, name: str) -> Tensor:
    indices = torch.as_tensor(row)
    if indices.numel() and indices.is_floating_point():
        raise TypeError(f"{name} holds {indices.dtype} values, but {name}_indices=True wants numbers of candidates")
    return indices.flatten().long()


def _one_hot_to_labels(row: Any, name: str) -> Tensor:
    row = torch.as_tensor(row)
    if row.ndim != 1:
        raise ValueError(f"{name} of a query has the shape {tuple(row.shape)}; a value for each candidate is wanted")
    return row.nonzero().flatten()
