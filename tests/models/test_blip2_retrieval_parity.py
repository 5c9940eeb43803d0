"""`Blip2Retrieval` against `Blip2ForImageTextRetrieval` of transformers with the same random weights."""

import pytest
import torch
import transformers
from torch.testing import assert_close

from blip2.structures import DataSample

TEXTS = ["a red boat on the water", "three birds", "two children fly a kite above the hill"]


@pytest.fixture
def peer():
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            layer_norm_eps=1e-6,
        ).to_dict(),
        qformer_config=transformers.Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            vocab_size=60,
            max_position_embeddings=40,
            cross_attention_frequency=2,
            encoder_hidden_size=24,
            use_qformer_text_input=True,
        ).to_dict(),
        num_query_tokens=6,
        image_text_hidden_size=16,
        image_token_index=None,
    )
    return transformers.Blip2ForImageTextRetrieval(config).eval()


@pytest.fixture
def pair(peer, retrieval_model, liven, our_keys):
    """Both models with the weights of a seed."""
    ours = retrieval_model(layer_norm_eps=1e-6).eval()  # Hugging Face's epsilon

    def build(seed):
        liven(peer, seed)
        with torch.no_grad():
            for layer in peer.vision_model.encoder.layers:
                layer.self_attn.qkv.bias[24:48] = 0  # BLIP-2's keys have no bias
        missing, unexpected = ours.load_state_dict(our_keys(peer.state_dict()), strict=False)
        left = {key for key in missing if not key.endswith(("position_ids", "decoder.weight"))}
        assert unexpected == [] and {key.split(".cls.")[0] for key in left} == {"temp", "multimodal_backbone"}
        return peer, ours

    return build


def pictures(seed):
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_similarity_and_features_agree_within_1e_5(pair, seed):
    peer, ours = pair(seed)
    ids, mask, _ = ours.tokenize(TEXTS)
    assert not mask.all()
    expected = peer(pixel_values=pictures(seed), input_ids=ids, attention_mask=mask)
    images, texts = ours.image_features(pictures(seed)), ours.text_features(TEXTS)
    assert_close(images["image_embeds"], expected.vision_model_output.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert_close(images["image_feat"], expected.image_embeds, atol=1e-5, rtol=1e-5)
    assert_close(texts["text_feat"], expected.text_embeds, atol=1e-5, rtol=1e-5)
    hidden = expected.text_model_output.last_hidden_state
    assert_close(texts["text_hidden"][mask == 1], hidden[mask == 1], atol=1e-5, rtol=1e-5)
    found = ours.itc_scores(images["image_feat"], texts["text_feat"])
    assert found.std() > 0.05
    assert_close(found, expected.logits_per_image, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_matching_agrees_within_1e_5(pair, seed):
    """Each picture with each text: as many rows in the peer; one or all pictures at a time in ours."""
    peer, ours = pair(seed)
    ids, mask, _ = ours.tokenize(TEXTS)
    texts = {"input_ids": ids.repeat(2, 1), "attention_mask": mask.repeat(2, 1)}
    repeated = pictures(seed).repeat_interleave(3, 0)
    expected = peer(pixel_values=repeated, **texts, use_image_text_matching_head=True).logits_per_image
    assert expected[:, 1].std() > 0.02
    image_embeds = ours.encode_image(pictures(seed))
    assert_close(ours.itm_logits(image_embeds, **texts), expected, atol=1e-5, rtol=1e-5)
    for row, embeds in enumerate(image_embeds):
        theirs = expected[3 * row : 3 * row + 3]
        assert_close(ours.itm_logits(embeds[None], ids, mask), theirs, atol=1e-5, rtol=1e-5)
        assert_close(ours.itm_logits(embeds.expand(3, -1, -1), ids, mask), theirs, atol=1e-5, rtol=1e-5)
        assert_close(ours.itm_scores(embeds[None], ids, mask), theirs[:, 1], atol=1e-5, rtol=1e-5)
        probabilities = ours.itm_probabilities(embeds[None], ids, mask)
        assert_close(probabilities, theirs.softmax(1)[:, 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_predictions_are_the_sums_of_the_peers_scores(pair):
    peer, ours = pair(0)
    ids, mask, _ = ours.tokenize(TEXTS)
    inputs = {"input_ids": ids, "attention_mask": mask}
    similar = peer(pixel_values=pictures(0), **inputs).logits_per_image
    samples = ours.predict(pictures(0), [DataSample(text=TEXTS[:2]), DataSample(text=TEXTS[2])])
    for image, row, sample in zip(pictures(0), similar, samples, strict=True):
        three = image.expand(3, -1, -1, -1)
        matched = peer(pixel_values=three, **inputs, use_image_text_matching_head=True).logits_per_image
        assert_close(sample.pred_score, row + matched[:, 1], atol=1e-5, rtol=1e-5)
        assert sample.pred_label.tolist() == [int((row + matched[:, 1]).argmax())]
