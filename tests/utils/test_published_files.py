"""What is known of published files is found by their paths."""

import pytest

from blip2.utils.published_files import PublishedFile, published_file


@pytest.mark.parametrize(
    ("path", "split", "counts"),
    [
        ("data/coco/annotations/coco_karpathy_test_gt.json", "", (5000, 25010)),
        ("https://mirror.org/x/v2_mscoco_val2014_annotations.json", "", (40504, 214354)),
        ("annotations\\okvqa_OpenEnded_mscoco_val2014_questions.json", "", (5033, 5046)),
        ("data/gqa/testdev_balanced_questions.json", "", (None, 12578)),
        ("dataset_flickr30k.json", "val", (1014, 5070)),
        ("dataset_flickr30k.json", "", (None, None)),
        ("/x/VizWiz/annotations/val.json", "", (4319, 4319)),
        ("vizwiz/Annotations/val.json", "val", (4319, 4319)),
    ],
)
def test_a_file_is_known_by_the_end_of_its_path(path, split, counts):
    found = published_file(path, split)
    assert found is not None and (found.pictures, found.texts) == counts


@pytest.mark.parametrize("path", ["val.json", "Annotations/val.json", "mine.json", "x_coco_karpathy_val.json", ""])
def test_other_files_are_not(path):
    assert published_file(path) is None


def test_a_file_that_a_command_writes_is_not_fetched():
    assert published_file("data/scenes/annotations/test.json").step == "Write it with `blip2 scenes data/scenes`"
    assert PublishedFile("https://x.org").step == "Fetch it from https://x.org"


def test_the_counts_of_karpathys_splits_add_up_to_the_whole_sets():
    def total(name, kind):
        return sum(getattr(published_file(name, split), kind) for split in ("train", "val", "test"))

    assert total("dataset_coco.json", "pictures") == 82783 + 40504  # COCO's train2014 and val2014
    assert total("dataset_flickr30k.json", "pictures") == 31014  # what Karpathy's file holds of 31,783 pictures
    assert total("dataset_flickr30k.json", "texts") == 5 * 31014
