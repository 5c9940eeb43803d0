"""`HFCausalLM`: its logits and texts against transformers' own, and inside the caption and the VQA model."""

import json
import warnings

import pytest
import torch
import transformers
from torch.testing import assert_close

from blip2.checkpoints.load import load_checkpoint
from blip2.checkpoints.read import CheckpointError
from blip2.models.language.generation import GenerationConfig, generate
from blip2.models.language.hf_causal_lm import HFCausalLM
from blip2.models.language.packing import Prompted, pack_texts
from blip2.models.language.ranking import rank
from blip2.registry import MODELS
from blip2.structures import DataSample

VOCAB, EOS, PAD = 304, 7, 1
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB}
LLAMA = {
    "model_type": "llama",
    "intermediate_size": 64,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    **SIZES,
}
GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2}
OTHERS = {
    "mistral": {**GROUPED, "sliding_window": 5},
    "qwen2": GROUPED,
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 5, "final_logit_softcapping": 2.0},
    "cohere": {**GROUPED, "logit_scale": 0.5},
    "granite": {**GROUPED, "logits_scaling": 3.0},
    "gpt2": {"n_positions": 64},
    "gpt_neox": {"intermediate_size": 64},
    "phi": {"intermediate_size": 64},
    "bloom": {},
    "opt": {"hidden_size": 48, "word_embed_proj_dim": 32, "ffn_dim": 64, "do_layer_norm_before": False},
}


def sizes(kind):
    own = {**SIZES, "model_type": kind, **OTHERS.get(kind, {})}
    return LLAMA if kind == "llama" else own


@torch.no_grad()
def lively(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5 * 1.6)
    return model.double().eval()


@pytest.fixture(params=["llama", *OTHERS])
def lm(request):
    return lively(HFCausalLM(config=sizes(request.param))).float()  # where padding is NaN in double precision, in some


@pytest.fixture
def llama():
    return lively(HFCausalLM(config=LLAMA))


def prompts(seed=0, padded=True):
    embeds = 0.5 * torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(3, 7, dtype=torch.long)
    if padded:
        mask[1, :2], mask[2, :4] = 0, 0
    return embeds, mask


# ----- against transformers -----


@torch.no_grad()
def test_logits_are_those_of_transformers(lm):
    embeds, _ = prompts()
    assert_close(lm.lm_head(lm.hidden_states(embeds)), lm.model(inputs_embeds=embeds).logits, atol=1e-5, rtol=1e-5)
    assert (lm.hidden_size, lm.vocab_size) == (32, VOCAB)


@pytest.mark.parametrize("options", [{"num_beams": 5, "length_penalty": -1.0}, {}], ids=["beam-5", "greedy"])
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "left-padded"])
def test_ids_equal_those_of_generate(llama, options, padded):
    lengths = set()
    for seed in range(12):
        lively(llama, seed)
        llama.model.lm_head.weight.data[EOS] *= 2
        embeds, mask = prompts(seed, padded)
        embeds = embeds.double()
        config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, min_length=1, **options)
        found = generate(llama, embeds, mask, config)
        expected = peer_generate(llama.model, embeds, mask, **options)
        assert found.sequences.tolist() == expected.tolist(), f"seed {seed}"
        lengths |= set(found.lengths.tolist())
    assert len(lengths) > 4


def test_every_architecture_generates_as_transformers_does(lm):
    embeds, mask = prompts()
    config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=8, min_length=1, num_beams=3)
    expected = peer_generate(lm.model, embeds, mask, num_beams=3)
    assert generate(lm, embeds, mask, config).sequences.tolist() == expected.tolist()


def peer_generate(model, embeds, mask, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=8,
            min_new_tokens=1,
            eos_token_id=EOS,
            pad_token_id=PAD,
            do_sample=False,
            **options,
        )


