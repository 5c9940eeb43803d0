"""Datasets of questions: VQAv2's two files, GQA's two forms, one sample a picture, and what does not fit."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import DefaultScope
from PIL import Image

from blip2.datasets import COCOVQA, GQA, BadImage
from blip2.registry import DATASETS
from blip2.utils.errors import AnnotationError, MissingAnnotationError, MissingImageError

# mmpretrain's pipeline.
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (16, 16), "interpolation": "bicubic", "backend": "pillow"},
    {"type": "CleanCaption", "keys": ["question"]},
    {
        "type": "PackInputs",
        "algorithm_keys": ["question", "gt_answer", "gt_answer_weight"],
        "meta_keys": ["question_id", "image_id"],
    },
]


def question(image_id, number, text):
    return {"image_id": image_id, "question": text, "question_id": image_id * 1000 + number}


QUESTIONS = [
    question(42, 0, "Is it raining?"),
    question(7, 0, "What colour is the cat?"),
    question(42, 1, "How many people?"),
    question(42, 2, "Where?"),
]
GIVEN = {
    42000: ("yes/no", "is it", ["no"] * 6 + ["yes"] * 3 + ["maybe"]),
    7000: ("other", "what colour is the", ["grey", "black", "grey"] + ["black"] * 7),
    42001: ("number", "how many", ["2"] * 10),
    42002: ("other", "where", ["park", "Park"] * 5),
}


def annotation(question_id, image_id):
    answer_type, question_type, answers = GIVEN[question_id]
    return {
        "question_id": question_id,
        "image_id": image_id,
        "answer_type": answer_type,
        "question_type": question_type,
        "multiple_choice_answer": answers[0],
        "answers": [
            {"answer": text, "answer_confidence": "yes", "answer_id": number} for number, text in enumerate(answers, 1)
        ],
    }


ANNOTATIONS = [annotation(row["question_id"], row["image_id"]) for row in QUESTIONS]


@pytest.fixture
def vqa(picture_folder):
    """``vqa(questions, annotations)``: the files beside the pictures, and the dataset's arguments."""

    def write(questions=QUESTIONS, annotations=ANNOTATIONS):
        arguments = {"data_root": str(picture_folder), "data_prefix": "val2014", "question_file": "q.json"}
        content = {"info": {}, "task_type": "Open-Ended", "questions": questions}
        (picture_folder / "q.json").write_text(content if isinstance(content, str) else json.dumps(content))
        if annotations is not None:
            (picture_folder / "a.json").write_text(json.dumps({"annotations": annotations}))
            arguments["ann_file"] = "a.json"
        return arguments

    return write


