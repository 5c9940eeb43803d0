"""`Qformer` against transformers' `Blip2QFormerModel` and `BertForMaskedLM`, and the published key lists."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from blip2.models import Qformer
from blip2.registry import MODELS

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 16,
}
QUERIES, PATCHES, WIDTH = 5, 7, 24
DATA = Path(__file__).parents[1] / "data"


def qformer(**changes):
    """A tiny Q-Former in eval mode whose parameters are all random, biases and norms too."""
    torch.manual_seed(0)
    model = Qformer(SIZES, vision_model_width=WIDTH, num_query_token=QUERIES, **changes).eval()
    randomize(model)
    return model


def randomize(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)


def inputs(batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, QUERIES, 32), torch.randn(batch, PATCHES, WIDTH), torch.randint(1, 60, (batch, 6))


@pytest.fixture(scope="module")
def peer():
    from transformers import Blip2QFormerConfig, Blip2QFormerModel
    from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

    torch.manual_seed(0)
    config = Blip2QFormerConfig(**SIZES, encoder_hidden_size=WIDTH, use_qformer_text_input=True)
    config._attn_implementation = "sdpa"
    model, embeddings = Blip2QFormerModel(config).eval(), Blip2TextEmbeddings(config)
    randomize(model)
    randomize(embeddings)
    model.text_embeddings = embeddings
    return model


def from_peer(peer, with_text):
    """The peer's weights under our names."""
    weights = {"bert.embeddings.position_ids": torch.arange(16)[None]}
    for key, value in peer.state_dict().items():
        if not with_text and ("text_embeddings" in key or ".intermediate." in key or key.split(".")[3:4] == ["output"]):
            continue
        key = key.replace("layernorm", "embeddings.LayerNorm").replace("text_embeddings", "embeddings")
        weights["bert." + key.replace("attention.attention", "attention.self")] = value
    return weights


def test_queries_agree_with_transformers(peer):
    model = qformer()
    model.load_state_dict(from_peer(peer, with_text=False))
    queries, features, _ = inputs()
    theirs = peer(queries, encoder_hidden_states=features).last_hidden_state
    assert_close(model(queries, features), theirs, atol=1e-5, rtol=1e-5)


def test_queries_with_masked_features_agree_with_transformers(peer):
    model = qformer()
    model.load_state_dict(from_peer(peer, with_text=False))
    queries, features, _ = inputs()
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    theirs = peer(queries, encoder_hidden_states=features, encoder_attention_mask=mask).last_hidden_state
    assert_close(model(queries, features, encoder_attention_mask=mask), theirs, atol=1e-5, rtol=1e-5)
    features[1, 4:] = 1e3
    assert_close(model(queries, features, encoder_attention_mask=mask), theirs, atol=1e-5, rtol=1e-5)