@torch.no_grad()
def test_padding_anywhere_changes_nothing(lm):
    embeds, _ = prompts(padded=False)
    config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=4)
    # A sliding window counts what lies in it, padding or not: there, padding belongs before everything else.
    everywhere = ([0, 1],) if getattr(lm.config, "sliding_window", None) else ([0, 1], [2, 3], [5, 6])
    for places in everywhere:
        mask = torch.ones(3, 7, dtype=torch.long)
        mask[:, places] = 0
        kept = embeds[:, [place for place in range(7) if place not in places]]
        assert (
            generate(lm, embeds, mask, config).sequences.tolist() == generate(lm, kept, None, config).sequences.tolist()
        )


@torch.no_grad()
def test_rank_is_the_log_probability_of_a_plain_forward_pass(lm):
    embeds, mask = prompts()
    texts = [[5, 7], [9], [11, 12, 13, 7], *([first, 30, 7] for first in range(40))]
    found = rank(lm, embeds, mask, texts)
    for row in range(3):
        real = embeds[row : row + 1, mask[row].bool()]
        for column in (0, 1, 2, 20, 42):
            ids = torch.tensor([texts[column]])
            logits = lm.model(inputs_embeds=torch.cat((real, lm.get_input_embeddings()(ids)), 1)).logits[0]
            expected = logits[real.shape[1] - 1 : -1].log_softmax(-1).gather(1, ids.T).sum()
            assert_close(found[row, column], expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_texts_in_a_row_do_not_see_one_another(lm):
    """As with `OPTForCausalLM`: one prompt, the texts after it, and a second prompt, against each text alone."""
    if type(lm.model).__name__ == "BloomForCausalLM":
        with pytest.raises(ValueError, match="BloomForCausalLM takes no positions"):
            packed_states(lm, [Prompted([5, 6], [[7], [8, 9]])])
        return
    if getattr(lm.config, "sliding_window", None):
        with pytest.raises(ValueError, match=r"exceed .* window of 5"):
            packed_states(lm, [Prompted([5, 6], [[7], [8, 9]])])
        lm.config.sliding_window = 64
        for layer in lm.model.modules():
            if hasattr(layer, "sliding_window"):
                layer.sliding_window = 64
    row = [Prompted([5, 6], [[7], [8, 9]]), Prompted([10], [[11, 12]])]
    together = packed_states(lm, row)
    alone = [Prompted(each.given, [text]) for each in row for text in each.texts]
    assert_close(together, torch.cat([packed_states(lm, [each]) for each in alone]), atol=1e-5, rtol=1e-4)


def packed_states(lm, row):
    queries = prompts()[0][:1, :3]
    texts = pack_texts([row], PAD)
    mask, positions = texts.attention(3)
    hidden = lm.hidden_states(torch.cat((queries, lm.get_input_embeddings()(texts.ids)), 1), mask, positions)
    rows, places, _, _ = texts.predictors(3)
    return hidden[rows, places]


def test_a_head_that_is_not_known_is_found_out(llama, monkeypatch):
    forward = llama.model.forward

    def scaled(**inputs):
        output = forward(**inputs)
        output.logits = output.logits * 1.5
        return output

    monkeypatch.setattr(llama.model, "forward", scaled)
    with pytest.raises(ValueError, match="LlamaForCausalLM makes its logits in a way"):
        llama.lm_head(torch.zeros(1, 32).double())


# ----- in the models -----


@pytest.fixture(params=["caption_model", "vqa_model"])
def model(request):
    torch.manual_seed(0)
    return request.getfixturevalue(request.param)(text_backbone={"type": "HFCausalLM", "config": LLAMA})


SAMPLES = [
    {"question": ["color ?", "boat ?"], "gt_answer": ["red", ["a", "cup"]], "gt_caption": "a red boat"},
    {"question": "cup ?", "gt_answer": ["blue", "red"], "gt_caption": "a cup"},
]


def samples():
    return [DataSample(**fields) for fields in SAMPLES]


def test_models_train_with_it_and_leave_it_alone(model):
    lively(model.text_backbone).float()
    before = {key: value.clone() for key, value in model.text_backbone.state_dict().items()}
    images = torch.randn(2, 3, 28, 28)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    losses = []
    for _ in range(20):
        loss = model(images, samples(), mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not model.text_backbone.training
    for key, value in model.text_backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_models_predict_with_it(model):
    found = model.eval().predict(torch.randn(2, 3, 28, 28), samples(), num_beams=3)
    texts = [sample.get("pred_answer", sample.get("pred_caption")) for sample in found]
    assert all(isinstance(text, str) for row in texts for text in ([row] if isinstance(row, str) else row))


def test_a_checkpoint_fills_a_model_that_was_built_without_memory(model, caption_config, vqa_model, tmp_path):
    torch.save({"state_dict": model.state_dict()}, tmp_path / "whole.pth")
    kind = type(model).__name__
    changes = {} if kind == "Blip2Caption" else {"prompt": "Question: {} Answer:", "max_txt_len": 6}
    config = caption_config(type=kind, text_backbone={"type": "HFCausalLM", "config": LLAMA}, **changes)
    with torch.device("meta"):
        again = MODELS.build(config)
    load_checkpoint(again, tmp_path / "whole.pth")
    images = torch.randn(2, 3, 28, 28)
    expected = model.eval()(images, samples(), mode="loss")
    assert_close(again.eval()(images, samples(), mode="loss"), expected)


# ----- building and loading -----


def test_weights_come_from_a_local_folder(llama, tmp_path):
    llama.model.float().save_pretrained(tmp_path)
    embeds = prompts()[0]
    expected = llama.lm_head(llama.hidden_states(embeds))
    fresh = HFCausalLM(str(tmp_path)).eval()
    with torch.device("meta"):
        bare = HFCausalLM(str(tmp_path)).eval()
    for lm in (fresh, bare):
        for parameter in lm.parameters():
            parameter.requires_grad_(False)
        lm.load_pretrained(tmp_path)
        assert_close(lm.lm_head(lm.hidden_states(embeds)), expected)
        assert not any(parameter.requires_grad for parameter in lm.parameters()) and not lm.model.training


def test_weights_that_do_not_fit_are_named(llama, tmp_path):
    llama.model.float().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"missing keys .*layers\.2\."):
        HFCausalLM(str(tmp_path)).load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        HFCausalLM(str(tmp_path)).load_pretrained(tmp_path)


def test_fields_of_config_replace_those_of_the_folder(tmp_path):
    transformers.LlamaConfig(**{key: value for key, value in LLAMA.items() if key != "model_type"}).save_pretrained(
        tmp_path
    )
    assert HFCausalLM(str(tmp_path), config={"num_hidden_layers": 1}).config.num_hidden_layers == 1
    with pytest.raises(ValueError, match="holds a llama"):
        HFCausalLM(str(tmp_path), config={"model_type": "gpt2"})


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({}, ValueError, "needs name_or_path"),
        ({"config": {"model_type": "lama"}}, ValueError, "model_type='lama' .did you mean 'llama'"),
        ({"config": {"model_type": "t5"}}, ValueError, "model_type='t5'"),
        ({"config": {**LLAMA, "hiden_size": 3}}, ValueError, "'hiden_size'.*did you mean 'hidden_size'"),
        ({"name_or_path": "no/such-model"}, FileNotFoundError, "hf download no/such-model"),
    ],
)
def test_what_cannot_be_built_is_named(arguments, error, named):
    with pytest.raises(error, match=named):
        HFCausalLM(**arguments)


def test_texts_beyond_the_positions_are_an_error(llama):
    config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=60)
    with pytest.raises(ValueError, match=r"66 tokens .* exceed the 64 positions"):
        generate(llama.float(), *prompts(), config)
