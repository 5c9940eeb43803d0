"""Questions and galleries of drawn scenes, checked by a solver that reads the question's words."""

import json
import random
import re
from collections import Counter

import pytest

from blip2.datasets.scenes.gallery import gallery_captions
from blip2.datasets.scenes.generate import generate
from blip2.datasets.scenes.questions import KINDS, Question, questions
from blip2.datasets.scenes.sample import random_scene
from blip2.structures.scene import COLOURS, SHAPES, Scene, SceneObject
from blip2.structures.scene_reading import judge_caption

SIZES = {"small": "small", "little": "small", "large": "large", "big": "large"}
TEXTURES = {"striped": "striped", "dotted": "dotted", "spotted": "dotted"}
DIRECTIONS = {"over": "above", "under": "below", "beneath": "below"}
RELATION = r"(?:to the |on the )?(?P<r>left|right|above|over|below|under|beneath)(?: of)?"


def find(scene, words):
    """The objects that a name such as 'small red circles' fits."""
    tests = {"size": SIZES, "texture": TEXTURES}
    found = list(scene.objects)
    for word in words.split():
        word = {"crosses": "cross"}.get(word, word[:-1] if word.endswith("s") and word != "cross" else word)
        if word in COLOURS:
            found = [o for o in found if o.colour == word]
        elif word in SHAPES:
            found = [o for o in found if o.shape == word]
        elif word in SIZES:
            found = [o for o in found if o.size == tests["size"][word]]
        elif word in TEXTURES:
            found = [o for o in found if o.texture == tests["texture"][word]]
        else:
            assert word in ("shape", "object"), word
    return found


def lies(first, direction, second):
    """The angle seen from `second`, in words of its own: within 45 degrees of the axis for a clear yes."""
    dx, dy = first.x - second.x, first.y - second.y
    along = {"left": -dx, "right": dx, "above": -dy, "below": dy}[DIRECTIONS.get(direction, direction)]
    across = abs(dy) if direction in ("left", "right") else abs(dx)
    return along > 0 and along >= across


def solve(scene, text):
    def one(words):
        (obj,) = find(scene, words)
        return obj

    def yes(value):
        return "yes" if value else "no"

    if m := re.fullmatch(r"(?:what color is|what is the color of) the (.+)\?", text):
        if n := re.fullmatch(rf"shape {RELATION} the (?P<x>.+)", m[1]):
            return next(o.colour for o in scene.objects if lies(o, n["r"], one(n["x"])))
        return one(m[1]).colour
    if m := re.fullmatch(rf"what (?P<w>shape )?is {RELATION} the (?P<x>.+)\?", text):
        obj = next(o for o in scene.objects if lies(o, m["r"], one(m["x"])))
        return obj.shape if m["w"] else f"{obj.colour} {obj.shape}"
    if m := re.fullmatch(r"(?:what shape is|what is the shape of) the (.+)\?", text):
        return one(m[1]).shape
    if m := re.fullmatch(r"how many (.+) are (?:there|in the picture)\?", text):
        return str(len(find(scene, m[1])))
    if m := re.fullmatch(r"(?:is there|do you see) an? (.+?)(?: in the picture)?\?", text):
        return yes(find(scene, m[1]))
    if m := re.fullmatch(r"do the (.+) and the (.+) have the same color\?", text):
        return yes(one(m[1]).colour == one(m[2]).colour)
    if m := re.fullmatch(r"are there more (.+) than (.+)\?", text):
        return yes(len(find(scene, m[1])) > len(find(scene, m[2])))
    if m := re.fullmatch(r"is the (.+) (larger|bigger|smaller) than the (.+)\?", text):
        first, second = one(m[1]), one(m[3])
        assert first.size != second.size
        return yes((first.radius > second.radius) == (m[2] != "smaller"))
    m = re.fullmatch(rf"is the (?P<a>.+?) {RELATION} the (?P<b>.+)\?", text)
    assert m, text
    return yes(lies(one(m["a"]), m["r"], one(m["b"])))


def test_a_solver_that_reads_the_question_finds_the_same_answer():
    asked = Counter()
    for seed in range(1500):
        rng = random.Random(seed)
        scene = random_scene(rng, "any")
        for question in questions(scene, rng):
            assert solve(scene, question.text) == question.answer, (question.text, scene)
            asked[question.kind] += 1
    assert set(asked) == set(KINDS)
    assert min(asked.values()) > 1000


def test_the_answers_are_balanced_where_a_guess_would_pay():
    given: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for seed in range(2000):
        rng = random.Random(seed)
        for question in questions(random_scene(rng), rng):
            given[question.kind][question.answer] += 1
    for kind in ("existence", "comparison", "relation"):
        yes, no = given[kind]["yes"], given[kind]["no"]
        assert 0.4 < yes / (yes + no) < 0.6, (kind, given[kind])
    for kind in ("color", "shape"):
        assert max(given[kind].values()) < 0.2 * given[kind].total()
    assert given["count"].most_common(1)[0][1] < 0.5 * given["count"].total()


@pytest.mark.parametrize(
    ("answer", "answer_type"), [("yes", "yes/no"), ("no", "yes/no"), ("3", "number"), ("red star", "other")]
)
def test_ten_people_answer_and_most_are_right(answer, answer_type):
    question = Question("?", answer, "count")
    assert question.answer_type == answer_type
    said = [question.answers(random.Random(seed)) for seed in range(400)]
    assert all(len(ten) == 10 and ten.count(answer) >= 6 for ten in said)
    disputed = [ten for ten in said if ten.count(answer) < 10]
    assert 0.08 < len(disputed) / len(said) < 0.25
    assert any(ten.count(answer) <= 7 for ten in disputed)


def test_a_gallery_caption_is_true_of_its_picture_alone():
    rng = random.Random(3)
    scenes = [random_scene(rng) for _ in range(60)]
    texts = gallery_captions(scenes, rng)
    assert len({text for five in texts for text in five}) == 5 * 60
    for place, five in enumerate(texts):
        for text in five:
            assert [i for i, scene in enumerate(scenes) if judge_caption(text, scene).exact] == [place]


def test_two_pictures_of_the_same_scene_are_no_gallery():
    objects = tuple(SceneObject("star", c, "small", "plain", x, 0.5, 0.09) for c, x in (("red", 0.2), ("blue", 0.8)))
    with pytest.raises(ValueError, match="scene 0 of the gallery cannot be told from the others"):
        gallery_captions([Scene(objects, "flat"), Scene(objects, "tiles")], random.Random(0))


def test_questions_are_written_as_vqav2_has_them(tmp_path):
    list(generate(tmp_path / "d", {"train": 3, "val": 2, "test": 2, "held_out": 1, "documents": 2}, workers=1))
    asked = json.loads((tmp_path / "d/questions/test.json").read_text())["questions"]
    answered = json.loads((tmp_path / "d/questions/test_answers.json").read_text())["annotations"]
    assert [q["question_id"] for q in asked] == [a["question_id"] for a in answered]
    assert len({q["question_id"] for q in asked}) == len(asked)
    names = {path.stem for path in (tmp_path / "d/images/test").iterdir()}
    assert {f"{q['image_id']:012d}" for q in asked} == names
    for annotation in answered:
        said = Counter(answer["answer"] for answer in annotation["answers"])
        assert said.total() == 10
        assert said.most_common(1)[0][0] == annotation["multiple_choice_answer"]
        assert [answer["answer_id"] for answer in annotation["answers"]] == list(range(1, 11))