def test_text_alone_agrees_with_transformers(peer):
    model = qformer(with_text=True)
    model.load_state_dict(from_peer(peer, with_text=True))
    _, _, ids = inputs()
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    theirs = peer(peer.text_embeddings(ids), query_length=0, attention_mask=mask).last_hidden_state
    assert_close(model(input_ids=ids, attention_mask=mask)[mask == 1], theirs[mask == 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
def test_queries_and_text_agree_with_transformers(peer, padding):
    model = qformer(with_text=True)
    model.load_state_dict(from_peer(peer, with_text=True))
    queries, features, ids = inputs()
    mask = torch.ones(2, QUERIES + 6, dtype=torch.long)
    if padding:
        mask[1, -2:] = 0
    embeddings = peer.text_embeddings(ids, query_embeds=queries)
    theirs = peer(
        embeddings, query_length=QUERIES, attention_mask=mask, encoder_hidden_states=features
    ).last_hidden_state
    ours = model(queries, features, mask, ids)
    assert ours.shape == (2, QUERIES + 6, 32)
    assert_close(ours[mask == 1], theirs[mask == 1], atol=1e-5, rtol=1e-5)


def test_a_mask_of_pairs_agrees_with_transformers(peer):
    """The mask of image-grounded text generation: queries see queries, text sees queries and earlier text."""
    model = qformer(with_text=True)
    model.load_state_dict(from_peer(peer, with_text=True))
    queries, features, ids = inputs()
    mask = torch.ones(QUERIES + 6, QUERIES + 6).tril()
    mask[:QUERIES] = torch.tensor([1.0] * QUERIES + [0.0] * 6)
    mask = mask.expand(2, -1, -1)
    embeddings = peer.text_embeddings(ids, query_embeds=queries)
    theirs = peer(
        embeddings, query_length=QUERIES, attention_mask=mask[:, None] > 0, encoder_hidden_states=features
    ).last_hidden_state
    ours = model(queries, features, mask, ids)
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert_close(ours[:, :QUERIES], model(queries, features), atol=1e-5, rtol=1e-5)
    ids[:, -1] = 7
    assert_close(model(queries, features, mask, ids)[:, :-1], ours[:, :-1], atol=1e-5, rtol=1e-5)


def test_text_branch_and_lm_head_agree_with_bert():
    from transformers import BertConfig, BertForMaskedLM

    model = qformer(with_text=True, with_lm_head=True)
    torch.manual_seed(2)
    bert = BertForMaskedLM(BertConfig(**SIZES)).eval()
    randomize(bert)
    torch.nn.init.zeros_(bert.bert.embeddings.token_type_embeddings.weight)  # BLIP-2 has none
    weights = {key: value for key, value in bert.state_dict().items() if key in model.state_dict()}
    assert len(weights) > 40
    model.load_state_dict({**model.state_dict(), **weights})
    _, _, ids = inputs()
    theirs = bert(ids, attention_mask=torch.ones_like(ids)).logits
    assert_close(model.lm_logits(model(input_ids=ids)), theirs, atol=1e-5, rtol=1e-5)


def published_keys(name):
    """The Q-Former's rows of a key list: key to shape."""
    rows = (line.split("\t") for line in (DATA / name).read_text().splitlines()[1:])
    prefix = "multimodal_backbone."
    return {key.removeprefix(prefix): shape for key, shape, *_ in rows if key.startswith(prefix)}


def shapes(model):
    return {key: "x".join(map(str, value.shape)) for key, value in model.state_dict().items()}


def test_full_size_keys_and_shapes_are_the_published_ones():
    arguments = {"model_style": "bert-base-uncased", "vision_model_width": 1408, "add_cross_attention": True}
    arguments |= {"cross_attention_freq": 2, "num_query_token": 32}
    with torch.device("meta"):
        caption = MODELS.build({"type": "Qformer", **arguments})
        retrieval = Qformer(**arguments, with_text=True, with_lm_head=True)
    assert shapes(caption) == published_keys("mmpretrain_blip2_caption_keys.tsv")
    assert shapes(retrieval) == published_keys("mmpretrain_blip2_retrieval_keys.tsv")
    assert caption.num_query_token == 32
    # Words and decoder share a matrix and a bias: only so does the published count of 1,173,191,358 come out.
    rows = sum(
        value.numel() for name, value in retrieval.state_dict().items() if name != "bert.embeddings.position_ids"
    )
    assert rows - sum(value.numel() for value in retrieval.parameters()) == 30523 * 768 + 30523


def test_cross_attention_frequency_and_absence():
    every = [qformer(cross_attention_freq=freq).bert.encoder.layer for freq in (1, 2, 3)]
    assert [[layer.has_cross_attention for layer in layers] for layers in every] == [
        [True, True, True],
        [True, False, True],
        [True, False, False],
    ]
    blind = qformer(add_cross_attention=False)
    queries, features, _ = inputs()
    assert not any("crossattention" in key for key in blind.state_dict())
    assert blind(queries).shape == queries.shape
    with pytest.raises(ValueError, match="no cross-attention"):
        blind(queries, features)


def test_keys_and_values_of_a_picture_can_be_computed_once():
    model = qformer()
    queries, features, _ = inputs()
    kept = model.project_encoder(features)
    assert [entry is None for entry in kept] == [False, True, False]
    assert_close(model(queries, encoder_keys_values=kept), model(queries, features))
    one_picture = [pair and tuple(x[:1].expand(2, -1, -1, -1) for x in pair) for pair in kept]
    assert_close(model(queries, encoder_keys_values=one_picture), model(queries, features[:1].expand(2, -1, -1)))


def test_a_token_that_may_see_nothing_stays_finite():
    model = qformer(with_text=True)
    mask = torch.ones(2, 6, 6)
    mask[0, 3] = 0
    assert model(input_ids=inputs()[2], attention_mask=mask).isfinite().all()


def test_dropout_acts_in_training_only_and_can_be_switched_off():
    queries, features, _ = inputs()
    for changes, random in (
        ({}, True),
        ({"hidden_dropout_prob": 0.0}, True),
        ({"attention_probs_dropout_prob": 0.0}, True),
        ({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, False),
    ):
        model = qformer(**changes)
        assert torch.equal(model(queries, features), model(queries, features))
        model.train()
        assert torch.equal(model(queries, features), model(queries, features)) is not random


def test_gradients_reach_every_parameter():
    model = qformer(with_text=True, with_lm_head=True).train()
    queries, features, ids = inputs()
    queries.requires_grad_()
    model.lm_logits(model(queries, features, input_ids=ids)).square().sum().backward()
    for name, parameter in [*model.named_parameters(), ("queries", queries)]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_bfloat16_runs_and_stays_near_float32():
    model = qformer(with_text=True)
    queries, features, ids = inputs()
    exact = model(queries, features, input_ids=ids)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(queries, features.bfloat16(), input_ids=ids)
    assert torch.nn.functional.cosine_similarity(mixed.float().flatten(), exact.flatten(), dim=0) > 0.99
    # Features of another dtype are brought to the Q-Former's.
    assert_close(model(queries, features.bfloat16(), input_ids=ids), exact, atol=0.1, rtol=0.1)
    rounded = model.bfloat16()(queries, features, torch.ones(2, 11), ids)
    assert rounded.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.99


def test_norms_are_float32_under_float16():
    model = qformer().half()
    norm = model.bert.encoder.layer[0].output_query.LayerNorm
    x = torch.randn(1, 2, 32).half()
    x[..., 0] = 60000  # twice this is beyond float16
    expected = torch.nn.functional.layer_norm(2 * x.float(), (32,), norm.weight.float(), norm.bias.float(), norm.eps)
    assert torch.equal(norm(x, x), expected.half())
    queries, features, _ = inputs()
    assert model(queries, features).isfinite().all()


def test_lm_head_shares_the_word_embeddings_through_loading_and_moving():
    model = qformer(with_text=True, with_lm_head=True)

    def tied(model):
        predictions, words = model.cls.predictions, model.bert.embeddings.word_embeddings
        return predictions.decoder.weight is words.weight and predictions.bias is predictions.decoder.bias

    weights = {key: value.clone() for key, value in model.state_dict().items()}
    assert tied(model) and tied(model.double().float())
    with torch.device("meta"):
        fresh = Qformer(SIZES, vision_model_width=WIDTH, with_text=True, with_lm_head=True)
    fresh.load_state_dict(weights, assign=True)
    assert tied(fresh)
    assert torch.equal(fresh.cls.predictions.decoder.weight, weights["bert.embeddings.word_embeddings.weight"])


def test_a_file_may_hold_a_shared_tensor_once(monkeypatch):
    model = qformer(with_text=True, with_lm_head=True)
    weights = model.state_dict()
    del weights["cls.predictions.decoder.weight"], weights["cls.predictions.bias"]
    other = Qformer(SIZES, vision_model_width=WIDTH, with_text=True, with_lm_head=True)
    other.load_state_dict(weights)
    assert torch.equal(other.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight)
    assert torch.equal(other.cls.predictions.bias, model.cls.predictions.bias)
    lines = []
    monkeypatch.setattr("blip2.models.qformer.qformer.print_log", lambda message, *_: lines.append(message))
    weights["cls.predictions.decoder.weight"] = torch.zeros(60, 32)
    other.load_state_dict(weights)
    assert len(lines) == 1 and "cls.predictions.decoder.weight differ" in lines[0]
    assert torch.equal(other.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)


def test_starts_as_bert_does():
    model = Qformer({**SIZES, "vocab_size": 3000}, with_text=True)
    words = model.bert.embeddings.word_embeddings.weight
    assert abs(words.std().item() - 0.02) < 1e-3
    assert (words[0] == 0).all()
    assert (model.bert.encoder.layer[0].attention.self.query.bias == 0).all()
    model = Qformer(SIZES, init_cfg={"type": "Constant", "layer": "Linear", "val": 0.5})
    model.init_weights()
    assert (model.bert.encoder.layer[0].attention.self.query.weight == 0.5).all()


def test_model_style_may_be_a_folder(tmp_path):
    config = {
        **SIZES,
        "layer_norm_eps": 1e-7,
        "hidden_act": "relu",
        "model_type": "bert",
        "architectures": ["BertModel"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = Qformer(str(tmp_path), vision_model_width=WIDTH, vocab_size=61, with_text=True)
    assert model.hidden_size == 32
    assert model.bert.embeddings.word_embeddings.num_embeddings == 61
    assert model.bert.embeddings.LayerNorm.eps == 1e-7
    assert isinstance(model.bert.encoder.layer[0].intermediate.activation, torch.nn.ReLU)
    (tmp_path / "config.json").write_text(json.dumps({**config, "position_embedding_type": "relative_key"}))
    with pytest.raises(ValueError, match="relative_key"):
        Qformer(str(tmp_path))


def test_keywords_override_the_named_style():
    model = Qformer("bert-base-uncased", **SIZES, layer_norm_eps=1e-6)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (32, 3)
    assert model.config.layer_norm_eps == 1e-6
    assert Qformer(SIZES).config.layer_norm_eps == 1e-12


@pytest.mark.parametrize("mask", [None, (2, 11), (2, 11, 11)], ids=["no mask", "of keys", "of pairs"])
@pytest.mark.parametrize("count", [1, QUERIES, 8])
def test_the_first_outputs_alone_are_those_of_all(mask, count):
    queries, features, ids = inputs()
    model = qformer(with_text=True)
    if mask is not None:
        mask = torch.ones(mask).tril() if len(mask) == 3 else torch.tensor([[1] * 11, [1] * 9 + [0] * 2])
    everything = model(queries, features, mask, ids)
    assert_close(model(queries, features, mask, ids, num_outputs=count), everything[:, :count])


def test_rows_of_one_picture_share_it():
    queries, features, ids = inputs(4)
    model = qformer(with_text=True)
    seen = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    expected = model(queries, features[:2].repeat_interleave(2, 0), None, ids, seen.repeat_interleave(2, 0))
    assert_close(model(queries, features[:2], None, ids, seen), expected, atol=1e-5, rtol=1e-5)
    keys_values = model.project_encoder(features[:2])
    found = model(queries, input_ids=ids, encoder_attention_mask=seen, encoder_keys_values=keys_values)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for pictures in (
        {"encoder_hidden_states": features[:3]},
        {"encoder_keys_values": model.project_encoder(features[:3])},
    ):
        with pytest.raises(ValueError, match="4 rows of queries cannot be shared out among 3 pictures"):
            model(queries, **pictures)


def test_a_text_goes_on_after_tokens_whose_keys_and_values_were_kept():
    queries, features, ids = inputs()
    model = qformer(with_text=True)
    kept = []
    before = model(queries, features, kept_keys_values=kept)
    mask = torch.ones(QUERIES + 6, QUERIES + 6).tril()
    mask[:QUERIES, :QUERIES] = 1
    joint = model(queries, features, mask[None], ids)
    after = model(input_ids=ids, attention_mask=mask[None, QUERIES:], past_keys_values=kept)
    assert len(kept) == 3
    assert_close(torch.cat((before, after), 1), joint, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(1, 6, 6\) does not cover .* 6 tokens of text after 5 earlier tokens"):
        model(input_ids=ids, attention_mask=mask[None, QUERIES:, QUERIES:], past_keys_values=kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_style": "bert-base-uncase"}, "did you mean 'bert-base-uncased'"),
        ({"model_style": {"hidden_sizes": 3}}, "'hidden_sizes'.*did you mean 'hidden_size'"),
        ({"hidden_size": 30}, "hidden_size=30 is not a multiple of num_attention_heads=4"),
        ({"model_style": {**SIZES, "hidden_act": "tanh"}}, "hidden_act='tanh'"),
        ({"cross_attention_freq": 0}, "cross_attention_freq=0"),
        ({"num_query_token": 0}, "num_query_token=0"),
        ({"with_lm_head": True}, "with_text=True"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Qformer(**{"model_style": SIZES, **arguments})


def test_wrong_inputs_are_named():
    queries, features, ids = inputs()
    model = qformer(with_text=True)
    with pytest.raises(ValueError, match="query_embeds, input_ids or both"):
        model()
    with pytest.raises(ValueError, match="no text branch"):
        qformer()(queries, features, input_ids=ids)
    with pytest.raises(ValueError, match="Queries need a picture"):
        model(queries)
    with pytest.raises(ValueError, match="17 tokens, the Q-Former takes 16"):
        model(input_ids=torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(2, 6\) does not cover 5 queries and 6 tokens"):
        model(queries, features, torch.ones(2, 6), ids)
    with pytest.raises(ValueError, match="B×S or B×S×S"):
        model(queries, features, torch.ones(11), ids)
    with pytest.raises(ValueError, match="no LM head"):
        model.lm_logits(queries)
