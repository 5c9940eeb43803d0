"""Recall at k against sorting each query's candidates."""

import random

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from blip2.evaluation import RetrievalRecall
from blip2.structures import DataSample

K = (1, 5, 10)


def brute_force(scores: list[list[float]], right: list[set[int]], k: int) -> float:
    hits = 0
    for row, labels in zip(scores, right, strict=True):
        ranked = sorted(range(len(row)), key=lambda place: (-row[place], place))
        hits += any(place in labels for place in ranked[:k])
    return 100 * hits / len(scores)


def queries(number: int, candidates: int, values: int) -> tuple[torch.Tensor, list[set[int]]]:
    """Scores out of `values` different ones, so that some are equal, and one to five right candidates a query."""
    rng = random.Random(number * candidates)
    scores = torch.randint(values, (number, candidates)).float()
    return scores, [set(rng.sample(range(candidates), rng.randint(1, 5))) for _ in range(number)]


@pytest.mark.parametrize(("candidates", "values"), [(50, 10**6), (50, 7), (6, 3)])
def test_recall_is_that_of_sorted_candidates(candidates, values):
    scores, right = queries(40, candidates, values)
    metric = RetrievalRecall(topk=K)
    one_hot = torch.zeros(scores.shape)
    for row, labels in enumerate(right):
        one_hot[row, list(labels)] = 1
        label = next(iter(labels)) if len(labels) == 1 else list(labels)
        metric.process(None, [{"pred_score": scores[row], "gt_label": label}])
    expected = [brute_force(scores.tolist(), right, k) for k in K]
    assert metric.evaluate(40) == {
        **{f"retrieval/Recall@{k}": pytest.approx(recall) for k, recall in zip(K, expected, strict=True)},
        "retrieval/mean_recall": pytest.approx(sum(expected) / 3),
    }
    metric.process(None, [{"pred_score": row, "gt_score": labels} for row, labels in zip(scores, one_hot, strict=True)])
    assert metric.evaluate(40)["retrieval/mean_recall"] == pytest.approx(sum(expected) / 3)
    for pred, target in ((scores, one_hot), (scores.numpy(), one_hot.numpy()), (scores.tolist(), one_hot.tolist())):
        assert torch.stack(RetrievalRecall.calculate(pred, target, K)).tolist() == pytest.approx(expected)
    labels = [list(numbers) for numbers in right]
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    for pred in (ranked, ranked[:, :10].tolist(), ranked.numpy(), [row[:10] for row in ranked.numpy()]):
        recalls = RetrievalRecall.calculate(pred, labels, K, pred_indices=True, target_indices=True)
        assert torch.stack(recalls).tolist() == pytest.approx(expected)


def test_recall_is_that_of_torch_topk():
    scores = torch.randn(200, 30)
    labels = torch.arange(200) % 30
    recalls = RetrievalRecall.calculate(scores, labels[:, None].tolist(), (1, 3), target_indices=True)
    for k, recall in zip((1, 3), recalls, strict=True):
        assert recall == 100 * (scores.topk(k).indices == labels[:, None]).any(dim=1).float().mean()


def test_result_of_calculate_has_the_form_of_mmpretrain():
    y_pred, y_true = [[0], [1], [2], [3]], [[0, 1], [2], [1], [0, 3]]
    result = RetrievalRecall.calculate(y_pred, y_true, topk=1, pred_indices=True, target_indices=True)
    assert result == [torch.tensor(50.0)]
    assert isinstance(result, list) and result[0].ndim == 0


def test_metric_is_built_from_a_config_and_reads_data_samples():
    evaluator = Evaluator([{"type": "blip2.RetrievalRecall", "topk": 1}])
    samples = [DataSample(pred_score=torch.tensor([0.1, 0.9]), gt_label=[label]) for label in (0, 1, 1)]
    evaluator.process(samples, None)
    assert evaluator.evaluate(3) == {"retrieval/Recall@1": pytest.approx(200 / 3)}


def test_scores_that_are_no_numbers_are_refused_not_ranked():
    sample = {"pred_score": torch.tensor([0.5, float("nan"), 0.1]), "gt_label": [0]}
    with pytest.raises(ValueError, match=r"1 of the 3 scores of a query are no numbers \(NaN\)"):
        RetrievalRecall(topk=1).process(None, [sample])
    never_ranked = {"pred_score": torch.tensor([0.5, float("-inf"), 0.1]), "gt_label": [1]}
    metric = RetrievalRecall(topk=(2, 3))
    metric.process(None, [never_ranked])
    assert metric.evaluate(1) == {
        "retrieval/Recall@2": 0,
        "retrieval/Recall@3": 100,
        "retrieval/mean_recall": 50,
    }


@pytest.mark.parametrize("label", [3, [0, 7], [-1], []])
def test_label_beyond_the_candidates_is_named(label):
    with pytest.raises(ValueError, match=r"the right candidates .* are not among its 3 candidates"):
        RetrievalRecall(topk=1).process(None, [{"pred_score": torch.rand(3), "gt_label": label}])


def test_missing_fields_are_named():
    with pytest.raises(KeyError, match=r"no 'pred_score'.*RetrievalTestLoop"):
        RetrievalRecall(topk=1).process(None, [{"gt_label": 0}])
    with pytest.raises(KeyError, match="neither 'gt_label' nor 'gt_score'"):
        RetrievalRecall(topk=1).process(None, [{"pred_score": torch.rand(3)}])
    with pytest.raises(ValueError, match="no queries"):
        RetrievalRecall(topk=1).evaluate(0)


@pytest.mark.parametrize("topk", [0, -1, (1, 0), (), 2.5])
def test_impossible_k_is_refused(topk):
    with pytest.raises(ValueError, match="must be a whole number above 0"):
        RetrievalRecall(topk=topk)


def test_calculate_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match="pred has 2 queries and target 1"):
        RetrievalRecall.calculate(np.zeros((2, 3)), np.ones((1, 3)), 1)
    with pytest.raises(TypeError, match="pred_indices=True wants numbers"):
        RetrievalRecall.calculate([[0.5, 0.1]], [[0]], 1, pred_indices=True, target_indices=True)
    with pytest.raises(ValueError, match="query 0 has no right candidate"):
        RetrievalRecall.calculate(torch.rand(1, 3), torch.zeros(1, 3), 1)
