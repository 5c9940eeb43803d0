"""`CLIPViT` against transformers' CLIP with the same weights, its sizes, and how its positions are resized."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import CLIPVisionConfig, CLIPVisionModel

from blip2.models import CLIPViT
from blip2.registry import MODELS

ARCH = {"embed_dims": 32, "num_layers": 3, "num_heads": 4, "feedforward_channels": 48}
NAMES = {
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.projection",
    "pre_layrnorm": "pre_norm",
    "encoder.layers": "layers",
    "layer_norm": "ln",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
}


def clip(**changes):
    torch.manual_seed(1)
    return CLIPViT(**{"arch": ARCH, "img_size": 32, "patch_size": 8, **changes}).eval()


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,  # the last one is CLIP's own
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    model = CLIPVisionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def from_peer(peer):
    """The peer's weights of the embeddings and the first three blocks under our names."""
    state = {key.removeprefix("vision_model."): value for key, value in peer.state_dict().items()}
    ours = {"cls_token": state.pop("embeddings.class_embedding")[None, None]}
    for key, value in state.items():
        for theirs, name in NAMES.items():
            key = key.replace(theirs, name)
        if ".self_attn.q_proj." in key:
            block, kind = key.split(".self_attn.q_proj.")
            block = block.replace("layers.", "encoder.layers.")
            parts = [state[f"{block}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            ours[key.replace("self_attn.q_proj", "attn.qkv")] = torch.cat(parts)
        elif not key.startswith(("post_layernorm", "embeddings.position_ids")) and "self_attn" not in key:
            ours[key] = value[None] if key == "pos_embed" else value
    return {key: value for key, value in ours.items() if not key.startswith("layers.3.")}


def test_every_block_agrees_with_transformers(peer):
    model = clip(out_indices=[0, 1, 2])
    model.load_state_dict(from_peer(peer))
    images = torch.randn(2, 3, 32, 32)
    expected = peer(images, output_hidden_states=True).hidden_states
    outputs = model(images)
    assert len(outputs) == 3
    for ours, theirs in zip(outputs, expected[1:4], strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_positions_keep_their_corners_where_they_are_resized(peer):
    """Bicubic with aligned corners, in the running model and from a checkpoint of another grid."""
    weights = from_peer(peer)
    small, large = clip(), clip(img_size=56)
    small.load_state_dict(weights)
    large.load_state_dict(weights)
    grid = weights["pos_embed"][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(7, 7), mode="bicubic", align_corners=True).flatten(2).transpose(1, 2)
    assert_close(large.pos_embed, torch.cat((weights["pos_embed"][:, :1], resized), 1))
    for corner in (1, 7, -7, -1):
        source = {1: 1, 7: 4, -7: -4, -1: -1}[corner]
        assert_close(large.pos_embed[0, corner], weights["pos_embed"][0, source])
    images = torch.randn(1, 3, 56, 56)
    assert_close(small(images)[0], large(images)[0], atol=1e-5, rtol=1e-5)


def test_the_default_is_clips_vit_l_without_its_last_block():
    with torch.device("meta"):
        model = MODELS.build(dict(type="CLIPViT"))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert model.embed_dims == 1024 and len(model.layers) == 23
    assert shapes["patch_embed.projection.weight"] == (1024, 3, 14, 14) and "patch_embed.projection.bias" not in shapes
    assert shapes["pos_embed"] == (1, 257, 1024) and shapes["cls_token"] == (1, 1, 1024)
    assert shapes["layers.22.attn.qkv.bias"] == (3072,)
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-5}
    # CLIP's 303,177,728 without its last norm, and without the last of 24 blocks of 12,596,224.
    assert sum(parameter.numel() for parameter in model.parameters()) == 303_177_728 - 12_596_224


def test_the_first_norm_is_frozen_and_counts_with_the_embeddings():
    model = clip(frozen_stages=0).train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        "cls_token",
        "pos_embed",
        "patch_embed.projection.weight",
        "pre_norm.weight",
        "pre_norm.bias",
    }
    assert not model.pre_norm.training
    assert model.get_layer_depth("pre_norm.weight") == (0, 5)
    assert model.get_layer_depth("layers.0.ln1.weight") == (1, 5)
