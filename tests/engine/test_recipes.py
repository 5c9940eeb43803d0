"""The full-size recipes take a step on random data at reduced depth, resume, keep the best, and follow one another."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import CheckpointHook as MMCheckpointHook
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from reduced_recipes import LAYERS, SIZES, WIDTH, WORDS, reduced, snapshots, weights, write_data
from torch import nn
from transformers import BertConfig, BertForPreTraining
from transformers import OPTConfig as PeerOPTConfig
from transformers import OPTForCausalLM as PeerOPT

from blip2.apis.config import load_config
from blip2.apis.runner import build_runner
from blip2.checkpoints import CheckpointError
from blip2.registry import HOOKS, MODELS

STAGE1 = "blip2/blip2_pretrain-stage1_16xb105.py"
STAGE2 = "blip2/blip2-opt2.7b_pretrain-stage2_16xb120.py"
CAPTION = "blip2/blip2-opt2.7b_16xb16_caption_finetune.py"
VQA = "blip2/blip2-opt2.7b_16xb8_vqa_finetune.py"
VQA_TEST = "blip2/blip2-opt2.7b_16xb8_vqa_finetune_test-dev.py"
RETRIEVAL = "blip2/blip2_16xb14_retrieval_finetune.py"
# The paper's numbers: pictures a step, peak learning rate, β of AdamW, pixels, decay from block to block.
PAPER = {
    STAGE1: (1680, 1e-4, (0.9, 0.98), 224, 1.0),
    STAGE2: (1920, 1e-4, (0.9, 0.98), 224, 1.0),
    CAPTION: (256, 1e-5, (0.9, 0.999), 364, 1.0),
    VQA: (128, 1e-5, (0.9, 0.999), 490, 0.95),
    VQA_TEST: (128, 1e-5, (0.9, 0.999), 490, 0.95),
    RETRIEVAL: (224, 1e-5, (0.9, 0.999), 364, 0.95),
}
FROZEN = {STAGE1: ("vision_backbone",), STAGE2: ("vision_backbone", "text_backbone"), RETRIEVAL: ()}
GPUS = 16


@pytest.fixture(autouse=True)
def plain_logs(monkeypatch):
    """Without the layout of the config's text and the description of the machine, which take longer than a step."""
    monkeypatch.setattr("mmengine.config.config.FormatCode", lambda text, **_: (text, True))
    monkeypatch.setattr("mmengine.runner.runner.collect_env", dict)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    write_data(folder)
    return folder


@pytest.fixture
def recipe(place, tmp_path, monkeypatch):
    """Makes reduced configs; the folder of the data is the current one."""
    monkeypatch.chdir(place)

    def make(name, work="run", **changes):
        # The warm-up's first steps are too small to be seen in a weight near 1.
        return reduced(name, tmp_path / work, **{"param_scheduler.0.start_factor": 1.0, **changes})

    return make


def train(cfg, **options):
    runner = build_runner(cfg, device="cpu", **options)
    runner.train()
    return runner


# ----- what the configs say -----


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers(name):
    cfg = load_config(name)
    batch, rate, betas, pixels, decay = PAPER[name]
    assert cfg.train_dataloader.batch_size * GPUS == cfg.auto_scale_lr.base_batch_size == batch
    assert f"_{GPUS}xb{cfg.train_dataloader.batch_size}" in name
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, tuple(optimizer.betas)) == ("AdamW", rate, betas)
    assert optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.paramwise_cfg == {"layer_decay_rate": decay, "flat_decay_mult": 0.0}
    assert cfg.optim_wrapper.dtype == "bfloat16"
    crops = [step.scale for step in cfg.train_pipeline if step.type == "RandomResizedCrop"]
    assert cfg.model.vision_backbone.img_size == pixels and crops == [pixels]
    whole = cfg.model.vision_backbone.get("frozen_stages", -1)
    assert whole == (39 if name in (STAGE1, STAGE2) else -1)


def rates_of(name, steps, epoch_length=None):
    """The learning rate at each of `steps`, as the config's schedulers set it."""
    cfg = load_config(name)
    base = cfg.optim_wrapper.optimizer.lr
    wrapper = OptimWrapper(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base))
    schedulers = []
    with DefaultScope.overwrite_default_scope("blip2"):
        for settings in cfg.param_scheduler:
            settings = dict(settings)
            convert = settings.pop("convert_to_iter_based", False)
            kind = PARAM_SCHEDULERS.get(settings.pop("type"))
            if convert:
                schedulers.append(kind.build_iter_from_epoch(wrapper, epoch_length=epoch_length, **settings))
            else:
                schedulers.append(kind(wrapper, **settings))
    wrapper.optimizer.step()
    found = {}
    for step in range(max(steps) + 1):
        if step in steps:
            found[step] = wrapper.param_groups[0]["lr"]
        for scheduler in schedulers:
            scheduler.step()
    return [found[step] for step in steps]


