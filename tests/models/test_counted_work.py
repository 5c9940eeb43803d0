"""What the models compute, counted and never timed: rows that come to their parts' doors in the three tasks.

The counts are what the task needs. A prompt read once a beam, a picture encoded once a question, keys and values
computed once a text or a pair scored in both directions would change them.
"""

from collections import Counter

import pytest
import torch

from blip2.models import blip2_retrieval
from blip2.structures import DataSample

BEAMS, NEW, QUERIES, PATCHES = 3, 5, 6, 5  # patches of 28 px in pieces of 14, and the class token


@pytest.fixture
def count():
    """``count(model, {name of a part: path of a module})``: how many vectors (or pictures) come to each, and calls."""
    handles = []

    def watch(model, parts):
        found = Counter()
        for name, path in parts.items():

            def note(module, args, kwargs, name=name):
                first = args[0] if args else next(value for value in kwargs.values() if torch.is_tensor(value))
                found[name] += first.shape[:-1].numel() if first.dim() < 4 else len(first)
                found[f"calls of {name}"] += 1

            handles.append(model.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True))
        return found

    yield watch
    for handle in handles:
        handle.remove()


GENERATIVE = {
    "pictures": "vision_backbone",
    "cross-attended patches": "multimodal_backbone.bert.encoder.layer.0.crossattention.self.key",
    "queries": "multimodal_backbone.bert.encoder.layer.0.attention.self.query",
    "decoder tokens": "text_backbone.model.decoder.layers.0.self_attn",
    "predicted tokens": "text_backbone.lm_head",
}


def pictures(rows):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def never_ends(liven):
    """Weights with which no text ends before it is as long as it may be."""

    def prepare(model):
        liven(model.eval(), 4, lm=model.text_backbone)
        model.options = type(model.options)(**{**vars(model.options), "min_length": NEW, "max_txt_len": NEW})
        return model

    return prepare


def test_a_caption_reads_its_picture_and_its_prompt_once_and_then_a_token_a_beam(caption_model, never_ends, count):
    model = never_ends(caption_model(num_beams=BEAMS, prompt="a photo of"))
    prompt = len(model._encode_texts(["a photo of"])[0])
    found = count(model, GENERATIVE)
    model.predict(pictures(4), [DataSample() for _ in range(4)])
    steps = NEW - 1  # the prompt's reading gives the first new token, and the last is not read
    assert found["pictures"] == 4
    assert found["cross-attended patches"] == 4 * PATCHES and found["queries"] == 4 * QUERIES
    assert found["decoder tokens"] == 4 * (QUERIES + prompt) + 4 * BEAMS * steps
    assert found["predicted tokens"] == 4 + 4 * BEAMS * steps
    assert found["calls of decoder tokens"] == 1 + steps


def test_a_caption_that_has_ended_costs_no_more_steps(caption_model, liven, count):
    model = caption_model(num_beams=BEAMS)
    liven(model.eval(), 4, lm=model.text_backbone, eos=model.tokenizer.token_id("\n"))
    with torch.no_grad():  # the end is all that is ever likely
        model.text_backbone.model.decoder.final_layer_norm.weight.zero_()
        model.text_backbone.model.decoder.final_layer_norm.bias.copy_(
            1e3 * model.text_backbone.get_input_embeddings().weight[model.tokenizer.token_id("\n")]
        )
    found = count(model, GENERATIVE)
    model.predict(pictures(2), [DataSample(), DataSample()])
    assert found["calls of decoder tokens"] < 1 + model.options.max_txt_len - 1


def test_several_questions_about_a_picture_encode_it_once(vqa_model, never_ends, count):
    model = never_ends(vqa_model(num_beams=BEAMS, prompt="Question: {} Answer:"))
    asked = ["what color is the boat ?", "cup ?", "how many birds ?"]
    prompts = [len(ids) for ids in model._encode_texts([f"Question: {text} Answer:" for text in asked])]
    found = count(model, GENERATIVE)
    model.predict(pictures(2), [DataSample(question=asked), DataSample(question=asked)])
    assert found["pictures"] == 2
    assert found["cross-attended patches"] == 2 * PATCHES and found["queries"] == 2 * QUERIES
    rows = 2 * len(asked)
    assert found["decoder tokens"] == rows * (QUERIES + max(prompts)) + rows * BEAMS * (NEW - 1)


