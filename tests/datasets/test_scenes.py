"""The scenes' generator: what it draws, writes and says."""

import json
import random

import numpy as np
import pytest
from PIL import Image

from blip2.datasets import COCOCaption, TextDocuments
from blip2.datasets.scenes.documents import document, validation_document
from blip2.datasets.scenes.generate import generate
from blip2.datasets.scenes.grammar import NUMBER_WORDS, captions, clear_pairs
from blip2.datasets.scenes.render import PALETTE, draw_scene
from blip2.datasets.scenes.sample import random_scene
from blip2.datasets.scenes.tokenizer import train_tokenizer
from blip2.registry import TOKENIZER
from blip2.structures.scene import COLOURS, HELD_OUT, SHAPES, Scene, SceneObject
from blip2.utils.errors import AnnotationError, MissingAnnotationError

COUNTS = {"train": 12, "val": 3, "test": 4, "held_out": 4, "documents": 20}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(generate(folder, COUNTS, workers=1))
    return folder


def pairs_of(scene):
    return {(obj.colour, obj.shape) for obj in scene.objects}


def test_training_scenes_hold_no_held_out_combination_and_the_held_out_split_always_one():
    for seed in range(300):
        assert not pairs_of(random_scene(random.Random(seed), "seen")) & HELD_OUT
        assert pairs_of(random_scene(random.Random(seed), "held_out")) & HELD_OUT


def test_each_colour_and_each_shape_is_held_out_once():
    assert sorted(colour for colour, _ in HELD_OUT) == sorted(COLOURS)
    assert sorted(shape for _, shape in HELD_OUT) == sorted(SHAPES)


def test_scenes_have_two_to_four_objects_and_a_clear_relation():
    scenes = [random_scene(random.Random(seed)) for seed in range(300)]
    assert {len(scene.objects) for scene in scenes} == {2, 3, 4}
    assert all(clear_pairs(scene) for scene in scenes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 96, 384])
def test_an_object_is_drawn_where_the_scene_says_in_its_colour(shape, size):
    scene = Scene((SceneObject(shape, "blue", "large", "plain", 0.3, 0.7, 0.17),), "flat")
    pixels = np.asarray(draw_scene(scene, random.Random(1), size)).astype(float)
    blue = np.abs(pixels - PALETTE["blue"]).max(axis=2) < 45
    rows, columns = np.nonzero(blue)
    assert abs(columns.mean() / size - 0.3) < 0.05
    assert abs(rows.mean() / size - 0.7) < 0.05
    assert 0.02 < blue.mean() < np.pi * 0.17**2 + 0.01


def test_captions_differ_and_vary_in_wording():
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(100)]
    written = [captions(scene, rng) for scene in scenes]
    assert all(len(set(five)) == 5 for five in written)
    openings = {" ".join(text.split()[:3]) for five in written for text in five}
    assert len(openings) > 100


def test_the_same_seed_writes_the_same_files_whatever_the_number_of_workers(root, tmp_path):
    list(generate(tmp_path / "again", COUNTS, workers=2))
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert (
        len(files) == 12 + 3 + 4 + 4 + 5 * 4 + 1 + 2 + 3
    )  # pictures, five files a split, places, galleries, documents
    for file in files:
        assert (root / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_splits_share_no_picture(root):
    seen = [path.read_bytes() for path in (root / "images").rglob("*.jpg")]
    assert len(set(seen)) == len(seen)


def test_the_annotations_are_read_as_cocos(root):
    dataset = COCOCaption(ann_file="annotations/test.json", data_root=str(root))
    rows = json.loads((root / "annotations/test.json").read_text())
    assert [dataset[i]["image_id"] for i in range(len(dataset))] == [row["image_id"] for row in rows]
    assert dataset[0]["gt_caption"] == rows[0]["caption"]
    assert Image.open(dataset[0]["img_path"]).size == (96, 96)
    references = json.loads((root / "annotations/test_gt.json").read_text())
    assert len(references["annotations"]) == 5 * len(references["images"]) == 20


def test_a_folder_that_holds_something_is_left_alone(root):
    before = sorted(root.rglob("*"))
    with pytest.raises(FileExistsError, match="not empty: name a new folder"):
        list(generate(root, COUNTS))
    assert sorted(root.rglob("*")) == before


def test_an_unknown_split_is_named_with_the_valid_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no split is called tests; there are train, val"):
        list(generate(tmp_path, {"tests": 1}))


def test_documents_state_in_the_context_what_their_line_says():
    digits = {False: 0, True: 0}
    for seed in range(400):
        counts = seed % 2 == 0
        context, line = document(random.Random(seed), counts).split("</s>")
        words = {w for w in line.replace(",", "").split() if w in COLOURS or w.removesuffix("s") in SHAPES}
        if line.startswith("Question:"):
            answer = line.split("Answer: ")[1].strip()
            if answer.isdigit():
                digits[counts] += 1
                named = " ".join(
                    w.removesuffix("es" if w == "crosses" else "s") for w in line.split()[3:] if w in words
                )
                told = NUMBER_WORDS[int(answer)] in context.split() if int(answer) > 1 else named in context
                assert told == (answer != "0"), (context, line)
                continue
            assert answer == "no" or answer in context or all(w in context for w in words), (context, line)
        else:
            assert all(word in context for word in words), (context, line)
        assert line.endswith("\n")
    assert digits[True] > 0 == digits[False]


def test_validation_documents_ask_for_a_paraphrase_or_an_answer():
    rows = [validation_document(random.Random(seed)) for seed in range(100)]
    assert {"scene" in row for row in rows} == {True, False}
    assert all(("scene" in row) != ("answer" in row) for row in rows)


def test_text_documents_come_as_data_samples(root):
    sample = TextDocuments("documents/train.jsonl", str(root))[0]["data_samples"]
    assert "</s>" in sample.text
    checked = TextDocuments("documents/val.jsonl", str(root), test_mode=True)[0]["data_samples"]
    assert checked.prompt.split("</s>")[1] == "there is" or "Answer:" in checked.prompt


def test_a_missing_or_odd_document_file_is_named(tmp_path):
    with pytest.raises(MissingAnnotationError, match="blip2 scenes"):
        TextDocuments(str(tmp_path / "none.jsonl"))
    (tmp_path / "odd.jsonl").write_text('{"text": "a"}\n{"words": "b"}\n')
    with pytest.raises(AnnotationError, match="line 2"):
        TextDocuments(str(tmp_path / "odd.jsonl"))


def test_the_tokenizer_is_of_opts_kind_and_has_a_token_for_each_word(tmp_path):
    texts = [document(random.Random(seed), counts=True).replace("</s>", "\n") for seed in range(3000)]
    tokenizer = TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": str(train_tokenizer(texts, tmp_path / "t"))})
    (ids,) = tokenizer.encode(["a red circle</s>there is a heart\n"])
    assert ids[0] == 2 and tokenizer.pad_token_id == 1
    assert len(ids) == 1 + 3 + 1 + 4 + 1
    assert ids[-1] == tokenizer.token_id("\n")