def test_stage_2_warms_up_and_falls_along_a_cosine():
    steps = [0, 1000, 2000, 41000, 79999]
    middle = 5e-5 + 0.5 * 5e-5 * (1 + math.cos(math.pi * (41000 - 2000) / 78000))
    warm = 0.01 + 0.99 * 1000 / 1999  # mmengine counts the factors from the first to the last step
    assert rates_of(STAGE2, steps) == pytest.approx([1e-6, warm * 1e-4, 1e-4, middle, 5e-5], rel=1e-3)


def test_fine_tuning_warms_up_and_falls_to_nothing():
    first, warm, half, last = rates_of(CAPTION, [0, 1000, 5000, 9999], epoch_length=2000)
    assert first == pytest.approx(1e-8, rel=1e-2)
    assert warm == pytest.approx(1e-5 * (1 + math.cos(math.pi * 0.1)) / 2, rel=1e-2)
    assert half == pytest.approx(5e-6, rel=1e-2) and last < 1e-10


def test_stage_1_ends_with_its_schedule():
    cfg = load_config(STAGE1)
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.end, cosine.eta_min) == (2000, 2000, 250000, 1e-5)
    assert cfg.train_cfg.max_iters == 250000


@pytest.mark.parametrize("name", PAPER)
def test_the_model_has_its_full_size(name):
    with DefaultScope.overwrite_default_scope("blip2"), torch.device("meta"):
        model = MODELS.build(load_config(name).model)
    count = sum(parameter.numel() for parameter in model.vision_backbone.parameters())
    assert 980_000_000 < count < 990_000_000
    if name in (STAGE1, RETRIEVAL):
        total = sum(parameter.numel() for parameter in model.parameters())
        # 1,173,191,358 with position embeddings for 364 px
        assert total == 1_173_191_358 - (0 if name == RETRIEVAL else (26**2 - 16**2) * 1408)


# ----- a step of each -----


@pytest.mark.parametrize("name", PAPER)
def test_one_step_moves_what_is_to_be_trained_and_nothing_else(recipe, name):
    once = {"train_cfg.max_iters": 1} if name in (STAGE1, STAGE2) else {"train_cfg.max_epochs": 1}
    cfg = recipe(name, custom_hooks=[{"type": "Snapshots"}], **once)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.default_hooks.checkpoint.save_best = None
    runner = train(cfg)
    before, after = snapshots(runner)[:2]
    assert all(torch.isfinite(value).all() for value in after.values())
    frozen = FROZEN.get(name, ("text_backbone",))
    still = {key for key, parameter in before.items() if torch.equal(parameter, after[key])}
    for key, _ in runner.model.named_parameters():
        assert key.startswith(frozen) <= (key in still), f"{key} is frozen and moved"
        # A bias of keys adds the same to all scores of a query. What VQA's text becomes in the last layer nobody reads.
        unread = VQA in (name, name.replace("_test-dev", "")) and f"layer.{LAYERS - 1}." in key
        if not key.startswith(frozen) and not key.endswith("self.key.bias") and not unread:
            assert key not in still, f"{key} has not moved"


def test_gradient_accumulation_is_a_switch(recipe):
    cfg = recipe(STAGE1, custom_hooks=[{"type": "Snapshots"}])
    cfg.merge_from_dict({"train_cfg.max_iters": 2, "optim_wrapper.accumulative_counts": 2})
    start, first, second = snapshots(train(cfg))
    assert all(torch.equal(start[key], first[key]) for key in start)
    assert not torch.equal(start["query_tokens"], second["query_tokens"])


@pytest.mark.parametrize("name", [STAGE1, CAPTION])
def test_gradient_checkpointing_is_a_switch_that_changes_no_weight(recipe, name):
    parts = ["vision_backbone", "multimodal_backbone", *(["text_backbone"] if name == CAPTION else [])]
    results = []
    for with_cp in (False, True):
        changes = {f"model.{part}.with_cp": with_cp for part in parts}
        once = {"train_cfg.max_iters": 2} if name == STAGE1 else {"train_cfg.max_epochs": 1}
        cfg = recipe(name, str(with_cp), **changes, **once)
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.default_hooks.checkpoint.save_best = None
        results.append(weights(train(cfg)))
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_precision_is_a_switch(recipe):
    runner = build_runner(recipe(STAGE1, **{"train_cfg.max_iters": 1}), device="cpu", precision="fp32")
    runner.train()
    assert type(runner.optim_wrapper).__name__ == "OptimWrapper"


