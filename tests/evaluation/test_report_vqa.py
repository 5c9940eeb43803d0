"""The file for the evaluation server: its form, and that it is whole or not there."""

import json

import pytest
from mmengine.evaluator import Evaluator

from blip2.evaluation import ReportVQA
from blip2.structures import DataSample
from blip2.utils.errors import AnnotationError


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.json"
    rows = [{"question_id": n, "image_id": 1, "question": "what?"} for n in (11, 12, 13)]
    path.write_text(json.dumps({"questions": rows}))
    return str(path)


def test_answers_of_single_and_of_several_questions_are_written_in_order(tmp_path, questions):
    path = tmp_path / "new" / "answers.json"
    evaluator = Evaluator([{"type": "blip2.ReportVQA", "file_path": str(path), "question_file": questions}])
    single = DataSample(metainfo={"question_id": "12", "image_id": 1})
    single.pred_answer = "grün"
    several = DataSample(metainfo={"question_id": [13, 11], "image_id": 2})
    several.pred_answer = ["", "yes"]
    evaluator.process([single, several], None)
    assert evaluator.evaluate(2) == {}
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"question_id": 12, "answer": "grün"},
        {"question_id": 13, "answer": ""},
        {"question_id": 11, "answer": "yes"},
    ]
    assert [entry.name for entry in path.parent.iterdir()] == ["answers.json"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([11, 12, 12, 13], r"question_id 12 comes twice, with the answers 'b' and 'c'"),
        ([11, 13], r"1 question\(s\) of .*questions\.json have no answer \(question_id 12\)"),
        ([11, 12, 13, 99], r"1 question\(s\) are answered that .* does not ask \(question_id 99\)"),
    ],
)
def test_duplicate_missing_and_unknown_questions_are_named_and_the_old_file_stays(
    tmp_path, questions, numbers, message
):
    path = tmp_path / "answers.json"
    path.write_text("old")
    metric = ReportVQA(str(path), question_file=questions)
    metric.process(None, [{"question_id": n, "pred_answer": a} for n, a in zip(numbers, "abcd", strict=False)])
    with pytest.raises(ValueError, match=message):
        metric.evaluate(len(numbers))
    assert path.read_text() == "old"


def test_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "answers.json"
    path.write_text("old")
    metric = ReportVQA(str(path))
    metric.process(None, [{"question_id": 1, "pred_answer": "a"}])

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        metric.evaluate(1)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_sample_without_an_id_is_named(tmp_path):
    metric = ReportVQA(str(tmp_path / "answers.json"))
    with pytest.raises(KeyError, match=r"'red' \(picture 7\) has no 'question_id'.*meta_keys of PackInputs"):
        metric.process(None, [{"pred_answer": "red", "image_id": 7}])
    with pytest.raises(ValueError, match="question_id 'q7' is no whole number"):
        metric.process(None, [{"pred_answer": "red", "question_id": "q7"}])


def test_what_cannot_work_is_refused_before_inference(tmp_path):
    with pytest.raises(ValueError, match=r"file_path='answers\.txt' must name a file that ends in \.json"):
        ReportVQA("answers.txt")
    with pytest.raises(AnnotationError, match=r"none\.json"):
        ReportVQA(str(tmp_path / "answers.json"), question_file=str(tmp_path / "none.json"))


def test_vizwizs_server_knows_a_question_by_its_picture(tmp_path):
    path = tmp_path / "answers.json"
    metric = ReportVQA(str(path), id_key="image")
    sample = {"question_id": "VizWiz_test_00000003", "img_path": "data/vizwiz/test/VizWiz_test_00000003.jpg"}
    metric.process(None, [{**sample, "pred_answer": "nyquil"}])
    metric.evaluate(1)
    assert json.loads(path.read_text()) == [{"image": "VizWiz_test_00000003.jpg", "answer": "nyquil"}]
    with pytest.raises(KeyError, match="has no 'img_path'"):
        metric.process(None, [{"question_id": 1, "pred_answer": "a"}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id_key": "number"}, r"id_key='number' is unknown; choose one of \['question_id', 'image'\]"),
        ({"id_key": "image", "question_file": "q.json"}, "goes with id_key='question_id' alone"),
    ],
)
def test_other_ids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReportVQA("answers.json", **arguments)
