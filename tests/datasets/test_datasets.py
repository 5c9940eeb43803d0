"""Datasets of captions: both annotation forms, one's own pictures, and what happens to bad data."""

import json

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from blip2.datasets import (
    BadImage,
    COCOCaption,
    ImageTextDataset,
    set_skip_bad_images,
)
from blip2.datasets.transforms import LoadImageFromFile
from blip2.registry import DATASETS
from blip2.utils.annotations import normalise_image_id, read_captions
from blip2.utils.errors import AnnotationError, ImageError, MissingAnnotationError, MissingImageError

NAME = "val2014/COCO_val2014_{:012d}.jpg".format
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (16, 16), "interpolation": "bicubic", "backend": "pillow"},
    {"type": "PackInputs", "algorithm_keys": ["gt_caption"], "meta_keys": ["image_id", "img_path"]},
]
KARPATHY_VAL = [{"image": NAME(i), "caption": [f"first of {i}", f"second of {i}"]} for i in (139, 7, 42)]
COCO = {
    "images": [{"id": i, "file_name": NAME(i)} for i in (139, 7, 42)],
    "annotations": [
        {"id": 0, "image_id": 42, "caption": "forty-two"},
        {"id": 1, "image_id": 7, "caption": "first of 7"},
        {"id": 2, "image_id": 7, "caption": "second of 7"},
    ],
}


@pytest.fixture
def write(picture_folder):
    """``write(content, name='ann.json')``: an annotation file beside the pictures; the dataset's arguments."""

    def to_file(content, name="ann.json"):
        text = content if isinstance(content, str) else json.dumps(content)
        (picture_folder / name).write_text(text, encoding="utf-8")
        return {"ann_file": name, "data_root": str(picture_folder)}

    return to_file


def test_karpathy_form_with_a_list_of_captions(write):
    dataset = DATASETS.build({"type": "COCOCaption", **write(KARPATHY_VAL), "pipeline": PIPELINE})
    assert isinstance(dataset, COCOCaption) and len(dataset) == 3
    sample = dataset[0]
    assert sample["inputs"].shape == (3, 16, 16)
    assert sample["data_samples"].image_id == 139
    assert sample["data_samples"].gt_caption == ["first of 139", "second of 139"]


def test_mmpretrains_training_pipeline_builds_from_mmengines_root_in_our_scope(write):
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "RandomResizedCrop", "scale": 384, "interpolation": "bicubic", "backend": "pillow"},
        {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"},
        {"type": "CleanCaption", "keys": "gt_caption"},
        {"type": "PackInputs", "algorithm_keys": ["gt_caption"], "meta_keys": ["image_id"]},
    ]
    entries = [{"image": NAME(7), "caption": "A man, riding.", "image_id": "coco_7"}]
    with DefaultScope.overwrite_default_scope("blip2"):
        dataset = ROOT_DATASETS.build({"type": "COCOCaption", **write(entries), "pipeline": pipeline})
    assert isinstance(dataset, COCOCaption) and isinstance(dataset.pipeline.transforms[0], LoadImageFromFile)
    sample = dataset[0]
    assert sample["inputs"].shape == (3, 384, 384) and sample["inputs"].dtype == torch.uint8
    assert sample["data_samples"].gt_caption == "a man riding" and sample["data_samples"].image_id == 7


def test_karpathy_training_form_has_a_sample_for_each_caption(write):
    entries = [{"image": NAME(7), "caption": text, "image_id": "coco_7"} for text in ("one", "two")]
    dataset = COCOCaption(**write(entries))
    assert [dataset.get_data_info(i)["gt_caption"] for i in range(2)] == ["one", "two"]
    assert [dataset.get_data_info(i)["image_id"] for i in range(2)] == [7, 7]
    grouped = COCOCaption(**write(entries), sample_per="image")
    assert len(grouped) == 1 and grouped.get_data_info(0)["gt_caption"] == ["one", "two"]


def test_coco_form_joins_captions_to_pictures(write):
    dataset = COCOCaption(**write(COCO))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [info["image_id"] for info in infos] == [139, 7, 42]
    assert "gt_caption" not in infos[0]
    assert infos[1]["gt_caption"] == ["first of 7", "second of 7"] and infos[2]["gt_caption"] == ["forty-two"]


