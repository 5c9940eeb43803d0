"""`BEiTViT` against transformers' `Blip2VisionModel`, brute-force twins and the published key list."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from blip2.models import BEiTViT
from blip2.registry import MODELS

ARCH = {"embed_dims": 32, "num_layers": 3, "num_heads": 4, "feedforward_channels": 48}
EVA = {
    "arch": ARCH,
    "img_size": 32,
    "patch_size": 8,
    "layer_scale_init_value": 0.0,
    "use_abs_pos_emb": True,
    "use_rel_pos_bias": False,
    "out_type": "raw",
}
KEYS = Path(__file__).parents[1] / "data" / "mmpretrain_blip2_caption_keys.tsv"


def eva(**changes):
    """A tiny EVA ViT whose parameters are all random, biases and norms too."""
    torch.manual_seed(0)
    model = BEiTViT(**{**EVA, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def peer():
    from transformers import Blip2VisionConfig, Blip2VisionModel

    torch.manual_seed(0)
    config = Blip2VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
        qkv_bias=True,
    )
    model = Blip2VisionModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            if name.endswith("qkv.bias"):
                parameter[32:64] = 0  # EVA has no bias on the keys
    return model


def from_peer(peer):
    """The peer's weights under our names (its last norm belongs to `ln_vision_backbone`, outside the backbone)."""
    names = {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.projection",
        "encoder.layers": "layers",
        "layer_norm1": "ln1",
        "layer_norm2": "ln2",
        "self_attn.projection": "attn.proj",
        "self_attn": "attn",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
    }
    weights = {}
    for key, value in peer.state_dict().items():
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)
        if key.endswith("qkv.bias"):
            weights[key.replace("qkv.bias", "q_bias")], _, weights[key.replace("qkv.bias", "v_bias")] = value.chunk(3)
        elif not key.startswith("post_layernorm"):
            weights[key] = value
    return weights


def test_every_block_agrees_with_transformers(peer):
    model = eva(out_indices=[0, 1, 2])
    model.load_state_dict(from_peer(peer))
    images = torch.randn(2, 3, 32, 32)
    theirs = peer(images, output_hidden_states=True)
    outputs = model(images)
    assert len(outputs) == 3
    for ours, their in zip(outputs, theirs.hidden_states[1:], strict=True):
        assert_close(ours, their, atol=1e-5, rtol=1e-5)
    assert_close(peer.post_layernorm(outputs[-1]), theirs.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(48, 48), (16, 16), (24, 56)])
def test_pictures_of_another_size_agree_with_transformers(peer, size):
    model = eva()
    model.load_state_dict(from_peer(peer))
    images = torch.randn(2, 3, *size)
    theirs = peer(images, interpolate_pos_encoding=True).last_hidden_state
    assert_close(peer.post_layernorm(model(images)[0]), theirs, atol=1e-5, rtol=1e-5)


def test_full_size_keys_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        model = BEiTViT(
            arch={"embed_dims": 1408, "num_layers": 39, "num_heads": 16, "feedforward_channels": 6144},
            img_size=364,
            patch_size=14,
            out_indices=-2,
            layer_scale_init_value=0.0,
            use_abs_pos_emb=True,
            use_rel_pos_bias=False,
            frozen_stages=39,
            final_norm=False,
            use_shared_rel_pos_bias=False,
            out_type="raw",
        )
    published = {}
    for line in KEYS.read_text().splitlines():
        key, shape, *_ = line.split("\t")
        if key.startswith("vision_backbone."):
            published[key.removeprefix("vision_backbone.")] = shape
    assert {key: "x".join(map(str, value.shape)) for key, value in model.state_dict().items()} == published
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_is_registered_and_takes_upstreams_config():
    model = MODELS.build({"type": "BEiTViT", **EVA, "out_indices": -2, "frozen_stages": 3, "final_norm": False})
    assert isinstance(model, BEiTViT)
    assert model.embed_dims == 32


