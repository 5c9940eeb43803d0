"""Every config under configs/ parses, names only what is registered, and builds its model (without memory)."""

import warnings
from pathlib import Path
from typing import Any

import mmcv.transforms  # noqa: F401  these two fill mmengine's registries, as the Runner does
import mmengine.runner  # noqa: F401
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from reduced_recipes import PICTURES

from blip2 import registry
from blip2.apis.config import bundled_configs, load_config
from blip2.apis.metafile import model_entries
from blip2.apis.runner import build_runner
from blip2.utils.resources import resources_root

ROOT = resources_root() / "configs"
BASES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "_base_").rglob("*.py"))

# The registry behind each place of a config that holds a type; the key is the last named one on the way to it.
REGISTRIES = {
    "model": "MODELS",
    "backbone": "MODELS",
    "neck": "MODELS",
    "head": "MODELS",
    "tokenizer": "TOKENIZER",
    "data_preprocessor": "MODELS",
    "dataset": "DATASETS",
    "pipeline": "TRANSFORMS",
    "pack": "TRANSFORMS",
    "policies": "TRANSFORMS",
    "sampler": "DATA_SAMPLERS",
    "collate_fn": "FUNCTIONS",
    "evaluator": "METRICS",
    "optim_wrapper": "OPTIM_WRAPPERS",
    "optimizer": "OPTIMIZERS",
    "param_scheduler": "PARAM_SCHEDULERS",
    "hooks": "HOOKS",
    "cfg": "LOOPS",
    "visualizer": "VISUALIZERS",
    "vis_backends": "VISBACKENDS",
    "log_processor": "LOG_PROCESSORS",
}


def types_of(node: Any, place: str = "") -> list[tuple[str, str]]:
    """All (place, type) pairs, where the place is a key of `REGISTRIES`."""
    found: list[tuple[str, str]] = []
    if isinstance(node, dict):
        if "type" in node:
            found.append((place, node["type"]))
        for key, value in node.items():
            known = next((name for name in REGISTRIES if key == name or key.endswith(f"_{name}")), place)
            # Among hooks a key is only the hook's role.
            found += types_of(value, place if place == "hooks" else known)
    elif isinstance(node, list | tuple):
        for item in node:
            found += types_of(item, place)
    return found


def load(name: str) -> Config:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_config(name)


@pytest.mark.parametrize("name", BASES)
def test_a_base_parses_on_its_own(name):
    assert len(load(f"blip2::{name}"))


@pytest.mark.parametrize("name", bundled_configs())
def test_a_config_parses_and_keeps_to_our_scope(name):
    config = load(name)
    assert config.default_scope == "blip2"
    assert isinstance(config.get("model"), dict)


@pytest.mark.parametrize("name", [*bundled_configs(), *BASES])
def test_every_type_is_registered(name):
    config = load(f"blip2::{name}")
    with DefaultScope.overwrite_default_scope("blip2"):
        for place, kind in types_of(config.to_dict()):
            assert place in REGISTRIES, f"{kind}: this test knows no registry for where it stands"
            assert getattr(registry, REGISTRIES[place]).get(kind) is not None, f"{kind} ({place}) is not registered"


@pytest.mark.parametrize("name", bundled_configs())
def test_the_model_builds_without_memory(name):
    config = load(name)
    with DefaultScope.overwrite_default_scope("blip2"), torch.device("meta"):
        model = registry.MODELS.build(config.model)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", model_entries())
def test_a_metafile_entry_has_a_bundled_config_and_the_stated_size(name):
    entry = model_entries()[name]
    assert entry.config.relative_to(ROOT).as_posix() in bundled_configs()
    with DefaultScope.overwrite_default_scope("blip2"), torch.device("meta"):
        model = registry.MODELS.build(load(name).model)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters_built
    if entry.weights and "://" not in entry.weights:
        assert Path(entry.weights).is_file()


def in_mmpretrains_words(name: str) -> Config:
    """One of our configs as mmpretrain writes its own."""
    config = load(name)
    config.default_scope = "mmpretrain"
    config.model.type = f"mmpretrain.{config.model.type}"
    config.default_hooks.visualization.type = "mmpretrain.VisualizationHook"
    config.visualizer.type = "mmpretrain.UniversalVisualizer"
    config.optim_wrapper.pop("type")
    config.train_dataloader.batch_size = 1  # an epoch of few pictures is to have steps
    if "retrieval" not in name:
        config.model.vision_backbone.out_indices = -2
        config.data_preprocessor.pop("type")
    else:
        config.val_dataloader.sampler = dict(type="SequentialSampler", subsample_type="sequential")
        config.optimizer = config.optim_wrapper.optimizer
        for policy in config.rand_increasing_policies:
            policy.magnitude_key = "magnitude"
    return config


@pytest.mark.filterwarnings("ignore:.*out_indices=-2", "ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("blip2/blip2-opt2.7b_8xb32_caption.py", (["gt_caption"], [])),
        (
            "blip2/blip2-opt2.7b_8xb16_vqa.py",
            (["answer_type", "gt_answer", "gt_answer_weight", "question", "question_type"],) * 2,
        ),
        ("blip2/blip2-opt2.7b_8xb16_gqa.py", (["gt_answer", "question"],) * 2),
        ("blip2/blip2_8xb32_retrieval.py", (["is_matched", "text"], ["gt_image_id", "gt_text_id", "text"])),
    ],
)
def test_a_config_in_mmpretrains_words_builds_its_whole_runner(name, fields, published_data):
    in_mmpretrains_words(name).dump(published_data / "theirs.py")
    runner = build_runner(published_data / "theirs.py", device="meta", work_dir=published_data / "work")
    assert runner.model.vision_backbone.out_indices == ((38,) if "retrieval" in name else (37,))
    assert type(runner.model.data_preprocessor).__name__ == "MultiModalDataPreprocessor"
    assert type(runner.visualizer).__name__ == "UniversalVisualizer"
    assert "VisualizationHook" in {type(hook).__name__ for hook in runner._hooks}
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert runner.build_param_scheduler(runner.param_schedulers)
    for loop, keys in zip((runner.train_loop, runner.test_loop), fields, strict=True):
        _, sample = loop.dataloader.dataset[0, None]
        assert sorted(sample["data_samples"].keys()) == keys
    for loop in (runner.val_loop, runner.test_loop):
        assert len(loop.dataloader.dataset) == PICTURES and loop.evaluator.metrics


def test_leaf_configs_hold_only_what_differs_from_their_bases():
    for name in bundled_configs():
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert "_base_" in "\n".join(lines), f"{name} inherits from nothing"
