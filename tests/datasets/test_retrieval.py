"""COCORetrieval in mmpretrain's and LAVIS's files, for training and for a test; the sampler of mmpretrain's configs."""

import json
from itertools import chain

import pytest
from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import DefaultScope

from blip2.datasets import COCOCaption, COCORetrieval, SequentialSampler, samplers
from blip2.utils.errors import AnnotationError, MissingAnnotationError, MissingImageError

NAME = "COCO_val2014_{:012d}.jpg".format
# Ids in an order of their own, and annotations that are not grouped by picture.
TEXTS = [
    (7, "A cat, grey."),
    (139, "A dog"),
    (7, "a second of 7"),
    (42, "snow"),
    (139, "a dog again"),
    (139, "a third"),
]
OF_PICTURE = {139: ["A dog", "a dog again", "a third"], 7: ["A cat, grey.", "a second of 7"], 42: ["snow"]}
ORDER = (139, 7, 42)
MMPRETRAIN = {
    "images": [
        {"id": i, "file_name": NAME(i), "coco_url": f"http://images.cocodataset.org/val2014/{NAME(i)}"} for i in ORDER
    ],
    "annotations": [{"id": 900 + n, "image_id": i, "caption": text} for n, (i, text) in enumerate(TEXTS)],
}
LAVIS_TEST = [{"image": f"val2014/{NAME(i)}", "caption": OF_PICTURE[i]} for i in ORDER]
LAVIS_TRAIN = [
    {"image": f"val2014/{NAME(i)}", "caption": text, "image_id": f"coco_{i}"} for i in ORDER for text in OF_PICTURE[i]
]
TEST_PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (16, 16), "interpolation": "bicubic", "backend": "pillow"},
    {"type": "CleanCaption", "keys": "text"},
    {"type": "PackInputs", "algorithm_keys": ["text", "gt_text_id", "gt_image_id"], "meta_keys": ["image_id"]},
]
TRAIN_PIPELINE = [
    *TEST_PIPELINE[:3],
    {"type": "PackInputs", "algorithm_keys": ["text", "is_matched"], "meta_keys": ["image_id"]},
]


@pytest.fixture
def write(picture_folder):
    def to_file(content):
        (picture_folder / "ann.json").write_text(json.dumps(content))
        return {"ann_file": "ann.json", "data_root": str(picture_folder)}

    return to_file


def infos(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


@pytest.mark.parametrize("content", [MMPRETRAIN, LAVIS_TEST, LAVIS_TRAIN], ids=["mmpretrain", "lavis", "lavis-train"])
def test_every_form_gives_the_same_test_samples(write, content, picture_folder):
    dataset = COCORetrieval(**write(content), test_mode=True)
    samples = infos(dataset)
    assert [sample["ori_id"] for sample in samples] == list(ORDER)
    assert [sample["text"] for sample in samples] == [OF_PICTURE[i] for i in ORDER]
    assert [sample["image_id"] for sample in samples] == [0, 1, 2]
    assert [sample["img_path"] for sample in samples] == [str(picture_folder / "val2014" / NAME(i)) for i in ORDER]
    assert (dataset.img_size, dataset.text_size) == (3, 6)


KARPATHYS_OWN = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": NAME(i),
            "cocoid": i,
            "imgid": number,
            "split": split,
            "sentences": [{"raw": text, "tokens": text.split()} for text in OF_PICTURE[i]],
        }
        for number, (i, split) in enumerate(zip(ORDER, ("test", "train", "restval"), strict=True))
    ],
}


def test_karpathys_own_file_holds_all_splits(write):
    (sample,) = infos(COCORetrieval(**write(KARPATHYS_OWN), split="test", test_mode=True))
    assert sample["text"] == OF_PICTURE[139] and sample["ori_id"] == 139 and sample["gt_text_id"] == [0, 1, 2]
    train = infos(COCORetrieval(**write(KARPATHYS_OWN), split="train"))
    assert [sample["text"] for sample in train] == OF_PICTURE[7] + OF_PICTURE[42]
    for split in ("", "dev"):
        with pytest.raises(
            AnnotationError, match=rf"has no split '{split}'; give one of \['restval', 'test', 'train'\]"
        ):
            COCORetrieval(**write(KARPATHYS_OWN), split=split)
    without = {"images": [{"split": "test", "filename": "a.jpg", "sentences": [{"raw": "x"}]}]}
    with pytest.raises(AnnotationError, match=r"ann\.json, picture 0 is not of Karpathy's form .*'imgid'"):
        COCORetrieval(**write(without), split="test")


def test_captions_are_sent_to_a_file_for_each_split(write):
    with pytest.raises(AnnotationError, match=r"is Karpathy's own, with all splits in one.*coco_karpathy_val\.json"):
        COCOCaption(**write(KARPATHYS_OWN))


def test_flickr30ks_file_has_no_folders(write):
    image = {"filename": NAME(7), "imgid": 5, "split": "test", "sentences": [{"raw": "x"}]}
    arguments = {**write({"dataset": "flickr30k", "images": [image]}), "data_prefix": "val2014", "split": "test"}
    sample = COCORetrieval(**arguments, pipeline=TEST_PIPELINE, test_mode=True)[0]["data_samples"]
    assert sample.text == ["x"] and sample.image_id == 0


def test_true_ids_point_at_pictures_and_texts_in_the_order_of_the_samples(write):
    samples = infos(COCORetrieval(**write(MMPRETRAIN), test_mode=True))
    gallery = list(chain.from_iterable(sample["text"] for sample in samples))
    for number, sample in enumerate(samples):
        assert [gallery[text_id] for text_id in sample["gt_text_id"]] == sample["text"]
        assert sample["gt_image_id"] == [number] * len(sample["text"])


