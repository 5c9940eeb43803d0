"""Image encoders and other parts that come from files of their own, in any publisher's format."""

import logging
from types import SimpleNamespace

import pytest
import torch
from model_files import as_config
from torch.testing import assert_close

from blip2 import get_model
from blip2.apis.convert import convert_checkpoint
from blip2.checkpoints import CheckpointError, open_checkpoint, read_state_dict
from blip2.engine.hooks import LoadParts
from blip2.registry import MODELS


@pytest.fixture
def lavis_files(captioner, tmp_path):
    """A LAVIS checkpoint as its trainer leaves it, and the tower beside it, in fp16 and with a block too many."""
    captioner.save_pretrained(tmp_path / "hf")
    convert_checkpoint(tmp_path / "hf", tmp_path / "whole.pth", "lavis")
    state = {key: tensor.clone() for key, tensor in read_state_dict(tmp_path / "whole.pth").items()}
    tower = {k.removeprefix("visual_encoder."): v.half() for k, v in state.items() if k.startswith("visual_encoder.")}
    tower |= {"blocks.39.norm1.weight": torch.ones(24), "head.weight": torch.ones(3, 24)}
    torch.save(tower, tmp_path / "tower.pth")
    rest = {k: v for k, v in state.items() if not k.startswith("visual_encoder.")}
    torch.save({"model": rest, "epoch": 3}, tmp_path / "frozen_left_out.pth")
    return tmp_path


def test_a_tower_that_lavis_left_out_is_taken_from_the_file_named(lavis_files, caption_config, monkeypatch):
    config = as_config(caption_config(), lavis_files)
    source = lavis_files / "frozen_left_out.pth"
    ours = get_model(config, pretrained=source, vision_tower=lavis_files / "tower.pth")
    whole = get_model(config, pretrained=lavis_files / "whole.pth").state_dict()
    for key, value in ours.state_dict().items():
        expected = whole[key].half().float() if key.startswith("vision_backbone.") else whole[key]
        assert_close(value, expected, atol=0, rtol=0)
    with pytest.raises(CheckpointError, match=r"no image encoder.*eva_vit_g\.pth or clip_vit_L\.pth"):
        open_checkpoint(source)


def test_the_published_tower_is_named_where_it_cannot_be_had(lavis_files, monkeypatch):
    monkeypatch.setenv("BLIP2_HOME", str(lavis_files / "cache"))
    state = read_state_dict(lavis_files / "frozen_left_out.pth")
    key = "Qformer.bert.encoder.layer.0.crossattention.self.key.weight"
    torch.save({**state, key: torch.ones(32, 1408)}, lavis_files / "wide.pth")
    with pytest.raises(CheckpointError, match=r"needs eva_vit_g\.pth: put that file beside the checkpoint"):
        open_checkpoint(lavis_files / "wide.pth")
    (lavis_files / "tower.pth").rename(lavis_files / "eva_vit_g.pth")
    assert open_checkpoint(lavis_files / "wide.pth").vision_tower == lavis_files / "eva_vit_g.pth"


@pytest.mark.parametrize("name", ["hf", "whole.pth", "tower.pth"])
def test_a_training_starts_its_parts_from_any_publishers_checkpoint(name, lavis_files, caption_config):
    expected = open_checkpoint(lavis_files / "hf").tensors
    parts = ["vision_backbone"] if name == "tower.pth" else ["vision_backbone", "multimodal_backbone", "query_tokens"]
    model = MODELS.build(caption_config())
    hook = LoadParts(dict.fromkeys(parts, str(lavis_files / name)))
    hook.before_load_or_resume(SimpleNamespace(model=model, logger=logging.getLogger("test")))
    checked = 0
    for key, tensor in model.state_dict().items():
        if key.startswith(tuple(parts)) and not key.endswith("position_ids"):
            whole = expected[key].half().float() if name == "tower.pth" else expected[key]
            assert torch.equal(tensor, whole.reshape(tensor.shape)), key
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("backbone.conv1.weight", "no key below 'vision_backbone'; its keys begin with: backbone"),
        (
            "visual_encoder.odd",
            "no key below 'vision_backbone', and cannot be converted: .*visual_encoder.odd has no place",
        ),
    ],
)
def test_a_part_from_a_file_of_another_kind_is_refused_with_what_it_holds(key, message, caption_config, tmp_path):
    torch.save({key: torch.ones(1)}, tmp_path / "other.pth")
    hook = LoadParts({"vision_backbone": str(tmp_path / "other.pth")})
    runner = SimpleNamespace(model=MODELS.build(caption_config()), logger=logging.getLogger("test"))
    with pytest.raises(CheckpointError, match=message):
        hook.before_load_or_resume(runner)
