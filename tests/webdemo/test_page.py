"""The page as visitors use it: every tab, in a browser."""

from dataclasses import replace

import pytest
import requests
from PIL import Image
from playwright.sync_api import expect

from blip2.utils.resources import resources_root
from blip2.webdemo.limits import Limits
from blip2.webdemo.page import build_page
from blip2.webdemo.service import SMALL_MODELS, Service, models_by_task

from .conftest import free_port

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

DEMO = resources_root() / "demo"
SCENE = DEMO / "scene_1.png"  # a purple ring on the left of a red square


@pytest.fixture(scope="module")
def service():
    return Service(models_by_task(SMALL_MODELS), limits=Limits(upload_mb=1, megapixels=1))


@pytest.fixture(scope="module")
def address(service, browser, tmp_path_factory):
    from blip2.webdemo.serve import serving

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))  # Gradio serves what lies below the working folder
        patch.setenv("BLIP2_HOME", str(tmp_path_factory.mktemp("home")))  # features of galleries are kept there
        with serving(service, port=free_port()) as address:
            yield address


@pytest.fixture
def visit(browser, address):
    """Opens the page at a tab, as a visitor of its own; what it asks of other machines fails the test."""
    contexts, outside = [], []

    def open_tab(name):
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: outside.append(request.url) if _is_outside(request.url) else None)
        page.goto(address)
        page.get_by_role("tab", name=name, exact=True).click()
        return page

    def _is_outside(url):
        return not url.startswith((address, "data:", "blob:"))

    yield open_tab
    for context in contexts:
        context.close()
    assert outside == []


def show(page, path=SCENE):
    """Gives the picture field of the open tab a file, and waits until it is there."""
    field = page.locator("[data-testid=image]:visible").first
    field.locator("input[type=file]").set_input_files(str(path))
    field.locator("img").wait_for()


def set_number(page, label, value):
    """Moves a slider until the number beside it follows: while its section unfolds, the page does not listen yet."""
    slider, number = (page.get_by_label(f"{what} for {label}") for what in ("range slider", "number input"))
    for _ in range(20):
        slider.fill(value)
        page.wait_for_timeout(250)
        if number.input_value() == value:
            return
    raise AssertionError(f"{label} stays at {number.input_value()}")


def scored(page):
    """The rows of the table that is shown: [text, score …]."""
    page.locator(".scored:visible td").first.wait_for()
    return [row.locator("td").all_inner_texts() for row in page.locator(".scored:visible tbody tr").all()]


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def message(page):
    toast = page.locator(".toast-body").first
    toast.wait_for()
    return toast.inner_text()


def test_an_uploaded_picture_is_captioned(visit):
    page = visit("Caption")
    show(page)
    press(page, "Caption")
    ((caption, score),) = scored(page)
    assert caption == "a purple ring on the left of a red square"
    assert float(score) < 0


def test_several_captions_of_an_example(visit):
    page = visit("Caption")
    page.locator(".gallery-item:visible, .gallery button:visible").first.click()
    page.locator("[data-testid=image]:visible img").first.wait_for()
    page.get_by_role("button", name="Options").click()
    set_number(page, "Captions", "3")
    press(page, "Caption")
    rows = scored(page)
    assert len(rows) == 3
    assert [float(score) for _, score in rows] == sorted((float(score) for _, score in rows), reverse=True)


def test_captions_are_sampled_where_that_is_ticked(visit):
    page = visit("Caption")
    show(page)
    page.get_by_role("button", name="Options").click()
    set_number(page, "Captions", "8")  # more than beams: only samples may be
    press(page, "Caption")
    assert "num_captions=8 is more than num_beams=5" in message(page)
    page.get_by_label("Nucleus sampling").check()
    set_number(page, "Temperature", "1.5")
    press(page, "Caption")
    assert len(scored(page)) == 8


def test_requests_beyond_the_queue_are_refused(service):
    page = build_page(replace(service, limits=Limits(queue=3)))
    assert page._queue.max_size == 3
    assert {fn.concurrency_id for fn in page.fns.values() if fn.queue} == {"models"}


def test_a_follow_up_question_keeps_the_dialogue(visit, service, monkeypatch):
    told = []
    ask = service.ask
    monkeypatch.setattr(service, "ask", lambda *args: (told.append(list(args[3])), ask(*args))[1])
    page = visit("Questions")
    show(page)
    for number, (question, answer) in enumerate(
        [("how many shapes are there?", "2"), ("is there a red square?", "yes")]
    ):
        page.get_by_label("Question", exact=True).fill(question)
        page.get_by_label("Question", exact=True).press("Enter")
        expect(page.locator(".bot.message").nth(number)).to_have_text(answer)
    assert told == [[], ["Question: how many shapes are there? Answer: 2."]]
    press(page, "Begin anew")
    page.locator(".bot.message").first.wait_for(state="detached")


def test_texts_are_compared_with_both_scores(visit):
    page = visit("Match")
    show(page)
    page.locator("textarea:visible").first.fill("a purple ring on the left of a red square\na green star")
    press(page, "Compare")
    rows = scored(page)
    assert [row[0] for row in rows] == ["a purple ring on the left of a red square", "a green star"]
    assert float(rows[0][2]) > 0.5 > float(rows[1][2])
    assert page.locator(".scored:visible .bar").count() == 4


