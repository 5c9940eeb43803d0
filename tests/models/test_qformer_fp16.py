"""A Q-Former whose sums and attention scores leave fp16's range, against itself in fp32."""

import copy

import pytest
import torch
from torch.testing import assert_close

from blip2.engine.precision import autocast, cast_for_inference

LARGEST = torch.finfo(torch.float16).max
SCALE = 7e3  # each product still fits fp16, sums of two do not
WRITES = (".output.dense", ".output_query.dense")
READS = (".intermediate.dense", ".intermediate_query.dense", "attention.self.query")
READS += (".attention.self.key", ".attention.self.value")  # of cross-attention they read the picture


def pictures(rows=6):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def scaled(model, scale):
    """`model` with everything between the Q-Former's layers `scale` times as large: norms and what is added before
    them grow, what reads them shrinks. So it says what it said, as long as no number overflows on the way.
    """
    model = copy.deepcopy(model)
    for name, module in [*model.multimodal_backbone.named_modules(), ("vision_neck", model.vision_neck.fc)]:
        if name.endswith("LayerNorm") or name.endswith(WRITES):
            module.weight *= scale
            module.bias *= scale
        elif name == "vision_neck" or name.endswith(READS):
            module.weight /= scale
    return model


@pytest.fixture
def model(caption_model, liven):
    model = caption_model().eval()
    liven(model, 0, lm=model.text_backbone, eos=model.tokenizer.token_id("\n"))
    return model


def captions(model, precision="fp32"):
    with torch.inference_mode(), autocast("cpu", precision):
        return [sample.pred_caption for sample in model.predict(pictures())]


def test_sums_beyond_fp16_change_no_caption(model):
    extreme = scaled(model, SCALE)
    sums = []

    def note(_, inputs, __):
        sums.append((inputs[0].float() + inputs[1].float()).abs().max().item())

    for name, module in extreme.multimodal_backbone.named_modules():
        if name.endswith("LayerNorm") and "encoder" in name:
            module.register_forward_hook(note)
    expected = captions(model)
    assert len(set(expected)) > 3
    assert captions(extreme) == expected
    assert max(sums) > LARGEST
    half = copy.deepcopy(extreme)
    cast_for_inference(half, "fp16")
    assert half.multimodal_backbone.bert.encoder.layer[0].output_query.dense.weight.dtype == torch.float16
    assert captions(half, "fp16") == expected
    with torch.inference_mode(), autocast("cpu", "fp16"):
        found = half.encode(pictures())
    with torch.inference_mode():
        exact = extreme.encode(pictures())
    assert found.isfinite().all()
    assert_close(found.float(), exact, atol=0.02 * exact.std().item(), rtol=0.02)


def test_attention_scores_beyond_fp16_stay_numbers(model):
    attention = model.multimodal_backbone.bert.encoder.layer[0].crossattention
    with torch.no_grad():
        for projection in (attention.self.query, attention.self.key):
            projection.weight *= 300
            projection.bias *= 300
    x, source = torch.randn(2, 6, 32).half(), torch.randn(2, 5, 24).half()
    attention.half()
    key, value = attention.keys_values(source)
    query = attention._heads(attention.self.query(x))
    scores = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
    assert scores.abs().max() > LARGEST
    found = attention(x, None, (key, value))
    attention.float()
    context = (scores.softmax(-1) @ value.float()).transpose(1, 2).flatten(2)
    expected = attention.output(context, x.float())
    assert found.isfinite().all()
    assert_close(found.float(), expected, atol=0.01, rtol=0.01)
