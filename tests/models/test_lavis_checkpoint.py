"""State dicts of LAVIS, with LAVIS's own keys, give what LAVIS computes with them (numbers kept in `tests/data`)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.testing import assert_close

from blip2 import get_model

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
