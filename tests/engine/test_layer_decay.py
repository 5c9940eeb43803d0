"""Layer-wise decay of the learning rate, and which parameters have no weight decay."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import blip2.engine  # noqa: F401  registers the constructor
from blip2.engine.errors import OptionError
from blip2.models.vision import BEiTViT
from blip2.registry import OPTIM_WRAPPER_CONSTRUCTORS

BLOCKS = 3
LR, DECAY, RATE = 1e-2, 0.05, 0.5


class Model(nn.Module):
    """An image encoder, a head with a tied parameter, and something frozen."""

    def __init__(self, frozen_stages=-1):
        super().__init__()
        self.vision_backbone = BEiTViT(
            {"embed_dims": 8, "num_layers": BLOCKS, "num_heads": 2, "feedforward_channels": 16},
            img_size=16,
            patch_size=8,
            use_abs_pos_emb=True,
            use_rel_pos_bias=False,
            layer_scale_init_value=0.1,
            final_norm=True,
            out_type="raw",
            frozen_stages=frozen_stages,
        )
        self.query_tokens = nn.Parameter(torch.zeros(1, 2, 8))
        self.embedding, self.head = nn.Embedding(5, 8), nn.Linear(8, 5)
        self.head.weight = self.embedding.weight
        self.text_backbone = nn.Linear(8, 8).requires_grad_(False)


def wrapper(model, **paramwise):
    cfg = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": DECAY},
        "constructor": "blip2.LearningRateDecayOptimWrapperConstructor",
        "paramwise_cfg": paramwise,
    }
    return build_optim_wrapper(model, cfg)


def settings(model, wrapper):
    """(learning rate / base, weight decay / base) of every trained parameter by its first name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            assert names[parameter] not in found, f"{names[parameter]} is in two groups"
            found[names[parameter]] = (group["lr"] / LR, group["weight_decay"] / DECAY)
    return found


def lavis_scale(name):
    """LAVIS's factor: rate to the power of (blocks + 1 - i), where i = 0 for embeddings and k + 1 for block k."""
    if not name.startswith("vision_backbone."):
        return 1.0
    name = name.removeprefix("vision_backbone.")
    if name.startswith("layers."):
        return RATE ** (BLOCKS + 1 - (int(name.split(".")[1]) + 1))
    return RATE ** (BLOCKS + 1) if name.startswith(("patch_embed", "pos_embed", "cls_token")) else 1.0


def test_rates_fall_from_block_to_block_and_flat_parameters_have_no_weight_decay():
    model = Model()
    found = settings(model, wrapper(model, layer_decay_rate=RATE, flat_decay_mult=0.0))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained.keys() and not any(name.startswith("text_backbone") for name in found)
    for name, (scale, decay) in found.items():
        assert scale == pytest.approx(lavis_scale(name)), name
        assert decay == pytest.approx(0.0 if trained[name].ndim == 1 else 1.0), name
    assert found["vision_backbone.layers.0.attn.q_bias"] == (pytest.approx(RATE**BLOCKS), 0.0)
    assert found["vision_backbone.pos_embed"] == (pytest.approx(RATE ** (BLOCKS + 1)), 1.0)
    assert found["vision_backbone.ln1.weight"] == found["head.bias"] == (1.0, 0.0)


def test_equal_settings_share_a_group():
    groups = wrapper(Model(), layer_decay_rate=RATE, flat_decay_mult=0.0).optimizer.param_groups
    assert len(groups) == 2 * (BLOCKS + 2)  # with and without weight decay, for each depth


def test_frozen_blocks_are_left_out():
    model = Model(frozen_stages=2)
    found = settings(model, wrapper(model, layer_decay_rate=RATE))
    assert {name for name in found if "layers." in name} == {
        name for name, _ in model.named_parameters() if "layers.2." in name
    }


def test_norms_biases_and_names_of_ones_own():
    model = Model()
    custom = {"pos_embed": {"decay_mult": 0.5}, "vision_backbone.ln1.weight": {"decay_mult": 0.25}, "ln1": {}}
    found = settings(model, wrapper(model, norm_decay_mult=0.0, bias_decay_mult=0.1, custom_keys=custom))
    assert found["vision_backbone.layers.0.ln2.bias"][1] == 0.0  # of a norm
    assert found["vision_backbone.layers.0.attn.proj.bias"][1] == pytest.approx(0.1)
    assert found["vision_backbone.layers.0.attn.q_bias"][1] == pytest.approx(1.0)  # flat, but not called bias
    assert found["vision_backbone.pos_embed"][1] == pytest.approx(0.5)
    assert found["vision_backbone.ln1.weight"][1] == pytest.approx(0.25)  # the longer key
    assert found["vision_backbone.layers.0.ln1.weight"][1] == pytest.approx(1.0)
    assert {scale for scale, _ in found.values()} == {1.0}


def test_the_base_rate_is_what_is_logged():
    model = Model()
    optim = wrapper(model, layer_decay_rate=RATE)
    assert optim.get_lr()["base_lr"] == [LR]


def test_schedules_scale_every_group_alike():
    from mmengine.optim import CosineAnnealingLR

    optim = wrapper(Model(), layer_decay_rate=RATE)
    before = [group["lr"] for group in optim.optimizer.param_groups]
    schedule = CosineAnnealingLR(optim, T_max=10, by_epoch=False)
    optim.optimizer.step()
    for _ in range(5):
        schedule.step()
    after = [group["lr"] for group in optim.optimizer.param_groups]
    assert after == pytest.approx([0.5 * lr for lr in before])


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        ({"layer_decay": 0.5}, "unknown option 'layer_decay'.*Did you mean 'layer_decay_rate'"),
        ({"custom_keys": {"ln1": {"lr_mult": 2.0}}}, "takes decay_mult alone"),
    ],
)
def test_options_that_cannot_be_followed_are_named(paramwise, message):
    with pytest.raises(OptionError, match=message):
        wrapper(Model(), **paramwise)


def test_a_model_without_depths_is_refused():
    with pytest.raises(OptionError, match="no part of Linear has a method get_layer_depth"):
        wrapper(nn.Linear(2, 2), layer_decay_rate=0.9)


def test_it_answers_to_mmpretrains_name():
    assert OPTIM_WRAPPER_CONSTRUCTORS.get("LearningRateDecayOptimWrapperConstructor") is not None