def infos(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def test_answers_are_counted_to_distinct_ones_with_their_shares(vqa):
    dataset = COCOVQA(**vqa())
    found = {
        info["question_id"]: dict(zip(info["gt_answer"], info["gt_answer_weight"], strict=True))
        for info in infos(dataset)
    }
    for question_id, (_, _, answers) in GIVEN.items():
        expected = {text: sum(other == text for other in answers) / 10 for text in answers}
        assert found[question_id] == pytest.approx(expected)
        assert sum(found[question_id].values()) == pytest.approx(1)


def test_what_the_files_say_of_a_question_is_passed_on(vqa, picture_folder):
    dataset = COCOVQA(**vqa())
    assert [info["question_id"] for info in infos(dataset)] == [42000, 7000, 42001, 42002]
    second = dataset.get_data_info(1)
    assert second["question"] == "What colour is the cat?" and second["image_id"] == 7
    assert (second["answer_type"], second["question_type"]) == ("other", "what colour is the")
    assert second["multiple_choice_answer"] == "grey"
    assert second["img_path"] == str(picture_folder / "val2014" / "COCO_val2014_000000000007.jpg")


def test_annotations_are_joined_by_their_id_whatever_their_order(vqa):
    in_order = infos(COCOVQA(**vqa()))
    assert infos(COCOVQA(**vqa(annotations=ANNOTATIONS[::-1]))) == in_order


def test_questions_load_without_annotations(vqa):
    dataset = COCOVQA(**vqa(annotations=None), pipeline=PIPELINE)
    sample = dataset[0]["data_samples"]
    assert len(dataset) == 4 and sample.question == "is it raining" and sample.question_id == 42000
    assert "gt_answer" not in sample and "gt_answer_weight" not in sample


def test_mmpretrains_dataset_config_builds_in_our_scope(vqa):
    with DefaultScope.overwrite_default_scope("blip2"):
        dataset = ROOT_DATASETS.build({"type": "COCOVQA", **vqa(), "pipeline": PIPELINE})
    sample = dataset[1]
    assert isinstance(dataset, COCOVQA) and sample["inputs"].shape == (3, 16, 16)
    assert sample["inputs"].dtype == torch.uint8
    assert sample["data_samples"].gt_answer == ["grey", "black"]
    assert sample["data_samples"].gt_answer_weight == [0.2, 0.8]
    assert sample["data_samples"].image_id == 7


# ----- one sample a picture -----


def test_a_sample_per_picture_holds_the_same_as_the_samples_of_its_questions(vqa):
    single = infos(COCOVQA(**vqa()))
    grouped = infos(COCOVQA(**vqa(), sample_per="image"))
    assert [info["image_id"] for info in grouped] == [42, 7]
    keys = ["question", "question_id", "gt_answer", "gt_answer_weight", "question_type", "answer_type"]
    for info in grouped:
        own = [other for other in single if other["image_id"] == info["image_id"]]
        for key in keys:
            assert info[key] == [other[key] for other in own], key
        assert info["img_path"] == own[0]["img_path"]


def test_a_sample_per_picture_passes_through_mmpretrains_pipeline(vqa):
    sample = COCOVQA(**vqa(), sample_per="image", pipeline=PIPELINE)[0]["data_samples"]
    assert sample.question == ["is it raining", "how many people", "where"]
    assert sample.question_id == [42000, 42001, 42002] and sample.image_id == 42
    assert sample.gt_answer == [["no", "yes", "maybe"], ["2"], ["park", "Park"]]
    assert sample.gt_answer_weight == [[0.6, 0.3, 0.1], [1.0], [0.5, 0.5]]


def test_a_sample_per_picture_without_answers(vqa):
    info = COCOVQA(**vqa(annotations=None), sample_per="image").get_data_info(0)
    assert info["question_id"] == [42000, 42001, 42002] and "gt_answer" not in info


def test_questions_are_drawn_anew_evenly_and_with_their_own_answers(vqa):
    keep = [{"type": "LoadImageFromFile"}, lambda results: results]
    dataset = COCOVQA(**vqa(), sample_per="image", questions_per_sample=2, pipeline=keep)
    seen = {}
    np.random.seed(0)
    for _ in range(300):
        sample = dataset[0]
        assert len(sample["question"]) == 2
        for question_id, answers in zip(sample["question_id"], sample["gt_answer"], strict=True):
            assert answers == list(dict.fromkeys(GIVEN[question_id][2]))
        assert len(sample["answer_type"]) == len(sample["gt_answer_weight"]) == 2
        pair = tuple(sample["question_id"])
        seen[pair] = seen.get(pair, 0) + 1
    assert len(seen) == 3 and all(70 < count < 130 for count in seen.values())
    assert len(dataset[1]["question"]) == 1  # a picture with fewer gives all
    np.random.seed(5)
    first = dataset[0]["question_id"]
    np.random.seed(5)
    assert dataset[0]["question_id"] == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_per": "picture"}, r"sample_per='picture' is unknown; choose one of \['question', 'image'\]"),
        ({"sample_per": "image", "questions_per_sample": 0}, "questions_per_sample=0 must be 1 or more"),
        ({"questions_per_sample": 2}, "goes with sample_per='image'"),
        ({"sample_per": "image", "questions_per_sample": 2, "test_mode": True}, "without test_mode"),
    ],
)
def test_impossible_arguments_are_refused(vqa, arguments, message):
    with pytest.raises(ValueError, match=message):
        COCOVQA(**vqa(), **arguments)


def test_an_argument_that_nobody_knows_is_refused(vqa):
    with pytest.raises(TypeError, match="anno_file"):
        COCOVQA(**vqa(), anno_file="a.json")
    with pytest.raises(AnnotationError, match="needs a question_file"):
        COCOVQA(data_root="x", ann_file="a.json")


# ----- pictures -----


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("COCO_val2014_000000262148.jpg", 262148),
        ("abstract_v002_val2015_000000020000.png", 20000),
        ("000000000009.PNG", 9),
        ("9.webp", 9),
        ("scene_0009.png", 9),
        ("photo_1_000000000003_crop.jpg", 3),
        ("10000000000001.jpg", 10000000000001),
        ("beach.jpg", "beach"),
    ],
)
def test_a_picture_is_found_by_the_number_in_its_name(tmp_path, name, image_id):
    (tmp_path / "img").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "img" / name)
    (tmp_path / "img" / "000000000001.txt").write_text("no picture")
    row = {"image_id": image_id, "question": "What?", "question_id": 1}
    (tmp_path / "q.json").write_text(json.dumps({"questions": [row]}))
    dataset = COCOVQA(data_root=str(tmp_path), data_prefix={"img_path": "img"}, question_file="q.json")
    assert dataset.get_data_info(0)["img_path"] == str(tmp_path / "img" / name)