def test_candidates_are_ranked_after_one_reading_of_the_prompt(vqa_model, liven, count):
    model = vqa_model()
    liven(model.eval(), 4, lm=model.text_backbone)
    answers = ["two birds", "blue", "a small cup", "the boat"]
    texts = model._continuations(answers)
    prompt = len(model._encode_texts(["Question: cup ? Answer:"])[0])
    found = count(model, GENERATIVE)
    model.predict(pictures(2), [DataSample(question="cup ?") for _ in range(2)], answers=answers)
    assert found["pictures"] == 2 and found["calls of pictures"] == 1
    longest = max(map(len, texts)) - 1  # the last token predicts nothing
    assert found["decoder tokens"] == 2 * (QUERIES + prompt) + 2 * len(texts) * longest


RETRIEVAL = {
    "pictures": "vision_backbone",
    "cross-attended patches": "multimodal_backbone.bert.encoder.layer.0.crossattention.self.key",
    "text tokens": "multimodal_backbone.bert.encoder.layer.0.intermediate.dense",
    "matched pairs": "multimodal_head",
}


def test_both_directions_match_a_pair_once_and_project_a_picture_once(retrieval_model, liven, count):
    topk = 2
    model = retrieval_model(topk=topk)
    liven(model.eval(), 3)
    texts = ["a red boat", "two birds sit", "a small cup on the hill", "the boat", "blue", "the red cup", "birds"]
    with torch.no_grad():
        images, words = model.image_features(pictures(5)), model.text_features(texts)
        scores = model.itc_scores(images["image_feat"], words["text_feat"])
        best = torch.zeros_like(scores, dtype=torch.bool)
        for row, picture in enumerate(scores):
            best[row, picture.topk(topk).indices] = True
        for row, text in enumerate(scores.T):
            best[text.topk(topk).indices, row] = True
        found = count(model, RETRIEVAL)
        model.predict_all(images, words, shared=False)
    assert best.sum() < 5 * topk + 7 * topk  # some are among the best both ways
    assert found["pictures"] == 0
    assert found["cross-attended patches"] == int(best.any(1).sum()) * PATCHES
    assert found["matched pairs"] == int(best.sum()) * QUERIES
    lengths = words["attention_mask"].sum(1)
    padded = sum(int(row.sum()) * int(lengths[row].max()) for row in best if row.any())
    assert padded < int(best.sum()) * int(lengths.max())  # texts are padded to the longest of a picture's, no further
    assert found["text tokens"] == padded


def test_texts_of_one_picture_are_padded_within_groups_of_similar_length(retrieval_model, liven, count, monkeypatch):
    monkeypatch.setitem(blip2_retrieval.TEXTS, "cpu", 3)
    model = retrieval_model()
    liven(model.eval(), 3)
    texts = [
        "birds",
        "a small cup on the hill",
        "blue",
        "a red boat",
        "two birds sit",
        "the boat",
        "the red cup on a hill",
    ]
    with torch.no_grad():
        embeds, (ids, mask, _) = model.encode_image(pictures(1)), model.tokenize(texts)
        one_by_one = torch.cat([model.itm_logits(embeds, ids[row : row + 1], mask[row : row + 1]) for row in range(7)])
        found = count(model, RETRIEVAL)
        logits = model.itm_logits(embeds, ids, mask)
    torch.testing.assert_close(logits, one_by_one, atol=1e-5, rtol=1e-5)
    lengths = sorted(mask.sum(1).tolist())
    groups = [lengths[start : start + 3] for start in range(0, 7, 3)]
    assert found["text tokens"] == sum(len(group) * max(group) for group in groups) < 7 * lengths[-1]
    assert found["cross-attended patches"] == PATCHES  # the picture's keys and values serve all groups
