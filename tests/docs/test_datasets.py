"""docs/datasets.md names what exists, and the counts that the code checks."""

import re
from pathlib import Path

import pytest

from blip2.apis.config import bundled_configs, load_config
from blip2.utils.published_files import published_file

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[.*?\]\(#(.*?)\) \| `(.*?)` \| `(.*?)` \| (.*?) \|", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize(("section", "config", "folder", "counts"), ROWS, ids=[row[1] for row in ROWS])
def test_a_row_says_what_its_config_says(section, config, folder, counts):
    assert f"blip2/{config}" in bundled_configs()
    assert section in [title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE)]
    cfg = load_config(f"blip2/{config}")
    loader = cfg.train_dataloader if "trained on only" in TEXT.split(f"`{config}`")[1].split("\n")[0] else None
    dataset = (loader or cfg.test_dataloader).dataset
    assert dataset.data_root == f"data/{folder}"
    name = dataset.get("question_file") or dataset.ann_file
    known = published_file(f"{dataset.data_root}/{name}", dataset.get("split", ""))
    assert known is not None
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]+", counts.split(":")[-1])]
    assert numbers == [count for count in (known.pictures, known.texts) if count is not None]


def test_the_table_has_every_benchmark():
    assert len(ROWS) == 12


def test_scripts_and_the_files_that_they_write_exist():
    for name in re.findall(r"`(\w+\.py)` \|", TEXT.split("## Converters")[1]):
        assert (ROOT / "tools/dataset_converters" / name).is_file()
    for name in re.findall(r"(?:tools/dataset_converters|blip2/utils)/\w+\.py", TEXT):
        assert (ROOT / name).is_file()


def test_every_other_count_is_that_of_a_published_file():
    known = {
        count
        for path, split in (
            *((f"{split}_balanced_questions.json", "") for split in ("train", "val", "testdev", "test")),
            *((f"TextVQA_0.5.1_{split}.json", "") for split in ("train", "val", "test")),
            *((f"vizwiz/Annotations/{split}.json", "") for split in ("train", "val", "test")),
            *(("dataset_flickr30k.json", split) for split in ("train", "val", "test")),
            ("nocaps_val_image_info.json", ""),
            ("nocaps_test_image_info.json", ""),
            ("v2_OpenEnded_mscoco_test-dev2015_questions.json", ""),
        )
        if (file := published_file(path, split)) is not None
        for count in (file.pictures, file.texts)
    }
    sections = TEXT.split("## VQAv2")[1].split("## Converters")[0]
    stated = {int(number.replace(",", "")) for number in re.findall(r"\b\d{1,3},\d{3}\b", sections)}
    assert stated - known == {2938}  # near-domain pictures of NoCaps, which aren't counted by themselves