def test_questions_about_pictures_that_are_not_there_are_counted_and_named(vqa):
    arguments = vqa([*QUESTIONS, question(500, 0, "Who?"), question(501, 0, "Why?")], None)
    message = (
        r"2 question\(s\) of question file .*q\.json.* the 3 of the folder .*val2014.*question 500000 about picture 500"
    )
    with pytest.raises(MissingImageError, match=message + r"\. Check data_root and data_prefix.*skip_bad_images=True"):
        COCOVQA(**arguments)
    dataset = COCOVQA(**arguments, skip_bad_images=True, pipeline=PIPELINE)
    bad = dataset[4]
    assert isinstance(bad, BadImage) and bad.image_id == 500 and "there is no such file" in bad.reason
    assert dataset[0]["data_samples"].question_id == 42000


def test_a_folder_that_is_not_there_is_named(vqa):
    with pytest.raises(MissingImageError, match=r"no folder .*val2015/?' of pictures; check data_root and data_prefix"):
        COCOVQA(**{**vqa(), "data_prefix": "val2015"})


def test_two_files_of_one_number_are_refused_where_a_question_asks(vqa, picture_folder):
    (picture_folder / "val2014" / "other_000000000139.png").touch()
    assert len(COCOVQA(**vqa())) == 4
    with pytest.raises(AnnotationError, match=r"picture 139, .* any of 2 files of .*val2014.*000139.*Keep one"):
        COCOVQA(**vqa([question(139, 0, "Who?")], None))


# ----- annotation files that do not fit -----


def changed(row, **fields):
    return {key: value for key, value in {**row, **fields}.items() if value is not ...}


@pytest.mark.parametrize(
    ("questions", "annotations", "message"),
    [
        ([], None, r"q\.json is empty: it holds no questions"),
        ([3], None, r"q\.json, question 0 is 3; it should be an object"),
        ([changed(QUESTIONS[0], question=...)], None, r"q\.json, question 0 lacks 'question', it has \['image_id'"),
        ([changed(QUESTIONS[0], image_id=...)], None, "question 0 lacks 'image_id'"),
        ([changed(QUESTIONS[0], question_id=...)], None, "question 0 lacks 'question_id'"),
        (
            [QUESTIONS[0], changed(QUESTIONS[1], question="  ")],
            None,
            r"question 1: the question is '  '; write one, or",
        ),
        ([changed(QUESTIONS[0], question=None)], None, "question 0: the question is None"),
        ([changed(QUESTIONS[0], question_id=1.5)], None, "question 0: 'question_id' is 1.5; it should be a number"),
        ([QUESTIONS[0], QUESTIONS[0]], None, "question 1: the question_id 42000 was given before"),
        (QUESTIONS, ANNOTATIONS[:3], r"question 3: question_id 42002 has no answers in .*a\.json; check that both"),
        (
            QUESTIONS[:2],
            ANNOTATIONS,
            r"a\.json answers 2 question\(s\) that are not in .*q\.json, .* question_id 42001",
        ),
        (QUESTIONS[:1], [changed(ANNOTATIONS[0], answers=...)], r"a\.json, annotation 0 lacks 'answers'"),
        (QUESTIONS[:1], [changed(ANNOTATIONS[0], answers=[])], r"annotation 0: 'answers' is \[\]; it should be a list"),
        (QUESTIONS[:1], [changed(ANNOTATIONS[0], answers=["no"])], r"annotation 0: 'answers' is \['no'\]"),
        (QUESTIONS[:1], [changed(ANNOTATIONS[0], image_id=7)], "is about picture 42, but about 7 in .*a.json"),
        (QUESTIONS[:1], [ANNOTATIONS[0]] * 2, r"annotation 1: question_id 42000 was answered before"),
    ],
)
def test_files_that_do_not_fit_are_explained(vqa, questions, annotations, message):
    with pytest.raises(AnnotationError, match=message):
        COCOVQA(**vqa(questions, annotations))