def test_a_sample_per_caption_is_possible_for_training_on_any_form(write):
    coco = {**COCO, "images": COCO["images"][1:]}
    dataset = COCOCaption(**write(coco), sample_per="caption")
    assert [dataset.get_data_info(i)["gt_caption"] for i in range(3)] == ["first of 7", "second of 7", "forty-two"]
    with pytest.raises(AnnotationError, match=r"no caption for 1 picture.*139\.jpg.*sample_per='caption'"):
        COCOCaption(**write(COCO), sample_per="caption")
    with pytest.raises(ValueError, match="sample_per='picture' is unknown; choose one of"):
        COCOCaption(**write(COCO), sample_per="picture")


@pytest.mark.parametrize(
    ("entry", "image_id"),
    [
        ({"image": NAME(391895)}, 391895),
        ({"image": NAME(391895), "image_id": "coco_391895"}, 391895),
        ({"image": "val/0013ea2087020901.jpg", "img_id": 12}, 12),
        ({"image": "val/x.jpg", "image_id": "000012"}, 12),
        ({"image": "val/beach.jpg", "image_id": "flickr_x"}, "flickr_x"),
        ({"image": "val/beach.jpg"}, "beach"),
        ({"image": "36979.jpg"}, 36979),
    ],
)
def test_image_id_of_an_entry(tmp_path, entry, image_id):
    path = tmp_path / "ann.json"
    path.write_text(json.dumps([{**entry, "caption": "x"}]))
    assert read_captions(path)[0].image_id == image_id


def test_two_pictures_of_one_id_are_refused_where_it_matters(write, picture_folder):
    entries = [{"image": f"{folder}/IMG_1.jpg", "caption": "x"} for folder in "ab"]
    arguments = {**write(entries), "check_images": False}
    assert len(COCOCaption(**arguments)) == 2
    with pytest.raises(AnnotationError, match=r"image_id 1: a/IMG_1\.jpg and b/IMG_1\.jpg.*number of its own"):
        COCOCaption(**arguments, sample_per="image")


def test_data_prefix_is_a_text_or_a_dict(write, picture_folder):
    entries = [{"image": "COCO_val2014_000000000007.jpg", "caption": "x"}]
    for prefix in ("val2014", {"img_path": "val2014"}, str(picture_folder / "val2014")):
        dataset = COCOCaption(**write(entries), data_prefix=prefix, pipeline=PIPELINE)
        assert dataset[0]["data_samples"].image_id == 7


def test_indices_take_a_part(write):
    assert len(COCOCaption(**write(KARPATHY_VAL), indices=2)) == 2


@pytest.mark.parametrize(
    ("name", "next_step"),
    [
        ("mine.json", "Check ann_file and data_root"),
        ("coco_karpathy_val.json", "Fetch it from https://storage.*_val.json"),
    ],
)
def test_missing_annotation_file_is_named_with_where_to_get_it(tmp_path, name, next_step):
    with pytest.raises(MissingAnnotationError, match=rf"there is no annotation file .*{name}\. {next_step}") as caught:
        COCOCaption(name, data_root=str(tmp_path))
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is empty: it holds no pictures"),
        ("", "is not valid JSON"),
        ('[{"image": "a.jpg"', "is not valid JSON .*line 1"),
        ("3", "holds int; it should be a list"),
        ('{"data": []}', r"holds an object with the keys \['data'\]"),
        ("[3]", r"entry 0 is 3; it should be an object"),
        ('[{"caption": "x"}]', "entry 0 has neither 'image' nor 'image_id'"),
        ('[{"image": "a.jpg", "caption": 3}]', "entry 0: 'caption' is 3"),
        ('[{"image": "a.jpg", "image_id": 1.5}]', "entry 0: an image_id is a number or a text, not 1.5"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', "not COCO's caption form .*'caption'"),
        ('{"images": [{"id": 1}], "annotations": [{"image_id": 2, "caption": ""}]}', "1 image_id.* the first is 2"),
        ('{"images": [{"id": 1}], "annotations": []}', "names no file for the picture 1: it is made for scoring"),
    ],
)
def test_unusable_annotation_file_is_explained(write, content, message):
    with pytest.raises(AnnotationError, match=message):
        COCOCaption(**write(content))


