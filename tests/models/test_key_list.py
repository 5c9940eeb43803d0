"""The full-size caption model, on the meta device, against the list of the published one's state-dict entries."""

import csv
import time
from pathlib import Path

import pytest
import torch

from blip2.registry import MODELS

KEYS = Path(__file__).parents[1] / "data" / "mmpretrain_blip2_caption_keys.tsv"
# The model of mmpretrain 1.2's blip2-opt2.7b_8xb32_caption.py, but for out_indices (-2 there).
CONFIG = {
    "type": "Blip2Caption",
    "tokenizer": {"type": "AutoTokenizer", "name_or_path": "facebook/opt-2.7b", "use_fast": False},
    "vision_backbone": {
        "type": "BEiTViT",
        "arch": {"embed_dims": 1408, "num_layers": 39, "num_heads": 16, "feedforward_channels": 6144},
        "img_size": 364,
        "patch_size": 14,
        "out_indices": -1,
        "layer_scale_init_value": 0.0,
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "frozen_stages": 39,
        "final_norm": False,
        "use_shared_rel_pos_bias": False,
        "out_type": "raw",
    },
    "text_backbone": {"type": "OPTForCausalLM", "name_or_path": "facebook/opt-2.7b"},
    "multimodal_backbone": {
        "type": "Qformer",
        "model_style": "bert-base-uncased",
        "vision_model_width": 1408,
        "add_cross_attention": True,
        "cross_attention_freq": 2,
        "num_query_token": 32,
    },
    "vision_neck": {"type": "LinearClsHead", "in_channels": 768, "num_classes": 2560},
    "prompt": "a photo of",
    "max_txt_len": 30,
}


@pytest.fixture(scope="module")
def full_model():
    start = time.perf_counter()
    with torch.device("meta"):
        model = MODELS.build(CONFIG)
    model.seconds = time.perf_counter() - start
    return model


@pytest.fixture(scope="module")
def rows():
    with KEYS.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_full_size_model_builds_in_seconds(full_model):
    assert full_model.seconds < 20


def test_state_dict_has_exactly_the_published_keys_shapes_and_types(full_model, rows):
    expected = {row["key"]: (tuple(map(int, row["shape"].split("x"))), row["dtype"]) for row in rows}
    found = {key: (tuple(value.shape), str(value.dtype)[6:]) for key, value in full_model.state_dict().items()}
    assert len(expected) == 1288
    assert found == expected
    assert {row["key"] for row in rows if row["kind"] == "param"} == {
        name for name, _ in full_model.named_parameters(remove_duplicate=False)
    }


def test_all_but_the_language_model_are_the_rows_that_the_published_file_holds(full_model, rows):
    saved = {row["key"] for row in rows if row["in_state_dict"] == "yes"}
    assert len(saved) == 771
    assert saved == {key for key in full_model.state_dict() if not key.startswith("text_backbone.")}


def test_number_of_parameters(full_model):
    assert sum(parameter.numel() for parameter in full_model.parameters()) == 3_745_216_384


@pytest.mark.parametrize("prompt", ["Question: {} Answer:", "Question: {} Short Answer:"], ids=["VQA", "GQA"])
def test_the_question_answering_models_of_mmpretrain_have_the_same_state_dict(full_model, prompt):
    """Their configs differ from the caption model's in type, prompt and max_txt_len only."""
    with torch.device("meta"):
        model = MODELS.build({**CONFIG, "type": "Blip2VQA", "prompt": prompt, "max_txt_len": 10})
    shapes = {key: (value.shape, value.dtype) for key, value in full_model.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in model.state_dict().items()} == shapes
    assert (model.options.prompt, model.options.max_txt_len, model.options.length_penalty) == (prompt, 10, -1.0)


def test_only_norm_queries_qformer_and_projection_are_trained(full_model):
    trained = {name.split(".")[0] for name, parameter in full_model.named_parameters() if parameter.requires_grad}
    assert trained == {"query_tokens", "ln_vision_backbone", "multimodal_backbone", "vision_neck"}