def test_exchanged_and_other_files_are_explained(vqa):
    arguments = vqa()
    exchanged = {**arguments, "question_file": "a.json", "ann_file": "q.json"}
    with pytest.raises(AnnotationError, match=r"a\.json holds an object with the keys \['annotations'\].*exchanged"):
        COCOVQA(**exchanged)
    with pytest.raises(AnnotationError, match=r"q\.json holds an object with the keys.*list of 'annotations'"):
        COCOVQA(**{**arguments, "ann_file": "q.json"})


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("mine.json", "Check question_file and data_root"),
        ("v2_OpenEnded_mscoco_val2014_questions.json", "Fetch it from https://visualqa.org/download.html"),
    ],
)
def test_a_missing_question_file_is_named_with_where_to_get_it(vqa, name, step):
    with pytest.raises(MissingAnnotationError, match=rf"there is no annotation file .*{name}\. {step}"):
        COCOVQA(**{**vqa(), "question_file": name})


# ----- GQA -----

LAVIS_FORM = [
    {"image": "COCO_val2014_000000000007.jpg", "question": "Is it overcast?", "answer": "no", "question_id": "0001"},
    {"image": "COCO_val2014_000000000042.jpg", "question": "Who is it?", "answer": "man", "question_id": "n2"},
    {"image": "COCO_val2014_000000000007.jpg", "question": "Why?", "answer": "rain", "question_id": "0003"},
]


@pytest.fixture
def gqa(picture_folder):
    def write(content):
        (picture_folder / "gqa.json").write_text(json.dumps(content))
        return {"data_root": str(picture_folder), "data_prefix": "val2014", "ann_file": "gqa.json"}

    return write


def test_gqa_in_laviss_form_goes_through_mmpretrains_pipeline(gqa):
    dataset = DATASETS.build({"type": "GQA", **gqa(LAVIS_FORM), "pipeline": PIPELINE})
    sample = dataset[0]["data_samples"]
    assert isinstance(dataset, GQA) and len(dataset) == 3
    assert (sample.question, sample.gt_answer, sample.question_id) == ("is it overcast", "no", 1)
    assert "gt_answer_weight" not in sample
    assert [info["question_id"] for info in infos(dataset)] == [1, "n2", 3]


def test_gqas_own_form_is_that_of_an_object_by_question(picture_folder, gqa):
    (picture_folder / "val2014" / "n161313.jpg").write_bytes(
        (picture_folder / "val2014" / "COCO_val2014_000000000007.jpg").read_bytes()
    )
    own = {
        "201307251": {"imageId": "n161313", "question": "Is it?", "answer": "yes", "fullAnswer": "Yes, it is."},
        "02": {"imageId": "COCO_val2014_000000000042", "question": "Or not?"},
    }
    first, second = infos(GQA(**gqa(own)))
    assert (first["question_id"], first["image_id"], first["gt_answer"]) == (201307251, "n161313", "yes")
    assert first["img_path"].endswith("val2014/n161313.jpg")
    assert second["question_id"] == 2 and "gt_answer" not in second


def test_gqa_with_a_sample_per_picture_has_lists_as_vqav2_has(gqa):
    first, second = infos(GQA(**gqa(LAVIS_FORM), sample_per="image"))
    assert first["question"] == ["Is it overcast?", "Why?"] and first["gt_answer"] == [["no"], ["rain"]]
    assert first["gt_answer_weight"] == [[1.0], [1.0]] and second["question_id"] == ["n2"]
    with pytest.raises(AnnotationError, match=r"000007\.jpg have 'gt_answer' and others don't"):
        GQA(**gqa([LAVIS_FORM[0], changed(LAVIS_FORM[2], answer=...)]), sample_per="image")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"gqa\.json is empty: it holds no questions"),
        (3, r"gqa\.json holds int; it should be GQA's object"),
        ({"1": 3}, r"question '1' is 3; it should be an object"),
        ({"1": {"question": "What?"}}, r"gqa\.json, question '1' lacks 'image'"),
        ([{"image": "a.jpg"}], "question 0 lacks 'question'"),
        ([changed(LAVIS_FORM[0], question="")], "question 0: the question is ''"),
        ([changed(LAVIS_FORM[0], answer=["no"])], r"question 0: 'answer' is \['no'\]; it should be a text"),
        ([changed(LAVIS_FORM[0], question_id=[1])], r"question 0: 'question_id' is \[1\]"),
    ],
)
def test_gqa_files_that_do_not_fit_are_explained(gqa, content, message):
    with pytest.raises(AnnotationError, match=message):
        GQA(**gqa(content))


def test_gqa_pictures_that_are_not_there_are_named(gqa):
    with pytest.raises(MissingImageError, match=r"1 picture\(s\) named by annotation file .*gqa\.json.*n9\.jpg"):
        GQA(**gqa([{**LAVIS_FORM[0], "image": "n9.jpg"}]))
    with pytest.raises(AnnotationError, match="GQA needs an ann_file"):
        GQA(data_root="x")
