"""`blip2 search`, with a model that knows the colours of a picture's halves (see ``tests/data/toy_retriever.py``)."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip2.apis import get_model
from blip2.cli.main import main

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_retriever_config.py")


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


def save(path: Path, left: str, right: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (8, 8), left)
    picture.paste(right, (4, 0, 8, 8))
    picture.save(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    save(tmp_path / "pictures" / "rg.png", "red", "lime")
    save(tmp_path / "pictures" / "gr.png", "lime", "red")
    save(tmp_path / "pictures" / "bb.png", "blue", "blue")
    save(tmp_path / "pictures" / "deeper" / "rr.png", "red", "red")
    return tmp_path / "pictures"


def test_pictures_come_best_first_a_line_each(folder, toy, capsys) -> None:
    assert main(["search", str(folder), "blue", *toy]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f" 1.000  {folder}/bb.png",
        f" 0.000  {folder}/gr.png",
        f" 0.000  {folder}/rg.png",
    ]
    assert captured.err == ""


def test_rerank_tells_apart_what_similarity_cannot(folder, toy, capsys) -> None:
    assert main(["search", str(folder), "red green", "--rerank", "--topk", "1", *toy]) == 0
    assert capsys.readouterr().out.endswith(f"{folder}/rg.png\n")


def test_several_texts_have_their_pictures_under_them(folder, toy, capsys) -> None:
    assert main(["search", str(folder), "blue", "red red", "--topk", "1", "-r", *toy]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("/")[-1] for line in lines] == ["blue:", "bb.png", "red red:", "rr.png"]


def test_picture_is_looked_for(folder, toy, tmp_path, capsys) -> None:
    query = save(tmp_path / "query.png", "lime", "red")
    assert main(["search", str(folder), "--image", str(query), "--json", "--topk", "1", *toy]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record == {"image": str(query), "rank": 1, "path": f"{folder}/gr.png", "score": pytest.approx(1)}


def test_json_lines_hold_query_rank_path_and_score(folder, toy, capsys) -> None:
    assert main(["search", str(folder), "blue", "red", "--jsonl", *toy]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["text"], record["rank"]) for record in records] == [
        (t, n) for t in ("blue", "red") for n in (1, 2, 3)
    ]


def test_second_search_reads_features_from_the_disk(folder, toy, tmp_path, monkeypatch, capsys) -> None:
    assert main(["search", str(folder), "blue", *toy]) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("toy_retriever.ToyRetriever.image_features", lambda *args: pytest.fail("encoded again"))
    assert main(["search", str(folder), "blue", *toy]) == 0
    assert capsys.readouterr().out == first
    (kept,) = (tmp_path / "home" / "prototypes").iterdir()
    kept.unlink()


def test_features_are_kept_where_asked_or_nowhere(folder, toy, tmp_path) -> None:
    assert main(["search", str(folder), "blue", "--no-cache", *toy]) == 0
    assert not (tmp_path / "home").exists()
    assert main(["search", str(folder), "blue", "--cache", str(tmp_path / "kept.safetensors"), *toy]) == 0
    assert (tmp_path / "kept.safetensors").is_file() and not (tmp_path / "home").exists()


def test_bad_pictures_are_named_at_the_end_and_the_others_found(folder, toy, capsys) -> None:
    (folder / "bad.png").write_bytes(b"junk")
    save(folder / "dark.png", "black", "red")
    assert main(["search", str(folder), "blue", *toy]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "2 picture(s) failed" in captured.err and captured.err.count("bad.png") == 1
    assert captured.err.count("dark.png: its features are NaN or infinite") == 1


def test_more_than_there_is_is_told_only_if_it_was_asked_for(folder, toy, capsys) -> None:
    assert main(["search", str(folder), "blue", "red", "--topk", "9", *toy]) == 0
    assert capsys.readouterr().err == (
        "blip2 search: topk=9 is more than the 3 items that there are to rank: all are given\n"
    )


def test_show_dir_gets_a_sheet_for_each_query(folder, toy, tmp_path) -> None:
    assert main(["search", str(folder), "blue", "red", "--show-dir", str(tmp_path / "drawn"), *toy]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["query_0000.png", "query_0001.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either TEXT behind the folder, or --image"),
        (["red", "--image", "{folder}/rg.png"], "either TEXT behind the folder, or --image"),
        (["--image", "gone.png"], "gone.png: no such file"),
        (["--image", "{folder}/rg.png", "--rerank"], "leave it out with --image"),
        (["red", "--cache", "x", "--no-cache"], "exclude each other"),
        (["red", ""], "text 2 is empty"),
        (["nan"], "'nan' are NaN or infinite"),
        (["red", "--topk", "0"], "'0' is not a whole number"),
        (["red", "--cache", "{folder}/rg.png"], "not overwritten"),
        (["red", "--device", "gpu"], "'gpu' is no device"),
    ],
)
def test_wrong_usage_is_told_without_a_traceback(folder, toy, capsys, arguments: list[str], said: str) -> None:
    arguments = [argument.format(folder=folder) for argument in arguments]
    assert main(["search", str(folder), *toy, *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.out == "" and "Traceback" not in captured.err


def test_what_is_searched_in_must_be_a_folder_with_pictures(folder, toy, tmp_path, capsys) -> None:
    assert main(["search", str(folder / "rg.png"), "red", *toy]) == 2
    assert "is no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["search", str(tmp_path / "empty"), "red", *toy]) == 2
    assert "no picture in the folder" in capsys.readouterr().err
    (tmp_path / "empty" / "a.png").write_bytes(b"junk")
    assert main(["search", str(tmp_path / "empty"), "red", *toy]) == 2
    assert "nothing else to search in" in capsys.readouterr().err
