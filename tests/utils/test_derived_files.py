"""Derived files: their forms, and that the data sets read from them what they read from the originals."""

import json
import os
import subprocess
import sys

import pytest
from pycocotools.coco import COCO

from blip2.datasets import GQA, COCOCaption, COCORetrieval, Flickr30kCaption, NoCaps
from blip2.utils.annotations import group_by_image, read_captions
from blip2.utils.derived_files import gqa, karpathy, nocaps, vqa, write_files
from blip2.utils.errors import AnnotationError
from blip2.utils.resources import resources_root


def picture(number, split, folder, *texts):
    name = f"COCO_{folder}_{number:012d}.jpg"
    sentences = [{"raw": text, "imgid": number, "sentid": k} for k, text in enumerate(texts)]
    return {"split": split, "filepath": folder, "filename": name, "cocoid": number, "sentences": sentences}


COCO_FILE = {
    "dataset": "coco",
    "images": [
        picture(522418, "restval", "val2014", "A cake.", "A knife."),
        picture(9, "train", "train2014", "A bowl."),
        picture(184613, "val", "val2014", "A cow.", "Two cows.", "An umbrella."),
        picture(391895, "test", "val2014", "A man.", "A motorbike."),
    ],
}
FLICKR_FILE = {
    "dataset": "flickr30k",
    "images": [
        {"imgid": n, "split": split, "filename": f"{n}00.jpg", "sentences": [{"raw": f"text {n}"}, {"raw": "other"}]}
        for n, split in enumerate(("train", "test", "val", "test"))
    ],
}


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def samples(dataset):
    return [
        {key: value for key, value in dataset.get_data_info(i).items() if key != "sample_idx"}
        for i in range(len(dataset))
    ]


# ----- Karpathy's files -----


@pytest.fixture
def coco(tmp_path):
    write_files(tmp_path, karpathy(write(tmp_path / "dataset_coco.json", COCO_FILE)))
    return tmp_path


def test_laviss_files_have_laviss_form(coco):
    def content(name):
        return json.loads((coco / name).read_text())

    assert content("coco_karpathy_train.json") == [
        {"caption": text, "image": f"{folder}/COCO_{folder}_{number:012d}.jpg", "image_id": f"coco_{number}"}
        for text, folder, number in (
            ("A cake.", "val2014", 522418),
            ("A knife.", "val2014", 522418),
            ("A bowl.", "train2014", 9),
        )
    ]
    assert content("coco_karpathy_test.json") == [
        {"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["A man.", "A motorbike."]}
    ]
    assert content("coco_karpathy_test_gt.json") == {
        "annotations": [
            {"image_id": 391895, "caption": "A man.", "id": 0},
            {"image_id": 391895, "caption": "A motorbike.", "id": 1},
        ],
        "images": [{"id": 391895}],
    }


def test_the_derived_files_say_what_the_original_says(coco):
    for split in ("train", "val", "test"):
        original = {e.image_id: (e.image, e.captions) for e in read_captions(coco / "dataset_coco.json", split=split)}
        for name, arguments in (
            (f"coco_karpathy_{split}.json", {}),
            (f"caption_karpathy_{split}2014.json", {"folder_from_url": True}),
        ):
            entries = group_by_image(read_captions(coco / name, **arguments))
            assert {entry.image_id: (entry.image, entry.captions) for entry in entries} == original
        retrieval = [
            samples(COCORetrieval(str(coco / name), test_mode=True, check_images=False, **more))
            for name, more in (
                ("dataset_coco.json", {"split": split}),
                (f"caption_karpathy_{split}2014.json", {}),
            )
        ]
        assert retrieval[0] == retrieval[1]


def test_the_references_are_those_of_the_pictures_and_cocos_own_reader_reads_them(coco):
    pictures = samples(COCOCaption(str(coco / "coco_karpathy_val.json"), check_images=False))
    reader = COCO(str(coco / "coco_karpathy_val_gt.json"))
    assert [info["image_id"] for info in pictures] == reader.getImgIds() == [184613]
    assert [row["caption"] for row in reader.imgToAnns[184613]] == pictures[0]["gt_caption"]


def test_flickr30ks_references_are_of_one_split_each(tmp_path):
    source = write(tmp_path / "dataset_flickr30k.json", FLICKR_FILE)
    write_files(tmp_path, karpathy(source))
    for split, ids in {"train": [0], "val": [2], "test": [1, 3]}.items():
        dataset = Flickr30kCaption(ann_file=source, split=split, sample_per="image", check_images=False)
        texts = {info["image_id"]: info["gt_caption"] for info in samples(dataset)}
        entries = read_captions(tmp_path / f"flickr30k_{split}_gt.json")
        assert {entry.image_id: entry.captions for entry in entries} == texts and list(texts) == ids


def test_another_dataset_of_karpathys_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match="is of the dataset 'flickr8k'; it should be dataset_coco"):
        karpathy(write(tmp_path / "dataset_flickr8k.json", {**FLICKR_FILE, "dataset": "flickr8k"}))