def test_out_indices_choose_blocks_and_deeper_ones_are_not_run():
    images = torch.randn(1, 3, 32, 32)
    every = eva(out_indices=(0, 1, 2))(images)
    assert_close(eva(out_indices=-2)(images), every[1:2])
    assert_close(eva(out_indices=[-1, 0])(images), (every[0], every[2]))
    model = eva(out_indices=-2)
    model.layers[2].forward = None  # would raise when called
    assert_close(model(images), every[1:2])


def test_out_types_are_views_of_the_raw_output():
    images = torch.randn(2, 3, 32, 16)
    raw = eva()(images)[0]
    patches = raw[:, 1:]
    assert raw.shape == (2, 1 + 4 * 2, 32)
    assert_close(eva(out_type="cls_token")(images)[0], raw[:, 0])
    featmap = eva(out_type="featmap")(images)[0]
    assert featmap.shape == (2, 32, 4, 2)
    assert_close(featmap[:, :, 3, 1], patches[:, -1])
    averaging = eva(out_type="avg_featmap")
    assert_close(averaging(images)[0], averaging.ln2(patches.mean(1)))


def test_final_norm_touches_the_last_block_only():
    images = torch.randn(1, 3, 32, 32)
    plain = eva(out_indices=[1, 2])(images)
    model = eva(out_indices=[1, 2], final_norm=True)
    assert_close(model(images), (plain[0], model.ln1(plain[1])))


def test_a_size_that_is_no_multiple_of_the_patch_is_filled_with_zeros():
    model = eva()
    images = torch.randn(1, 3, 27, 30)
    assert_close(model(images), model(F.pad(images, (0, 2, 0, 5))))


def test_without_class_token_there_are_patches_only():
    model = eva(with_cls_token=False)
    assert model(torch.randn(1, 3, 32, 32))[0].shape == (1, 16, 32)
    assert "cls_token" not in model.state_dict()


def brute_force_relative_bias(table, height, width):
    """The bias for each pair of tokens by the definition: equal offsets, equal row; three rows for the class token."""
    patches = [(row, column) for row in range(height) for column in range(width)]
    tokens = [None, *patches]
    bias = torch.empty(table.shape[1], len(tokens), len(tokens))
    for i, query in enumerate(tokens):
        for j, key in enumerate(tokens):
            if query is None or key is None:
                row = -1 if query is key else (-3 if query is None else -2)
            else:
                row = (query[0] - key[0] + height - 1) * (2 * width - 1) + query[1] - key[1] + width - 1
            bias[:, i, j] = table[row]
    return bias


