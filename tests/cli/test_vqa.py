"""`blip2 vqa`, with an answerer that says how red the picture is and how many words its prompt has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blip2.apis import get_model
from blip2.cli import vqa as command
from blip2.cli.main import main

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_answerer_config.py")
SHORT, LONG = "red?", "how red is this picture?"  # prompts of 3 and of 7 words


@pytest.fixture(autouse=True)
def toy_is_importable(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DATA))


@pytest.fixture
def toy(tmp_path) -> list[str]:
    """The options that choose the toy model and its weights."""
    weights = tmp_path / "weights.pth"
    torch.save(get_model(CONFIG).state_dict(), weights)
    return ["--model", CONFIG, "--checkpoint", str(weights), "--device", "cpu"]


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for number in (1, 2, 10):
        Image.new("RGB", (5, 5), (number, 0, 0)).save(folder / f"p{number}.png")
    Image.new("RGB", (5, 5), (77, 0, 0)).save(folder / "deeper" / "p3.png")
    return folder


def test_one_question_about_one_picture_gives_the_answer_alone(pictures, toy, capsys) -> None:
    assert main(["vqa", str(pictures / "p2.png"), SHORT, *toy]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("2 3\n", "")


def test_several_questions_have_a_line_each_and_several_pictures_their_paths(pictures, toy, capsys) -> None:
    assert main(["vqa", str(pictures / "p2.png"), SHORT, LONG, *toy]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{SHORT} 2 3", f"{LONG} 2 7"]
    assert main(["vqa", str(pictures), SHORT, "--batch-size", "2", *toy]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{pictures}/p{n}.png: {n} 3" for n in (1, 2, 10)]
    assert main(["vqa", str(pictures), SHORT, LONG, "-r", *toy]) == 0
    assert f"{pictures}/deeper/p3.png: {LONG} 77 7" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_objects_have_path_question_answer_and_score(pictures, toy, capsys, form: str) -> None:
    path = str(pictures / "p2.png")
    assert main(["vqa", path, SHORT, LONG, form, *toy]) == 0
    out = capsys.readouterr().out
    records = json.loads(out) if form == "--json" else [json.loads(line) for line in out.splitlines()]
    assert records == [
        {"path": path, "question": SHORT, "answer": "2 3", "score": -0.5},
        {"path": path, "question": LONG, "answer": "2 7", "score": -0.5},
    ]


def test_candidates_come_from_the_command_line_or_a_file(pictures, toy, tmp_path, capsys) -> None:
    path = str(pictures / "p2.png")
    assert main(["vqa", path, SHORT, "--answers", "yes, no,yes,,perhaps", *toy]) == 0
    assert capsys.readouterr().out == "perhaps\n"
    file = tmp_path / "answers.txt"
    file.write_bytes("\ufeffyes\r\n\r\n  größer, or not \nno\n".encode())
    assert main(["vqa", path, SHORT, "--answers-file", str(file), "--json", *toy]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["answer"], record["score"]) == ("größer, or not", 4.0)
    assert list(record["answer_scores"].items()) == [("größer, or not", 4.0), ("yes", -7.0), ("no", -8.0)]


def test_bad_pictures_are_named_at_the_end_and_the_others_answered(pictures, toy, capsys) -> None:
    bad = pictures / "p5.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert main(["vqa", str(pictures), SHORT, LONG, "--json", *toy]) == 1
    captured = capsys.readouterr()
    assert "1 picture(s) failed" in captured.err and captured.err.count(str(bad)) == 1
    records = json.loads(captured.out)
    assert [record["answer"] for record in records] == ["1 3", "1 7", "2 3", "2 7", None, None, "10 3", "10 7"]
    assert [(record["question"], "error" in record) for record in records[4:6]] == [(SHORT, True), (LONG, True)]


def test_options_reach_the_model(pictures, toy, tmp_path, capsys) -> None:
    path = str(pictures / "p2.png")
    assert main(["vqa", path, LONG, "--prompt", "{} Short answer:", "--num-beams", "3", *toy]) == 0
    assert capsys.readouterr().out == "2 7\n"
    assert main(["vqa", path, LONG, "--prompt", "say", *toy]) == 0
    assert capsys.readouterr().out == "2 1\n"
    out = tmp_path / "new" / "out.jsonl"
    assert main(["vqa", path, SHORT, "--out", str(out), "--show-dir", str(tmp_path / "drawn"), *toy]) == 0
    assert json.loads(out.read_text())["answer"] == "2 3" and capsys.readouterr().out == ""
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "p2.png"))
    assert drawn.shape[0] > drawn.shape[1] == 384


def usage_error(arguments: list[str], capsys) -> str:
    assert main(["vqa", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.png", "red?"], "no picture to ask about: gone.png: no such file or folder"),
        (["PICTURE"], "required: QUESTION"),
        (["PICTURE", "  "], "question 1 is empty ('  ')"),
        (["PICTURE", "red?", ""], "question 2 is empty"),
        (["PICTURE", "red?", "--answers", " , "], "--answers ' , ' has no answer to choose from"),
        (["PICTURE", "red?", "--answers-file", "EMPTY"], "empty.txt has no answer to choose from"),
        (["PICTURE", "red?", "--answers-file", "gone.txt"], "cannot read the answers in gone.txt: No such file"),
        (["PICTURE", "red?", "--answers-file", "PICTURE"], "it is no text in UTF-8"),
        (["PICTURE", "red?", "--answers", "a", "--answers-file", "EMPTY"], "not allowed with"),
        (["PICTURE", "red?", "--min-length", "3"], "'min_length'"),
        (["PICTURE", "red? " * 30], "exceed the 24 positions"),
        (["PICTURE", "red?", "blue?", "--prompt", "say"], "no {} to put 2 questions in"),
        (["PICTURE", "red?", "--out", "/proc/nothing/out.txt"], "/proc/nothing"),
    ],
)
def test_wrong_usage_is_named(pictures, toy, tmp_path, capsys, arguments: list[str], said: str) -> None:
    (tmp_path / "empty.txt").write_text("\n  \n")
    names = {"PICTURE": str(pictures / "p1.png"), "EMPTY": str(tmp_path / "empty.txt")}
    assert said in usage_error([*(names.get(argument, argument) for argument in arguments), *toy], capsys)


def test_default_model_comes_with_a_word_about_what_it_knows(pictures, monkeypatch, capsys) -> None:
    def stop(model, *args, **kwargs):
        raise ValueError(f"stopped at {model}")

    monkeypatch.setattr("blip2.apis.inferencers.VisualQuestionAnsweringInferencer", stop)
    first, second = usage_error([str(pictures), SHORT], capsys).splitlines()
    assert command.DEFAULT_MODEL in first and "drawn scenes only" in first and command.PUBLISHED_MODEL in first
    assert f"stopped at {command.DEFAULT_MODEL}" in second
