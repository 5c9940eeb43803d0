"""What the tabs do, against the inferencers that they stand on."""

import threading
import time

import pytest
from PIL import Image

from blip2 import Chat, ImageCaptionInferencer, ImageToTextRetrievalInferencer, TextToImageRetrievalInferencer
from blip2.utils.resources import resources_root
from blip2.webdemo.jobs import Cancelled
from blip2.webdemo.limits import RefusedError
from blip2.webdemo.serve import _preload
from blip2.webdemo.service import SMALL_MODELS, Service, models_by_task

DEMO = resources_root() / "demo"
SCENE = str(DEMO / "scene_1.png")
TEXTS = ["a purple ring on the left of a red square", "a green star", "a red square"]


@pytest.fixture(scope="module")
def service():
    return Service(models_by_task(SMALL_MODELS))


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))


def test_each_model_gets_its_task():
    assert models_by_task(reversed(SMALL_MODELS)) == dict(
        zip(("caption", "questions", "retrieval"), SMALL_MODELS, strict=True)
    )
    config = "blip2_tiny/blip2-tiny_shapes-vqa.py"
    assert models_by_task([config]) == {"questions": config}
    with pytest.raises(ValueError, match="both for caption: name one"):
        models_by_task(["blip2-tiny_shapes-caption", "blip2-opt2.7b_3rdparty-zeroshot_caption"])
    with pytest.raises(ValueError, match="blip2-tiny_shapes-caption"):
        models_by_task(["blip2-tiny_shapes-captoin"])


def test_captions_are_the_inferencers(service):
    (expected,) = ImageCaptionInferencer(SMALL_MODELS[0])(SCENE, num_beams=4, num_captions=3, prompt="there is")
    found = service.caption("anna", SCENE, "there is", num_beams=4, num_captions=3)
    assert [row.text for row in found] == expected["pred_caption"]
    assert [row.scores["score"][0] for row in found] == pytest.approx(expected["pred_score"])


def test_a_conversation_goes_on_where_it_stood(service):
    questions = ["how many shapes are there?", "what color is the ring?", "is there a red square?"]
    chat = Chat(SMALL_MODELS[1], SCENE)
    turns, answers = [], []
    for question in questions:
        answer, turns = service.ask("anna", SCENE, question, turns, remember=True)
        answers.append(answer)
    assert answers == [chat.ask(question).answer for question in questions]
    assert turns == chat.turns


def test_a_question_on_its_own_is_not_told_the_others(service):
    alone, _ = service.ask("anna", SCENE, "what color is the ring?", [], remember=False)
    told, turns = service.ask("anna", SCENE, "what color is the ring?", ["Question: x? Answer: y."] * 3, remember=False)
    assert told == alone
    assert len(turns) == 4  # kept for the time when the box is ticked again


def test_both_scores_are_the_inferencers(service):
    (expected,) = ImageToTextRetrievalInferencer(SMALL_MODELS[2], TEXTS, prototype_cache=False).compare(SCENE)
    found = service.match("anna", SCENE, "\n".join(TEXTS))
    assert [row.text for row in found] == TEXTS
    assert [row.scores["ITC"][0] for row in found] == pytest.approx(expected["itc"])
    assert [row.scores["ITM"][0] for row in found] == pytest.approx(expected["itm"])
    ranked = service.find_texts("anna", SCENE, "\n".join(TEXTS))
    assert [row.scores["ITM"][0] for row in ranked] == sorted(expected["itm"], reverse=True)


@pytest.mark.parametrize("rerank", [False, True])
def test_pictures_are_found_as_by_the_inferencer(service, rerank):
    inferencer = TextToImageRetrievalInferencer(SMALL_MODELS[2], str(DEMO), False, fast_match=not rerank)
    (expected,) = inferencer(TEXTS[0], topk=3)
    found = service.find_pictures("anna", TEXTS[0], None, topk=3, rerank=rerank)
    assert [path for path, _ in found.pictures] == [match["sample"]["img_path"] for match in expected]
    assert [score for _, score in found.pictures] == pytest.approx([match["match_score"] for match in expected])


def test_uploads_that_are_no_pictures_are_left_out_and_named(service, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    seen = []
    found = service.find_pictures(
        "anna", TEXTS[0], [SCENE, str(tmp_path / "text.png")], progress=lambda done, total: seen.append((done, total))
    )
    assert [path for path, _ in found.pictures] == [SCENE]
    assert len(found.left_out) == 1 and found.left_out[0].startswith("text.png: ")
    assert seen[-1] == (2, 2)


def test_a_changed_file_is_read_again(service, tmp_path):
    path = tmp_path / "scene.png"
    scores = []
    for scene in ("scene_1.png", "scene_2.png"):
        Image.open(DEMO / scene).save(path)
        scores.append(service.find_pictures("anna", TEXTS[0], [str(path)]).pictures[0][1])
    assert scores[0] > scores[1]


def test_maps_are_drawn_for_words_and_for_queries(service):
    assert service.explain("anna", SCENE, TEXTS[0]).width > 500
    for task in service.models:
        assert service.explain_queries("anna", SCENE, task).width > 500


def test_what_runs_is_stopped_within_the_model(service):
    service.preload()
    ended = []

    def write():
        try:
            while True:  # until it is stopped
                service.caption("anna", SCENE, "", num_beams=10, min_length=50, max_txt_len=60)
        except Cancelled:
            ended.append(True)

    thread = threading.Thread(target=write)
    thread.start()
    deadline = time.monotonic() + 20
    while not ended and time.monotonic() < deadline:
        service.jobs.cancel("anna")
        thread.join(timeout=0.01)
    assert ended == [True]


def test_a_tab_without_its_model_says_so():
    with pytest.raises(RefusedError, match="without a model for questions"):
        Service({"caption": SMALL_MODELS[0]}).ask("anna", SCENE, "what?", [], True)


def test_a_model_that_cannot_be_loaded_is_told_in_the_terminal_and_to_who_needs_it(capfd):
    service = Service({"caption": "blip2-opt2.7b_3rdparty-zeroshot_caption"})  # the network is switched off
    _preload(service)
    told = capfd.readouterr().err
    assert "blip2 download blip2-opt2.7b_3rdparty-zeroshot_caption" in told and "Traceback" not in told
    with pytest.raises(ValueError, match="has not been fetched"):
        service.caption("anna", SCENE, "")
