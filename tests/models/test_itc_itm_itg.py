"""The three objectives of stage 1: what each may see (arXiv 2301.12597, figure 2), and their losses by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from blip2.models.contrastive import contrastive_loss, hard_negatives, same_item
from blip2.structures import DataSample

TEXTS = ["a red boat", "two birds sit on a wire", "three children fly a kite above the hill", "a yellow plate"]
QUERIES = 6


def pictures(rows=4, seed=0):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def samples(texts=TEXTS, ids=None):
    ids = ids or [None] * len(texts)
    return [DataSample(text=t, **({} if i is None else {"image_id": i})) for t, i in zip(texts, ids, strict=True)]


@pytest.fixture
def model(retrieval_model, liven):
    model = retrieval_model().eval()
    liven(model, 0)
    return model


# ----- masks -----


@pytest.fixture
def case(model):
    """A picture, a text of six tokens with two of padding, and everything that the model makes of them."""
    ids = torch.tensor([[2, 9, 14, 20, 11, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]])
    return model, model.encode_image(pictures(1)).detach(), ids, mask


def changed(ids, place):
    ids = ids.clone()
    ids[0, place] = 25
    return ids


def image_feat(model, image_embeds):
    return F.normalize(model.vision_neck(model.query_image(image_embeds)), dim=-1)


@torch.no_grad()
def test_contrast_queries_and_text_see_one_another_not_at_all(case):
    """Unimodal: the text's feature comes from [CLS], which sees every word in both directions, and no padding."""
    model, _, ids, mask = case

    def text_feat(ids):
        hidden = model.multimodal_backbone(input_ids=ids, attention_mask=mask, num_outputs=1)
        return F.normalize(model.text_neck(hidden[:, 0]), dim=-1)

    before = text_feat(ids)
    for place in range(8):
        unseen = torch.equal(text_feat(changed(ids, place)), before)
        assert unseen == (place >= 6), place


