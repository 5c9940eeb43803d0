"""OPT against the one of transformers, and what it does with names, folders and files."""

import json
import shutil

import pytest
import torch
import transformers
from torch.testing import assert_close

from blip2.checkpoints.read import CheckpointError
from blip2.models.language import OPTForCausalLM, opt_config
from blip2.models.language.opt_layers import attend
from blip2.registry import MODELS

TINY = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 64,
    "max_position_embeddings": 64,
}


def masks():
    whole = torch.ones(4, 7, dtype=torch.long)
    left, right, middle = whole.clone(), whole.clone(), whole.clone()
    left[1, :2], left[2, :5], left[3, :1] = 0, 0, 0
    right[1, 5:], right[2, 2:] = 0, 0
    middle[0, 3:5], middle[2, 1] = 0, 0
    return {"whole": whole, "left": left, "right": right, "middle": middle}


@pytest.mark.parametrize("padding", masks())
def test_logits_equal_those_of_transformers(opt_pair, liven, padding):
    peer, ours = opt_pair()
    mask = masks()[padding]
    for seed in range(5):
        liven(peer, seed)
        ours.load_state_dict(peer.state_dict())
        ids = torch.randint(60, (4, 7), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected, found = peer(input_ids=ids, attention_mask=mask).logits, ours(ids, mask)
            embeds = ours.get_input_embeddings()(ids)
            assert_close(ours(inputs_embeds=embeds, attention_mask=mask), found)
        assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


def test_left_padding_changes_nothing(opt_pair, liven):
    _, ours = opt_pair()
    liven(ours, 0)
    ids = torch.randint(60, (1, 5))
    padded, mask = torch.cat((torch.full((1, 4), 1), ids), 1), torch.tensor([[0] * 4 + [1] * 5])
    with torch.no_grad():
        assert_close(ours(padded, mask)[:, 4:], ours(ids), atol=1e-5, rtol=1e-5)


def test_mask_of_pairs_says_who_looks_at_whom(opt_pair, liven):
    _, ours = opt_pair()
    liven(ours, 0)
    ids = torch.randint(60, (1, 6))
    # Tokens 0-1 are shared; 2-3 and 4-5 are two texts that both continue them.
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()
    allowed[4:, 2:4] = False
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]])
    with torch.no_grad():
        both = ours(ids, allowed[None], position_ids=positions)
        assert_close(both[:, :4], ours(ids[:, :4]), atol=1e-5, rtol=1e-5)
        assert_close(both[:, 4:], ours(ids[:, [0, 1, 4, 5]])[:, 2:], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="position_ids"):
        ours(ids, allowed[None])


