"""With gradient checkpointing, layers run twice and every gradient stays what it was."""

import pytest
import torch
from torch import nn
from transformers import OPTConfig
from transformers import OPTForCausalLM as PeerOPT

from blip2.engine.precision import autocast, plain_attention
from blip2.models.language import OPTForCausalLM
from blip2.models.qformer import Qformer
from blip2.models.vision import BEiTViT, TIMMBackbone

LAYERS = 3


def vision(with_cp, frozen_stages=-1):
    return BEiTViT(
        {"embed_dims": 32, "num_layers": LAYERS, "num_heads": 4, "feedforward_channels": 64},
        img_size=16,
        patch_size=8,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        layer_scale_init_value=0.0,
        out_type="raw",
        drop_path_rate=0.5,
        frozen_stages=frozen_stages,
        with_cp=with_cp,
    )


def qformer(with_cp, dropout=0.1):
    sizes = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return Qformer({**sizes, **rates, "vocab_size": 40}, vision_model_width=16, with_text=True, with_cp=with_cp)


def opt(with_cp):
    return OPTForCausalLM(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=32,
        dropout=0.1,
        with_cp=with_cp,
    )


def run_vision(model):
    return model(torch.linspace(0, 1, 5 * 3 * 16 * 16).reshape(5, 3, 16, 16))[-1]


def run_qformer(model):
    picture = torch.linspace(-1, 1, 2 * 5 * 16).reshape(2, 5, 16)
    queries = torch.linspace(-1, 1, 2 * 4 * 32).reshape(2, 4, 32)
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    seen = []
    found = model(query_embeds=queries, encoder_hidden_states=picture, kept_keys_values=seen)
    assert len(seen) == LAYERS
    text = model(input_ids=ids, past_keys_values=seen)  # gradients also go through what was kept
    return torch.cat((found, text), dim=1)


def run_opt(model):
    embeds = model.get_input_embeddings()(torch.arange(12).reshape(2, 6))
    return model.hidden_states(embeds.requires_grad_() if embeds.is_leaf else embeds)


CASES = {
    "image encoder": (vision, run_vision, lambda model: model.layers),
    "Q-Former": (qformer, run_qformer, lambda model: model.bert.encoder.layer),
    "OPT": (opt, run_opt, lambda model: model.model.decoder.layers),
}


def gradients(case, with_cp, precision="fp32"):
    """Output, gradients and how often the layers ran, of a pass in training mode with the same dropout."""
    build, run, layers_of = CASES[case]
    torch.manual_seed(0)
    model = build(with_cp).train()
    calls = []
    for layer in layers_of(model):
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.manual_seed(1)
    with autocast("cpu", precision), plain_attention(precision != "fp32"):
        output = run(model)
        loss = output.float().square().mean()
    loss.backward()  # outside of the contexts, as optimizer wrappers do it
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_same_and_layers_run_twice(case, precision):
    output, expected, once = gradients(case, with_cp=False, precision=precision)
    same_output, found, twice = gradients(case, with_cp=True, precision=precision)
    torch.testing.assert_close(same_output, output, rtol=0, atol=0)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0, msg=name)
    assert twice == 2 * once


def kept_bytes(run, model):
    """Bytes that one forward pass keeps for the way back, parameters left out."""
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run(model)
    del output
    return sum(kept.values())


@pytest.mark.parametrize("case", CASES)
def test_less_is_kept_for_the_way_back(case):
    build, run, _ = CASES[case]
    without, with_cp = (kept_bytes(run, build(flag).train()) for flag in (False, True))
    assert with_cp < without / 3


def test_a_frozen_language_model_is_checkpointed_where_gradients_pass_through_it():
    torch.manual_seed(0)
    model = opt(with_cp=True)
    peer = PeerOPT(
        OPTConfig(
            vocab_size=40,
            hidden_size=32,
            word_embed_proj_dim=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            ffn_dim=64,
            max_position_embeddings=32,
        )
    )
    peer.load_state_dict(model.state_dict())
    model.requires_grad_(False).eval()
    peer.requires_grad_(False).eval()
    calls = []
    model.model.decoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    queries = torch.randn(2, 5, 32, requires_grad=True)
    model(inputs_embeds=queries).logsumexp(-1).sum().backward()
    found, queries.grad = queries.grad, None
    peer(inputs_embeds=queries).logits.logsumexp(-1).sum().backward()
    torch.testing.assert_close(found, queries.grad, rtol=1e-4, atol=1e-5)
    assert len(calls) == 2


def test_what_needs_no_gradient_runs_once():
    for model, run, layers in (
        (vision(True, frozen_stages=LAYERS), run_vision, LAYERS),
        (qformer(True).requires_grad_(False), run_qformer, 2 * LAYERS),
    ):
        calls = []
        for layer in model.layers if isinstance(model, BEiTViT) else model.bert.encoder.layer:
            layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        model.train()
        assert not run(model).requires_grad
        assert len(calls) == layers


def test_attention_kernels_are_as_before_after_the_way_back():
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    gradients("OPT", with_cp=True, precision="bf16")
    assert (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed(),
    ) == before


def test_timm_backbone_is_checkpointed_too():
    def run(with_cp):
        torch.manual_seed(0)
        model = TIMMBackbone("test_vit", img_size=32, with_cp=with_cp).train()
        calls = []
        model.timm_model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        model(torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32))[0].square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, len(calls)

    (expected, once), (found, twice) = run(False), run(True)
    assert twice == once + 1
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0)