# ----- questions and NoCaps -----


def test_gqas_own_questions_become_laviss_list(tmp_path):
    own = {"0201": {"imageId": "n161313", "question": "Is it?", "answer": "no"}}
    own["7"] = {"imageId": "42", "question": "Who?", "answer": "man"}
    source = write(tmp_path / "testdev_balanced_questions.json", own)
    (path,) = write_files(tmp_path / "lavis", gqa(source))
    assert json.loads(path.read_text()) == [
        {"image": "n161313.jpg", "question": "Is it?", "answer": "no", "question_id": "0201"},
        {"image": "42.jpg", "question": "Who?", "answer": "man", "question_id": "7"},
    ]
    with pytest.raises(AnnotationError, match="is in LAVIS's form already"):
        gqa(path)
    assert samples(GQA(ann_file=str(path), check_images=False)) == samples(GQA(ann_file=source, check_images=False))


def test_vqas_two_files_become_laviss_one(tmp_path):
    questions = {"questions": [{"question_id": 262148000, "image_id": 262148, "question": "Where?"}]}
    given = [{"answer": text, "answer_id": n} for n, text in enumerate(["down"] * 9 + ["at table"])]
    notes = {"annotations": [{"question_id": 262148000, "image_id": 262148, "answers": given}]}
    files = vqa(write(tmp_path / "q.json", questions), write(tmp_path / "a.json", notes), "val2014")
    assert files == {
        "vqa_val.json": [
            {
                "question_id": 262148000,
                "question": "Where?",
                "answer": ["down"] * 9 + ["at table"],
                "image": "val2014/COCO_val2014_000000262148.jpg",
                "dataset": "vqa",
            }
        ]
    }


def test_nocaps_becomes_laviss_list(tmp_path):
    source = write(tmp_path / "nocaps_val_image_info.json", {"images": [{"id": 3, "file_name": "0a.jpg"}]})
    (path,) = write_files(tmp_path, nocaps(source, "val"))
    assert path.name == "nocaps_val.json" and json.loads(path.read_text()) == [{"image": "val/0a.jpg", "img_id": 3}]
    assert samples(NoCaps(ann_file=str(path), check_images=False)) == [{"image_id": 3, "img_path": "val/0a.jpg"}]


# ----- writing -----


def test_a_file_that_is_there_is_not_written_over_and_nothing_else_is_written(tmp_path):
    (tmp_path / "b.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"b\.json would be written over.*--force"):
        write_files(tmp_path, {"a.json": [], "b.json": []})
    assert not (tmp_path / "a.json").exists() and (tmp_path / "b.json").read_text() == "mine"
    write_files(tmp_path, {"b.json": [1]}, replace=True)
    assert (tmp_path / "b.json").read_text() == "[1]"


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_files(tmp_path / "new", {"a.json": []})
    assert list((tmp_path / "new").iterdir()) == []


def script(name, *arguments):
    path = resources_root() / "tools/dataset_converters" / name
    environment = {**os.environ, "PYTHONPATH": str(resources_root())}
    line = [sys.executable, str(path), *map(str, arguments)]
    return subprocess.run(line, env=environment, capture_output=True, text=True)


def test_the_script_names_what_it_wrote_or_what_is_wrong(tmp_path):
    source = write(tmp_path / "dataset_flickr30k.json", FLICKR_FILE)
    done = script("karpathy.py", source, tmp_path / "out")
    assert done.returncode == 0 and done.stdout.split() == [
        str(tmp_path / f"out/flickr30k_{split}_gt.json") for split in ("train", "val", "test")
    ]
    again = script("karpathy.py", source, tmp_path / "out")
    assert again.returncode == 2 and "would be written over" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize("name", ["gqa.py", "nocaps.py"])
def test_a_script_without_its_source_says_so(tmp_path, name):
    done = script(name, tmp_path / "none.json", tmp_path)
    assert done.returncode == 2 and "there is no annotation file" in done.stderr and "Traceback" not in done.stderr
