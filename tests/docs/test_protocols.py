"""docs/protocols.md says what the configs say."""

import re
from pathlib import Path

import pytest

from blip2.apis.config import bundled_configs, load_config
from blip2.apis.metafile import model_entries

TEXT = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+).*?\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def cases(section):
    """(config, what the table says of it) for each config named in a column's first row."""
    rows = [line.strip("| \n").split(" | ") for line in SECTIONS[section].splitlines() if line.startswith("|")]
    fields = {row[0].strip(): row[1:] for row in rows[2:]}
    (configs,) = (values for name, values in fields.items() if name.startswith("config"))
    for column, cell in enumerate(configs):
        said = {name: values[column].strip() for name, values in fields.items()}
        for name in re.findall(r"`([\w.-]+\.py)`", cell):
            yield name, said


def number(text):
    return float(text.replace("−", "-"))


@pytest.mark.parametrize(("name", "said"), list(cases("Questions")))
def test_questions_are_asked_as_the_table_says(name, said):
    config = load_config(f"blip2/{name}")
    model, dataloader = config.model, config.test_dataloader
    assert model.prompt == re.match(r"`(.+?)`", said["prompt"])[1]
    assert (model.get("num_beams", 5), model.get("min_length", 1), model.max_txt_len) == (5, 1, 10)
    assert model.get("length_penalty", -1.0) == number(said["length penalty"])
    assert model.get("repetition_penalty", 1.0) == number(said["repetition penalty"])
    assert model.get("count_lengths", "new") == re.match(r"`(\w+)`", said["lengths counted (`count_lengths`)"])[1]
    sizes = [int(text) for text in re.findall(r"\d+", said["picture, model built for"])]
    resize = next(step for step in dataloader.dataset.pipeline if step.type == "Resize")
    assert [resize.scale[0], model.vision_backbone.img_size] == sizes
    clean = next(step for step in dataloader.dataset.pipeline if step.type == "CleanCaption")
    keeps = "stays" in said["question text"] or said["question text"] == "as left"
    assert ("?" not in clean.get("remove_chars", "?")) is keeps
    assert "val2014" in dataloader.dataset.ann_file


@pytest.mark.parametrize(("name", "said"), list(cases("Captions")))
def test_captions_are_written_as_the_table_says(name, said):
    config = load_config(f"blip2/{name}")
    model = config.model
    assert model.prompt == said["prompt"].strip("`")
    least, most = map(int, said["new tokens, at least / at most"].split(" / "))
    assert (model.get("min_length", 1), model.max_txt_len) == (least, most)
    assert model.get("length_penalty", 1.0) == number(said["length penalty"])
    assert model.get("repetition_penalty", 1.0) == number(said["repetition penalty"])
    assert model.get("count_lengths", "new") == re.match(r"`(\w+)`", said["lengths counted (`count_lengths`)"])[1]
    resize = next(step for step in config.test_dataloader.dataset.pipeline if step.type == "Resize")
    assert resize.scale[0] == model.vision_backbone.img_size == int(said["picture"])
    split = said["split of COCO"].split()[-1]
    assert config.test_dataloader.dataset.ann_file.endswith(f"{split}.json")
    assert config.test_evaluator.ann_file.endswith(f"{split}_gt.json")


@pytest.mark.parametrize(("name", "said"), list(cases("Retrieval")))
def test_retrieval_ranks_as_the_table_says(name, said):
    config = load_config(f"blip2/{name}")
    resize = next(step for step in config.test_dataloader.dataset.pipeline if step.type == "Resize")
    assert resize.scale[0] == config.model.vision_backbone.img_size == int(said["picture"])
    assert f"best {config.model.topk}" == said["ranked again by matching"]
    dataset = config.test_dataloader.dataset
    assert "test" in (dataset.split if dataset.type == "Flickr30kRetrieval" else dataset.ann_file)


OTHER_DATA = [
    (name, re.sub("_(okvqa|gqa|nocaps)_", lambda found: "_caption_" if found[1] == "nocaps" else "_vqa_", name), kind)
    for name in bundled_configs()
    for kind in re.findall(r"_(okvqa|gqa|nocaps)_paper\.py", name)
]


@pytest.mark.parametrize(("name", "sibling", "kind"), OTHER_DATA)
def test_other_data_sets_are_asked_by_the_same_protocol(name, sibling, kind):
    config, known = load_config(name), load_config(sibling)
    assert config.model == known.model
    assert config.test_dataloader.dataset.pipeline[:-1] == known.test_dataloader.dataset.pipeline[:-1]
    file = {"okvqa": "okvqa_mscoco_val2014", "gqa": "testdev_balanced", "nocaps": "nocaps_val_4500"}[kind]
    assert file in config.test_dataloader.dataset.ann_file
    if kind == "okvqa":
        assert config.test_evaluator == {"type": "VQAAcc", "official": True, "lemmatizer": "auto"}


def test_each_kind_of_other_data_is_there():
    assert {kind: sum(row[2] == kind for row in OTHER_DATA) for kind in ("okvqa", "gqa", "nocaps")} == {
        "okvqa": 5,
        "gqa": 5,
        "nocaps": 3,
    }


def test_every_protocol_of_the_zoo_and_its_configs_are_on_the_page():
    protocols = {result.protocol for entry in model_entries().values() for result in entry.results} - {None}
    assert protocols == {"paper", "LAVIS", "OpenMMLab"}
    named = set(re.findall(r"[\w.-]+\.py", TEXT))
    variants = {
        name.split("/")[1] for name in bundled_configs() if re.search(r"_(vqa|caption)_(paper|lavis)\.py", name)
    }
    assert variants and variants <= named
