"""The scenes' metric: true captions pass, false ones don't, and it reads only the scenes' language."""

import json
import random
import re

import pytest

from blip2.datasets.scenes.grammar import captions
from blip2.datasets.scenes.sample import random_scene
from blip2.evaluation import DocumentAccuracy, SceneCaptionAccuracy
from blip2.structures.scene import COLOURS, CONVERSE, SHAPES, Scene, SceneObject
from blip2.structures.scene_reading import judge_caption
from blip2.utils.errors import AnnotationError

RED_CIRCLE = SceneObject("circle", "red", "small", "striped", 0.2, 0.2, 0.1)
BLUE_SQUARE = SceneObject("square", "blue", "large", "plain", 0.8, 0.25, 0.16)
GREEN_STAR = SceneObject("star", "green", "small", "plain", 0.5, 0.8, 0.1)
TWO = Scene((RED_CIRCLE, BLUE_SQUARE), "flat")
THREE = Scene((RED_CIRCLE, BLUE_SQUARE, GREEN_STAR), "flat")
TWINS = Scene((RED_CIRCLE, SceneObject("circle", "red", "large", "plain", 0.2, 0.7, 0.16), BLUE_SQUARE), "flat")


def reference_captions(count=400):
    for seed in range(count):
        rng = random.Random(seed)
        scene = random_scene(rng, ("seen", "held_out")[seed % 2])
        for caption in captions(scene, rng):
            yield scene, caption


def test_every_reference_is_exact():
    assert all(judge_caption(caption, scene).exact for scene, caption in reference_captions())


def falsified(caption, scene, rng):
    """`caption` with one word changed so that it is false: a colour or shape that the scene lacks, or the other way."""
    colours = set(COLOURS) - {o.colour for o in scene.objects}
    shapes = set(SHAPES) - {o.shape for o in scene.objects}
    words = caption.split(" ")
    choices = []
    for i, word in enumerate(words):
        bare = word.rstrip(",")
        if bare in COLOURS:
            choices.append((i, word.replace(bare, rng.choice(sorted(colours)))))
        elif bare in SHAPES and shapes:
            choices.append((i, word.replace(bare, rng.choice(sorted(shapes)))))
        elif bare in CONVERSE and not {"side", "corner"} & set(words[i : i + 3]):
            choices.append((i, word.replace(bare, CONVERSE[bare])))
        elif bare in ("small", "large") and len(scene.objects) == len({(o.colour, o.shape) for o in scene.objects}):
            choices.append((i, word.replace(bare, {"small": "large", "large": "small"}[bare])))
    index, word = rng.choice(choices)
    return " ".join([*words[:index], word, *words[index + 1 :]])


def has_converse_pair(scene):
    """Whether two objects look alike: then 'a red circle left of a red circle' stays true the other way round."""
    return len(scene.objects) != len({(o.colour, o.shape) for o in scene.objects})


def test_no_reference_with_one_word_made_false_is_exact():
    rng = random.Random(0)
    checked = 0
    for scene, caption in reference_captions():
        if has_converse_pair(scene):
            continue
        changed = falsified(caption, scene, rng)
        assert changed != caption
        assert not judge_caption(changed, scene).exact, (caption, changed)
        checked += 1
    assert checked > 1000


@pytest.mark.parametrize(
    ("caption", "objects", "exact"),
    [
        ("a red circle left of a blue square", True, True),
        ("A red circle left of a blue square.", True, True),
        ("a small striped red circle is to the left of a big blue square", True, True),
        ("on the right of a red circle there is a blue square", True, True),
        ("a blue square with a red circle to its left", True, True),
        ("in the top left corner there is a red circle, left of a blue square", True, True),
        ("two shapes, a red circle left of a blue square", True, True),
        ("a red circle right of a blue square", True, False),
        ("a red circle above a blue square", True, False),
        ("a red circle with a blue square to its left", True, False),
        ("in the bottom left corner there is a red circle, left of a blue square", True, False),
        ("three shapes, a red circle left of a blue square", True, False),
        ("a dotted red circle left of a blue square", False, False),
        ("a large red circle left of a blue square", False, False),
        ("a blue circle left of a blue square", False, False),
        ("a red circle left of a red circle", False, False),  # one circle cannot be both
        ("a red circle and a blue square", True, False),  # no relation
        ("a red circle", False, False),  # one object
        ("a red circle left of a blue square left of a red circle", False, False),
        ("a red circle left of a lovely blue square", False, False),  # a word that the grammar lacks
        ("two red circles left of a blue square", False, False),
        ("two red circle left of a blue square", False, False),
        ("", False, False),
    ],
)
def test_verdicts_on_two_objects(caption, objects, exact):
    verdict = judge_caption(caption, TWO)
    assert (verdict.objects, verdict.exact) == (objects, exact)


def test_a_third_object_must_be_there_and_in_its_place():
    said = "a red circle left of a blue square, and a green star at the {}"
    assert judge_caption(said.format("bottom"), THREE).exact
    assert not judge_caption(said.format("top"), THREE).exact
    assert not judge_caption(said.format("bottom"), TWO).objects


def test_a_plural_counts_all_that_look_alike():
    assert judge_caption("two red circles left of a blue square", TWINS).exact
    assert not judge_caption("three red circles left of a blue square", TWINS).objects
    assert not judge_caption("two red circles right of a blue square", TWINS).exact
    assert judge_caption("a small red circle above a large red circle", TWINS).exact


def sample(image_id, caption):
    return {"image_id": image_id, "pred_caption": caption}


def test_the_metric_counts_each_picture_once(tmp_path):
    (tmp_path / "scenes.json").write_text(json.dumps({"1": TWO.to_dict(), "2": THREE.to_dict()}))
    metric = SceneCaptionAccuracy(str(tmp_path / "scenes.json"))
    right, wrong = sample(1, "a red circle left of a blue square"), sample(2, "a green star above a red circle")
    metric.process(None, [right, wrong, right])
    assert metric.evaluate(3) == {"scenes/objects": 100.0, "scenes/exact": 50.0}


def test_a_missing_scene_file_or_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="blip2 scenes"):
        SceneCaptionAccuracy(str(tmp_path / "none.json"))
    (tmp_path / "scenes.json").write_text(json.dumps({"1": TWO.to_dict()}))
    with pytest.raises(AnnotationError, match="picture 7"):
        SceneCaptionAccuracy(str(tmp_path / "scenes.json")).process(None, [sample(7, "")])


def test_document_accuracy_judges_paraphrases_and_answers():
    metric = DocumentAccuracy()
    opening = {"prompt": "a red circle left of a blue square</s>there is", "scene": TWO.to_dict()}
    metric.process(None, [{**opening, "pred_text": "a blue square right of a red circle"}])
    metric.process(None, [{**opening, "pred_text": "a blue square left of a red circle"}])
    metric.process(None, [{"prompt": "…", "answer": "red", "pred_text": "red"}])
    assert metric.evaluate(3) == {"documents/paraphrase": 50.0, "documents/answers": 100.0}


def test_the_metric_reads_every_word_of_the_grammar():
    words = {word for _, caption in reference_captions(200) for word in re.findall(r"[a-z]+", caption)}
    assert {"beneath", "spotted", "little", "corner", "shapes", "its", "middle"} <= words
