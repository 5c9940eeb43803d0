"""`blip2 explain`."""

import pytest
from PIL import Image

from blip2.cli.main import main

CAPTIONER = ["--model", "blip2-tiny_shapes-caption"]


@pytest.fixture(autouse=True)
def _in_a_new_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)


def test_words_are_drawn_beside_the_picture(tmp_path, capsys) -> None:
    assert main(["explain", "demo/scene_1.png", "a red square"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "scene_1_explained.png\n" and "knows drawn scenes only" in captured.err
    assert Image.open(tmp_path / "scene_1_explained.png").width > 4 * 224, "the picture and three words"


def test_queries_are_drawn_of_a_model_without_texts(tmp_path) -> None:
    assert main(["explain", "demo/scene_1.png", "--queries", "--out", "deep/q.png", *CAPTIONER]) == 0
    assert Image.open(tmp_path / "deep/q.png").height > 3 * 224, "seventeen pictures"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo/scene_1.png"], "either a TEXT"),
        (["demo/scene_1.png", "a", "--queries"], "either a TEXT"),
        (["demo/scene_1.png", " "], "text is empty"),
        (["demo/scene_1.png", "a", "--out", "a.pdf"], "must end in .png"),
        (["demo", "a"], "folder of 6 pictures"),
        (["nowhere.png", "a"], "no such file"),
        (["demo/scene_1.png", "a", *CAPTIONER], "--queries"),
        (["demo/scene_1.png", "a", "--layer", "3"], "these have: [0, 2]"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(arguments, told, tmp_path, capsys) -> None:
    assert main(["explain", *arguments]) == 2
    assert told in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_broken_picture_is_told(tmp_path, capsys) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    assert main(["explain", "broken.png", "a circle"]) == 2
    assert "broken.png" in capsys.readouterr().err
