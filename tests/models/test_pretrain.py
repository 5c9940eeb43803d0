"""The trainers of the small model's parts."""

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from blip2.models import LanguageModelPretrainer, OPTForCausalLM, VisionCaptioner
from blip2.registry import TOKENIZER
from blip2.structures import DataSample

VISION = {
    "type": "BEiTViT",
    "arch": {"embed_dims": 32, "num_layers": 2, "num_heads": 4, "feedforward_channels": 64},
    "img_size": 32,
    "patch_size": 8,
    "out_type": "raw",
    "final_norm": False,
    "layer_scale_init_value": 0.0,
    "use_rel_pos_bias": False,
    "use_abs_pos_emb": True,
}


@pytest.fixture
def tokenizer(opt_tokenizer):
    return TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": str(opt_tokenizer)})


@pytest.fixture
def captioner(tokenizer):
    torch.manual_seed(0)
    return VisionCaptioner(
        VISION, tokenizer, vocab_size=len(tokenizer), decoder_layers=2, decoder_heads=4, captions_per_picture=2
    )


@pytest.fixture
def pretrainer(tokenizer):
    torch.manual_seed(0)
    lm = OPTForCausalLM(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=64,
        dropout=0.0,
    )
    return LanguageModelPretrainer(lm, tokenizer, max_txt_len=8)


def samples(captions):
    return [DataSample(gt_caption=list(texts)) for texts in captions]


def test_position_embeddings_start_as_sines_and_cosines(captioner):
    expected = build_sincos2d_pos_embed([4, 4], dim=32)
    torch.testing.assert_close(captioner.vision_backbone.pos_embed[0, 1:], expected)
    assert captioner.vision_backbone.pos_embed[0, 0].abs().max() == 0


def test_packed_captions_give_the_loss_of_each_caption_alone(captioner, tokenizer):
    captioner.eval()
    images = torch.randn(2, 3, 32, 32)
    texts = [("a boat", "a blue cup"), ("two birds", "a red cup on a hill")]
    packed = captioner(images, samples(texts), mode="loss")["loss"]
    memory = captioner(images)
    losses, count = 0.0, 0
    for row, pair in enumerate(texts):
        for text in pair:
            (ids,) = tokenizer.encode([text + "\n"])
            ids = torch.tensor([ids])
            length = ids.shape[1]
            mask = torch.ones(1, length, length, dtype=torch.bool).tril()
            hidden = captioner.decoder(ids, torch.arange(length)[None], mask, memory[row : row + 1])
            log_probs = captioner.decoder.logits(hidden).log_softmax(-1)[0, :-1]
            losses -= log_probs.gather(1, ids[0, 1:, None]).sum()
            count += length - 1
    torch.testing.assert_close(packed, losses / count, rtol=1e-5, atol=1e-5)


def test_the_captioner_learns_what_is_in_a_picture(captioner):
    images = torch.stack([torch.full((3, 32, 32), value) for value in (-1.0, 1.0)])
    data = samples([("a boat", "a boat"), ("two birds", "two birds")])
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=5e-3)
    captioner.train()
    for _ in range(60):
        optimizer.zero_grad()
        captioner(images, data, mode="loss")["loss"].backward()
        optimizer.step()
    captioner.eval()
    captioner.opening = ""
    with torch.no_grad():
        assert [s.pred_caption for s in captioner(images, data, mode="predict")] == ["a boat", "two birds"]


def test_the_language_model_loss_is_the_mean_over_all_tokens_but_the_first(pretrainer, tokenizer):
    texts = ["a boat on a hill\n", "two birds\n"]
    loss = pretrainer([DataSample(text=text) for text in texts], mode="loss")["loss"]
    log_likelihood, count = 0.0, 0
    for ids in tokenizer.encode(texts):
        log_probs = pretrainer.text_backbone(torch.tensor([ids]))[0, :-1].log_softmax(-1)
        log_likelihood += log_probs.gather(1, torch.tensor(ids)[1:, None]).sum()
        count += len(ids) - 1
    torch.testing.assert_close(loss, -log_likelihood / count, rtol=1e-5, atol=1e-5)


def test_the_language_model_continues_prompts_of_mixed_lengths_as_each_alone(pretrainer):
    prompts = ["a", "a red cat on", "two birds"]
    together = pretrainer([DataSample(prompt=prompt) for prompt in prompts], mode="predict")
    alone = [pretrainer([DataSample(prompt=prompt)], mode="predict")[0] for prompt in prompts]
    assert [s.pred_text for s in together] == [s.pred_text for s in alone]


def test_a_backbone_without_position_embeddings_is_refused(tokenizer):
    with pytest.raises(ValueError, match="use_abs_pos_emb=True"):
        VisionCaptioner({**VISION, "use_abs_pos_emb": False}, tokenizer, vocab_size=len(tokenizer), decoder_heads=4)


def test_an_unknown_mode_is_named(captioner, pretrainer):
    with pytest.raises(ValueError, match="tensor"):
        captioner(torch.randn(1, 3, 32, 32), mode="train")
    with pytest.raises(ValueError, match="predict"):
        pretrainer([], mode="tensor")
