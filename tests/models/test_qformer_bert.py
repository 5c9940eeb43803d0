"""A Q-Former that starts from BERT: its text side is BERT's, its queries' feed-forward networks are copies of it."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining

from blip2.checkpoints import CheckpointError
from blip2.models.qformer import Qformer

WORDS = 30
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(1)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForPreTraining(BertConfig(**SIZES, **rates, vocab_size=WORDS, max_position_embeddings=16)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def folder(bert, tmp_path):
    bert.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def qformer(**changes):
    options = {"with_text": True, "with_lm_head": True, "vocab_size": WORDS + 1, **changes}
    return Qformer({**SIZES, "max_position_embeddings": 16}, vision_model_width=16, **options).eval()


def logits_of(bert, ids):
    """BERT's words, without its token types, which the Q-Former has not."""
    types = bert.bert.embeddings.token_type_embeddings.weight
    kept = types.detach().clone()
    with torch.no_grad():
        types.zero_()
        result = bert(input_ids=ids).prediction_logits
        types.copy_(kept)
    return result


def test_texts_are_read_and_words_predicted_as_bert_does(bert, folder):
    model = qformer()
    new_word = model.bert.embeddings.word_embeddings.weight[WORDS].clone()
    model.load_pretrained(folder)
    ids = torch.tensor([[3, 7, 11, 2], [5, 1, 29, 4]])
    with torch.no_grad():
        logits = model.lm_logits(model(input_ids=ids))
    torch.testing.assert_close(logits[..., :WORDS], logits_of(bert, ids), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight[WORDS], new_word)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_queries_pass_through_copies_of_the_feed_forward_networks(bert, folder):
    model = qformer(add_cross_attention=False)
    model.load_pretrained(folder)
    embeds = torch.randn(2, 3, 32)
    mask = torch.ones(2, 1, 1, 3)
    with torch.no_grad():
        expected = bert.bert.embeddings.LayerNorm(embeds)
        for layer in bert.bert.encoder.layer:
            expected = layer(expected, (1 - mask) * -1e4)
            expected = expected[0] if isinstance(expected, tuple) else expected
        found = model(query_embeds=embeds)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    own, text = model.bert.encoder.layer[1].intermediate_query.dense, model.bert.encoder.layer[1].intermediate.dense
    assert torch.equal(own.weight, text.weight) and own.weight is not text.weight


def test_cross_attention_keeps_its_random_start(folder):
    model = qformer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_pretrained(folder)
    kept = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert kept == {name for name in before if ".crossattention." in name} | {"bert.embeddings.position_ids"}


def test_without_the_text_branch_the_words_are_left_out(bert, folder):
    model = qformer(with_text=False, with_lm_head=False)
    model.load_pretrained(folder)
    expected = bert.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(model.bert.encoder.layer[0].output_query.dense.weight, expected)


def test_names_of_old_files_are_understood(bert, folder):
    """The published file calls a norm's weights gamma and beta."""
    new = qformer()
    new.load_pretrained(folder)
    file = folder / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(file).items()
    }
    assert any(name.endswith("gamma") for name in old)
    save_file(old, file, metadata={"format": "pt"})
    model = qformer()
    model.load_pretrained(folder)
    shared = {name for name in model.state_dict() if ".crossattention." not in name and "word" not in name}
    for name in shared - {"cls.predictions.bias", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"}:
        assert torch.equal(model.state_dict()[name], new.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, r"missing key bert\.encoder\.layer\.2\."),
        ({"intermediate_size": 48}, r"bert\.encoder\.layer\.0\.intermediate\.dense\.weight is \(64, 32\), wanted \(48"),
        ({"vocab_size": WORDS - 1}, rf"word_embeddings\.weight is \({WORDS}, 32\), wanted \({WORDS - 1}, 32\)"),
    ],
)
def test_a_bert_that_does_not_fit_is_named_and_nothing_changed(folder, changes, message):
    model = qformer(**changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        model.load_pretrained(folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
