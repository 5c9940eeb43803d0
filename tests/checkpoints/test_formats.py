"""The key tables, held against the key lists of the publishers' full-size models."""

import csv
from pathlib import Path

import pytest
import torch

from blip2.checkpoints import CheckpointError
from blip2.checkpoints.convert import from_ours, table_of, to_ours, unknown_format

DATA = Path(__file__).parents[1] / "data"
# List → the list of ours that it must become, and the format that it is told to be.
LISTS = {
    "hf_blip2_conditional_generation": ("mmpretrain_blip2_caption_img224", "hf"),
    "hf_blip2_conditional_generation_vocab50304": ("mmpretrain_blip2_caption_img224", "hf"),
    "hf_blip2_image_text_retrieval": ("mmpretrain_blip2_retrieval_img224", "hf"),
    "lavis_blip2_opt2.7b": ("mmpretrain_blip2_caption_img224", "lavis"),
    "lavis_blip2_qformer": ("mmpretrain_blip2_retrieval_img224", "lavis"),
    "mmpretrain_blip2_caption": ("mmpretrain_blip2_caption", "openmmlab"),
    "mmpretrain_blip2_caption_img224": ("mmpretrain_blip2_caption_img224", "openmmlab"),
    "mmpretrain_blip2_retrieval": ("mmpretrain_blip2_retrieval", "openmmlab"),
    "mmpretrain_blip2_retrieval_img224": ("mmpretrain_blip2_retrieval_img224", "openmmlab"),
}
POSITION_IDS = "multimodal_backbone.bert.embeddings.position_ids"
NOT_IN_HF_RETRIEVAL = ("temp", "multimodal_backbone.cls.")