@pytest.mark.parametrize("shared", [False, True])
def test_relative_position_bias_is_added_to_the_scores(shared):
    model = eva(
        img_size=(24, 16),
        use_abs_pos_emb=False,
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
        out_indices=0,
    )
    owner = model.rel_pos_bias if shared else model.layers[0].attn
    bias = brute_force_relative_bias(owner.relative_position_bias_table, 3, 2)
    x = torch.randn(2, 7, 32)
    attn = model.layers[0].attn
    q, k, v = (
        F.linear(x, weight, offset).unflatten(2, (4, 8)).transpose(1, 2)
        for weight, offset in zip(attn.qkv.weight.chunk(3), (attn.q_bias, None, attn.v_bias), strict=True)
    )
    expected = ((q @ k.transpose(2, 3) / 8**0.5 + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
    assert_close(attn(x, model.rel_pos_bias() if shared else None), attn.proj(expected), atol=1e-5, rtol=1e-5)
    before = model(torch.ones(1, 3, 24, 16))[0]
    torch.nn.init.zeros_(owner.relative_position_bias_table)
    assert not torch.allclose(before, model(torch.ones(1, 3, 24, 16))[0])
    with pytest.raises(ValueError, match=r"24×16.*4×4"):
        model(torch.randn(1, 3, 32, 32))


def test_published_relative_bias_keys():
    keys = BEiTViT(ARCH, img_size=32, patch_size=8).state_dict()
    assert keys["layers.0.attn.relative_position_bias_table"].shape == (7 * 7 + 3, 4)
    assert keys["layers.0.attn.relative_position_index"].shape == (17, 17)
    assert keys["layers.0.gamma_1"].shape == (32,)
    shared = BEiTViT(ARCH, img_size=32, patch_size=8, use_rel_pos_bias=False, use_shared_rel_pos_bias=True).state_dict()
    assert "rel_pos_bias.relative_position_bias_table" in shared
    assert "layers.0.attn.relative_position_bias_table" not in shared


def test_layer_scale_multiplies_both_branches():
    model = eva(layer_scale_init_value=0.1, out_indices=0)
    layer = model.layers[0]
    x = torch.randn(1, 5, 32)
    middle = x + layer.gamma_1 * layer.attn(layer.ln1(x))
    assert_close(layer(x), middle + layer.gamma_2 * layer.ffn(layer.ln2(middle)))
    assert BEiTViT(**{**EVA, "layer_scale_init_value": 0.25}).layers[2].gamma_2.tolist() == [0.25] * 32


def test_drop_path_rises_with_depth_and_keeps_the_mean():
    model = eva(drop_path_rate=0.5)
    assert [layer.drop_path.rate for layer in model.layers] == [0, 0.25, 0.5]
    branch = model.layers[2].drop_path(torch.ones(4000, 2))
    assert set(branch.unique().tolist()) == {0.0, 2.0}
    assert abs(branch.mean().item() - 1) < 0.1
    assert torch.equal(branch[:, 0], branch[:, 1]), "a picture's branch is kept or left out as a whole"
    images = torch.randn(2, 3, 32, 32)
    model.eval()
    assert_close(model(images), eva().eval()(images))


@pytest.mark.parametrize(
    ("changes", "random"),
    [({"drop_rate": 0.5}, True), ({"layer_cfgs": {"attn_drop_rate": 0.5}}, True), ({}, False)],
)
def test_dropout_acts_in_training_only(changes, random):
    model = eva(**changes)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(images)[0], model(images)[0]) is not random
    model.eval()
    assert torch.equal(model(images)[0], model(images)[0])


def test_bias_choices():
    keys = set(eva().state_dict())
    assert {"layers.0.attn.q_bias", "layers.0.attn.v_bias"} <= keys
    assert "layers.0.attn.qkv.bias" in eva(bias=True).state_dict()
    none = set(eva(bias=False).state_dict())
    assert not any(key.endswith((".q_bias", ".v_bias", "qkv.bias")) for key in none)


def test_layer_cfgs_patch_cfg_and_norm_cfg_have_an_effect():
    own = [{}, {"feedforward_channels": 8, "act_cfg": {"type": "ReLU"}}, {"num_heads": 2}]
    model = eva(layer_cfgs=own, patch_cfg={"bias": False}, norm_cfg={"type": "LN", "eps": 1e-3}, in_channels=1)
    assert model.layers[1].ffn.layers[1].in_features == 8
    assert isinstance(model.layers[1].ffn.layers[0][1], torch.nn.ReLU)
    assert model.layers[2].attn.num_heads == 2
    assert model.patch_embed.projection.bias is None
    assert model.layers[0].ln1.eps == 1e-3
    assert model(torch.randn(1, 1, 32, 32))[0].isfinite().all()
    assert eva().layers[0].ln1.eps == 1e-6


def test_interpolate_mode_has_an_effect():
    images = torch.randn(1, 3, 48, 48)
    outputs = [eva(interpolate_mode=mode)(images)[0] for mode in ("bicubic", "bilinear", "nearest")]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])


def test_init_cfg_is_applied():
    model = BEiTViT(**EVA, init_cfg={"type": "Constant", "layer": "Linear", "val": 0.5})
    model.init_weights()
    assert (model.layers[0].attn.proj.weight == 0.5).all()


