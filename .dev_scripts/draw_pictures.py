#!/usr/bin/env python
"""Draws the pictures of README.md and the docs from what the small models say now.

    python .dev_scripts/draw_pictures.py          # captions.png, words.png, web_demo.png in docs/images

The last one is a screenshot: it needs Playwright and Chromium.
"""

import io
import shutil
import socket
from pathlib import Path

from PIL import Image

from blip2 import ImageCaptionInferencer, VisualQuestionAnsweringInferencer, get_model
from blip2.apis import word_maps
from blip2.utils.pictures import find_pictures
from blip2.visualization import draw_contact_sheet, draw_heat_maps

ROOT = Path(__file__).resolve().parents[1]
IMAGES, DEMO = ROOT / "docs" / "images", ROOT / "demo"
QUESTION = "how many shapes are there?"


def save(sheet: Image.Image, name: str) -> None:
    """In 256 colours: a third of the size, and no difference to be seen."""
    sheet.quantize(256).save(IMAGES / name, optimize=True)


def draw_captions() -> None:
    """Each picture of demo/ with its caption and an answer."""
    paths = find_pictures(DEMO)
    captions = ImageCaptionInferencer("blip2-tiny_shapes-caption")(paths, batch_size=8)
    answers = VisualQuestionAnsweringInferencer("blip2-tiny_shapes-vqa")(paths, [QUESTION] * len(paths), batch_size=8)
    labels = [
        f"{caption['pred_caption']} ({answer['pred_answer']})"
        for caption, answer in zip(captions, answers, strict=True)
    ]
    heading = f"captions, and in brackets the answers to “{QUESTION}”"
    sheet = draw_contact_sheet(heading, [Image.open(path).convert("RGB") for path in paths], labels, width=1440)
    save(sheet, "captions.png")


def draw_words() -> None:
    """Where the words of a text have the retrieval model look."""
    text = "a purple ring on the left of a red square"
    picture = Image.open(DEMO / "scene_1.png")
    maps = word_maps(get_model("blip2-tiny_shapes-retrieval", pretrained=True), picture, text)
    shown = [(word, heat) for word, heat in maps if word in ("purple", "ring", "red", "square")]
    save(draw_heat_maps(f"where the words of “{text}” draw attention", picture, shown), "words.png")


def photograph_demo() -> None:
    """The web demo after three questions."""
    from playwright.sync_api import sync_playwright

    from blip2.webdemo.serve import serving
    from blip2.webdemo.service import SMALL_MODELS, Service, models_by_task

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(Service(models_by_task(SMALL_MODELS)), port=port) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(address)
        page.get_by_role("tab", name="Match", exact=True).click()
        field = page.locator("[data-testid=image]:visible").first
        field.locator("input[type=file]").set_input_files(str(DEMO / "scene_1.png"))
        field.locator("img").wait_for()
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator(".scored:visible td").first.wait_for()
        page.wait_for_timeout(1000)
        save(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), "web_demo.png")
        browser.close()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    draw_captions()
    draw_words()
    photograph_demo()