def test_pictures_are_found_in_the_folder_and_among_uploads(visit):
    page = visit("Search")
    page.get_by_label("Text", exact=True).fill("a purple ring on the left of a red square")
    press(page, "Search")
    first = page.locator(".thumbnail-item:visible").first
    first.wait_for()
    assert "scene_1.png" in first.inner_text()
    page.locator("input[type=file]:not([accept='image/*'])").first.set_input_files(
        [str(DEMO / "scene_3.png"), str(DEMO / "scene_4.png")]
    )
    expect(page.get_by_role("radio", name="Uploads")).to_be_checked()
    page.get_by_label("Text", exact=True).fill("a blue cross over a red cross")
    press(page, "Search")
    page.locator(".thumbnail-item:visible", has_text="scene_3").first.wait_for()
    expect(page.locator(".thumbnail-item:visible")).to_have_count(2)


def test_texts_are_ranked_for_a_picture(visit):
    page = visit("Search")
    page.get_by_role("tab", name="Texts for a picture").click()
    show(page)
    page.locator("textarea:visible").first.fill("a green star\na purple ring on the left of a red square")
    press(page, "Rank")
    assert scored(page)[0][0] == "a purple ring on the left of a red square"


@pytest.mark.parametrize("choice", ["The words of a text", "The queries of blip2-tiny_shapes-vqa"])
def test_heat_maps_are_drawn(visit, choice):
    page = visit("Where it looks")
    show(page)
    page.get_by_label(choice).check()
    press(page, "Draw")
    sheet = page.locator("[data-testid=image]:visible img, .image-frame:visible img").nth(1)
    sheet.wait_for()
    assert sheet.evaluate("image => image.naturalWidth") > 500


@pytest.mark.parametrize("tab, button", [("Caption", "Caption"), ("Match", "Compare"), ("Where it looks", "Draw")])
def test_a_broken_picture_gives_a_message_and_no_trace(visit, tmp_path, capfd, tab, button):
    broken = tmp_path / "broken.png"
    broken.write_bytes(SCENE.read_bytes()[:60])
    page = visit(tab)
    show(page, broken)
    press(page, button)
    assert "broken.png cannot be read" in message(page)
    assert "Traceback" not in capfd.readouterr().err


def test_a_picture_with_too_many_pixels_is_refused(visit, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (1500, 1000)).save(large)
    page = visit("Caption")
    show(page, large)
    press(page, "Caption")
    assert "1500×1000 pixels" in message(page)


def test_a_file_beyond_the_limit_is_refused(visit, tmp_path):
    large = tmp_path / "large.bmp"
    Image.new("RGB", (900, 900)).save(large)  # 2.4 MB
    page = visit("Caption")
    page.locator("[data-testid=image]:visible input[type=file]").first.set_input_files(str(large))
    assert "exceed the maximum allowed size" in message(page)


def called(address, picture):
    """What the page's programming interface says to a call of 'match' with a picture's path."""
    data = [{"path": str(picture), "meta": {"_type": "gradio.FileData"}}, "a text"]
    event = requests.post(f"{address}gradio_api/call/match", json={"data": data}, timeout=20).json()["event_id"]
    return requests.get(f"{address}gradio_api/call/match/{event}", timeout=20).text


def test_only_what_was_uploaded_is_read_not_the_servers_own_files(address, service, monkeypatch):
    read = []
    picture = type(service.limits).picture
    monkeypatch.setattr(
        type(service.limits), "picture", lambda limits, path: (read.append(path), picture(limits, path))[1]
    )
    assert "event: error" in called(address, SCENE)
    assert read == []
    with SCENE.open("rb") as file:
        (uploaded,) = requests.post(f"{address}gradio_api/upload", files={"files": file}, timeout=20).json()
    assert "event: complete" in called(address, uploaded)
    assert len(read) == 1


def test_without_a_picture_the_page_asks_for_one(visit):
    page = visit("Questions")
    page.get_by_label("Question", exact=True).fill("what is it?")
    press(page, "Ask")
    assert "Give a picture first" in message(page)


def test_two_visitors_at_once_get_their_own_answers(visit):
    pages = [visit("Questions"), visit("Questions")]
    for page, scene in zip(pages, ("scene_1.png", "scene_4.png"), strict=True):
        show(page, DEMO / scene)
        page.get_by_label("Question", exact=True).fill("is there a yellow star?")
    for page in pages:
        press(page, "Ask")
    for page, answer in zip(pages, ("no", "yes"), strict=True):
        expect(page.locator(".bot.message").first).to_have_text(answer)


def test_stop_ends_what_waits_for_the_models(visit, service):
    page = visit("Caption")
    show(page)
    with service.jobs.job("another visitor"):
        press(page, "Caption")
        page.wait_for_timeout(500)
        press(page, "Stop")
        assert "Stopped." in message(page)
    press(page, "Caption")
    assert scored(page)
