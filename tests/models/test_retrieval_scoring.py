"""Ranking both ways against a twin that looks at every pair, and what it does with bad input."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import blip2.models.blip2_retrieval as blip2_retrieval
import blip2.models.retrieval_scoring as retrieval_scoring

TEXTS = [
    "a red boat",
    "two birds sit on a wire",
    "three children fly a kite above the hill",
    "a yellow plate",
    "a small blue cup stands to the left of a yellow plate",
    "one flies away",
    "a bridge",
]
PICTURES = 5


def pictures(rows=PICTURES, seed=0):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(retrieval_model, liven):
    model = retrieval_model(topk=3).eval()
    liven(model, 0)
    return model


@torch.no_grad()
def features(model):
    return model.image_features(pictures()), model.text_features(TEXTS)


@torch.no_grad()
def twin(model, topk):
    """Pair by pair, the picture encoded anew and the text alone; then each row's `topk` by similarity."""
    itc, itm = torch.zeros(PICTURES, len(TEXTS)), torch.zeros(PICTURES, len(TEXTS))
    qformer = model.multimodal_backbone
    for row in range(PICTURES):
        embeds = model.encode_image(pictures()[row : row + 1])
        image_feat = F.normalize(model.vision_neck(qformer(model.query_tokens, embeds)[0]), dim=1)
        for column, text in enumerate(TEXTS):
            ids = torch.tensor(model.tokenizer.encode([text]))
            text_feat = F.normalize(model.text_neck(qformer(input_ids=ids)[0, 0]), dim=0)
            itc[row, column] = max(feat @ text_feat for feat in image_feat)
            hidden = qformer(model.query_tokens, embeds, None, ids)[0, : len(model.query_tokens[0])]
            itm[row, column] = (hidden @ model.multimodal_head.fc.weight[1] + model.multimodal_head.fc.bias[1]).mean()
    scores = []
    for similar, matched in ((itc, itm), (itc.T, itm.T)):
        best = (-similar).argsort(1).argsort(1) < topk
        scores.append(torch.where(best, similar + matched, similar - 100))
    return itc, *scores


@pytest.mark.parametrize("topk", [1, 3, 5, 7, 256])
def test_ranking_equals_a_loop_over_all_pairs(model, topk):
    model.topk = topk
    _, *expected = twin(model, topk)
    i2t, t2i = model.predict_all(*features(model))
    assert (tuple(i2t.shape), tuple(t2i.shape)) == ((5, 7), (7, 5))
    assert_close(i2t, expected[0], atol=1e-5, rtol=1e-5)
    assert_close(t2i, expected[1], atol=1e-5, rtol=1e-5)
    assert (i2t.std(1) > 0.01).all() and (t2i.std(1) > 0.01).all()


def test_fast_match_is_similarity_and_texts_times_pictures_the_other_way(model):
    model.fast_match = True
    itc, *_ = twin(model, 3)
    images, texts = features(model)
    del images["image_embeds"]  # not needed
    i2t, t2i = model.predict_all(images, texts)
    assert_close(i2t, itc, atol=1e-5, rtol=1e-5)
    assert torch.equal(t2i, i2t.T)


def test_portions_change_nothing(model, monkeypatch):
    expected = model.predict_all(*features(model))
    monkeypatch.setitem(blip2_retrieval.TEXTS, "cpu", 2)
    monkeypatch.setattr(retrieval_scoring, "_CHUNK", 100)
    assert_close(model.predict_all(*features(model)), expected, atol=1e-5, rtol=1e-5)


def test_a_picture_is_projected_once_and_a_pair_matched_once(model, monkeypatch):
    _, i2t, t2i = twin(model, 3)
    wanted = ((i2t > -50) | (t2i.T > -50)).sum(1)  # of each picture
    images, texts = features(model)
    projected, matched = [], []
    project, query = model.multimodal_backbone.project_encoder, model.query_with_text
    monkeypatch.setattr(model.multimodal_backbone, "project_encoder", lambda x: projected.append(len(x)) or project(x))
    monkeypatch.setattr(model, "query_with_text", lambda p, ids, mask: matched.append(len(ids)) or query(p, ids, mask))
    model.predict_all(images, texts)
    assert projected == [1] * PICTURES
    assert matched == wanted.tolist()


def test_shares_add_up_to_the_whole(model, monkeypatch):
    """What each of three processes works out, before the sum over them."""
    scores = torch.randn(5, 7)
    logits = torch.randn(5, 7)

    def match(picture, texts):
        return logits[picture, texts]

    parts = []
    monkeypatch.setattr(retrieval_scoring, "all_reduce", lambda part: parts.append(part.clone()))
    for rank in range(3):
        retrieval_scoring.rank_both_ways(scores, 2, match, (rank, 3))
    monkeypatch.setattr(retrieval_scoring, "all_reduce", lambda part: part.copy_(sum(parts)))
    shared = retrieval_scoring.rank_both_ways(scores, 2, match, (1, 3))
    assert_close(shared, retrieval_scoring.rank_both_ways(scores, 2, match))
    assert [row for part in parts for row in part.any(1).nonzero().flatten().tolist()] == [0, 3, 1, 4, 2]


def test_scores_do_not_depend_on_the_length_of_the_others(model):
    """Padding and portions of texts leave a text's scores alone."""
    images, texts = features(model)
    with torch.no_grad():
        some = model.text_features(TEXTS[:2])
    model.topk = 7
    wide, narrow = model.predict_all(images, texts)[0][:, :2], model.predict_all(images, some)[0]
    assert texts["input_ids"].shape[1] > some["input_ids"].shape[1]
    assert_close(wide, narrow, atol=1e-5, rtol=1e-5)


# ----- bad input -----


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("image_feat", 3, "pictures 3 "),
        ("image_embeds", 1, "pictures 1 "),
        ("text_feat", 6, "texts 6 "),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_named_not_ranked(model, name, row, message, value):
    images, texts = features(model)
    (texts if name in texts else images)[name][row, 0] = value
    with pytest.raises(FloatingPointError, match=f"the features of {message}.*NaN or infinite"):
        model.predict_all(images, texts)


def test_topk_beyond_the_gallery_ranks_all_and_is_told_once(model, monkeypatch):
    told = []
    monkeypatch.setattr(blip2_retrieval, "print_log", lambda text, *_: told.append(text))
    model.topk = 6
    for _ in range(2):
        model.predict_all(*features(model))
    assert told == ["topk=6 is more than there is to be ranked (5 pictures, 7 texts): all of it is matched"]


def test_texts_that_do_not_fit_the_pictures_are_an_error(model):
    embeds = model.encode_image(pictures(2))
    ids, mask, _ = model.tokenize(TEXTS[:3])
    with pytest.raises(ValueError, match="3 texts cannot be shared out among 2 pictures"):
        model.itm_logits(embeds, ids, mask)


def test_long_matching_tells_how_far_it_is(monkeypatch):
    told, now = [], iter(range(0, 1000, 10))
    monkeypatch.setattr(retrieval_scoring, "print_log", lambda message, logger: told.append((message, logger)))
    monkeypatch.setattr(retrieval_scoring.time, "monotonic", lambda: next(now))
    retrieval_scoring.rank_both_ways(torch.rand(7, 3), 2, lambda picture, texts: torch.zeros(len(texts)))
    assert told[0] == ("the texts of 2 of 7 pictures are matched", "current")
    assert 1 < len(told) < 7
