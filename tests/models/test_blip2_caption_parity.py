"""`Blip2Caption` against `Blip2ForConditionalGeneration` of transformers with the same random weights."""

import re
import warnings

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
)

from blip2.structures import DataSample

IMAGE_TOKEN, VOCAB, QUERIES = 303, 304, 6
RULES = [
    (r"^vision_model\.embeddings\.class_embedding", "vision_backbone.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding", "vision_backbone.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "vision_backbone.patch_embed.projection."),
    (r"^vision_model\.encoder\.", "vision_backbone."),
    (r"^vision_model\.post_layernorm\.", "ln_vision_backbone."),
    (r"self_attn\.(qkv|projection)\.", r"attn.\1."),
    (r"attn\.projection\.", "attn.proj."),
    (r"\.layer_norm([12])\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^qformer\.layernorm\.", "multimodal_backbone.bert.embeddings.LayerNorm."),
    (r"^qformer\.", "multimodal_backbone.bert."),
    (r"\.(attention|crossattention)\.attention\.", r".\1.self."),
    (r"^language_projection\.", "vision_neck.fc."),
    (r"^language_model\.", "text_backbone."),
]


@pytest.fixture(scope="module")
def peer():
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            layer_norm_eps=1e-6,
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            cross_attention_frequency=2,
            encoder_hidden_size=24,
            layer_norm_eps=1e-12,
        ).to_dict(),
        text_config=OPTConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            word_embed_proj_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=64,
            max_position_embeddings=64,
        ).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    return Blip2ForConditionalGeneration(config).eval()


@pytest.fixture
def pair(peer, caption_model, liven):
    """Both models with the weights of a seed; the peer's keys have no biases of their own."""
    ours = caption_model(layer_norm_eps=1e-6).eval()  # Hugging Face's epsilon
    eos = ours.tokenizer.token_id("\n")

    def build(seed, dtype=torch.float32):
        liven(peer, seed, lm=peer.language_model, eos=eos)
        state = {}
        with torch.no_grad():
            for layer in peer.vision_model.encoder.layers:
                layer.self_attn.qkv.bias[24:48] = 0  # BLIP-2's keys have no bias
        for key, value in peer.state_dict().items():
            for pattern, replacement in RULES:
                key = re.sub(pattern, replacement, key)
            if key.endswith("attn.qkv.bias"):
                state[key.replace("qkv.bias", "q_bias")], _, state[key.replace("qkv.bias", "v_bias")] = value.chunk(3)
            else:
                state[key] = value
        missing, unexpected = ours.load_state_dict(state, strict=False)
        assert unexpected == [] and [key for key in missing if not key.endswith("position_ids")] == []
        return peer.to(dtype), ours.to(dtype)

    return build


def pictures(seed, rows=3):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def prompt_ids(model, rows):
    (prompt,) = model.tokenizer.encode(["a photo of"])
    return torch.tensor([IMAGE_TOKEN] * QUERIES + prompt).expand(rows, -1), len(prompt)


@torch.no_grad()
def test_features_and_logits_agree_within_1e_5(pair):
    for seed in range(5):
        peer, ours = pair(seed)
        images = pictures(seed)
        ids, _ = prompt_ids(ours, len(images))
        expected = peer(pixel_values=images, input_ids=ids)
        image_embeds = ours.encode_image(images)
        assert_close(image_embeds, expected.vision_outputs.last_hidden_state, atol=1e-5, rtol=1e-5)
        queries = ours.query_image(image_embeds)
        assert_close(queries, expected.qformer_outputs.last_hidden_state, atol=1e-5, rtol=1e-5)
        embeds = ours._inputs(ours.encode(images), ids[:, QUERIES:])
        assert_close(ours.text_backbone(inputs_embeds=embeds), expected.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_loss_is_that_of_transformers_with_prompt_and_padding_left_out(pair):
    captions = ["a red boat", "two children who fly a kite above the hill", "a cup"]
    for seed in range(3):
        peer, ours = pair(seed)
        images = pictures(seed)
        tokens = ours.tokenizer.encode([f"a photo of {caption}\n" for caption in captions])
        _, prompt = prompt_ids(ours, 1)
        width = QUERIES + max(map(len, tokens))
        ids, labels = torch.full((3, width), 1), torch.full((3, width), -100)
        for row, text in enumerate(tokens):
            end = QUERIES + len(text)
            ids[row, :end] = torch.tensor([IMAGE_TOKEN] * QUERIES + text)
            labels[row, QUERIES + prompt : end] = torch.tensor(text[prompt:])
        expected = peer(pixel_values=images, input_ids=ids, attention_mask=(ids != 1).long(), labels=labels).loss
        ours.options = ours._options({"max_txt_len": 40})
        found = ours.loss(images, [DataSample(gt_caption=caption) for caption in captions])
        assert_close(found["loss"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 5}, {"num_beams": 5, "num_captions": 3}, {"num_beams": 1}],
    ids=["beam-5", "three of five", "greedy"],
)
def test_caption_ids_equal_those_of_transformers_over_many_seeds(pair, options):
    """In double precision, which leaves no near ties for the rounding of one machine or another to decide."""
    lengths = set()
    for seed in range(50):
        peer, ours = pair(seed, torch.float64)
        images = pictures(seed).double()
        ids, _ = prompt_ids(ours, len(images))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = peer.generate(
                pixel_values=images,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                min_new_tokens=1,
                do_sample=False,
                num_beams=options["num_beams"],
                num_return_sequences=options.get("num_captions", 1),
                eos_token_id=ours.tokenizer.token_id("\n"),
                pad_token_id=1,
            )
        found = ours.generate(images, ours._options(options))
        assert found.sequences.tolist() == expected[:, ids.shape[1] :].tolist(), f"seed {seed}"
        lengths.update(found.lengths.tolist())
    assert len(lengths) > 6
