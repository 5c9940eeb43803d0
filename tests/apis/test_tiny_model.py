"""The small models that come with the package: their files, and what they say of scenes that they have never seen."""

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from blip2.apis import (
    ImageCaptionInferencer,
    ImageToTextRetrievalInferencer,
    TextToImageRetrievalInferencer,
    VisualQuestionAnsweringInferencer,
    get_model,
)
from blip2.apis.metafile import model_entries
from blip2.datasets.scenes.gallery import gallery_captions
from blip2.datasets.scenes.questions import questions
from blip2.datasets.scenes.render import draw_scene
from blip2.datasets.scenes.sample import random_scene
from blip2.structures.scene_reading import judge_caption
from blip2.utils.resources import resources_root

NAMES = ("blip2-tiny_shapes-caption", "blip2-tiny_shapes-vqa", "blip2-tiny_shapes-retrieval")
PICTURES = 60


def fresh(combinations="seen", count=PICTURES):
    """Scenes and pictures of them that no split holds, with the source of randomness of each."""
    sources = [random.Random(f"fresh {combinations} {index}") for index in range(count)]
    scenes = [random_scene(rng, combinations) for rng in sources]
    return scenes, [draw_scene(scene, rng) for scene, rng in zip(scenes, sources, strict=True)], sources


@pytest.fixture(scope="module")
def captioner():
    return ImageCaptionInferencer(NAMES[0], device="cpu")


def share_right(captioner, combinations):
    """Shares of captions with right objects, and of exact ones."""
    scenes, pictures, _ = fresh(combinations)
    results = captioner(pictures, batch_size=PICTURES)
    verdicts = [judge_caption(r["pred_caption"], scene) for scene, r in zip(scenes, results, strict=True)]
    return sum(v.objects for v in verdicts) / PICTURES, sum(v.exact for v in verdicts) / PICTURES


def test_captions_of_fresh_scenes_are_true(captioner):
    objects, exact = share_right(captioner, "seen")
    assert objects >= 0.88
    assert exact >= 0.8


def test_captions_of_combinations_never_seen_are_often_true(captioner):
    objects, exact = share_right(captioner, "held_out")
    assert objects >= 0.5
    assert exact >= 0.4


def test_the_demo_pictures_are_captioned(captioner):
    pictures = sorted((resources_root() / "demo").glob("*.png"))
    assert len(pictures) >= 4
    results = captioner([str(picture) for picture in pictures])
    assert all(len(result["pred_caption"].split()) >= 6 for result in results)


def test_questions_about_fresh_scenes_are_answered():
    scenes, pictures, sources = fresh()
    asked = [questions(scene, rng) for scene, rng in zip(scenes, sources, strict=True)]
    inferencer = VisualQuestionAnsweringInferencer(NAMES[1], device="cpu")
    results = inferencer(pictures, [[q.text for q in row] for row in asked], batch_size=PICTURES)
    expected = [q.answer for row in asked for q in row]
    right = [result["pred_answer"] == answer for result, answer in zip(results, expected, strict=True)]
    assert sum(right) / len(right) >= 0.75


def test_pictures_and_texts_of_fresh_scenes_find_one_another():
    scenes, pictures, _ = fresh(count=40)
    texts = [row[0] for row in gallery_captions(scenes, random.Random(0), count=1)]
    model = get_model(NAMES[2], pretrained=True, device="cpu")
    to_image = TextToImageRetrievalInferencer(model, prototype=pictures, fast_match=False, prototype_cache=False)
    to_text = ImageToTextRetrievalInferencer(model, prototype=texts, fast_match=False, prototype_cache=False)
    found = [[match[0]["sample_idx"] for match in one] for one in (to_image(texts), to_text(pictures))]
    for numbers in found:
        assert sum(number == place for place, number in enumerate(numbers)) >= 0.75 * len(scenes)


def test_all_the_weights_together_are_a_few_megabytes_in_eight_bits():
    folder = Path(model_entries()[NAMES[0]].weights).parent
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 4  # the three models' own parts, and what they share
    assert sum(path.stat().st_size for path in files) <= 13e6
    for path in files:
        with safe_open(path, "pt") as file:
            kinds = {file.get_tensor(key).dtype for key in file.keys() if key.endswith(".dense.weight")}  # noqa: SIM118
        assert kinds <= {torch.int8}


@pytest.mark.parametrize("name", NAMES)
def test_the_built_model_has_the_parameters_that_the_metafile_states(name):
    entry = model_entries()[name]
    assert sum(p.numel() for p in get_model(name).parameters()) == entry.parameters_built
