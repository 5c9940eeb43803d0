"""VQA accuracy, mmpretrain's and the official one, against counting subsets one by one."""

import random
from collections import Counter

import pytest
from mmengine.evaluator import Evaluator

from blip2.evaluation import VQAAcc
from blip2.evaluation.vqa_acc import annotator_counts
from blip2.structures import DataSample

ANSWERS = ["red", "blue", "2", "yes", "it's"]


def people(rng: random.Random, number: int = 10) -> list[str]:
    return rng.choices(ANSWERS, weights=[5, 2, 1, 1, 1], k=number)


def counted(answers: list[str]) -> dict:
    """Distinct answers and their shares, as the VQAv2 data set gives them."""
    count = Counter(answers)
    return {"gt_answer": list(count), "gt_answer_weight": [n / len(answers) for n in count.values()]}


def leave_one_out(answers: list[str], answer: str) -> float:
    subsets = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
    return 100 * sum(min(subset.count(answer) / 3, 1) for subset in subsets) / len(subsets)


def test_official_accuracy_is_the_mean_over_all_subsets_of_nine():
    rng = random.Random(1)
    expected, metric = [], VQAAcc(official=True)
    for number in range(300):
        answers, answer = people(rng), rng.choice(ANSWERS)
        expected.append(leave_one_out(answers, answer))
        metric.process(None, [{"question_id": number, "pred_answer": answer, **counted(answers)}])
    assert metric.evaluate(300)["VQA/official_acc"] == pytest.approx(sum(expected) / 300)
    assert {0, 30, 60, 90, 100} == {round(score) for score in expected}  # all that can come out


@pytest.mark.parametrize("number", [2, 3, 7, 10, 13])
def test_official_accuracy_counts_any_number_of_people(number):
    rng = random.Random(number)
    for _ in range(20):
        answers = people(rng, number)
        metric = VQAAcc(official=True)
        metric.process(None, [{"pred_answer": "red", "gt_answer": answers}])
        if number != 2 and len(set(answers)) > 1:  # halves and a whole may as well be ten people's
            metric.process(None, [{"pred_answer": "red", **counted(answers)}])
        assert metric.evaluate(1)["VQA/official_acc"] == pytest.approx(leave_one_out(answers, "red"))


def test_default_accuracy_is_the_matching_weight_over_the_full_score_weight():
    samples = [
        {"pred_answer": "Two.", "gt_answer": ["2", "two", "3"], "gt_answer_weight": [0.1, 0.1, 0.8]},  # 0.2 / 0.3
        {"pred_answer": "3", "gt_answer": ["2", "two", "3"], "gt_answer_weight": [0.1, 0.1, 0.8]},  # more than enough
        {"pred_answer": "b", "gt_answer": ["a", "b", "c", "d", "e"]},  # no weights: 0.2 each
        {"pred_answer": "the cat", "gt_answer": "cat"},
        {"pred_answer": "dog", "gt_answer": "cat"},
    ]
    metric = VQAAcc()
    metric.process(None, samples)
    assert metric.evaluate(5) == {"VQA/acc": pytest.approx(100 * (2 / 3 + 1 + 2 / 3 + 1 + 0) / 5)}
    strict = VQAAcc(full_score_weight=1.0, prefix="strict")
    strict.process(None, samples)
    assert strict.evaluate(5) == {"strict/acc": pytest.approx(100 * (0.2 + 0.8 + 0.2 + 1 + 0) / 5)}


