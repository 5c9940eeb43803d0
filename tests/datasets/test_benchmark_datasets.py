"""NoCaps, Flickr30k, TextVQA, VizWiz and Visual Genome from hand-made miniatures in the published forms."""

import json

import numpy as np
import pytest
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import DefaultScope
from PIL import Image

from blip2.datasets import Flickr30kCaption, Flickr30kRetrieval, NoCaps, TextVQA, VisualGenomeQA, VizWiz
from blip2.utils.errors import AnnotationError, MissingAnnotationError, MissingImageError


def pictures(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 9, 3), 20 * number, np.uint8)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path.name


def infos(dataset):
    return [
        {key: value for key, value in dataset.get_data_info(index).items() if key != "sample_idx"}
        for index in range(len(dataset))
    ]


# ----- NoCaps -----

NOCAPS = {
    "licenses": [],
    "info": {"version": "0.1", "contributor": "nocaps team", "year": 2018},
    "images": [
        {"id": 0, "open_images_id": "0013ea2087020901", "file_name": "0013ea2087020901.jpg", "domain": "near-domain"},
        {"id": 1, "open_images_id": "0040000000000000", "file_name": "0040000000000000.jpg", "domain": "in-domain"},
    ],
    "annotations": [
        {"image_id": 0, "id": 0, "caption": "A baby is standing."},
        {"image_id": 1, "id": 1, "caption": "A yak."},
        {"image_id": 0, "id": 2, "caption": "A baby in white."},
    ],
}
IMAGE_INFO = {key: value for key, value in NOCAPS.items() if key != "annotations"}
LAVIS_NOCAPS = [{"image": "0013ea2087020901.jpg", "img_id": 0}, {"image": "0040000000000000.jpg", "img_id": 1}]


@pytest.fixture
def nocaps(tmp_path):
    pictures(tmp_path / "images", *(image["file_name"] for image in NOCAPS["images"]))
    return {"data_root": str(tmp_path), "data_prefix": {"img_path": "images/"}}


@pytest.mark.parametrize(
    ("content", "captions"),
    [(NOCAPS, [["A baby is standing.", "A baby in white."], ["A yak."]]), (IMAGE_INFO, None), (LAVIS_NOCAPS, None)],
    ids=["with captions", "image info", "LAVIS"],
)
def test_nocaps_has_a_sample_a_picture_in_every_form(nocaps, tmp_path, content, captions):
    with DefaultScope.overwrite_default_scope("blip2"):
        dataset = ROOT_DATASETS.build(
            dict(type="NoCaps", ann_file=write(tmp_path / "nocaps_val.json", content), **nocaps)
        )
    found = infos(dataset)
    assert [info["image_id"] for info in found] == [0, 1]
    assert [info["img_path"] for info in found] == [
        str(tmp_path / f"images/{name}.jpg") for name in ("0013ea2087020901", "0040000000000000")
    ]
    assert captions is None or [info["gt_caption"] for info in found] == captions
    assert captions is not None or not any("gt_caption" in info for info in found)


def test_a_missing_nocaps_file_is_named_with_where_to_get_it(nocaps):
    with pytest.raises(MissingAnnotationError, match=r"Fetch it from https://s3\.amazonaws\.com/nocaps/nocaps_test_"):
        NoCaps(ann_file="nocaps_test_image_info.json", **nocaps)


# ----- Flickr30k -----


def karpathy(imgid, split, *texts):
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": imgid, "sentid": 5 * imgid + k}
        for k, text in enumerate(texts)
    ]
    name = f"{1000092795 + imgid}.jpg"
    return {"sentids": [], "imgid": imgid, "sentences": sentences, "split": split, "filename": name}


FLICKR30K = {
    "images": [
        karpathy(0, "train", "Two men.", "Two friends."),
        karpathy(1, "test", "A dog.", "Some dog.", "It barks."),
        karpathy(2, "train", "A hat."),
        karpathy(3, "test", "A boat.", "Water."),
    ],
    "dataset": "flickr30k",
}