def test_annotation_file_of_another_kind_or_encoding_is_explained(write, picture_folder):
    with pytest.raises(AnnotationError, match=r"suffix '\.xml' is unknown"):
        COCOCaption(**write("<a/>", "ann.xml"))
    (picture_folder / "latin.json").write_bytes('[{"image": "ü.jpg"}]'.encode("latin-1"))
    with pytest.raises(AnnotationError, match="not UTF-8"):
        COCOCaption("latin.json", data_root=str(picture_folder))
    with pytest.raises(AnnotationError, match="is a folder"):
        (picture_folder / "folder.json").mkdir()
        COCOCaption("folder.json", data_root=str(picture_folder))


def test_unknown_argument_is_refused(write):
    with pytest.raises(TypeError, match="pipelines"):
        COCOCaption(**write(COCO), pipelines=[])


def test_annotated_pictures_that_are_missing_are_counted_and_named_up_front(write):
    entries = KARPATHY_VAL + [{"image": NAME(i), "caption": "x"} for i in range(200, 208)]
    with pytest.raises(
        MissingImageError, match=r"8 picture\(s\) named by annotation file .*ann\.json.*000200\.jpg.*, …\."
    ):
        COCOCaption(**write(entries))
    assert len(COCOCaption(**write(entries), check_images=False)) == 11
    assert len(COCOCaption(**write(entries), skip_bad_images=True)) == 11


def test_missing_folder_of_pictures_is_reported(write):
    with pytest.raises(MissingImageError, match=r"3 picture.*Check data_root and data_prefix"):
        COCOCaption(**write(KARPATHY_VAL), data_prefix="images")


@pytest.fixture
def with_bad_pictures(write, picture_folder):
    """Arguments of a dataset of five: fine, corrupt, fine, missing, fine."""
    (picture_folder / NAME(50)).write_bytes((picture_folder / NAME(7)).read_bytes()[:300])
    order = [139, 50, 7, 51, 42]
    return {**write([{"image": NAME(i), "caption": "x"} for i in order]), "pipeline": PIPELINE, "check_images": False}


def test_bad_picture_raises_unless_it_may_be_skipped(with_bad_pictures):
    dataset = COCOCaption(**with_bad_pictures)
    with pytest.raises(ImageError, match=r"000050\.jpg: it is corrupt or truncated"):
        dataset[1]
    with pytest.raises(MissingImageError, match=r"000051\.jpg: there is no such file"):
        dataset[3]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_pictures_come_as_records_when_they_may_be_skipped(with_bad_pictures, num_workers):
    dataset = COCOCaption(**with_bad_pictures)
    set_skip_bad_images(dataset)
    items = [item for batch in DataLoader(dataset, 2, num_workers=num_workers, collate_fn=list) for item in batch]
    bad = [item for item in items if isinstance(item, BadImage)]
    assert [item["data_samples"].image_id for item in items if item not in bad] == [139, 7, 42]
    assert [(record.image_id, record.sample_idx) for record in bad] == [(50, 1), (51, 3)]
    assert "corrupt or truncated" in bad[0].reason and bad[0].img_path.endswith("000050.jpg")
    assert str(bad[1]).endswith("000051.jpg (image_id 51): there is no such file")


def test_bad_picture_in_a_worker_is_named_in_the_main_process(with_bad_pictures):
    loader = DataLoader(COCOCaption(**with_bad_pictures), batch_size=5, num_workers=1, collate_fn=list)
    with pytest.raises(ImageError, match=r"000050\.jpg"):
        next(iter(loader))


def test_skipping_reaches_the_datasets_inside_wrappers(with_bad_pictures):
    first, second = COCOCaption(**with_bad_pictures), COCOCaption(**with_bad_pictures)
    set_skip_bad_images(ConcatDataset([first, second]))
    assert first.skip_bad_images and second.skip_bad_images
    set_skip_bad_images(RepeatDataset(first, times=2), False)
    assert not first.skip_bad_images and second.skip_bad_images
    with pytest.raises(TypeError, match="list cannot skip bad pictures"):
        set_skip_bad_images([])


