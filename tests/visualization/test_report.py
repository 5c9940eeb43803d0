"""The page of predictions: complete, harmless whatever the texts say, whole or not there."""

import base64
import io
import json
import re

import pytest
from PIL import Image

from blip2.visualization.report import SIDE, Line, ReportItem, write_report

NASTY = "</script><script>alert(1)</script><!-- \u2028 <img src=x onerror=alert(2)> & 'quotes\""


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (800, 400), (200, 0, 0)).save(path)
    return path


def data_of(page):
    """What the page's script reads."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    return json.loads(found)


def test_one_file_holds_texts_scores_and_small_pictures_once(tmp_path, picture):
    items = [
        ReportItem(
            "wide.png",
            picture,
            f"answer {n}",
            f"question {n}",
            n / 2,
            "true answers",
            [Line("yes", n == 1)],
            ["yes_no"],
        )
        for n in range(2)
    ]
    assert write_report(items, tmp_path / "out" / "report.html", "a run", "accuracy") == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    data = data_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert data["measure"] == "accuracy" and len(data["pictures"]) == 1
    assert data["items"][1] == {
        "name": "wide.png", "picture": 0, "said": "answer 1", "question": "question 1", "score": 0.5,
        "heading": "true answers", "lines": [{"text": "yes", "right": True}], "groups": ["yes_no"],
    }  # fmt: skip
    shown = Image.open(io.BytesIO(base64.b64decode(data["pictures"][0].split(",")[1])))
    assert shown.size == (SIDE, SIDE // 2)


def test_texts_stay_texts(tmp_path):
    item = ReportItem(NASTY, None, NASTY, NASTY, None, NASTY, [Line(NASTY)], [NASTY])
    write_report([item], tmp_path / "report.html", NASTY, NASTY)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2 and "<img" not in page and "<!--" not in page
    assert data_of(page)["items"][0]["said"] == NASTY
    assert "innerHTML" not in page and "document.write" not in page and "http" not in page


def test_a_folder_holds_the_pictures_beside_the_page(tmp_path, picture):
    for _ in range(2):  # again in the same place
        assert write_report([ReportItem("wide.png", picture, "a")], tmp_path / "run", "", "") == []
    data = data_of((tmp_path / "run" / "index.html").read_text(encoding="utf-8"))
    assert data["pictures"] == ["pictures/000000.jpg"]
    assert Image.open(tmp_path / "run" / data["pictures"][0]).width == SIDE


def test_pictures_that_cannot_be_read_are_named_and_their_place_stays_empty(tmp_path, picture):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    items = [ReportItem(name, tmp_path / name, "a") for name in ("broken.jpg", "missing.jpg", "wide.png")]
    problems = write_report(items, tmp_path / "report.html", "", "")
    assert [problem.split(":")[0].rsplit("/")[-1] for problem in problems] == ["broken.jpg", "missing.jpg"]
    places = [item["picture"] for item in data_of((tmp_path / "report.html").read_text(encoding="utf-8"))["items"]]
    assert places == [None, None, 0]


def test_nothing_to_show_and_other_peoples_folders_are_refused(tmp_path, picture):
    with pytest.raises(ValueError, match="no predictions to show"):
        write_report([], tmp_path / "report.html", "", "")
    with pytest.raises(FileExistsError, match="is no report"):
        write_report([ReportItem("", None, "a")], tmp_path, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["wide.png"]
