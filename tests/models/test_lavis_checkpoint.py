"""State dicts of LAVIS, with LAVIS's own keys, give what LAVIS computes with them (numbers kept in `tests/data`)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.testing import assert_close

from blip2 import get_model
from blip2.checkpoints import CheckpointError
from blip2.checkpoints.convert import from_ours, to_ours

FOLDER = Path(__file__).parents[1] / "data" / "peer_numbers"
SPEC = importlib.util.spec_from_file_location("peer_recipe", FOLDER / "recipe.py")
recipe = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipe)
NUMBERS = json.loads((FOLDER / "lavis_checkpoint.json").read_text("utf-8"))
CLOSE = dict(atol=2e-5, rtol=2e-5)


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint as LAVIS does."""

    def write(kind):
        tensors = {}
        for key, (shape, first) in NUMBERS[kind]["keys"].items():
            if key.endswith("position_ids"):
                tensors[key] = torch.arange(shape[-1]).expand(shape).clone()
            else:
                tensors[key] = recipe.weight(first, tuple(shape), 0) if shape else torch.tensor(0.07)
        torch.save({"model": tensors, "optimizer": {}, "epoch": 9}, tmp_path / "lavis.pth")
        return tmp_path / "lavis.pth"

    return write


def built(model, tmp_path, checkpoint):
    Config(dict(model=model)).dump(tmp_path / "config.py")
    return get_model(tmp_path / "config.py", pretrained=checkpoint)


@torch.no_grad()
def test_a_captioners_checkpoint_gives_lavis_logits(checkpoint, tmp_path):
    bert, opt = recipe.bert_tokenizer(tmp_path / "bert"), recipe.opt_tokenizer(tmp_path / "opt")
    language_model = dict(type="OPTForCausalLM", name_or_path=str(opt))
    model = built(recipe.vqa_config(bert, language_model, opt), tmp_path, checkpoint("opt"))
    assert model.ln_vision_backbone.eps == 1e-5
    ids = torch.tensor(NUMBERS["opt"]["ids"]).expand(3, -1)
    logits = model.text_backbone(inputs_embeds=model._inputs(model.encode(recipe.images(3)), ids))
    assert_close(logits[:, -1, :24], torch.tensor(NUMBERS["opt"]["last_logits"]), **CLOSE)
    assert_close(logits.norm(dim=-1), torch.tensor(NUMBERS["opt"]["logit_norms"]), **CLOSE)


@torch.no_grad()
def test_a_stage_1_checkpoint_gives_lavis_scores(checkpoint, tmp_path):
    bert = recipe.bert_tokenizer(tmp_path / "bert")
    config = recipe.retrieval_config(bert)
    words = len((bert / "vocab.txt").read_text(encoding="utf-8").splitlines())
    config["multimodal_backbone"]["vocab_size"] = words + 1  # [DEC]
    model = built(config, tmp_path, checkpoint("retrieval"))
    images, texts = model.image_features(recipe.images(3)), model.text_features(recipe.TEXTS[:4])
    scores = model.itc_scores(images["image_feat"], texts["text_feat"])
    assert_close(scores, torch.tensor(NUMBERS["retrieval"]["itc"]), **CLOSE)
    ids, mask = texts["input_ids"], texts["attention_mask"]
    found = torch.stack([model.itm_scores(embeds[None], ids, mask) for embeds in images["image_embeds"]])
    assert_close(found, torch.tensor(NUMBERS["retrieval"]["itm"]), **CLOSE)


@torch.no_grad()
def test_lavis_vit_l_gives_its_features(checkpoint, tmp_path):
    """Its tower beside a checkpoint without one, as `clip_vit_L.pth` lies there; with a block that is not used."""
    bert, opt = recipe.bert_tokenizer(tmp_path / "bert"), recipe.opt_tokenizer(tmp_path / "opt")
    state = torch.load(checkpoint("opt"), weights_only=True)["model"]
    torch.save({k: v for k, v in state.items() if not k.startswith("visual_encoder.")}, tmp_path / "rest.pth")
    tower = {key: recipe.weight(key, tuple(shape), 0) for key, shape in NUMBERS["clip"]["keys"].items()}
    tower = {key.removeprefix("visual_encoder."): value for key, value in tower.items()}
    tower["transformer.resblocks.1.ln_1.weight"] = torch.ones(24)
    torch.save(tower, tmp_path / "clip_vit_L.pth")
    encoder = dict(type="CLIPViT", img_size=28, patch_size=14)
    encoder["arch"] = dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=96)
    language_model = dict(type="OPTForCausalLM", name_or_path=str(opt))
    config = recipe.vqa_config(bert, language_model, opt, vision_backbone=encoder)
    Config(dict(model=config)).dump(tmp_path / "config.py")
    model = get_model(
        tmp_path / "config.py", pretrained=tmp_path / "rest.pth", vision_tower=tmp_path / "clip_vit_L.pth"
    )
    (features,) = model.vision_backbone(recipe.images(2))
    assert_close(features[:, :3, :8], torch.tensor(NUMBERS["clip"]["features"]), **CLOSE)
    assert_close(features.norm(dim=-1), torch.tensor(NUMBERS["clip"]["norms"]), **CLOSE)


def test_lavis_vit_l_keys_go_there_and_back(checkpoint):
    theirs = {key: torch.zeros(shape) for key, shape in NUMBERS["clip"]["keys"].items()}
    theirs["opt_proj.weight"] = torch.zeros(2, 2)
    _, ours = to_ours(theirs)
    back = from_ours(ours.tensors, "lavis").tensors
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in theirs.items()}
    with pytest.raises(CheckpointError, match="has no ViT-L"):
        from_ours(ours.tensors, "hf")