def test_skipping_can_be_set_in_a_config_before_the_dataset_is_built(with_bad_pictures):
    config = {"type": "blip2.COCOCaption", **with_bad_pictures, "check_images": True}
    with pytest.raises(MissingImageError, match="1 picture"):
        DATASETS.build(dict(config))
    wrapped = {"type": "ConcatDataset", "datasets": [config]}
    set_skip_bad_images(wrapped)
    dataset = DATASETS.build(wrapped)
    assert isinstance(dataset[3], BadImage) and isinstance(dataset[1], BadImage)


def test_unexpected_error_of_a_transform_is_not_taken_for_a_bad_picture(write):
    def broken(results):
        raise RuntimeError("bug")

    dataset = COCOCaption(**write(KARPATHY_VAL), pipeline=[broken], skip_bad_images=True)
    with pytest.raises(RuntimeError, match="bug"):
        dataset[0]


@pytest.fixture
def own_pictures(tmp_path):
    for name in ("b.png", "a.JPG", "cats/c.webp", ".hidden.png", ".cache/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "a.txt").write_text("A cat.\n\nA small cat.\n")
    (tmp_path / "cats" / "c.txt").write_text("One cat.\n")
    return tmp_path


def test_folder_of_pictures_with_captions_beside_them(own_pictures):
    dataset = ImageTextDataset(data_root=str(own_pictures), pipeline=PIPELINE)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [info["image_id"] for info in infos] == ["a.JPG", "b.png", "cats/c.webp"]
    assert [info.get("gt_caption") for info in infos] == [["A cat.", "A small cat."], None, "One cat."]
    assert dataset[2]["data_samples"].gt_caption == "One cat."
    assert "gt_caption" not in dataset[1]["data_samples"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'image,caption\na.JPG,"A cat, small"\nb.png,\n'),
        ("t.tsv", "image\tcaption\na.JPG\tA cat, small\nb.png\t\n"),
        ("t.jsonl", '{"image": "a.JPG", "caption": "A cat, small"}\n\n{"image": "b.png"}\n'),
    ],
)
def test_tables_of_ones_own_pictures(own_pictures, name, content):
    (own_pictures / name).write_text(content)
    dataset = DATASETS.build({"type": "ImageTextDataset", "ann_file": name, "data_root": str(own_pictures)})
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [(info["image_id"], info.get("gt_caption")) for info in infos] == [
        ("a.JPG", "A cat, small"),
        ("b.png", None),
    ]


def test_columns_may_have_other_names(own_pictures):
    (own_pictures / "t.csv").write_text("file,text,nr\na.JPG,one,5\na.JPG,two,5\n")
    dataset = ImageTextDataset(
        "t.csv", data_root=str(own_pictures), image_key="file", caption_key="text", id_key="nr", sample_per="image"
    )
    assert len(dataset) == 1
    assert dataset.get_data_info(0)["image_id"] == 5 and dataset.get_data_info(0)["gt_caption"] == ["one", "two"]
    with pytest.raises(AnnotationError, match=r"no column 'image', only \['file', 'text', 'nr'\].*image_key"):
        ImageTextDataset("t.csv", data_root=str(own_pictures))


def test_line_separators_inside_a_jsonl_caption_do_not_cut_it(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": "a.jpg", "caption": "one\u2028two\u0085three"}\n', encoding="utf-8")
    assert read_captions(tmp_path / "t.jsonl")[0].caption == "one\u2028two\u0085three"


def test_row_without_a_picture_is_named(own_pictures):
    (own_pictures / "t.csv").write_text("image,caption\na.JPG,x\n,y\n")
    with pytest.raises(AnnotationError, match=r"t\.csv, line 3 names no picture in 'image'"):
        ImageTextDataset("t.csv", data_root=str(own_pictures))


def test_empty_or_missing_folder_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingImageError, match=r"no picture in the folder .*empty.*known suffixes: \.jpg"):
        ImageTextDataset(data_root=str(tmp_path / "empty"))
    with pytest.raises(AnnotationError, match=r"there is no folder .*gone/'; check data_root"):
        ImageTextDataset(data_root=str(tmp_path / "gone"))
    with pytest.raises(AnnotationError, match="needs an ann_file, or a folder"):
        ImageTextDataset()


@pytest.mark.parametrize(("given", "expected"), [(7, 7), ("007", 7), (np.int64(7), 7), ("a7", "a7"), ("²", "²")])
def test_image_ids_are_normalised(given, expected):
    assert normalise_image_id(given) == expected