def test_scores_come_by_type_where_samples_have_one():
    metric = VQAAcc(official=True)
    metric.process(
        None,
        [
            {"pred_answer": "yes", **counted(["yes"] * 10), "answer_type": "yes/no", "question_type": "is the"},
            {"pred_answer": "no", **counted(["yes"] * 10), "answer_type": "yes/no", "question_type": "Are there?"},
            {"pred_answer": "2", **counted(["2"] * 2 + ["3"] * 8), "answer_type": "number"},
        ],
    )
    assert metric.evaluate(3) == {
        "VQA/acc": pytest.approx(100 * (1 + 2 / 3) / 3),
        "VQA/acc/answer_type/yes_no": 50,
        "VQA/acc/answer_type/number": pytest.approx(100 * 2 / 3),
        "VQA/acc/question_type/is_the": 100,
        "VQA/acc/question_type/are_there": 0,
        "VQA/official_acc": pytest.approx((100 + 60) / 3),
        "VQA/official_acc/answer_type/yes_no": 50,
        "VQA/official_acc/answer_type/number": pytest.approx(60),
        "VQA/official_acc/question_type/is_the": 100,
        "VQA/official_acc/question_type/are_there": 0,
    }


def test_several_questions_of_a_picture_count_each():
    rng = random.Random(2)
    asked = [{"question_id": n, "pred_answer": rng.choice(ANSWERS), **counted(people(rng))} for n in range(6)]
    asked = [{**question, "answer_type": rng.choice(["other", "number"])} for question in asked]
    one_by_one, together = VQAAcc(official=True), VQAAcc(official=True)
    one_by_one.process(None, asked)
    for part in (asked[:4], asked[4:]):
        together.process(None, [{name: [question[name] for question in part] for name in asked[0]}])
    scores = one_by_one.evaluate(6)
    assert together.evaluate(2) == pytest.approx(scores) and 0 < scores["VQA/acc"] < 100


def test_question_that_a_sampler_repeats_counts_once():
    metric = VQAAcc()
    right = {"pred_answer": "a", "gt_answer": "a"}
    metric.process(None, [{"question_id": 1, **right}, {"question_id": 2, "pred_answer": "b", "gt_answer": "a"}])
    metric.process(None, [{"question_id": 1, **right}])
    assert metric.evaluate(3) == {"VQA/acc": 50}
    metric.process(None, [right, right, {"pred_answer": "b", "gt_answer": "a"}])  # without ids all count
    assert metric.evaluate(3) == {"VQA/acc": pytest.approx(200 / 3)}


def test_metric_is_built_from_a_config_and_reads_data_samples():
    evaluator = Evaluator([{"type": "blip2.VQAAcc"}])
    sample = DataSample(metainfo={"question_id": 4, "image_id": 1, "question_type": "what"})
    sample.gt_answer, sample.gt_answer_weight, sample.pred_answer = ["red", "blue"], [0.9, 0.1], "Red"
    evaluator.process([sample], None)
    assert evaluator.evaluate(1) == {"VQA/acc": 100, "VQA/acc/question_type/what": 100}


def test_counts_are_those_behind_the_shares():
    assert annotator_counts([0.7, 0.2, 0.1], "q") == [7, 2, 1]
    assert annotator_counts([1 / 3, 2 / 3], "q") == [1, 2]
    assert annotator_counts([5 / 9, 4 / 9], "q") == [5, 4]
    with pytest.raises(ValueError, match=r"question 3: gt_answer_weight=\[0\.5, 0\.2\].*leave official=True out"):
        annotator_counts([0.5, 0.2], "question 3")


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        ({"pred_answer": "a"}, KeyError, r"question 5 has no 'gt_answer'.*ReportVQA"),
        ({"gt_answer": "a"}, KeyError, r"question_id 5\) has no 'pred_answer'"),
        (
            {"pred_answer": "a", "gt_answer": ["a", "b"], "gt_answer_weight": [1.0]},
            ValueError,
            "2 answers and 1 gt_answer_weight",
        ),
        ({"pred_answer": "a", "gt_answer": "a"}, ValueError, "question 5 has one answer.*several people"),
    ],
)
def test_sample_that_cannot_be_scored_is_named(sample, error, message):
    with pytest.raises(error, match=message):
        VQAAcc(official=True).process(None, [{"question_id": 5, **sample}])


def test_impossible_full_score_and_nothing_to_score_are_refused():
    with pytest.raises(ValueError, match="full_score_weight=0 must be a share"):
        VQAAcc(full_score_weight=0)
    with pytest.raises(ValueError, match="nothing to score"):
        VQAAcc().evaluate(0)
