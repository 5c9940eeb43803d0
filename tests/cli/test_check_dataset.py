"""`blip2 check-dataset`: what it finds wrong with a layout, and what it finds right."""

import json
from pathlib import Path

import pytest
from miniatures import write_miniatures
from reduced_recipes import PICTURES, write_data

from blip2.cli import check_dataset as command
from blip2.utils import published_files
from blip2.utils.published_files import PublishedFile

CONFIG = "blip2/blip2-opt2.7b_8xb32_flickr30k-caption.py"
NOTES = Path("data/flickr30k/annotations")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """All miniatures; nothing is held against the counts of the published files they are named after."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    write_miniatures(tmp_path)
    counted(monkeypatch, None, None)


def counted(monkeypatch, pictures, texts):
    files = [(end, split, PublishedFile("the place", pictures, texts)) for end, split, _ in published_files._files()]
    monkeypatch.setattr(published_files, "_files", lambda: iter(files))


def run(*arguments):
    return command.main(list(arguments))


def reports(capsys, *arguments):
    code = run(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("blip2-opt2.7b_8xb32_nocaps.py", 2 * PICTURES),
        ("blip2_8xb32_flickr30k-retrieval.py", 2 * PICTURES),
        ("blip2-opt2.7b_8xb16_textvqa.py", PICTURES),
        ("blip2-opt2.7b_8xb16_vg-vqa.py", PICTURES),
        ("blip2-opt2.7b_8xb16_vqa_test.py", PICTURES),
    ],
)
def test_a_whole_layout_has_no_problem_and_its_counts_are_told(capsys, name, texts):
    code, found = reports(capsys, f"blip2/{name}")
    assert code == 0 and not any(report["problems"] for report in found)
    assert {part for report in found for part in report["parts"]} == {"train", "val", "test"}
    last = found[-1]
    assert (last["pictures"], last["texts"], last["decoded"]) == (PICTURES, texts, PICTURES)


def test_data_sets_inside_a_wrapper_are_checked_one_by_one(capsys):
    code, found = reports(capsys, "blip2/blip2_pretrain-stage1_16xb105.py")
    assert code == 0
    assert [report["files"][0].split("/")[1] for report in found] == [
        *("coco", "visual_genome", "cc3m", "cc12m", "sbu", "laion400m")
    ]
    # What a config leaves out on purpose is told, but no problem.
    assert found[2]["notes"] == ["there is no picture data/cc3m/gone.png"]


def test_a_data_set_without_pictures_is_checked_by_its_texts(capsys):
    arguments = ["blip2-tiny_language_pretrain", "--part", "val"]
    assert run(*arguments) == 1
    assert "there is no file data/scenes/documents/val.jsonl. Fetch it from the place" in capsys.readouterr().out
    Path("data/scenes/documents").mkdir(parents=True)
    Path("data/scenes/documents/val.jsonl").write_text('{"prompt": "there is"}\n{"text": "a star"}\n')
    code, (report,) = reports(capsys, *arguments)
    assert (code, report["pictures"], report["texts"], report["problems"]) == (0, 0, 2, [])


def test_every_missing_file_is_named_with_where_to_get_it(capsys):
    for name in ("dataset_flickr30k.json", "flickr30k_val_gt.json"):
        (NOTES / name).unlink()
    assert run(CONFIG) == 1
    output = capsys.readouterr()
    assert f"there is no file {NOTES}/dataset_flickr30k.json. Fetch it from the place" in output.out
    assert f"COCOCaption: there is no file {NOTES}/flickr30k_val_gt.json." in output.out
    assert "4 problem(s)" in output.err


def test_missing_and_broken_pictures_are_all_named(capsys):
    folder = Path("data/flickr30k/images")
    tests = [folder / f"{1000 + n}.jpg" for n in range(3 * PICTURES) if n % 3 == 2]
    for path in tests[:2]:
        path.unlink()
    tests[3].write_bytes(b"half a picture")
    code, (report,) = reports(capsys, CONFIG, "--part", "test")
    assert code == 1 and report["decoded"] == PICTURES - 2
    assert report["problems"][:2] == [f"there is no picture {path}" for path in tests[:2]]
    assert str(tests[3]) in report["problems"][2] and len(report["problems"]) == 3


def test_a_missing_folder_of_pictures_is_one_problem(capsys):
    Path("data/flickr30k/images").rename("data/flickr30k/flickr30k-images")
    code, (report,) = reports(capsys, CONFIG, "--part", "test")
    assert code == 1 and report["decoded"] == 0
    (problem,) = report["problems"]
    assert problem.startswith(f"there is no folder data/flickr30k/images of {PICTURES} pictures; docs/datasets.md")


def test_a_sample_of_pictures_is_spread_and_all_are_decoded_on_demand(capsys):
    folder = Path("data/flickr30k/images")
    tests = [folder / f"{1000 + n}.jpg" for n in range(3 * PICTURES) if n % 3 == 2]
    tests[1].write_bytes(b"half a picture")
    assert run(CONFIG, "--part", "test", "--sample", "2") == 0  # the first and the last
    assert run(CONFIG, "--part", "test", "--all") == 1
    assert str(tests[1]) in capsys.readouterr().out


def test_counts_other_than_the_published_ones_are_a_problem(capsys, monkeypatch):
    counted(monkeypatch, PICTURES, 1000)
    assert run(CONFIG, "--part", "test") == 1
    assert "has 12 texts, the published one 1,000: it is cut off, or of another split" in capsys.readouterr().out
    counted(monkeypatch, PICTURES, 2 * PICTURES)
    assert run(CONFIG, "--part", "test") == 0
    assert f"{PICTURES} pictures, {2 * PICTURES} texts (as published); {PICTURES} decoded" in capsys.readouterr().out
    counted(monkeypatch, 1000, 1000)
    assert run(CONFIG, "--part", "test", "--cfg-options", "test_dataloader.dataset.indices=3") == 0


def test_questions_and_answers_of_different_splits_are_a_problem(capsys):
    notes = Path("data/coco/annotations")
    other = json.loads((notes / "okvqa_mscoco_val2014_annotations.json").read_text())
    other["annotations"][0]["question_id"] = 99
    (notes / "okvqa_mscoco_val2014_annotations.json").write_text(json.dumps(other))
    code, found = reports(capsys, "blip2/blip2-opt2.7b_8xb16_okvqa.py")
    assert code == 1 and found[0]["problems"] == []
    assert "question_id 0 has no answers" in found[1]["problems"][0]


def test_references_of_another_split_are_a_problem(capsys):
    gt = NOTES / "flickr30k_test_gt.json"
    gt.write_bytes((NOTES / "flickr30k_val_gt.json").read_bytes())
    code, (report,) = reports(capsys, CONFIG, "--part", "test")
    assert code == 1
    assert report["problems"] == [f"COCOCaption: {PICTURES} image_id(s) of the data set aren't in {gt}, such as 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "config 'nowhere.py' not found"),
        ([CONFIG, "--sample", "-1"], "--sample -1 must be 0 or more"),
        (
            ["blip2/blip2_pretrain-stage1_16xb105.py", "--part", "test"],
            "no data set to check: it lacks test_dataloader",
        ),
    ],
)
def test_a_mistake_of_the_user_is_one_message(capsys, arguments, message):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