def test_the_learning_rate_falls_from_block_to_block_where_the_encoder_is_trained(recipe):
    cfg = recipe(RETRIEVAL)
    runner = build_runner(cfg, device="cpu")
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    names = {parameter: name for name, parameter in runner.model.named_parameters()}
    rates = {names[p]: group["lr"] / 1e-5 for group in wrapper.optimizer.param_groups for p in group["params"]}
    assert rates["vision_backbone.pos_embed"] == pytest.approx(0.95 ** (LAYERS + 1))
    assert rates["vision_backbone.layers.0.ffn.layers.1.weight"] == pytest.approx(0.95**LAYERS)
    assert rates["query_tokens"] == rates["ln_vision_backbone.weight"] == 1


def test_fewer_collections_of_pictures_are_a_line_in_a_config_of_ones_own(recipe, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        f"_base_ = ['blip2::{STAGE1}']\n"
        "train_dataloader = dict(dataset=dict(datasets=[_base_.coco_dataset, _base_.visual_genome_dataset]))\n"
    )
    runner = build_runner(recipe(str(own)), device="cpu")
    assert len(runner.build_dataloader(runner._train_dataloader).dataset) == 7


def test_a_picture_of_the_web_that_is_gone_is_left_out(recipe):
    cfg = recipe(STAGE1, **{"train_cfg.max_iters": 1})
    cfg.train_dataloader.batch_size = 15  # all there are
    runner = train(cfg)
    assert sorted(Path(path).parent.name for path in runner.train_loop.bad_images) == [
        *("cc12m", "cc3m", "laion400m", "sbu")
    ]


# ----- interruptions -----


@HOOKS.register_module(force=True)
class InterruptRecipe(Hook):
    priority = "LOWEST"

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("accumulative_counts", [1, 2])
def test_stage_1_resumed_in_the_middle_of_an_epoch_ends_with_the_same_weights(recipe, accumulative_counts):
    """Captions, crops, dropout and hard negatives are drawn from generators whose state the checkpoint holds."""
    changes = {
        "train_cfg.max_iters": 9,  # epochs of 5 batches
        "default_hooks.checkpoint.interval": 3,
        "optim_wrapper.accumulative_counts": accumulative_counts,
        "optim_wrapper.optimizer.lr": 1e-2,
        "param_scheduler.1.begin": 2,
        "param_scheduler.1.end": 9,
        "param_scheduler.0.end": 2,
    }
    whole = train(recipe(STAGE1, "whole", **changes))
    broken = recipe(STAGE1, "parts", custom_hooks=[{"type": "InterruptRecipe", "after": 8}], **changes)
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    random.seed(99)  # what another process would bring along
    np.random.seed(99)
    torch.manual_seed(99)
    resumed = train(recipe(STAGE1, "parts", **changes), resume=f"{broken.work_dir}/iter_3.pth")
    assert resumed.iter == 9
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[key]), key
    another = train(recipe(STAGE1, "another", randomness={"seed": 1}, **changes))
    assert not torch.equal(another.model.query_tokens, whole.model.query_tokens)  # what is drawn does count


# ----- the best checkpoint -----


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (CAPTION, "best_CIDEr_epoch_"),
        (VQA, "best_VQA_acc_epoch_"),
        (RETRIEVAL, "best_mean_retrieval_mean_recall_epoch_"),
    ],
)
def test_the_checkpoint_with_the_best_score_of_the_task_is_kept(recipe, name, file):
    cfg = recipe(name, **{"train_cfg.max_epochs": 1, "model.multimodal_backbone.hidden_dropout_prob": 0.0})
    if "max_txt_len" in cfg.model and "text_backbone" in cfg.model:
        cfg.model.update(max_txt_len=4, num_beams=2, min_length=1)
    runner = train(cfg)
    hook = next(hook for hook in runner.hooks if isinstance(hook, MMCheckpointHook))
    assert hook.rules == ["greater"]
    (best,) = Path(cfg.work_dir).glob("best_*.pth")
    assert best.name.startswith(file)
    score = runner.message_hub.get_info("best_score")
    assert score == runner.message_hub.get_scalar(f"val/{hook.key_indicators[0]}").data[0][-1]


# ----- from stage to stage -----


