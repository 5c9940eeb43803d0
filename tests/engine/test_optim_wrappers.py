"""Half-precision training against plain fp32, step by step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from torch import nn

from blip2.apis.runner import build_runner
from blip2.checkpoints import read_state_dict
from blip2.engine.errors import OptionError
from blip2.engine.optim_wrappers import AutocastOptimWrapper, MasterWeightsOptimWrapper
from blip2.engine.precision import amp_precision, autocast, cast_for_inference, plain_attention, precision_name


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1))


def train(model, wrapper, steps=20):
    generator = torch.Generator().manual_seed(1)
    wrapper.initialize_count_status(model, 0, steps)
    losses = []
    for _ in range(steps):
        x = torch.randn(32, 6, generator=generator)
        with wrapper.optim_context(model):
            loss = (model(x).squeeze(-1).float() - x.sum(-1)).square().mean()
        wrapper.update_params(loss)
        losses.append(loss.item())
    return losses


def adam(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: AutocastOptimWrapper(optimizer, dtype="bfloat16"),
        lambda optimizer: AutocastOptimWrapper(optimizer, dtype="fp16", loss_scale=128.0),
        lambda optimizer: AutocastOptimWrapper(
            optimizer, dtype="fp16", loss_scale={"init_scale": 64.0}, clip_grad={"max_norm": 1e6}
        ),
        lambda optimizer: MasterWeightsOptimWrapper(optimizer),
        lambda optimizer: MasterWeightsOptimWrapper(optimizer, accumulative_counts=1, clip_grad={"max_norm": 1e6}),
    ],
    ids=["bf16 autocast", "fp16 fixed scale", "fp16 dynamic scale, clipped", "bf16 master", "bf16 master, clipped"],
)
def test_half_precision_learns_like_fp32(make):
    exact, model = net(), net()
    expected = train(exact, OptimWrapper(adam(exact)))
    losses = train(model, make(adam(model)))
    assert losses == pytest.approx(expected, rel=0.05, abs=0.02)
    assert losses[-1] < 0.5 * losses[0]


def test_master_weights_take_steps_that_half_precision_would_swallow():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    wrapper = MasterWeightsOptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4))
    wrapper.initialize_count_status(model, 0, 100)
    for _ in range(100):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1, 1)).sum()
        wrapper.update_params(loss)
    assert model.weight.dtype == torch.bfloat16
    assert wrapper.full_precision_weights()["weight"].item() == pytest.approx(0.99, abs=1e-5)
    assert model.weight.item() == pytest.approx(0.99, abs=4e-3)


def test_gradients_accumulate_in_fp32():
    model = nn.Linear(1, 1, bias=False)
    wrapper = MasterWeightsOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=4)
    nn.init.zeros_(model.weight)
    wrapper.initialize_count_status(model, 0, 4)
    for value in (256.0, 1.0, 1.0, 1.0):  # 257 is no bf16 number
        with wrapper.optim_context(model):
            loss = model(torch.full((1, 1), value)).sum()
        wrapper.update_params(loss)
    assert wrapper.full_precision_weights()["weight"].item() == -259 / 4


def test_tied_weights_stay_tied_and_are_saved_under_both_names():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model.head.weight = model.embed.weight
    wrapper = MasterWeightsOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapper.initialize_count_status(model, 0, 1)
    with wrapper.optim_context(model):
        loss = F.cross_entropy(model.head(model.embed(torch.arange(5))).float(), torch.arange(5))
    wrapper.update_params(loss)
    assert model.head.weight is model.embed.weight and model.head.weight.dtype == torch.bfloat16
    full = wrapper.full_precision_weights()
    assert full["embed.weight"] is not None and torch.equal(full["embed.weight"], full["head.weight"])


def test_frozen_weights_are_saved_as_they_were(toy):
    import toy_training

    wrapper = {"optim_wrapper.type": "MasterWeightsOptimWrapper", "model.freeze_first": True}
    runner = build_runner(toy(**wrapper), device="cpu")
    before = copy.deepcopy(runner.model.first.state_dict())
    runner.train()
    saved = read_state_dict(f"{runner.work_dir}/iter_20.pth")
    assert isinstance(runner.model, toy_training.ToyNet) and runner.model.first.weight.dtype == torch.bfloat16
    assert torch.equal(saved["first.weight"], before["weight"]) and torch.equal(saved["first.bias"], before["bias"])


def test_loss_scale_is_part_of_the_state():
    model = net()
    wrapper = AutocastOptimWrapper(adam(model), dtype="fp16", loss_scale={"init_scale": 64.0, "growth_interval": 2})
    train(model, wrapper, steps=4)
    assert wrapper.loss_scaler.get_scale() == 256
    other = AutocastOptimWrapper(adam(model), dtype="fp16")
    other.load_state_dict(wrapper.state_dict())
    assert other.loss_scaler.get_scale() == 256


@pytest.mark.parametrize("kind", ["OptimWrapper", "AutocastOptimWrapper", "MasterWeightsOptimWrapper"])
@pytest.mark.parametrize("then", ["fp32", "bf16"])
def test_training_may_go_on_in_another_precision(toy, kind, then):
    cfg = toy(**{"optim_wrapper.type": kind, "train_cfg.max_epochs": 1})
    build_runner(cfg, device="cpu").train()
    longer = toy(**{"optim_wrapper.type": kind, "train_cfg.max_epochs": 2})
    runner = build_runner(longer, device="cpu", precision=then, resume=True)
    runner.train()
    assert runner.iter == 10


@pytest.mark.parametrize("name", ["AmpOptimWrapper", "AutocastOptimWrapper"])
def test_upstreams_name_works_on_the_cpu(toy, name):
    cfg = toy(**{"optim_wrapper.type": name, "optim_wrapper.dtype": "bfloat16", "train_cfg.max_epochs": 1})
    runner = build_runner(cfg, device="cpu")
    runner.train()
    assert isinstance(runner.optim_wrapper, AutocastOptimWrapper) and runner.optim_wrapper.precision == "bf16"


def test_precision_of_the_command_line_wins_over_the_config(toy):
    for kind, precision, expected in [
        ("AmpOptimWrapper", "fp32", OptimWrapper),
        ("MasterWeightsOptimWrapper", "fp32", OptimWrapper),
        ("MasterWeightsOptimWrapper", "bf16", MasterWeightsOptimWrapper),
        ("OptimWrapper", "bf16", AutocastOptimWrapper),
    ]:
        cfg = toy(**{"optim_wrapper.type": kind, "train_cfg.max_epochs": 1})
        runner = build_runner(cfg, device="cpu", precision=precision)
        runner.train()
        assert type(runner.optim_wrapper) is expected
    with pytest.raises(OptionError, match=r"fp16 does not go with optim_wrapper.type='MasterWeights"):
        build_runner(toy(**{"optim_wrapper.type": "MasterWeightsOptimWrapper"}), device="cpu", precision="fp16")


def test_plain_attention_computes_the_same_and_leaves_no_trace():
    q, k, v = (torch.randn(2, 2, 7, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    with plain_attention():
        plain = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(plain, fused, atol=0.03, rtol=0)
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == allowed


def test_names_of_precisions():
    assert [precision_name(name) for name in ("bf16", "bfloat16", torch.float16, "fp32")] == [
        "bf16",
        "bf16",
        "fp16",
        "fp32",
    ]
    with pytest.raises(OptionError, match="'int8' is none of fp32, bf16, fp16"):
        precision_name("int8")
    assert amp_precision("cpu") == "bf16"


def test_cast_model_gives_what_autocast_gives():
    model, x = net().eval(), torch.randn(3, 6)
    with torch.no_grad(), autocast("cpu", "bf16"):
        expected = model(x)
    cast_for_inference(model, "bf16")
    assert model[1].weight.dtype == torch.float32
    with torch.no_grad(), autocast("cpu", "bf16"):
        assert torch.equal(model(x), expected)
