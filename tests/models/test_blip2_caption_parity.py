"""`Blip2Caption` against `Blip2ForConditionalGeneration` of transformers with the same random weights."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from blip2.structures import DataSample

IMAGE_TOKEN, QUERIES = 303, 6


@pytest.fixture
def pair(blip2_pair, caption_model):
    """Both models with the weights of a seed."""
    return blip2_pair(caption_model(layer_norm_eps=1e-6))  # Hugging Face's epsilon


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
