"""`Blip2Retrieval` at full size on the meta device, its features, its texts, and bad input."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from blip2.models import Blip2Retrieval
from blip2.registry import MODELS
from blip2.structures import DataSample

KEYS = Path(__file__).parents[1] / "data" / "mmpretrain_blip2_retrieval_keys.tsv"
# The model of mmpretrain 1.2's blip2_8xb32_retrieval.py.
CONFIG = {
    "type": "Blip2Retrieval",
    "tokenizer": {"type": "Blip2Tokenizer", "name_or_path": "bert-base-uncased"},
    "vision_backbone": {
        "type": "BEiTViT",
        "arch": {"embed_dims": 1408, "num_layers": 39, "num_heads": 16, "feedforward_channels": 6144},
        "img_size": 364,
        "patch_size": 14,
        "layer_scale_init_value": 0.0,
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "final_norm": False,
        "use_shared_rel_pos_bias": False,
        "out_type": "raw",
    },
    "multimodal_backbone": {
        "type": "Qformer",
        "model_style": "bert-base-uncased",
        "vision_model_width": 1408,
        "add_cross_attention": True,
        "cross_attention_freq": 2,
        "num_query_token": 32,
    },
    "vision_neck": {"type": "LinearClsHead", "in_channels": 768, "num_classes": 256},
    "text_neck": {"type": "LinearClsHead", "in_channels": 768, "num_classes": 256},
    "multimodal_head": {"type": "ITMHead", "hidden_size": 768, "with_pooler": False},
    "topk": 128,
    "max_txt_len": 35,
}
TEXTS = ["a red boat", "two birds sit on a wire", "three children fly a kite above the hill"]


@pytest.fixture(scope="module")
def full_model():
    with torch.device("meta"):
        return MODELS.build(CONFIG)


@pytest.fixture
def model(retrieval_model, liven):
    model = retrieval_model().eval()
    liven(model, 0)
    return model


def pictures(rows=3):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(0))


# ----- the published model -----


def test_state_dict_has_exactly_the_published_keys_shapes_and_types(full_model):
    with KEYS.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    expected = {
        row["key"]: (() if row["shape"] == "scalar" else tuple(map(int, row["shape"].split("x"))), row["dtype"])
        for row in rows
    }
    found = {key: (tuple(value.shape), str(value.dtype)[6:]) for key, value in full_model.state_dict().items()}
    assert len(expected) == 857
    assert found == expected


def test_number_of_parameters(full_model):
    assert sum(parameter.numel() for parameter in full_model.parameters()) == 1_173_191_358
    assert (full_model.topk, full_model.max_txt_len, full_model.fast_match) == (128, 35, False)


# ----- features -----


@torch.no_grad()
def test_features_have_length_one_and_do_not_depend_on_the_company(model):
    images, texts = model.image_features(pictures()), model.text_features(TEXTS)
    shapes = {name: tuple(value.shape) for name, value in {**images, **texts}.items()}
    assert shapes == {
        "image_embeds": (3, 5, 24),
        "query_hidden": (3, 6, 32),
        "image_feat": (3, 6, 16),
        "input_ids": (3, 10),
        "attention_mask": (3, 10),
        "text_hidden": (3, 10, 32),
        "text_feat": (3, 16),
    }
    for feat in (images["image_feat"], texts["text_feat"]):
        assert_close(feat.norm(dim=-1), torch.ones(feat.shape[:-1]))
    for row, text in enumerate(TEXTS):
        alone = model.text_features([text])
        assert_close(alone["text_feat"][0], texts["text_feat"][row], atol=1e-5, rtol=1e-5)
        length = alone["input_ids"].shape[1]
        assert_close(alone["text_hidden"][0], texts["text_hidden"][row, :length], atol=1e-5, rtol=1e-5)
        alone = model.image_features(pictures()[row : row + 1])
        for name, value in alone.items():
            assert_close(value[0], images[name][row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_multimodal_features_are_what_the_matching_head_sees(model):
    features = model.multimodal_features(pictures(), TEXTS)
    assert features.shape == (3, 6, 32)
    image_embeds = model.encode_image(pictures())
    assert_close(model.multimodal_features(image_embeds, TEXTS), features)
    ids, mask, _ = model.tokenize(TEXTS)
    assert_close(model.multimodal_head(features).mean(1), model.itm_logits(image_embeds, ids, mask))
    with pytest.raises(ValueError, match="3 pictures came with 2 texts"):
        model.multimodal_features(pictures(), TEXTS[:2])


@torch.no_grad()
def test_modes_of_forward(model):
    samples = [DataSample(text=TEXTS[:2]), DataSample(text=TEXTS[2])]
    features = model(pictures(2), samples)
    assert (len(features["image_feat"]), len(features["text_feat"])) == (2, 3)
    assert set(model(pictures(2))) == {"image_embeds", "query_hidden", "image_feat"}
    assert "image_feat" not in model(None, samples)
    assert set(model(pictures(2), samples, mode="loss")) == {"itc_loss", "itm_loss", "lm_loss"}
    scores, _ = model.predict_all(features, features)
    found = model(pictures(2), samples, mode="predict")
    assert [sample.pred_label.item() for sample in found] == scores.argmax(1).tolist()
    assert_close(torch.stack([sample.pred_score for sample in found]), scores)


# ----- texts -----


def test_a_long_text_is_cut_counted_and_keeps_its_last_token(model):
    whole, _, none_cut = model.tokenize(TEXTS)
    model.max_txt_len = 8
    cut, mask, num_cut = model.tokenize(TEXTS)
    assert (none_cut, num_cut) == (0, 1)
    assert cut[1].tolist() == whole[1, :8].tolist() and mask.sum(1).tolist() == [5, 8, 8]
    assert cut[2].tolist() == [*whole[2, :7].tolist(), whole[2, 9].item()]
    assert [whole[0, 0].item(), whole[0, 4].item()] == [
        model.tokenizer.backend.cls_token_id,
        model.tokenizer.backend.sep_token_id,
    ]


@pytest.mark.parametrize(("texts", "message"), [(["a boat", " "], r"texts\[1\] is empty"), ([], "there is no text")])
def test_empty_texts_are_an_error(model, texts, message):
    with pytest.raises(ValueError, match=message):
        model.text_features(texts)


def test_a_tokenizer_that_does_not_fit_is_an_error(retrieval_config, retrieval_model):
    with pytest.raises(ValueError, match="was built without a tokenizer"):
        retrieval_model(tokenizer=None).tokenize(TEXTS)
    qformer = {**retrieval_config()["multimodal_backbone"], "vocab_size": 20}
    with pytest.raises(ValueError, match=r"tokens, the Q-Former only 20 \(vocab_size\)"):
        retrieval_model(multimodal_backbone=qformer).tokenize(TEXTS)
    tokenizer = {**retrieval_config()["tokenizer"], "type": "AutoTokenizer"}
    with pytest.raises(ValueError, match=r"has no \[DEC\] token"):
        retrieval_model(tokenizer=tokenizer).tokenize(TEXTS)


# ----- arguments -----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_txt_len": 41}, "max_txt_len=41 must be from 3 to 40"),
        ({"max_txt_len": 2}, "max_txt_len=2 must be from 3 to 40"),
        ({"topk": 0}, "topk=0"),
        ({"temperature": 0}, "temperature=0 must be 0.001 or more"),
        ({"loss_weights": {"itd": 1}}, r"unknown key 'itd' \(did you mean 'it.'\?\)"),
        ({"captions_per_picture": 0}, "captions_per_picture=0 must be at least 1, or 'all'"),
        ({"text_backbone": {"type": "OPTForCausalLM"}}, "Blip2Retrieval has no text_backbone"),
    ],
)
def test_wrong_arguments_are_named(retrieval_config, changes, message):
    config = retrieval_config(**changes)
    del config["type"]
    with pytest.raises(ValueError, match=message):
        Blip2Retrieval(**config)


def test_nothing_to_work_on_is_an_error(model):
    with pytest.raises(ValueError, match="there is nothing to extract features of"):
        model()
    with pytest.raises(ValueError, match="no pictures came with 1 data samples"):
        model(None, [DataSample(text="a boat")], mode="predict")
    with pytest.raises(ValueError, match="the data samples have no text to be ranked"):
        model(pictures(1), [DataSample()], mode="predict")
    with pytest.raises(ValueError, match=r"mode='predicts' is unknown \(did you mean 'predict'\?\)"):
        model(pictures(1), mode="predicts")


def test_matching_head_with_a_pooler_looks_at_the_first_query(retrieval_model, liven):
    """mmpretrain's default, for other models than BLIP-2."""
    model = retrieval_model(multimodal_head={"type": "ITMHead", "hidden_size": 32}).eval()
    liven(model, 0)
    head = model.multimodal_head
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        "pooler.dense.weight": (32, 32),
        "pooler.dense.bias": (32,),
        "fc.weight": (2, 32),
        "fc.bias": (2,),
    }
    hidden = torch.randn(3, 6, 32)
    expected = nn.functional.linear(torch.tanh(head.pooler.dense(hidden[:, 0])), head.fc.weight, head.fc.bias)
    assert_close(head(hidden), expected)
    assert_close(head((torch.zeros(1), hidden)), expected)
    assert model.loss(pictures(), [DataSample(text=text) for text in TEXTS])["itm_loss"].isfinite()
