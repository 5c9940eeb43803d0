"""`TIMMBackbone`: tokens of any timm ViT, and clear refusals."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from blip2.models import TIMMBackbone
from blip2.registry import MODELS

NAME = "test_vit"  # timm's own tiny model: 160 px, 64 wide


def test_tokens_are_timms_own():
    import timm

    torch.manual_seed(0)
    backbone = TIMMBackbone(NAME).eval()
    peer = timm.create_model(NAME).eval()
    peer.load_state_dict(backbone.timm_model.state_dict(), strict=False)
    images = torch.randn(2, 3, 160, 160)
    (tokens,) = backbone(images)
    assert tokens.shape == (2, 101, backbone.embed_dims)
    assert_close(tokens, peer.forward_features(images))


def test_head_is_left_out_and_keys_are_mmpretrains():
    keys = set(TIMMBackbone(NAME).state_dict())
    assert all(key.startswith("timm_model.") for key in keys)
    assert not any("head" in key for key in keys)


def test_is_registered():
    assert isinstance(MODELS.build({"type": "TIMMBackbone", "model_name": NAME}), TIMMBackbone)


def test_options_reach_timm():
    backbone = TIMMBackbone(NAME, in_channels=1, img_size=64, drop_path_rate=0.5)
    images = torch.randn(1, 1, 64, 64)
    assert backbone(images)[0].shape == (1, 17, 64)
    assert not torch.equal(backbone(images)[0], backbone(images)[0])
    dynamic = TIMMBackbone(NAME, dynamic_img_size=True)
    assert dynamic(torch.randn(1, 3, 96, 64))[0].shape == (1, 1 + 6 * 4, 64)


def test_checkpoint_path_is_loaded_and_survives_init_weights(tmp_path):
    import timm

    weights = timm.create_model(NAME).state_dict()
    torch.save(weights, tmp_path / "vit.pth")
    backbone = TIMMBackbone(NAME, checkpoint_path=str(tmp_path / "vit.pth"))
    backbone.init_weights()  # mmengine's Runner calls it
    assert_close(backbone.timm_model.pos_embed, weights["pos_embed"], rtol=0, atol=0)
    assert_close(backbone.timm_model.blocks[0].attn.qkv.weight, weights["blocks.0.attn.qkv.weight"], rtol=0, atol=0)


def test_init_cfg_is_applied():
    backbone = TIMMBackbone(NAME, init_cfg={"type": "Constant", "layer": "Linear", "val": 0.5})
    backbone.init_weights()
    assert (backbone.timm_model.blocks[0].attn.proj.weight == 0.5).all()


def test_frozen_backbone_has_no_gradients_and_stays_in_eval_mode():
    backbone = TIMMBackbone(NAME, frozen=True, drop_path_rate=0.9)
    backbone.train()
    images = torch.randn(1, 3, 160, 160)
    assert torch.equal(backbone(images)[0], backbone(images)[0])
    assert not backbone(images)[0].requires_grad
    assert TIMMBackbone(NAME)(images)[0].requires_grad


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_model_without_tokens_is_refused_when_built(name):
    with pytest.raises(ValueError, match=rf"{name}.*\(1, \d+, \d+, \d+\) instead of tokens"):
        TIMMBackbone(name)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'vit_base_patch16_224'"):
        TIMMBackbone("vit_bse_patch16_224")


def test_features_only_is_refused():
    with pytest.raises(ValueError, match="features_only=True"):
        TIMMBackbone(NAME, features_only=True)


def test_builds_on_the_meta_device():
    with torch.device("meta"):
        assert TIMMBackbone(NAME).timm_model.pos_embed.is_meta


def test_importing_the_models_does_not_import_timm():
    code = "import sys, blip2.models; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