@pytest.mark.parametrize("indices", [2, -2, [2, 0]])
def test_ids_of_a_part_point_into_that_part(write, indices):
    dataset = COCORetrieval(**write(MMPRETRAIN), test_mode=True, indices=indices)
    samples = infos(dataset)
    gallery = list(chain.from_iterable(sample["text"] for sample in samples))
    assert (dataset.img_size, dataset.text_size) == (2, len(gallery))
    for number, sample in enumerate(samples):
        assert sample["image_id"] == number and sample["gt_image_id"] == [number] * len(sample["text"])
        assert [gallery[text_id] for text_id in sample["gt_text_id"]] == sample["text"]


def test_training_gives_pairs_that_share_their_pictures_id(write):
    samples = infos(COCORetrieval(**write(MMPRETRAIN)))
    assert [sample["text"] for sample in samples] == list(chain.from_iterable(OF_PICTURE[i] for i in ORDER))
    assert [sample["image_id"] for sample in samples] == [0, 0, 0, 1, 1, 2]
    assert [sample["image_ori_id"] for sample in samples] == [139, 139, 139, 7, 7, 42]
    assert [sample["text_id"] for sample in samples] == [0, 1, 2, 3, 4, 5]
    assert all(sample["is_matched"] is True for sample in samples)
    assert all(sample["img_path"].endswith(NAME(sample["image_ori_id"])) for sample in samples)


def test_mmpretrains_dataset_configs_build_in_our_scope(write):
    config = {"type": "COCORetrieval", **write(MMPRETRAIN)}
    with DefaultScope.overwrite_default_scope("blip2"):
        train = ROOT_DATASETS.build({**config, "pipeline": TRAIN_PIPELINE})
        test = ROOT_DATASETS.build({**config, "pipeline": TEST_PIPELINE, "test_mode": True})
    sample = train[3]
    assert sample["inputs"].shape == (3, 16, 16)
    assert (sample["data_samples"].text, sample["data_samples"].is_matched) == ("a cat grey", True)
    sample = test[1]["data_samples"]
    assert sample.text == ["a cat grey", "a second of 7"] and sample.image_id == 1
    assert (sample.gt_text_id, sample.gt_image_id) == ([3, 4], [1, 1])


def test_a_picture_without_texts_is_refused_in_a_test_and_left_out_of_training(write):
    content = {**MMPRETRAIN, "annotations": MMPRETRAIN["annotations"][:3]}
    with pytest.raises(AnnotationError, match=r"ann\.json.* the picture 42 \(val2014/.*has no text.*take it out"):
        COCORetrieval(**write(content), test_mode=True)
    assert len(COCORetrieval(**write(content))) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**MMPRETRAIN, "annotations": [{"image_id": 8, "caption": "x"}]}, r"1 image_id.* not among .* first is 8"),
        ({**MMPRETRAIN, "annotations": [{"image_id": 7, "caption": " "}]}, "the picture 7 .*has an empty text"),
        ({**MMPRETRAIN, "annotations": [{"caption": "x"}]}, "not COCO's caption form .*'image_id'"),
        ({"images": [{"id": 7}], "annotations": [{"image_id": 7, "caption": "x"}]}, "names no file for the picture 7"),
        ({"images": []}, r"holds an object with the keys \['images'\]"),
        ([], "is empty"),
    ],
)
def test_files_that_do_not_fit_are_explained(write, content, message):
    with pytest.raises(AnnotationError, match=message):
        COCORetrieval(**write(content))


def test_missing_files_and_pictures_are_named(write, tmp_path):
    with pytest.raises(
        MissingAnnotationError, match=r"Fetch it from https://download\.openmmlab\.com/.*_test2014\.json"
    ):
        COCORetrieval("caption_karpathy_test2014.json", data_root=str(tmp_path))
    with pytest.raises(MissingImageError, match=r"3 picture\(s\) .*val2014"):
        COCORetrieval(**write(MMPRETRAIN), data_prefix="elsewhere")


@pytest.mark.parametrize("round_up", [True, False])
@pytest.mark.parametrize("kind", ["default", "sequential"])
@pytest.mark.parametrize(("length", "processes"), [(8, 2), (7, 2), (5, 4), (3, 4), (6, 1)])
def test_the_sampler_deals_every_sample_and_as_many_as_it_says(monkeypatch, length, processes, kind, round_up):
    shares = []
    for rank in range(processes):
        monkeypatch.setattr("mmengine.dataset.sampler.get_dist_info", lambda rank=rank: (rank, processes))
        sampler = SequentialSampler(range(length), subsample_type=kind, round_up=round_up, seed=0)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    together = list(chain(*shares))
    assert set(together) == set(range(length)) and len(together) == (
        -(-length // processes) * processes if round_up else length
    )
    if kind == "sequential":
        assert together[:length] == list(range(length))
    else:
        assert all(
            share == [index % length for index in range(rank, rank + processes * len(share), processes)]
            for rank, share in enumerate(shares)
        )


def test_the_samplers_ways_are_named():
    assert ROOT_DATA_SAMPLERS.get("blip2.SequentialSampler") is samplers.SequentialSampler
    with pytest.raises(
        ValueError, match=r"subsample_type='random' is unknown; choose one of \['default', 'sequential'\]"
    ):
        SequentialSampler(range(3), subsample_type="random")