def test_contrast_features_depend_on_their_own_input_only(model):
    """The features in the loss itself: no gradient leads from a picture's to a text, or the other way round."""
    queries, words = model.query_tokens, model.multimodal_backbone.bert.embeddings.word_embeddings.weight
    input_ids, mask, _ = model.tokenize(TEXTS)
    query_hidden = model.query_image(model.encode_image(pictures()))
    i2t, _ = model._similarities(query_hidden.detach(), input_ids, mask)
    assert torch.autograd.grad(i2t.sum(), queries, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(i2t.sum(), words)[0].abs().sum() > 0
    assert torch.autograd.grad(query_hidden.sum(), words, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(query_hidden.sum(), queries)[0].abs().sum() > 0


@torch.no_grad()
def test_matching_queries_and_text_see_all_of_one_another(case):
    """Bidirectional: each token moves the queries' outputs and the logits, the picture moves the text, padding none."""
    model, image_embeds, ids, mask = case
    keys_values = model.multimodal_backbone.project_encoder(image_embeds)
    before = model.query_with_text(keys_values, ids, mask)
    logits = model.itm_logits(image_embeds, ids, mask)
    for place in range(8):
        now = model.query_with_text(keys_values, changed(ids, place), mask)
        assert torch.equal(now, before) == (place >= 6), place
        assert all(not torch.equal(now[0, q], before[0, q]) for q in range(QUERIES)) == (place < 6), place
        assert torch.equal(model.itm_logits(image_embeds, changed(ids, place), mask), logits) == (place >= 6), place

    def text_hidden(image_embeds):
        queries = model.query_tokens
        seen = torch.cat((torch.ones(1, QUERIES), mask), 1)
        return model.multimodal_backbone(queries, image_embeds, seen, ids)[:, QUERIES:]

    other = image_embeds.clone()
    other[0, 2] += 1
    assert (text_hidden(other) != text_hidden(image_embeds)).any(-1)[0, :6].all()


@pytest.fixture
def generation(case, monkeypatch):
    """What the loss of generation predicts from: hidden states of the text, given token ids and a picture."""
    model, image_embeds, ids, mask = case
    seen = {}
    lm_logits = model.multimodal_backbone.lm_logits
    monkeypatch.setattr(
        model.multimodal_backbone, "lm_logits", lambda hidden: seen.update(hidden=hidden) or lm_logits(hidden)
    )

    def run(ids=ids, image_embeds=image_embeds):
        kept = []
        keys_values = model.multimodal_backbone.project_encoder(image_embeds)
        model.multimodal_backbone(model.query_tokens, encoder_keys_values=keys_values, kept_keys_values=kept)
        loss = model._itg_loss(kept, ids, mask, [0])
        return seen["hidden"], loss, kept

    return run


@torch.no_grad()
def test_generation_a_token_sees_the_queries_and_its_past_only(case, generation):
    """Multimodal causal: predicted are the tokens after [DEC], up to [SEP] and not of the padding."""
    _, image_embeds, ids, _ = case
    before, _, _ = generation()
    assert len(before) == 5
    for place in range(8):
        now, _, _ = generation(changed(ids, place))
        moved = (now != before).any(-1).tolist()
        # [CLS] is replaced by [DEC] whatever it is; the last token, [SEP], is predicted and predicts nothing.
        assert moved == [place > 0 and place <= row for row in range(5)], place
    other = image_embeds.clone()
    other[0, 2] += 1
    assert (generation(image_embeds=other)[0] != before).any(-1).all()


@torch.no_grad()
def test_generation_queries_see_no_text_one_joint_pass_is_the_same(case, generation):
    """Figure 2's mask written out for queries and text in one pass."""
    model, image_embeds, ids, _ = case
    hidden, loss, kept = generation()
    ids = ids[:, :6].clone()
    ids[0, 0] = model.tokenizer.bos_token_id
    mask = torch.zeros(QUERIES + 6, QUERIES + 6)
    mask[:, :QUERIES] = 1
    for row in range(6):
        mask[QUERIES + row, QUERIES : QUERIES + row + 1] = 1
    joint_kept = []
    joint = model.multimodal_backbone(model.query_tokens, image_embeds, mask[None], ids, kept_keys_values=joint_kept)
    assert_close(joint[:, :QUERIES], model.query_image(image_embeds), atol=1e-5, rtol=1e-5)
    assert_close(joint[0, QUERIES:-1], hidden, atol=1e-5, rtol=1e-5)
    for (key, _), (joint_key, _) in zip(kept, joint_kept, strict=True):
        assert_close(key, joint_key[:, :, :QUERIES], atol=1e-5, rtol=1e-5)
    log_probs = model.multimodal_backbone.lm_logits(joint[0, QUERIES:-1]).log_softmax(-1)
    expected = 0.9 * log_probs.gather(1, ids[0, 1:, None]).squeeze(1) + 0.1 * log_probs.mean(1)  # smoothing
    assert_close(loss, -expected.mean(), atol=1e-5, rtol=1e-5)


# ----- losses -----


def test_contrast_with_ids_of_their_own_is_label_smoothing():
    logits = 5 * torch.randn(4, 7)
    same = torch.eye(7, dtype=torch.bool)[:4]
    expected = F.cross_entropy(logits, torch.arange(4), label_smoothing=0.1)
    assert_close(contrastive_loss(logits, same), expected)


def test_contrast_shares_the_target_among_equal_ids():
    logits = torch.randn(3, 3)
    total = 0.0
    for row, equal in enumerate([[0, 2], [1], [0, 2]]):
        log_probs = logits[row].log_softmax(0)
        for column in range(3):
            total -= (0.1 / 3 + (0.9 / len(equal) if column in equal else 0)) * log_probs[column].item() / 3
    loss = contrastive_loss(logits, same_item(["x", "y", "x"]))
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_ids_may_be_of_any_kind_and_missing():
    same = same_item(["a", ("a", 1), None, "a", None, 7, torch.tensor(7)])
    expected = torch.eye(7, dtype=torch.bool)
    expected[0, 3] = expected[3, 0] = expected[5, 6] = expected[6, 5] = True
    assert torch.equal(same, expected)


@torch.no_grad()
def test_contrastive_loss_is_that_of_a_loop_over_all_pairs(model):
    losses = model.loss(pictures(), samples())
    similar = torch.zeros(4, 4)
    for row in range(4):
        image = image_feat(model, model.encode_image(pictures()[row : row + 1]))[0]
        for column, text in enumerate(TEXTS):
            similar[row, column] = max(
                float(image[query] @ model.text_features([text])["text_feat"][0]) for query in range(QUERIES)
            )
    own = torch.arange(4)
    expected = sum(F.cross_entropy(s / 0.07, own, label_smoothing=0.1) for s in (similar, similar.T)) / 2
    assert_close(losses["itc_loss"], expected, atol=1e-4, rtol=1e-4)


def test_hard_negatives_are_drawn_by_the_softmax_of_the_others():
    logits = torch.tensor([[9.0, 0.0, 1.0, 2.0], [5.0, 5.0, 5.0, 9.0]])
    same = torch.tensor([[True, False, False, False], [False, False, True, True]])
    rows, columns = hard_negatives(logits.repeat(4000, 1), same.repeat(4000, 1))
    assert torch.equal(rows, torch.arange(8000))
    weights = [math.exp(value) for value in (0, 1, 2)]
    for row, expected in enumerate([[0, *(weight / sum(weights) for weight in weights)], [0.5, 0.5, 0, 0]]):
        shares = columns[row::2].bincount(minlength=4) / 4000
        assert shares.tolist() == pytest.approx(expected, abs=0.03)


def test_a_far_negative_is_still_one_and_a_row_without_any_is_left_out():
    logits = torch.tensor([[9.0, -1e4], [3.0, 1.0]])
    rows, columns = hard_negatives(logits, torch.tensor([[True, False], [True, True]]))
    assert (rows.tolist(), columns.tolist()) == ([0], [1])


@pytest.mark.parametrize("left_out", [False, True], ids=["all rows", "rows without negatives"])
def test_matching_loss_is_that_of_pair_after_pair(model, monkeypatch, left_out):
    """A positive for each pair; then a wrong picture for each text; then a wrong text for each picture."""
    rows = torch.arange(2 if left_out else 4)
    drawn = [(rows, torch.tensor([2, 0, 3, 1])[: len(rows)]), (rows, torch.tensor([1, 3, 0, 2])[: len(rows)])]
    pairs = [(i, i, 1) for i in range(4)]
    pairs += [(picture, text, 0) for text, picture in zip(*(part.tolist() for part in drawn[0]), strict=True)]
    pairs += [(picture, text, 0) for picture, text in zip(*(part.tolist() for part in drawn[1]), strict=True)]
    monkeypatch.setattr("blip2.models.blip2_retrieval.hard_negatives", lambda *_: drawn.pop(0))
    loss = model.loss(pictures(), samples())["itm_loss"]
    total = 0.0
    for picture, text, matched in pairs:
        image_embeds = model.encode_image(pictures()[picture : picture + 1])
        ids, mask, _ = model.tokenize([TEXTS[text]])
        total -= model.itm_logits(image_embeds, ids, mask)[0].log_softmax(0)[matched].item()
    assert loss.item() == pytest.approx(total / len(pairs), abs=1e-5)


def test_pairs_of_one_picture_are_no_negatives(model, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "multinomial", lambda weights, _: seen.append(weights) or weights.argmax(1)[:, None])
    model.loss(pictures(), samples(ids=["a", "b", "a", "a"]))
    for weights in seen:
        assert (weights > 0).tolist() == [
            [False, True, False, False],
            [True, False, True, True],
            *[[False, True, False, False]] * 2,
        ]


def test_a_pair_alone_has_no_negatives(model):
    losses = model.loss(pictures(1), samples(TEXTS[:1]))
    image_embeds = model.encode_image(pictures(1))
    ids, mask, _ = model.tokenize(TEXTS[:1])
    assert_close(losses["itm_loss"], -model.itm_logits(image_embeds, ids, mask).log_softmax(1)[0, 1])


def test_generation_loss_is_the_mean_over_all_tokens_text_by_text(model):
    loss = model.loss(pictures(), samples())["lm_loss"]
    total, count = 0.0, 0
    for picture, text in zip(pictures(), TEXTS, strict=True):
        (ids,) = model.tokenizer.encode([text])
        one = model.loss(picture[None], samples([text]))["lm_loss"]
        total, count = total + one.item() * (len(ids) - 1), count + len(ids) - 1
    assert loss.item() == pytest.approx(total / count, abs=1e-5)


def test_generation_learns_several_texts_of_a_picture_the_other_losses_the_first(model, monkeypatch):
    monkeypatch.setattr(torch, "multinomial", lambda weights, _: weights.argmax(1)[:, None])
    several = [[TEXTS[0], TEXTS[1], TEXTS[2]], [TEXTS[3]], [TEXTS[2], TEXTS[0]], [TEXTS[1], "a kite"]]
    batch = [DataSample(gt_caption=texts) for texts in several]
    first_ones = model.loss(pictures(), samples([texts[0] for texts in several]))
    model.captions_per_picture = "all"
    losses = model.loss(pictures(), batch)
    assert_close({k: losses[k] for k in ("itc_loss", "itm_loss")}, {k: first_ones[k] for k in ("itc_loss", "itm_loss")})
    total, count = 0.0, 0
    for picture, texts in zip(pictures(), several, strict=True):
        for text in texts:
            (ids,) = model.tokenizer.encode([text])
            one = model.loss(picture[None], samples([text]))["lm_loss"]
            total, count = total + one.item() * (len(ids) - 1), count + len(ids) - 1
    assert losses["lm_loss"].item() == pytest.approx(total / count, abs=1e-5)
    model.captions_per_picture = 2
    assert model.loss(pictures(), batch)["lm_loss"] != losses["lm_loss"]


# ----- training -----


def test_all_that_is_not_frozen_learns(retrieval_model):
    model = retrieval_model().train()
    sum(model.loss(pictures(), samples()).values()).backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith("vision_backbone.")
        assert (parameter.grad is None or not parameter.grad.any()) == frozen, name
    assert not model.vision_backbone.training


def test_temperature_stays_above_zero_and_finds_its_way_back(model):
    with torch.no_grad():
        model.temp.fill_(-0.5)
    loss = model.loss(pictures(), samples())["itc_loss"]
    loss.backward()
    assert loss.isfinite() and model.temp.grad != 0 and model.temp.item() == -0.5


def test_text_is_drawn_in_training_and_the_first_in_eval(model, monkeypatch):
    read = []
    tokenize = model.tokenize
    monkeypatch.setattr(model, "tokenize", lambda texts, device: read.append(texts) or tokenize(texts, device))
    batch = [DataSample(gt_caption=["a boat", "a kite", "two birds"]) for _ in range(30)]
    images = pictures(1).expand(30, -1, -1, -1)
    model.loss(images, batch)
    model.train().loss(images, batch)
    assert (set(read[0]), set(read[1])) == ({"a boat"}, set(batch[0].gt_caption))


def test_losses_are_weighted_and_those_with_weight_0_not_computed(model, retrieval_model, monkeypatch):
    monkeypatch.setattr(torch, "multinomial", lambda weights, _: weights.argmax(1)[:, None])
    plain = model.loss(pictures(), samples())
    assert list(plain) == ["itc_loss", "itm_loss", "lm_loss"]
    weighted = retrieval_model(loss_weights={"itc": 0, "itm": 0.5}).eval()
    weighted.load_state_dict(model.state_dict())
    losses = weighted.loss(pictures(), samples())
    assert_close(losses, {"itm_loss": 0.5 * plain["itm_loss"], "lm_loss": plain["lm_loss"]})
    alone = retrieval_model(loss_weights={"itc": 0, "itm": 0})
    assert list(alone.loss(pictures(), samples())) == ["lm_loss"]


def test_accuracy_of_matching_on_request(retrieval_model, liven):
    head = {"type": "ITMHead", "hidden_size": 32, "with_pooler": False, "cal_acc": True}
    model = retrieval_model(multimodal_head=head).eval()
    with torch.no_grad():
        model.multimodal_head.fc.weight.zero_()
        model.multimodal_head.fc.bias.copy_(torch.tensor([1.0, 0.0]))  # never matched: right for two of three
    losses = model.loss(pictures(), samples())
    assert losses["itm_accuracy"].item() == pytest.approx(200 / 3)


def test_bfloat16_stays_near_float32(model):
    full = model.loss(pictures(), samples())
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(pictures(), samples())
    for name in ("itc_loss", "lm_loss"):  # negatives may differ
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.05)


# ----- bad input -----


def test_features_that_are_no_numbers_are_named(model):
    images = pictures()
    images[2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"the features of pictures 2 \(counted from 0\) are NaN or infinite"):
        model.loss(images, samples())


@pytest.mark.parametrize(
    ("data_samples", "message"),
    [
        (None, "4 pictures came with 0 data samples"),
        (samples()[:3], "4 pictures came with 3 data samples"),
        ([*samples()[:3], DataSample(img_path="x.png")], "the picture x.png has no text to learn from"),
        ([*samples()[:3], DataSample(text=["a", " "], image_id=5)], "the picture 5 has an empty text to learn from"),
    ],
)
def test_samples_without_a_text_each_are_an_error(model, data_samples, message):
    with pytest.raises(ValueError, match=message):
        model.loss(pictures(), data_samples)


def test_long_texts_are_cut_and_that_is_told_once(retrieval_model, monkeypatch):
    told = []
    monkeypatch.setattr("blip2.models.blip2_retrieval.print_log", lambda text, *_: told.append(text))
    model = retrieval_model(max_txt_len=4)
    for _ in range(2):
        model.loss(pictures(), samples())
    assert told == ["texts longer than max_txt_len=4 tokens are cut (here 4 of 4)"]