@pytest.fixture
def flickr30k(tmp_path):
    pictures(tmp_path / "images", *(image["filename"] for image in FLICKR30K["images"]))
    name = write(tmp_path / "annotations/dataset_flickr30k.json", FLICKR30K)
    return {"data_root": str(tmp_path), "data_prefix": "images", "ann_file": f"annotations/{name}"}


def test_flickr30k_captions_are_a_sample_each_by_default_and_a_picture_on_demand(flickr30k, tmp_path):
    expected = [
        {"image_id": i, "img_path": str(tmp_path / f"images/{1000092795 + i}.jpg"), "gt_caption": text}
        for i, text in ((0, "Two men."), (0, "Two friends."), (2, "A hat."))
    ]
    assert infos(Flickr30kCaption(split="train", **flickr30k)) == expected
    tests = infos(Flickr30kCaption(split="test", sample_per="image", **flickr30k))
    assert [info["gt_caption"] for info in tests] == [["A dog.", "Some dog.", "It barks."], ["A boat.", "Water."]]


def test_flickr30k_retrieval_numbers_pictures_and_texts_from_zero(flickr30k, tmp_path):
    dataset = Flickr30kRetrieval(split="test", test_mode=True, **flickr30k)
    assert (dataset.img_size, dataset.text_size) == (2, 5)
    assert infos(dataset)[1] == {
        "ori_id": 3,
        "image_id": 1,
        "img_path": str(tmp_path / "images/1000092798.jpg"),
        "text": ["A boat.", "Water."],
        "gt_text_id": [3, 4],
        "gt_image_id": [1, 1],
    }
    training = Flickr30kRetrieval(split="train", **flickr30k)
    assert [info["text"] for info in infos(training)] == ["Two men.", "Two friends.", "A hat."]


@pytest.mark.parametrize("kind", [Flickr30kCaption, Flickr30kRetrieval])
def test_flickr30k_without_a_split_names_those_of_the_file(flickr30k, kind):
    with pytest.raises(AnnotationError, match=r"has no split ''; give one of \['test', 'train'\] as split"):
        kind(**flickr30k)


def test_flickr30k_in_laviss_form_needs_no_split(flickr30k, tmp_path):
    rows = [{"image": "images/1000092795.jpg", "caption": ["Two men.", "Two friends."]}]
    arguments = {"data_root": str(tmp_path), "ann_file": write(tmp_path / "flickr30k_test.json", rows)}
    assert len(Flickr30kCaption(**arguments)) == 2
    assert Flickr30kRetrieval(test_mode=True, **arguments).text_size == 2


# ----- TextVQA -----

ANSWERS = ["nokia"] * 7 + ["Nokia", "toshiba", "nokia"]
TEXTVQA = {
    "dataset_type": "val",
    "dataset_name": "textvqa",
    "dataset_version": "0.5.1",
    "data": [
        {
            "question": "what is the brand of this camera?",
            "image_id": "003a8ae2ef43b901",
            "image_classes": ["Printer"],
            "image_width": 1024,
            "image_height": 664,
            "question_tokens": ["what"],
            "question_id": 34602,
            "set_name": "val",
            "answers": ANSWERS,
        },
        {"question": "what does it say?", "image_id": "0054189500000123", "question_id": 34603, "answers": ["a"] * 10},
    ],
}


@pytest.fixture
def textvqa(tmp_path):
    pictures(tmp_path / "train_images", *(f"{row['image_id']}.jpg" for row in TEXTVQA["data"]))

    def arguments(content=TEXTVQA):
        name = write(tmp_path / "TextVQA_0.5.1_val.json", content)
        return {"data_root": str(tmp_path), "data_prefix": "train_images", "ann_file": name}

    return arguments


def test_textvqa_counts_ten_answers_and_finds_its_pictures(textvqa, tmp_path):
    first, second = infos(TextVQA(**textvqa()))
    assert first["question_id"] == 34602 and first["image_id"] == "003a8ae2ef43b901"
    assert first["question"] == "what is the brand of this camera?"
    weights = dict(zip(first["gt_answer"], first["gt_answer_weight"], strict=True))
    assert weights == pytest.approx({"nokia": 0.8, "Nokia": 0.1, "toshiba": 0.1})
    # An id of digits alone is a number for the metrics, but its file keeps the zeros.
    assert second["image_id"] == 54189500000123
    assert second["img_path"] == str(tmp_path / "train_images/0054189500000123.jpg")


