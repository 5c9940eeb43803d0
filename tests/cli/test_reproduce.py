"""`blip2 reproduce` from its data to its report, for the models that come with the package."""

import json
from pathlib import Path

import pytest

from blip2.apis.metafile import model_entries
from blip2.cli import reproduce as command
from blip2.cli import test as test_command
from blip2.datasets.scenes.generate import generate
from blip2.engine.loops import TestLoop

CAPTION, VQA, RETRIEVAL = (f"blip2-tiny_shapes-{task}" for task in ("caption", "vqa", "retrieval"))
QUICK = ["--device", "cpu", "--cfg-options", "test_dataloader.num_workers=0"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "few"
    list(generate(folder, {"train": 0, "val": 0, "test": 6, "held_out": 4, "documents": 0}, workers=1))
    return str(folder)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments, more=()):
    assert command.main([*arguments, *QUICK, *more]) == 0
    name = arguments[0]
    return json.loads((Path("work_dirs/reproduce") / name / "report.json").read_text())


def test_captions_are_measured_on_both_of_their_splits(scenes, capsys):
    # Java takes its time: CIDEr alone of the caption scores.
    report = run(CAPTION, "--data-root", scenes, "--limit", "4", more=["test_evaluator.1.metrics=['CIDEr']"])
    published = [result.metrics for result in model_entries()[CAPTION].results]
    rows = report["results"]
    assert [(row["metric"], row["published"]) for row in rows] == [item for each in published for item in each.items()]
    assert [row["config"] for row in rows] == [CAPTION] * 3 + [f"{CAPTION}_held-out"] * 3
    assert all(row["difference"] == pytest.approx(row["measured"] - row["published"]) for row in rows)
    # Of four pictures the share that is right is a multiple of a quarter.
    assert {row["measured"] % 25 for row in rows if row["metric"] in ("objects", "exact")} == {0}
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.split()[:3] == ["task", "data", "set"])
    objects = rows[0]
    numbers = [f"{objects['published']:.2f}", f"{objects['measured']:.2f}", f"{objects['difference']:+.2f}"]
    assert lines[header + 1].split()[-3:] == numbers
    assert any("the first 4 samples alone: a trial" in line for line in lines)


def test_questions_are_measured_as_blip2_test_measures_them_and_only_once(scenes, monkeypatch):
    report = run(VQA, "--data-root", scenes)
    files = ["question_file=questions/test.json", "ann_file=questions/test_answers.json"]
    options = [f"test_dataloader.dataset.{text}" for text in (f"data_root={scenes}", *files)]
    assert test_command.main([VQA, "--out", "scores.json", *QUICK, *options]) == 0
    scores = json.loads(Path("scores.json").read_text())
    assert report["scores"][VQA] == scores
    assert [row["measured"] for row in report["results"]] == [scores["VQA/acc"]]

    def predicted(*arguments):
        raise AssertionError("predicted again")

    monkeypatch.setattr(TestLoop, "run_iter", predicted)
    assert run(VQA, "--data-root", scenes)["results"] == report["results"]
    with pytest.raises(AssertionError, match="predicted again"):
        command.main([VQA, "--data-root", scenes, "--no-resume", *QUICK])


def test_retrieval_is_measured_both_ways(scenes):
    report = run(RETRIEVAL, "--data-root", scenes, "--limit", "5")
    assert [(row["task"], row["metric"]) for row in report["results"]] == [
        (f"{way} Retrieval", f"Recall@{k}") for way in ("Image-To-Text", "Text-To-Image") for k in (1, 5)
    ]
    assert report["results"][1]["measured"] == 100 or report["results"][1]["measured"] % 20 == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blip2-tiny_shapes-captoin"], "no model is called 'blip2-tiny_shapes-captoin'. Did you mean"),
        ([VQA, "--dataset", "GQA"], "no published score on 'GQA'; its data sets: 'drawn scenes, test'"),
        ([VQA, "--data-root", "nowhere"], "there is no file nowhere/questions/test.json."),
        ([VQA], "there is no file data/scenes/questions/test.json. Write it with `blip2 scenes data/scenes`"),
        ([CAPTION], "there is no file data/scenes/scenes/held_out.json. Write it with"),
    ],
)
def test_what_cannot_be_run_is_one_message(arguments, message, capsys):
    assert command.main([*arguments, *QUICK]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