def key_list(name):
    """Each key of a list with a tensor of its shape that needs next to no memory, numbered so that it can be told."""
    with (DATA / f"{name}_keys.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    shapes = {row["key"]: [] if row["shape"] == "scalar" else [int(n) for n in row["shape"].split("x")] for row in rows}
    tensors = {key: torch.tensor(float(number)).expand(shape) for number, (key, shape) in enumerate(shapes.items())}
    for key, tensor in tensors.items():
        if key.endswith("qkv.bias"):  # BLIP-2's keys have no bias
            query, value = tensor.chunk(3)[::2]
            tensors[key] = torch.cat((query, torch.zeros_like(query), value))
    return tensors


def number(tensor):
    return float(tensor[(0,) * tensor.dim()])


@pytest.mark.parametrize("name", LISTS)
def test_every_key_of_a_list_is_used_exactly_once_and_becomes_the_key_and_shape_of_ours(name):
    theirs, wanted = key_list(name), key_list(LISTS[name][0])
    assert table_of(theirs).name == LISTS[name][1]
    rows, found = to_ours(theirs)
    assert found.lost == ()
    # Each number came in once and came out once: nothing was dropped, and nothing taken twice.
    merged = rows.name == "hf"  # a bias of queries and values, which has one number
    numbers = sorted(number(x) for key, x in found.tensors.items() if not (merged and key.endswith("v_bias")))
    dropped = {"embeddings.position_ids"} if name == "hf_blip2_image_text_retrieval" else set()
    assert numbers == sorted(number(tensor) for key, tensor in theirs.items() if key not in dropped)
    absent = [key for key in wanted if key not in found.tensors]
    assert all(rows.lacks(key) for key in absent)
    expected = {POSITION_IDS} if rows.name == "hf" else set()
    if name == "hf_blip2_image_text_retrieval":
        expected |= {key for key in wanted if key.startswith(NOT_IN_HF_RETRIEVAL)}
    assert set(absent) == expected
    for key, tensor in found.tensors.items():
        words = key.endswith(("embed_tokens.weight", "lm_head.weight")) and "50304" in name
        assert tensor.shape == ((50304, 2560) if words else wanted[key].shape), key


@pytest.mark.parametrize("name", LISTS)
def test_there_and_back_again_is_the_same(name):
    theirs = key_list(name)
    rows, ours = to_ours(theirs)
    back = from_ours(ours.tensors, rows.name)
    left_out = {"embeddings.position_ids"}
    if rows.name == "openmmlab":
        left_out = {key for key in theirs if key.startswith("text_backbone.")}
        assert bool(back.lost) == bool(left_out)
    else:
        assert back.lost == ()
    assert set(back.tensors) == set(theirs) - left_out
    for key, tensor in back.tensors.items():
        assert tensor is theirs[key] or torch.equal(tensor, theirs[key])


@pytest.mark.parametrize("target", ["lavis", "hf"])
@pytest.mark.parametrize("name", ["mmpretrain_blip2_caption_img224", "mmpretrain_blip2_retrieval_img224"])
def test_our_keys_become_the_other_publishers_list(name, target):
    lists = {
        ("lavis", True): "lavis_blip2_opt2.7b",
        ("lavis", False): "lavis_blip2_qformer",
        ("hf", True): "hf_blip2_conditional_generation",
        ("hf", False): "hf_blip2_image_text_retrieval",
    }
    wanted = key_list(lists[target, "caption" in name])
    found = from_ours(key_list(name), target)
    assert set(found.tensors) == set(wanted) - {"embeddings.position_ids"}
    assert all(tensor.shape == wanted[key].shape for key, tensor in found.tensors.items())
    named = " ".join(found.lost)
    assert ("temp" in named and "multimodal_backbone.cls.*" in named) == (target == "hf" and "retrieval" in name)


def test_lavis_has_no_place_for_words_that_fill_up_the_vocabulary():
    _, ours = to_ours(key_list("hf_blip2_conditional_generation_vocab50304"))
    found = from_ours(ours.tensors, "lavis")
    assert [loss for loss in found.lost if "rows 50272 to 50303" in loss]
    assert found.tensors["opt_model.lm_head.weight"].shape == (50272, 2560)


def test_a_bias_of_keys_is_named_as_lost():
    theirs = key_list("hf_blip2_conditional_generation")
    theirs["vision_model.encoder.layers.3.self_attn.qkv.bias"] = torch.ones(4224)
    _, found = to_ours(theirs)
    (loss,) = found.lost
    assert loss.startswith("vision_model.encoder.layers.3.self_attn.qkv.bias: its part for keys")


@pytest.mark.parametrize(
    ("key", "format"), [("Qformer_bert.x", "LAVIS"), ("visual_encoder.blocks.0.attn.k_bias", "LAVIS")]
)
def test_a_key_that_a_format_does_not_have_is_an_error_that_names_it(key, format):
    state = {**key_list("lavis_blip2_opt2.7b"), key: torch.zeros(1)}
    with pytest.raises(CheckpointError, match=f"{key} has no place in {format}"):
        to_ours(state, "x.pth")


def test_an_unknown_format_is_told_and_a_language_model_recognised():
    assert "neither ours" in unknown_format(["backbone.conv1.weight"])
    assert "language model's alone" in unknown_format(["model.decoder.embed_tokens.weight"])
    assert unknown_format(["query_tokens", "Qformer.bert.x"]) is None


def t5_keys(prefix):
    import transformers

    config = transformers.T5Config(
        vocab_size=40, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    config.tie_word_embeddings = False
    with torch.device("meta"):
        return {
            f"{prefix}{key}": value
            for key, value in transformers.T5ForConditionalGeneration(config).state_dict().items()
        }


@pytest.mark.parametrize(("format", "prefix"), [("lavis", "t5_model."), ("hf", "language_model.")])
def test_a_t5_is_renamed_whole_and_its_unused_bias_passed_over(format, prefix):
    name = "lavis_blip2_opt2.7b" if format == "lavis" else "hf_blip2_conditional_generation"
    theirs = {key: x for key, x in key_list(name).items() if not key.startswith(("opt_", "language_model."))}
    theirs |= t5_keys(prefix)
    projection = "t5_proj." if format == "lavis" else "language_projection."
    theirs |= {f"{projection}weight": torch.ones(8, 768), f"{projection}bias": torch.ones(8)}
    unused = f"{prefix}decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    rows, ours = to_ours({**theirs, unused: torch.ones(1)})
    assert (rows.name, rows.kind) == (format, "t5")
    wanted = {f"text_backbone.{key}" for key in t5_keys("")}
    assert {key for key in ours.tensors if key.startswith("text_backbone.")} == wanted
    assert set(from_ours(ours.tensors, format).tensors) == set(theirs)