def test_textvqa_without_answers_is_the_test_split(textvqa):
    rows = [{key: value for key, value in row.items() if key != "answers"} for row in TEXTVQA["data"]]
    assert not any("gt_answer" in info for info in infos(TextVQA(**textvqa({"data": rows}))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "isn't TextVQA's object with a list 'data'"),
        ({"data": []}, "holds no questions"),
        ({"data": [{"question": "a?", "image_id": "x"}]}, "item 0 lacks 'question_id'"),
        ({"data": [{"question": " ", "image_id": "x", "question_id": 1}]}, "item 0: the question is ' '"),
        (
            {"data": [{"question": "a?", "image_id": "x", "question_id": 1, "answers": [{"answer": "a"}]}]},
            "it should be a list of texts",
        ),
    ],
)
def test_textvqa_files_that_do_not_fit_are_explained(textvqa, content, message):
    with pytest.raises(AnnotationError, match=message):
        TextVQA(**textvqa(content))


# ----- VizWiz -----


def said(*answers):
    return [{"answer": answer, "answer_confidence": confidence} for answer, confidence in answers]


VIZWIZ = [
    {
        "image": "VizWiz_val_00000001.jpg",
        "question": "Can you tell me what this medicine is please?",
        "answers": said(
            ("night time", "maybe"), ("unanswerable", "yes"), ("night time", "yes"), *[("nyquil", "yes")] * 7
        ),
        "answer_type": "other",
        "answerable": 1,
    },
    {
        "image": "VizWiz_val_00000000.jpg",
        "question": "Ok. There is another picture I hope it is a better one.",
        "answers": said(*[("unanswerable", "yes")] * 9, ("unsuitable image", "yes")),
        "answer_type": "unanswerable",
        "answerable": 0,
    },
]


@pytest.fixture
def vizwiz(tmp_path):
    pictures(tmp_path / "val", *(row["image"] for row in VIZWIZ))

    def arguments(content=VIZWIZ):
        name = write(tmp_path / "Annotations/val.json", content)
        return {"data_root": str(tmp_path), "data_prefix": "val", "ann_file": f"Annotations/{name}"}

    return arguments


def test_vizwiz_keeps_all_questions_and_answers_by_the_pictures_name(vizwiz, tmp_path):
    first, second = infos(VizWiz(**vizwiz()))
    assert first["question_id"] == first["image_id"] == "VizWiz_val_00000001"
    assert first["img_path"] == str(tmp_path / "val/VizWiz_val_00000001.jpg")
    weights = dict(zip(first["gt_answer"], first["gt_answer_weight"], strict=True))
    assert weights == pytest.approx({"night time": 0.2, "unanswerable": 0.1, "nyquil": 0.7})
    assert (first["answer_type"], second["answer_type"]) == ("other", "unanswerable")
    assert second["gt_answer"][0] == "unanswerable" and second["gt_answer_weight"][0] == pytest.approx(0.9)


def test_vizwizs_answerable_questions_are_mmpretrains_choice(vizwiz):
    (only,) = infos(VizWiz(answerable_only=True, **vizwiz()))
    weights = dict(zip(only["gt_answer"], only["gt_answer_weight"], strict=True))
    assert weights == pytest.approx({"night time": 1 / 8, "nyquil": 7 / 8})


def test_vizwizs_test_split_has_pictures_and_questions_alone(vizwiz):
    rows = [{"image": row["image"], "question": row["question"]} for row in VIZWIZ]
    for answerable_only in (False, True):
        found = infos(VizWiz(answerable_only=answerable_only, **vizwiz(rows)))
        assert [set(info) for info in found] == [{"img_path", "image_id", "question", "question_id"}] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": []}, "isn't VizWiz's list"),
        ([], "holds no questions"),
        ([{"question": "a?"}], "item 0 lacks 'image'"),
        ([VIZWIZ[0], VIZWIZ[0]], "item 1: the picture VizWiz_val_00000001.jpg was asked about before"),
        ([{**VIZWIZ[0], "answers": ["a"]}], r"it should be a list of \{answer: text\}"),
    ],
)
def test_vizwiz_files_that_do_not_fit_are_explained(vizwiz, content, message):
    with pytest.raises(AnnotationError, match=message):
        VizWiz(**vizwiz(content))


