"""GQA accuracy: one right answer, compared in normal form."""

import pytest
from mmengine.evaluator import Evaluator

from blip2.evaluation import GQAAcc
from blip2.structures import DataSample


def test_share_of_right_answers_is_between_0_and_1():
    evaluator = Evaluator([{"type": "blip2.GQAAcc"}])
    pairs = [("Yes.", "yes"), ("the left", "left"), ("two", "2"), ("dog", "dogs"), ("traffic-light", "traffic light")]
    for answer, truth in pairs:
        sample = DataSample(gt_answer=truth)
        sample.pred_answer = answer
        evaluator.process([sample], None)
    assert evaluator.evaluate(5) == {"GQA/acc": pytest.approx(4 / 5)}


def test_several_questions_of_a_picture_count_each_and_by_type():
    metric = GQAAcc(prefix="x")
    metric.process(
        None,
        [
            {"pred_answer": ["a", "cat", "red"], "gt_answer": [["b"], ["cat"], ["red"]], "question_type": "what kind?"},
            {"pred_answer": "no", "gt_answer": "yes"},
        ],
    )
    assert metric.evaluate(2) == {"x/acc": 0.5, "x/acc/question_type/what_kind": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        ({"pred_answer": "a"}, KeyError, "question 9 has no 'gt_answer'"),
        ({"pred_answer": "a", "gt_answer": ["a", "b"]}, ValueError, r"2 true answers \['a', 'b'\].*use VQAAcc"),
        ({"gt_answer": "a"}, KeyError, "no 'pred_answer'"),
    ],
)
def test_sample_that_cannot_be_scored_is_named(sample, error, message):
    with pytest.raises(error, match=message):
        GQAAcc().process(None, [{"question_id": 9, **sample}])
