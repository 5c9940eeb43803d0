"""docs/pretraining.md says what the configs say."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from blip2.apis.config import bundled_configs, load_config
from blip2.registry import MODELS
from blip2.utils.resources import resources_root

TEXT = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| `(\S+\.py)` \| [^|]+ \| ([\d,]+) \| ([\d,]+)( epochs)? \| (\S+) → (\S+) \| (\d+) \|$", TEXT, re.M
)
RECIPES = [f"blip2/{name}" for name, *_ in ROWS]
OPTIONS = re.findall(r"^\| [^|]+ \| (`[^|]+`) \|", TEXT, re.M)


def number(text):
    return int(text.replace(",", ""))


def test_every_recipe_is_in_the_table():
    assert len(RECIPES) == 5
    named = set(re.findall(r"blip2[\w.-]+\.py", TEXT)) | {"blip2_8xb32_retrieval.py"}
    recipes = {name for name in bundled_configs() if re.search("blip2/.*(pretrain-stage|finetune)", name)}
    assert {name.removeprefix("blip2/") for name in recipes} <= named
    assert all((resources_root() / "configs/blip2" / name).is_file() for name in named)


@pytest.mark.parametrize("row", ROWS, ids=RECIPES)
def test_the_table_is_what_the_configs_say(row):
    name, batch, steps, epochs, peak, lowest, pixels = row
    cfg = load_config(f"blip2/{name}")
    assert cfg.auto_scale_lr.base_batch_size == number(batch)
    assert (cfg.train_cfg.max_epochs if epochs else cfg.train_cfg.max_iters) == number(steps)
    assert cfg.optim_wrapper.optimizer.lr == float(peak)
    assert cfg.param_scheduler[-1].eta_min == float(lowest)
    assert cfg.model.vision_backbone.img_size == number(pixels)


def test_options_that_the_page_names_are_understood():
    options = [option for cell in OPTIONS for option in re.findall(r"`([\w.]+=[^`]+)`", cell)]
    assert len(options) >= 7
    for option in options:
        key, value = option.split("=", 1)
        cfg = load_config("blip2/blip2-opt2.7b_16xb8_vqa_finetune.py", {key: value})
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert node is not None


def test_the_configs_in_the_page_load(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    path = tmp_path / "own.py"
    path.write_text(block)
    datasets = load_config(path).train_dataloader.dataset.datasets
    assert [dataset.data_root for dataset in datasets] == ["data/coco", "data/visual_genome"]


def test_the_memory_that_is_stated_is_what_the_parameters_take():
    stated = [float(found) for found in re.findall(r"([\d.]+) GiB", TEXT.split("computed from the parameters")[1])]
    for name, gibibytes in zip(RECIPES, stated, strict=True):
        with DefaultScope.overwrite_default_scope("blip2"), torch.device("meta"):
            parameters = list(MODELS.build(load_config(name).model).parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        size = 4 * sum(p.numel() for p in parameters) + 12 * trained  # weights; gradients and AdamW's two averages
        assert gibibytes == pytest.approx(size / 2**30, abs=0.6), name