# ----- Visual Genome -----


def asked(qa_id, image_id, question, answer):
    row = {"a_objects": [], "q_objects": [], "qa_id": qa_id, "image_id": image_id}
    return {**row, "question": question, "answer": answer}


VISUAL_GENOME = [
    {"id": 1, "qas": [asked(986768, 1, "What color is the clock?", "Green."), asked(986777, 1, "How many?", "Two.")]},
    {"id": 2315, "qas": [asked(5, 2315, "Where is the star?", "Left.")]},
    {"id": 3, "qas": []},
]


@pytest.fixture
def visual_genome(tmp_path):
    pictures(tmp_path, "image/VG_100K/2315.jpg", "image/VG_100K_2/1.jpg")

    def arguments(content=VISUAL_GENOME):
        write(tmp_path / "question_answers.json", content)
        return {"data_root": str(tmp_path)}

    return arguments


def test_visual_genomes_pictures_are_found_in_both_of_its_folders(visual_genome, tmp_path):
    found = infos(VisualGenomeQA(**visual_genome()))
    assert [info["question_id"] for info in found] == [986768, 986777, 5]
    assert [info["img_path"] for info in found] == [
        str(tmp_path / "image" / name) for name in ("VG_100K_2/1.jpg", "VG_100K_2/1.jpg", "VG_100K/2315.jpg")
    ]
    assert (found[1]["gt_answer"], found[1]["gt_answer_weight"]) == (["Two."], [1.0])


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({}, AnnotationError, "isn't Visual Genome's list"),
        ([{"id": 1}], AnnotationError, "picture 0 lacks 'qas'"),
        ([{"id": 3, "qas": []}], AnnotationError, "holds no questions"),
        ([{"id": 1, "qas": [asked(1, 1, "a?", 2)]}], AnnotationError, "picture 0, question 0: 'answer' is 2"),
        ([{"id": 9, "qas": [asked(1, 9, "a?", "b")]}], MissingImageError, "the first is question 1 about picture 9"),
    ],
)
def test_visual_genome_files_that_do_not_fit_are_explained(visual_genome, content, error, message):
    with pytest.raises(error, match=message):
        VisualGenomeQA(**visual_genome(content))


def test_mmpretrains_arguments_build_in_our_scope(tmp_path, textvqa, vizwiz, visual_genome, flickr30k):
    configs = [
        dict(type="TextVQA", **textvqa()),
        dict(type="VizWiz", **vizwiz()),
        dict(type="VisualGenomeQA", **visual_genome()),
        dict(type="Flickr30kCaption", split="train", **flickr30k),
        dict(type="Flickr30kRetrieval", split="train", **flickr30k),
    ]
    with DefaultScope.overwrite_default_scope("blip2"):
        assert [len(ROOT_DATASETS.build(config)) for config in configs] == [2, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("kind", "name", "source"),
    [
        (TextVQA, "TextVQA_0.5.1_val.json", r"https://dl\.fbaipublicfiles\.com/textvqa/data/TextVQA_0\.5\.1_val\.json"),
        (VizWiz, "vizwiz/Annotations/val.json", r"https://vizwiz\.org/tasks-and-datasets/vqa/"),
        (VisualGenomeQA, "question_answers.json", r"https://homes\.cs\.washington\.edu/"),
        (Flickr30kRetrieval, "dataset_flickr30k.json", r"https://cs\.stanford\.edu/people/karpathy/"),
    ],
)
def test_a_missing_file_is_named_with_where_to_get_it(tmp_path, kind, name, source):
    with pytest.raises(MissingAnnotationError, match=rf"there is no annotation file .*{name}\. Fetch it from {source}"):
        kind(data_root=str(tmp_path), ann_file=name)


@pytest.mark.parametrize("kind", [TextVQA, VizWiz])
def test_an_annotation_file_must_be_given(kind):
    with pytest.raises(AnnotationError, match=f"{kind.__name__} needs an ann_file, such as"):
        kind(data_root="data")
