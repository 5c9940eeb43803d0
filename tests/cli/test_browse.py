"""`blip2 browse` on captions, answers and rankings of a small data set."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from blip2.cli.main import main
from blip2.utils.resources import resources_root

PIPELINE = "[dict(type='LoadImageFromFile'), dict(type='PackInputs')]"
NAMES = ["r.png", "g.png"]


@pytest.fixture(autouse=True)
def _data(tmp_path, monkeypatch):
    """Two pictures with two captions each, and a question about each."""
    monkeypatch.chdir(tmp_path)
    for name, colour in zip(NAMES, ("red", "green"), strict=True):
        Image.new("RGB", (20, 10), colour).save(name)
    captions = [{"image": NAMES[i], "image_id": i, "caption": ["a red one", "one in red"]} for i in (0, 1)]
    Path("captions.json").write_text(json.dumps(captions))
    questions = [{"question_id": 7 + i, "image_id": i, "question": "is it red?"} for i in (0, 1)]
    given = [{"answer": "yes"}] * 9 + [{"answer": "no"}]
    answers = [{"question_id": 7 + i, "image_id": i, "answer_type": "yes/no", "answers": given} for i in (0, 1)]
    Path("questions.json").write_text(json.dumps({"questions": questions}))
    Path("answers.json").write_text(json.dumps({"annotations": answers}))
    for i, name in enumerate(NAMES):
        Path(f"{i:012d}.png").write_bytes(Path(name).read_bytes())


def config(type_name: str, file: str, more: str = "") -> str:
    dataset = f"dict(type='{type_name}', ann_file='{file}', data_prefix='.', pipeline={PIPELINE}{more})"
    Path(f"{type_name}.py").write_text(f"test_dataloader = dict(dataset={dataset})\n")
    return f"{type_name}.py"


def predictions(*samples: dict) -> str:
    Path("pred.json").write_text(json.dumps(samples))
    return "pred.json"


def shown(page: str = "pred.html") -> list[dict]:
    (data,) = re.findall(r'id="data">(.*?)</script>', Path(page).read_text(encoding="utf-8"), flags=re.S)
    return json.loads(data)["items"]


def test_captions_stand_with_their_references_and_rouge():
    file = predictions({"image_id": 1, "pred_caption": "a red one"}, {"image_id": 0, "pred_caption": "blue"})
    assert main(["browse", config("COCOCaption", "captions.json"), file]) == 0
    first, second = shown()
    assert (first["name"], first["said"], first["score"]) == ("g.png", "a red one", 1.0)
    assert [line["text"] for line in second["lines"]] == ["a red one", "one in red"] and second["score"] == 0


def test_answers_stand_with_question_true_answers_and_accuracy():
    file = predictions({"question_id": 8, "pred_answer": "Yes."}, {"question_id": 7, "pred_answer": "blue"})
    assert main(["browse", config("COCOVQA", "answers.json", ", question_file='questions.json'"), file]) == 0
    first, second = shown()
    assert (first["question"], first["said"], first["score"], second["score"]) == ("is it red?", "Yes.", 100, 0)
    assert [(line["text"], line["right"]) for line in first["lines"]] == [("yes (90%)", True), ("no (10%)", False)]
    assert first["groups"] == ["yes/no"] and first["picture"] == 0


def test_only_the_worst_on_demand():
    file = predictions({"image_id": 1, "pred_caption": "a red one"}, {"image_id": 0, "pred_caption": "blue"})
    assert main(["browse", config("COCOCaption", "captions.json"), file, "--worst", "1", "--out", "few"]) == 0
    assert [item["said"] for item in shown("few/index.html")] == ["blue"]


def test_rankings_are_scored_by_both_directions():
    own = {"pred_text_score": [0.5, 0.25, 0.1], "pred_image_score": [[1, 0], [1, 0]]}
    file = predictions(
        {"image_id": 0, "pred_text_id": [2, 0, 1], "pred_image_id": [[0, 1], [1]], **own},
        {"image_id": 1, "pred_text_id": [2, 0, 3], "pred_image_id": [[1, 0], [1, 0]], **own},
    )
    assert main(["browse", config("COCORetrieval", "captions.json", ", test_mode=True"), file]) == 0
    first, second = shown()
    assert first["score"] == pytest.approx((1 / 2 + 1 + 0) / 3) and second["score"] == 1
    assert [line["right"] for line in first["lines"]] == [False, True, True, True, False]
    assert "not among the first 1" in first["lines"][-1]["text"]


def test_what_does_not_belong_together_is_told_and_nothing_is_written(capsys):
    cfg = config("COCOCaption", "captions.json")
    for content, told in (
        ([{"image_id": 5, "pred_caption": "a"}], "image_id 5 belongs to nothing in the test set"),
        ({"CIDEr": 1.0}, "--out-item pred"),
        ([{"image_id": 0}], "no known task"),
    ):
        Path("pred.json").write_text(json.dumps(content))
        assert main(["browse", cfg, "pred.json"]) == 2
        assert told in capsys.readouterr().err and not Path("pred.html").exists()
    assert main(["browse", cfg, "nowhere.json"]) == 2


def test_the_script_of_tools_says_what_it_takes():
    script = resources_root() / "tools" / "analysis_tools" / "browse_predictions.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: tools/analysis_tools/browse_predictions.py")