@pytest.mark.parametrize("pairs", [False, True])
def test_bfloat16_attention_written_out_for_cpu_training_equals_sdpa(pairs):
    def inputs():
        generator = torch.Generator().manual_seed(0)
        return [
            torch.randn(2, 3, 6, 8, generator=generator).to(torch.bfloat16).requires_grad_(requires_grad)
            for requires_grad in (True, True, True)
        ]

    mask = (torch.rand(2, 1, 6, 6) > 0.5) | torch.eye(6, dtype=torch.bool) if pairs else None
    ours, peers = inputs(), inputs()
    found = attend(*ours, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(*peers, attn_mask=mask, is_causal=mask is None)
    assert_close(found, expected, atol=2e-2, rtol=2e-2)
    found.sum().backward()
    expected.sum().backward()
    for one, other in zip(ours, peers, strict=True):
        assert_close(one.grad, other.grad, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("name", ["125m", "1.3b", "2.7b", "6.7b", "13b"])
def test_published_sizes_have_the_published_number_of_parameters(name):
    # What the published weights hold (2.7b: also the rows of tests/data's key list).
    expected = {
        "125m": 125_239_296,
        "1.3b": 1_315_758_080,
        "2.7b": 2_651_596_800,
        "6.7b": 6_658_473_984,
        "13b": 12_853_473_280,
    }[name]
    with torch.device("meta"):
        lm = MODELS.build({"type": "OPTForCausalLM", "name_or_path": f"facebook/opt-{name}"})
    assert sum(p.numel() for p in lm.parameters()) == expected
    assert lm.lm_head.weight is lm.get_input_embeddings().weight


def test_sizes_come_from_a_local_config_and_arguments_win(tmp_path):
    peer = transformers.OPTConfig(word_embed_proj_dim=32, dropout=0.3, **TINY)
    peer.save_pretrained(tmp_path)
    config = opt_config(tmp_path, vocab_size=99)
    assert (config.vocab_size, config.hidden_size, config.ffn_dim, config.dropout) == (99, 32, 64, 0.3)
    assert OPTForCausalLM(str(tmp_path)).hidden_size == 32


def test_relative_folder_is_found_below_the_resources(tmp_path, monkeypatch):
    from blip2.utils import resources

    folder = tmp_path / "configs" / "tiny"
    transformers.OPTConfig(word_embed_proj_dim=32, **TINY).save_pretrained(folder)
    monkeypatch.setattr(resources, "resources_root", lambda: tmp_path)
    assert OPTForCausalLM("configs/tiny").vocab_size == 60


@pytest.mark.parametrize(
    "change",
    [
        {"do_layer_norm_before": False},
        {"word_embed_proj_dim": 16},
        {"activation_function": "gelu"},
        {"enable_bias": False},
        {"model_type": "gpt2"},
    ],
)
def test_config_of_another_architecture_is_refused_by_name(tmp_path, change):
    config = {**transformers.OPTConfig(word_embed_proj_dim=32, **TINY).to_dict(), **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=next(iter(change))):
        OPTForCausalLM(str(tmp_path))


def test_names_that_cannot_be_built_say_what_can():
    with pytest.raises(ValueError, match=r"opt-350m.*facebook/opt-2\.7b"):
        OPTForCausalLM("facebook/opt-350m")
    with pytest.raises(FileNotFoundError, match=r"facebook/opt-2\.7b.*config\.json"):
        OPTForCausalLM("facebook/opt-2.7")
    with pytest.raises(ValueError, match="num_attention_heads=5"):
        OPTForCausalLM(**{**TINY, "num_attention_heads": 5})
    with pytest.raises(ValueError, match="pad_token_id=60"):
        OPTForCausalLM(**TINY, pad_token_id=60)


def test_too_long_an_input_is_named():
    with pytest.raises(ValueError, match=r"65 tokens.*64 positions"):
        OPTForCausalLM(**TINY)(torch.zeros(1, 65, dtype=torch.long))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        OPTForCausalLM(**TINY)()


def test_head_stays_tied_after_loading_and_assigning(opt_pair):
    peer, _ = opt_pair()
    state = peer.state_dict()
    for build_on in ("cpu", "meta"):
        with torch.device(build_on):
            lm = OPTForCausalLM(**TINY)
        lm.load_state_dict({k: v for k, v in state.items() if k != "lm_head.weight"}, assign=build_on == "meta")
        assert lm.lm_head.weight is lm.get_input_embeddings().weight
        assert_close(lm.state_dict(), dict(state))


def test_a_head_of_its_own_is_read_from_a_folder_that_says_so(opt_pair, tmp_path):
    peer, _ = opt_pair()
    peer.config.tie_word_embeddings = False
    peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight.detach().flip(0).clone())
    peer.save_pretrained(tmp_path)
    lm = OPTForCausalLM(str(tmp_path)).eval()
    lm.load_pretrained(tmp_path)
    ids = torch.tensor([[2, 5, 9, 7]])
    assert_close(lm(ids), peer(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.equal(lm.lm_head.weight, lm.get_input_embeddings().weight)


# ----- load_pretrained -----


@pytest.mark.parametrize("layout", ["one file", "shards", "bin", "old bin"])
@pytest.mark.parametrize("on_meta", [False, True])
def test_weights_are_read_from_any_layout_of_a_hugging_face_folder(opt_pair, tmp_path, layout, on_meta):
    peer, _ = opt_pair()
    peer.half()
    if layout == "shards":
        peer.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    elif layout == "one file":
        peer.save_pretrained(tmp_path)
    else:
        prefix = "model." if layout == "old bin" else ""
        state = {key.removeprefix(prefix): value for key, value in peer.model.state_dict(prefix="model.").items()}
        torch.save(state, tmp_path / "pytorch_model.bin")
    with torch.device("meta" if on_meta else "cpu"):
        lm = OPTForCausalLM(**TINY)
    lm.load_pretrained(tmp_path)
    assert_close(lm.state_dict(), dict(peer.float().state_dict()))
    assert {p.dtype for p in lm.parameters()} == {torch.float32}


def test_weights_that_do_not_fit_are_named(opt_pair, tmp_path):
    peer, _ = opt_pair()
    state = peer.model.state_dict(prefix="model.")
    state["model.decoder.surplus"] = torch.zeros(1)
    state["model.decoder.layers.1.fc1.bias"] = torch.zeros(3)
    del state["model.decoder.layers.0.fc1.bias"]
    torch.save(dict(state), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as error:
        OPTForCausalLM(**TINY).load_pretrained(tmp_path)
    for part in (
        "unknown key model.decoder.surplus",
        "layers.1.fc1.bias is (3,)",
        "missing key model.decoder.layers.0",
    ):
        assert part in str(error.value)


def test_missing_weight_files_are_named(opt_pair, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        OPTForCausalLM(**TINY).load_pretrained(tmp_path)
    peer, _ = opt_pair()
    peer.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    shard = sorted((tmp_path / "sharded").glob("*.safetensors"))[0]
    shutil.move(shard, tmp_path)
    with pytest.raises(FileNotFoundError, match=shard.name):
        OPTForCausalLM(**TINY).load_pretrained(tmp_path / "sharded")
