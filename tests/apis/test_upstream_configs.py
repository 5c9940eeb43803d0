"""mmpretrain 1.2's own BLIP-2 configs, as they are.

They are not kept here. To run this file unpack mmpretrain's wheel somewhere and name its folder of configs:
`pip download --no-deps mmpretrain==1.2.0 && unzip mmpretrain-*.whl -d mmpretrain` and
`MMPRETRAIN_CONFIGS=mmpretrain/mmpretrain/.mim/configs pytest tests/apis/test_upstream_configs.py`.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from reduced_recipes import PICTURES, reduced

from blip2.apis.config import load_config
from blip2.registry import MODELS

CONFIGS = os.environ.get("MMPRETRAIN_CONFIGS", "")
CAPTION = "blip2-opt2.7b_8xb32_caption.py"
NAMES = [CAPTION, "blip2-opt2.7b_8xb16_vqa.py", "blip2-opt2.7b_8xb16_gqa.py", "blip2_8xb32_retrieval.py"]

pytestmark = pytest.mark.skipif(not CONFIGS, reason="MMPRETRAIN_CONFIGS does not name mmpretrain's configs")


@pytest.mark.filterwarnings("ignore:.*out_indices=-2")
@pytest.mark.parametrize("name", NAMES)
def test_upstreams_config_parses_into_our_scope(name):
    config = load_config(Path(CONFIGS) / "blip2" / name)
    assert config.default_scope == "blip2"
    assert config.model.type.startswith("Blip2")
    assert "mmpretrain" not in str(config.to_dict())


@pytest.mark.filterwarnings("ignore:.*out_indices=-2")
def test_upstreams_caption_config_differs_from_ours_only_where_we_say_so():
    theirs, ours = load_config(Path(CONFIGS) / "blip2" / CAPTION), load_config(f"blip2/{CAPTION}")
    assert theirs.model.vision_backbone.pop("out_indices") == -2
    assert ours.model.vision_backbone.pop("out_indices") == -1
    assert theirs.model.to_dict() == ours.model.to_dict()
    for key in ("test_dataloader", "test_evaluator", "test_pipeline", "default_hooks", "visualizer", "env_cfg"):
        left, right = theirs[key], ours[key]
        if key == "test_dataloader":
            left.pop("num_workers"), right.pop("num_workers")
        assert left == right, key


def test_upstreams_caption_model_builds_with_its_literal_meaning():
    with pytest.warns(UserWarning, match="38th block"):
        config = load_config(Path(CONFIGS) / "blip2" / CAPTION)
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_745_216_384
    assert tuple(model.vision_backbone.out_indices) == (37,)


@pytest.mark.filterwarnings("ignore:.*out_indices=-2")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("name", NAMES)
def test_upstreams_config_builds_its_whole_runner_unmodified(name, published_data):
    from blip2.apis.runner import build_runner

    runner = build_runner(Path(CONFIGS) / "blip2" / name, device="meta", work_dir=published_data / "work")
    assert type(runner.visualizer).__name__ == "UniversalVisualizer"
    assert "VisualizationHook" in {type(hook).__name__ for hook in runner._hooks}
    assert type(runner.model.data_preprocessor).__name__ == "MultiModalDataPreprocessor"
    fields = {
        CAPTION: (["gt_caption"], []),
        "blip2-opt2.7b_8xb16_vqa.py": (["question", "gt_answer", "gt_answer_weight"], ["question"]),
        "blip2-opt2.7b_8xb16_gqa.py": (["question", "gt_answer"], ["question", "gt_answer"]),
        "blip2_8xb32_retrieval.py": (["text", "is_matched"], ["text", "gt_text_id", "gt_image_id"]),
    }[name]
    for loop, keys in zip((runner.train_loop, runner.test_loop), fields, strict=True):
        assert len(loop.dataloader.dataset) in (PICTURES, 2 * PICTURES)
        _, sample = loop.dataloader.dataset[0, None]
        assert sample["inputs"].shape[0] == 3
        assert sorted(sample["data_samples"].keys()) == sorted(keys)
    assert runner.val_loop.evaluator.metrics and runner.test_loop.evaluator.metrics
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert runner.build_param_scheduler(runner.param_schedulers)


@pytest.mark.filterwarnings("ignore:.*out_indices=-2")
@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("blip2-opt2.7b_8xb16_vqa.py", None),
        ("blip2-opt2.7b_8xb16_gqa.py", "GQA/acc"),
        ("blip2_8xb32_retrieval.py", "t2i/retrieval/Recall@1"),
    ],
)
def test_upstreams_config_trains_and_tests_at_reduced_size(name, score, published_data):
    from blip2.apis.runner import build_runner

    config = reduced(Path(CONFIGS) / "blip2" / name, published_data / "work", **{"train_cfg.max_epochs": 1})
    runner = build_runner(config, device="cpu")
    runner.train()
    assert runner.epoch == 1
    scores = runner.test()
    if score:
        assert 0 <= scores[score] <= 100
    else:  # test2015 has no answers
        assert len(json.loads((published_data / "vqa_test.json").read_text())) == PICTURES


def test_upstreams_retrieval_model_is_as_published():
    config = load_config(Path(CONFIGS) / "blip2" / "blip2_8xb32_retrieval.py")
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_173_191_358
    assert (model.topk, model.max_txt_len) == (128, 35)


@pytest.mark.filterwarnings("ignore:.*out_indices=-2")
@pytest.mark.parametrize("name", NAMES[1:])
def test_upstreams_models_differ_from_ours_only_where_we_say_so(name):
    theirs, ours = load_config(Path(CONFIGS) / "blip2" / name), load_config(f"blip2/{name}")
    assert theirs.model.vision_backbone.pop("out_indices", -1) == (-1 if "retrieval" in name else -2)
    assert ours.model.vision_backbone.pop("out_indices") == -1
    assert theirs.model.to_dict() == ours.model.to_dict()
    assert theirs.val_evaluator == ours.val_evaluator
