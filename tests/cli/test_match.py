"""`blip2 match`, with a model that knows the colours of a picture's halves (see ``tests/data/toy_retriever.py``)."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip2.apis import get_model
from blip2.cli import match as command
from blip2.cli.main import main

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_retriever_config.py")
HEADER = "   ITC    ITM  text"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(str(DATA))
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))


@pytest.fixture
def toy(tmp_path) -> list[str]:
    """The options that choose the toy model and its weights."""
    weights = tmp_path / "weights.pth"
    torch.save(get_model(CONFIG).state_dict(), weights)
    return ["--model", CONFIG, "--checkpoint", str(weights), "--device", "cpu"]


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, left, right in (("rg", "red", "lime"), ("bb", "blue", "blue")):
        picture = Image.new("RGB", (8, 8), left)
        picture.paste(right, (4, 0, 8, 8))
        picture.save(folder / f"{name}.png")
    return folder


def test_table_has_both_scores_best_match_first(folder, toy, tmp_path, capsys) -> None:
    assert main(["match", str(folder / "rg.png"), "green red", "red green", "blue", *toy]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        HEADER,
        " 0.707  0.993  red green",
        " 0.707  0.000  green red",
        " 0.000  0.000  blue",
    ]
    assert captured.err == "" and not (tmp_path / "home").exists(), "nothing is kept of a few texts"


def test_several_pictures_have_a_table_each_under_their_path(folder, toy, capsys) -> None:
    assert main(["match", str(folder), "red green", "--batch-size", "1", *toy]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::3] == [f"{folder}/bb.png:", f"{folder}/rg.png:"] and lines[1::3] == [HEADER] * 2


def test_json_keeps_the_order_of_the_texts(folder, toy, tmp_path, capsys) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("red green\n\nblue\n")
    arguments = [str(folder / "rg.png"), "green red", "--texts-file", str(file)]
    assert main(["match", *arguments, "--json", *toy]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["text"] for record in records] == ["green red", "red green", "blue"]
    assert set(records[0]) == {"path", "text", "itc", "itm"} and records[1]["itm"] > 0.99
    assert main(["match", *arguments, "--out", str(tmp_path / "new" / "out.jsonl"), *toy]) == 0
    lines = (tmp_path / "new" / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_bad_pictures_and_texts_are_named_and_the_others_compared(folder, toy, capsys) -> None:
    (folder / "bad.png").write_bytes(b"junk")
    assert main(["match", str(folder), "red green", "nan", *toy]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("red green") == 2 and "nan" not in captured.out
    assert "2 picture(s) or text(s) failed" in captured.err
    assert captured.err.count("bad.png") == 1 and "'nan': its features are NaN or infinite" in captured.err


def test_texts_that_are_cut_are_told(folder, toy, capsys) -> None:
    assert main(["match", str(folder / "rg.png"), "red red red red", *toy]) == 0
    assert capsys.readouterr().err == (
        "blip2 match: 1 of 1 texts are longer than the 5 tokens that the model takes (max_txt_len), and cut\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no text to compare with"),
        (["red", " "], "text 2 is empty"),
        (["?!"], "nothing to compare with a picture"),
        (["--texts-file", "gone.txt"], "'gone.txt' is no file"),
        (["nan"], "its features are NaN or infinite"),
        (["red", "--device", "gpu"], "'gpu' is no device"),
        (["red", "--jsno"], "unrecognized arguments: --jsno"),
    ],
)
def test_wrong_usage_is_told_without_a_traceback(folder, toy, capsys, arguments: list[str], said: str) -> None:
    assert main(["match", str(folder / "rg.png"), *toy, *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == "" and "Traceback" not in captured.err


def test_picture_that_is_not_there_is_named(toy, capsys) -> None:
    assert main(["match", "gone.png", "red", *toy]) == 2
    assert "gone.png: no such file or folder" in capsys.readouterr().err


def test_default_model_is_told_together_with_one_for_photographs(folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "blip2.apis.inferencers.ImageToTextRetrievalInferencer.__init__",
        lambda self, model, **kwargs: (_ for _ in ()).throw(ValueError(f"asked for {model}")),
    )
    assert main(["match", str(folder / "rg.png"), "red"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert command.DEFAULT_MODEL in first and command.PUBLISHED_MODEL in first
    assert second == f"blip2 match: asked for {command.DEFAULT_MODEL}"
