"""`blip2 features`, with a model that knows the colours of a picture's halves (see ``tests/data/toy_retriever.py``)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from blip2.apis import get_model
from blip2.cli.main import main

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_retriever_config.py")


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DATA))


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
    for number, colour in enumerate(("red", "blue", "lime")):
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("batch_size", ["1", "2", "8"])
def test_npz_holds_features_and_paths(folder, toy, tmp_path, capsys, batch_size: str) -> None:
    out = tmp_path / "new" / "out.npz"
    assert main(["features", str(folder), "--out", str(out), "--batch-size", batch_size, *toy]) == 0
    with np.load(out) as found:  # without pickles
        assert found["names"].tolist() == [f"{folder}/{number}.png" for number in range(3)]
        np.testing.assert_array_equal(found["features"][:, 0], [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
        assert found["features"].shape == (3, 2, 3) and "mask" not in found
    assert capsys.readouterr() == ("", "")


def test_safetensors_holds_features_and_names_among_the_metadata(folder, toy, tmp_path) -> None:
    out = tmp_path / "out.safetensors"
    options = ["--stage", "qformer", "--pool", "mean", "--normalize"]
    assert main(["features", str(folder / "1.png"), "--out", str(out), *options, *toy]) == 0
    with safe_open(out, framework="np") as found:
        assert json.loads(found.metadata()["names"]) == [f"{folder}/1.png"]
        np.testing.assert_allclose(found.get_tensor("features"), [[0, 0, 1]])


def test_texts_of_unequal_lengths_are_padded_under_a_mask(toy, tmp_path) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "out.npz"
    file.write_text("blue\n")
    texts = ["--text", "red green", "--texts-file", str(file)]
    assert main(["features", *texts, "--stage", "qformer", "--out", str(out), *toy]) == 0
    with np.load(out) as found:
        assert found["names"].tolist() == ["red green", "blue"] and found["features"].shape == (2, 4, 3)
        assert found["mask"].tolist() == [[True] * 4, [True, True, True, False]]
        assert (found["features"][1, 1] == [0, 0, 1]).all() and not found["features"][1, 3].any()


def test_pairs_take_one_text_for_all_or_one_each(folder, toy, tmp_path) -> None:
    out = tmp_path / "out.npz"
    assert main(["features", str(folder), "--text", "red", "--out", str(out), *toy]) == 0
    with np.load(out) as found:
        assert found["texts"].tolist() == ["red"] * 3
        np.testing.assert_allclose(found["features"][:, 0], [[3, 0, 0], [1, 0, 2], [1, 2, 0]])
    each = [part for text in ("red", "green", "blue") for part in ("--text", text)]
    assert main(["features", str(folder), *each, "--batch-size", "2", "--out", str(out), *toy]) == 0
    with np.load(out) as found:
        np.testing.assert_allclose(found["features"][:, 0], [[3, 0, 0], [0, 1, 2], [0, 2, 1]])


def test_bad_pictures_are_named_and_not_in_the_file(folder, toy, tmp_path, capsys) -> None:
    (folder / "1.png").write_bytes(b"junk")
    Image.new("RGB", (8, 8), "black").save(folder / "3.png")
    out = tmp_path / "out.npz"
    assert main(["features", str(folder), "--out", str(out), *toy]) == 1
    err = capsys.readouterr().err
    assert "1 picture(s) failed" in err and err.count("1.png") == 1
    assert f"the features of {folder}/3.png are NaN or infinite" in err
    with np.load(out) as found:
        assert [Path(name).name for name in found["names"]] == ["0.png", "2.png", "3.png"]


def test_interrupted_writing_leaves_an_old_file_whole(folder, toy, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "out.npz"
    out.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert main(["features", str(folder), "--out", str(out), *toy]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert out.read_text() == "old" and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x.npz"], "nothing to look at"),
        (["{folder}", "--out", "x.txt"], "must end in .npz or .safetensors"),
        (["{folder}"], "required: --out"),
        (["{folder}", "--text", "a", "--text", "b", "--out", "x.npz"], "2 texts for 3 pictures"),
        (["--text", "", "--out", "x.npz"], "text 1 is empty"),
        (["--text", "red", "--stage", "backbone", "--out", "x.npz"], "stage='backbone': of texts"),
        (["{folder}/gone.png", "--out", "x.npz"], "no such file"),
        (["{folder}", "--pool", "max", "--out", "x.npz"], "'mean', 'first'"),
        (["{folder}", "--out", "{folder}/0.png/x.npz"], "cannot write to"),
    ],
)
def test_wrong_usage_is_told_without_a_traceback(
    folder, toy, tmp_path, monkeypatch, capsys, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(folder=folder) for argument in arguments]
    assert main(["features", *arguments, *toy]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "x.npz").exists()