@pytest.mark.parametrize(
    ("name", "sizes"), [("base", (768, 12)), ("large", (1024, 24)), ("eva-g", (1408, 40)), ("EVA_G", (1408, 40))]
)
def test_named_architectures(name, sizes):
    with torch.device("meta"):
        model = BEiTViT(name)
    assert (model.embed_dims, model.num_layers) == sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "bsae"}, "did you mean 'base'"),
        ({"arch": {**ARCH, "num_layer": 3}}, "'num_layer'.*did you mean 'num_layers'"),
        ({"arch": {"embed_dims": 32}}, "lacks num_layers"),
        ({"out_indices": 3}, "out_indices=3"),
        ({"out_indices": -4}, "out_indices=-4"),
        ({"out_indices": []}, "out_indices"),
        ({"out_indices": [2, -1]}, "different blocks"),
        ({"frozen_stages": 4}, "frozen_stages must be from -1 to 3"),
        ({"out_type": "row"}, "did you mean 'raw'"),
        ({"out_type": "cls_token", "with_cls_token": False}, "with_cls_token=True"),
        ({"use_rel_pos_bias": True, "use_shared_rel_pos_bias": True}, "not both"),
        ({"interpolate_mode": "cubic"}, "did you mean 'bicubic'"),
        ({"norm_cfg": {"type": "BN"}}, "norm_cfg"),
        ({"patch_cfg": {"padding": 2}}, "patch_cfg has an unknown key 'padding'"),
        ({"layer_cfgs": {"ffn_cfg": {}}}, "layer_cfgs has an unknown key 'ffn_cfg'"),
        ({"layer_cfgs": [{}]}, "1 entries for 3 blocks"),
        ({"layer_cfgs": {"act_cfg": {"type": "Tanh"}}}, "act_cfg"),
        ({"bias": "qk_bias"}, "qk_bias"),
        ({"img_size": 0}, "img_size"),
    ],
)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        BEiTViT(**{**EVA, **changes})


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="avg_token"):
        BEiTViT(**EVA, avg_token=True)


def frozen_names(model):
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_frozen_stages_freeze_embeddings_then_blocks_then_norms():
    embeddings = {"cls_token", "pos_embed", "patch_embed.projection.weight", "patch_embed.projection.bias"}
    assert frozen_names(eva()) == set()
    assert frozen_names(eva(frozen_stages=0)) == embeddings
    model = eva(frozen_stages=2, final_norm=True)
    blocks = {name for name, _ in model.named_parameters() if name.startswith(("layers.0.", "layers.1."))}
    assert frozen_names(model) == embeddings | blocks
    everything = eva(frozen_stages=3, final_norm=True, out_type="avg_featmap")
    assert frozen_names(everything) == {name for name, _ in everything.named_parameters()}


def test_frozen_stages_stay_in_eval_mode_and_bit_identical_through_training():
    model = eva(frozen_stages=2, drop_path_rate=0.3, drop_rate=0.2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = frozen_names(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        model.train()
        assert [layer.training for layer in model.layers] == [False, False, True]
        assert not model.drop_after_pos.training
        optimizer.zero_grad(set_to_none=False)
        model(torch.randn(2, 3, 32, 32))[0].square().mean().backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before) - frozen
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name in frozen)
        assert (parameter in optimizer.state) == (name not in frozen)


def test_gradients_reach_every_parameter():
    model = eva(layer_scale_init_value=0.1, img_size=16, use_rel_pos_bias=True)
    model(torch.randn(2, 3, 16, 16))[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_bfloat16_runs_and_stays_near_float32():
    images = torch.randn(1, 3, 48, 32)
    model = eva().eval()
    exact = model(images)[0]
    rounded = model.bfloat16()(images)[0]
    assert rounded.dtype == torch.bfloat16
    assert F.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.99