@pytest.fixture
def folders(tmp_path):
    """A tiny BERT and a tiny OPT as folders of transformers, and a file with an image encoder for larger pictures."""
    torch.manual_seed(5)
    bert = BertConfig(**SIZES, intermediate_size=64, vocab_size=WORDS - 1, max_position_embeddings=512)
    BertForPreTraining(bert).save_pretrained(tmp_path / "bert")
    opt = PeerOPTConfig(
        **SIZES, word_embed_proj_dim=WIDTH, ffn_dim=64, vocab_size=WORDS, max_position_embeddings=96, pad_token_id=1
    )
    PeerOPT(opt).save_pretrained(tmp_path / "opt")
    return tmp_path


def test_each_stage_starts_from_the_one_before(recipe, folders):
    tower = reduced(STAGE1, folders / "tower").model.vision_backbone
    tower.img_size = 56
    with DefaultScope.overwrite_default_scope("blip2"):
        tower = MODELS.build(tower)
    torch.save({f"vision_backbone.{key}": value for key, value in tower.state_dict().items()}, folders / "tower.pth")

    def run(name, **parts):
        hook = load_config(name).custom_hooks[0]
        for part, source in parts.items():
            section = "pretrained" if part in hook.get("pretrained", {}) else "parts"
            assert part in hook[section]
            hook[section][part] = source
        once = {"train_cfg.max_iters": 1} if name != VQA else {"train_cfg.max_epochs": 1}
        cfg = recipe(name, Path(name).stem, custom_hooks=[hook, {"type": "Snapshots"}], **once)
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
        cfg.default_hooks.checkpoint.save_best = None
        runner = train(cfg)
        return snapshots(runner)[0], weights(runner), cfg.work_dir

    start, end1, work1 = run(
        STAGE1, multimodal_backbone=str(folders / "bert"), vision_backbone=str(folders / "tower.pth")
    )
    assert torch.equal(start["vision_backbone.layers.1.ln2.weight"], tower.layers[1].ln2.weight)
    assert start["vision_backbone.pos_embed"].shape == (1, 5, WIDTH)
    layer = "multimodal_backbone.bert.encoder.layer.1."
    feed_forward = start[f"{layer}intermediate.dense.weight"]
    bert = BertForPreTraining.from_pretrained(folders / "bert")
    assert torch.equal(feed_forward, bert.bert.encoder.layer[1].intermediate.dense.weight)
    assert torch.equal(feed_forward, start[f"{layer}intermediate_query.dense.weight"])

    stage1 = dict.fromkeys(("vision_backbone", "ln_vision_backbone", "query_tokens", "multimodal_backbone"), work1)
    start, end2, work2 = run(STAGE2, text_backbone=str(folders / "opt"), **stage1)
    shared = {key for key in start if not key.startswith(("text_backbone", "vision_neck"))}
    assert len(shared) > 40 and all(torch.equal(start[key], end1[key]) for key in shared)
    opt = PeerOPT.from_pretrained(folders / "opt").state_dict()
    assert all(torch.equal(start[f"text_backbone.{key}"], value) for key, value in opt.items())

    stage2 = dict.fromkeys(("vision_backbone", "ln_vision_backbone", "query_tokens", "vision_neck"), work2)
    start, _, _ = run(VQA, text_backbone=str(folders / "opt"), multimodal_backbone=[work1, work2], **stage2)
    assert all(torch.equal(start[key], end2[key]) for key in end2)
    text_branch = {key for key in start if key not in end2}
    assert text_branch and all(torch.equal(start[key], end1[key]) for key in text_branch)


def test_parts_that_do_not_fit_are_an_error_unless_they_may_stay_unused(recipe, tmp_path):
    earlier = train(recipe(STAGE1, "stage1", **{"train_cfg.max_iters": 1}))
    hook = {"type": "LoadParts", "parts": {"multimodal_backbone": earlier.work_dir}}
    cfg = recipe(STAGE2, custom_hooks=[hook], **{"train_cfg.max_iters": 1})
    with pytest.raises(CheckpointError, match=r"unknown to the model: multimodal_backbone\.bert\.embeddings\.word"):
        train(cfg)
    cfg.custom_hooks = [{**hook, "pretrained": {"vision_neck": "somewhere"}}]
    with pytest.raises(CheckpointError, match=r"vision_neck is a LinearClsHead, which has no published weights"):
        train(cfg)
    cfg.custom_hooks = [{"type": "LoadParts", "pretrained": {"text_backbone": "facebook/opt-2.7b"}}]
    with pytest.raises(CheckpointError, match=r"text_backbone from 'facebook/opt-2\.7b'.*network is switched off"):
        train(cfg)
    cfg.custom_hooks = [{**hook, "allow_unused": ["multimodal_backbon"]}]
    with pytest.raises(ValueError, match="Did you mean 'multimodal_backbone'"):
        build_runner(cfg, device="cpu")
