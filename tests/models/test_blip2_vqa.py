"""What `Blip2VQA` does with questions, prompts, answers and their weights, options, and bad input."""

import copy

import pytest
import torch
from torch.testing import assert_close

from blip2.models.vqa_samples import asked, weighted_answers
from blip2.structures import DataSample

QUESTIONS = ["what color is the boat ?", "how many birds sit on the wire above the hill ?", "cup ?", "is it yellow ?"]
ANSWERS = [["red", "blue"], ["two", "three", "many birds"], ["a small cup"], ["yes"]]
WEIGHTS = [[0.7, 0.3], [0.5, 0.3, 0.2], [1.0], [0.9]]


def pictures(rows=2, seed=0):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed)).double()


def sample(index, **changes):
    fields = {"question": QUESTIONS[index], "gt_answer": ANSWERS[index], "gt_answer_weight": WEIGHTS[index]}
    return DataSample(**{**fields, **changes})


def grouped(*indices):
    """A picture with several questions."""
    rows = (QUESTIONS, ANSWERS, WEIGHTS)
    question, answer, weight = ([values[index] for index in indices] for values in rows)
    return DataSample(question=question, gt_answer=answer, gt_answer_weight=weight)


def questions(model, samples):
    return [asked(sample, model.options.prompt) for sample in samples]


@pytest.fixture
def make(vqa_model, liven):
    def build(seed=4, **changes):  # random weights with which some answers end before others
        model = vqa_model(**changes).eval()
        liven(model, seed, lm=model.text_backbone, eos=model.tokenizer.token_id("\n"))
        return model.double()

    return build


@pytest.fixture(params=[False, True], ids=["plain", "question in Q-Former"])
def model(request, make):
    return make(question_in_qformer=request.param)


# ----- predict -----


def test_a_batch_of_16_mixed_lengths_is_16_batches_of_1_token_for_token(model):
    words = ["how", "many", "birds", "sit", "on", "the", "red", "boat", "or", "the", "small", "blue", "cup"]
    asks = questions(model, [DataSample(question=" ".join(words[: 1 + index * 5 % 11])) for index in range(16)])
    images = pictures(16)
    assert len({len(ids) for ids in model.tokenizer.encode([ask.prompts[0] for ask in asks])}) > 5
    lengths = set()
    for overrides in ({}, {"length_penalty": 1.0}, {"num_beams": 1}):
        options = model._options(overrides)
        together = model.generate(images, asks, options)
        for row, ask in enumerate(asks):
            alone = model.generate(images[row : row + 1], [ask], options)
            assert together.sequences[row, : together.lengths[row]].tolist() == alone.sequences[0].tolist()
            assert_close(together.scores[row], alone.scores[0])
        lengths |= set(together.lengths.tolist())
    assert len(lengths) > 3  # so beams of one question end while those of another go on


def test_the_tokenizers_state_is_left_alone(model):
    before = dict(model.tokenizer.backend.init_kwargs), model.tokenizer.backend.padding_side
    model.predict(pictures(2), [sample(0), sample(1)])
    model.loss(pictures(2), [sample(0), sample(1)])
    assert (dict(model.tokenizer.backend.init_kwargs), model.tokenizer.backend.padding_side) == before


def test_several_questions_of_a_picture_are_answered_as_if_asked_one_by_one(model):
    images = pictures(3)
    samples = model.predict(images, [grouped(0, 1, 2), sample(3), grouped(3)])
    for row, indices in enumerate([(0, 1, 2), (3,), (3,)]):
        alone = [model.predict(images[row : row + 1], [sample(index)])[0] for index in indices]
        answers, scores = [each.pred_answer for each in alone], [each.pred_score for each in alone]
        several = isinstance(samples[row].question, list)
        assert samples[row].pred_answer == (answers if several else answers[0])
        assert samples[row].pred_score == pytest.approx(scores if several else scores[0])


def test_a_picture_is_encoded_once_for_all_its_questions(model, monkeypatch):
    rows = {"vision": [], "keys and values": []}
    model.vision_backbone.register_forward_hook(lambda _, args, __: rows["vision"].append(len(args[0])))
    key = model.multimodal_backbone.bert.encoder.layer[0].crossattention.self.key
    key.register_forward_hook(lambda _, args, __: rows["keys and values"].append(len(args[0])))
    model.loss(pictures(2), [grouped(0, 1, 2), grouped(3)])
    model.predict(pictures(2), [grouped(0, 1, 2), grouped(3)])
    assert rows == {"vision": [2, 2], "keys and values": [2, 2]}


def test_defaults_are_five_beams_and_a_length_penalty_of_minus_one(model):
    options = model.options
    assert (options.num_beams, options.length_penalty, options.min_length) == (5, -1.0, 1)
    plain = model.predict(pictures(1), [sample(1)])[0].pred_answer
    assert plain == model.predict(pictures(1), [sample(1)], num_beams=5, length_penalty=-1.0)[0].pred_answer


def test_options_can_be_overridden_for_a_call(model):
    asks = questions(model, [sample(1)])
    for overrides in ({"num_beams": 1}, {"max_txt_len": 3}, {"length_penalty": 2.0}, {"min_length": 4}):
        options = model._options(overrides)
        expected, _ = model.decode(model.generate(pictures(1), asks, options), 1)
        assert model.predict(pictures(1), [sample(1)], **overrides)[0].pred_answer == expected[0]
    assert model.generate(pictures(1), asks, model._options({"max_txt_len": 3})).lengths.max() <= 3
    with pytest.raises(ValueError, match=r"num_beam'.*did you mean 'num_beams'"):
        model.predict(pictures(1), [sample(1)], num_beam=3)


def test_several_answers_come_as_lists_the_best_first(model):
    first, second = model.predict(pictures(2), [sample(0), grouped(0, 1)], num_captions=3)
    assert len(first.pred_answer) == len(first.pred_score) == 3
    assert [len(answers) for answers in second.pred_answer] == [3, 3]
    assert first.pred_answer[0] == model.predict(pictures(1), [sample(0)])[0].pred_answer


def test_answers_end_where_the_end_token_says(make):
    model = make(end_token="</s>")
    assert model._continuations(["red"]) == [[*model.tokenizer.encode([" red"], add_special_tokens=False)[0], 2]]
    assert model._end_token_id() == 2
    output = model.generate(pictures(4), questions(model, [sample(index) for index in range(4)]), model.options)
    assert all("</s>" not in text for text in model.decode(output, 1)[0])


# ----- prompts -----


def test_the_question_goes_into_the_template():
    assert asked(DataSample(question="a {} b?"), "Question: {} Answer: ").prompts == ["Question: a {} b? Answer:"]


def test_a_samples_own_prompt_is_read_as_it_is():
    ask = asked(DataSample(question="why?", prompt="what is {} in {this}? "), "Question: {} Answer:")
    assert (ask.prompts, ask.questions) == (["what is {} in {this}?"], ["why?"])
    ask = asked(DataSample(prompt=["a dialogue:", "describe it:"]), "Question: {} Answer:")
    assert (ask.prompts, ask.questions, ask.several) == (["a dialogue:", "describe it:"],) * 2 + (True,)


def test_a_prompt_without_a_place_for_a_question_is_used_as_it_is_where_none_is_asked(model):
    ((found,),) = [model.predict(pictures(1), [DataSample()], prompt="a photo of")]
    assert found.pred_answer == model.predict(pictures(1), [DataSample(prompt="a photo of")])[0].pred_answer


def test_own_prompts_may_differ_within_a_batch(model):
    images = pictures(2)
    samples = [DataSample(prompt="a photo of two birds on"), sample(0)]
    together = [each.pred_answer for each in model.predict(images, samples)]
    alone = [model.predict(images[row : row + 1], [samples[row]])[0].pred_answer for row in range(2)]
    assert together == alone


# ----- candidates -----


def test_a_given_answer_is_chosen_by_likelihood(model):
    candidates = ["red", "two", "a small cup", "red boat"]
    one, several = model.predict(pictures(2), [sample(0), grouped(0, 1)], answers=candidates)
    assert len(one.pred_answer_scores) == 4 and one.pred_score == max(one.pred_answer_scores)
    assert one.pred_answer == candidates[one.pred_answer_scores.index(one.pred_score)]
    assert [len(scores) for scores in several.pred_answer_scores] == [4, 4]
    alone = [model.rank(pictures(1, seed=9), questions(model, [sample(1)]), [text]) for text in candidates]
    together = model.rank(pictures(1, seed=9), questions(model, [sample(1)]), candidates)
    assert_close(together, torch.cat(alone, 1))


def test_the_best_of_the_given_answers_come_as_lists(model):
    (found,) = model.predict(pictures(1), [sample(0)], answers=["red", "two", "cup"], num_captions=5)
    assert sorted(found.pred_answer) == ["cup", "red", "two"]
    assert found.pred_score == sorted(found.pred_answer_scores, reverse=True)


@pytest.mark.parametrize(
    ("answers", "named"),
    [([], r"answers=\[\] has no candidates"), ("red", "answers='red' must be a list"), (["red", " "], "none of them")],
)
def test_bad_candidates_are_named(model, answers, named):
    with pytest.raises(ValueError, match=named):
        model.predict(pictures(1), [sample(0)], answers=answers)


# ----- loss -----


def test_loss_of_several_questions_equals_that_of_repeated_pictures(model):
    images, order = pictures(2), (0, 1, 2, 3)
    together = model.loss(images, [grouped(0, 1, 2), grouped(3)])["loss"]
    repeated = model.loss(images[[0, 0, 0, 1]], [sample(index) for index in order])["loss"]
    assert_close(together, repeated)


def test_gradients_of_several_questions_equal_those_of_repeated_pictures(model):
    other = copy.deepcopy(model)
    images = pictures(2)
    model.loss(images, [grouped(0, 1, 2), grouped(3)])["loss"].backward()
    other.loss(images[[0, 0, 0, 1]], [sample(index) for index in range(4)])["loss"].backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name in trained:
        one, two = model.get_parameter(name).grad, other.get_parameter(name).grad
        assert_close(one, two, atol=1e-6, rtol=1e-4, msg=name)  # the loss itself is in single precision
    assert any("word_embeddings" in name for name in trained) == model.question_in_qformer


def test_weights_decide_what_an_answer_counts(model):
    images = pictures(1)
    losses, counts = [], []
    for answer in ANSWERS[0]:
        losses.append(model.loss(images, [sample(0, gt_answer=answer, gt_answer_weight=None)])["loss"])
        counts.append(len(model._continuations([answer])[0]))
    weights = [weight * count for weight, count in zip(WEIGHTS[0], counts, strict=True)]
    expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert_close(model.loss(images, [sample(0)])["loss"], expected, atol=1e-5, rtol=1e-5)
    assert_close(model.loss(images, [sample(0, gt_answer_weight=[0.0, 0.4])])["loss"], losses[1], atol=1e-5, rtol=1e-5)


def test_ten_raw_answers_count_as_their_distinct_ones_with_weights():
    raw = DataSample(gt_answer=["red"] * 6 + ["blue"] * 4)
    (found,) = weighted_answers(raw, asked(DataSample(question="?"), "{}"))
    assert found == pytest.approx({"red": 0.6, "blue": 0.4})


def test_only_answer_tokens_reach_the_head(model, monkeypatch):
    sizes = []
    model.text_backbone.lm_head.register_forward_hook(lambda _, args, __: sizes.append(tuple(args[0].shape)))
    model.loss(pictures(2), [grouped(0, 1), sample(2)])
    texts = model._continuations([answer for answers in ANSWERS[:3] for answer in answers])
    assert sizes == [(sum(min(len(text), 6) for text in texts), 32)]


def test_what_is_not_answered_is_not_learned(model):
    """The gradient of the question's own log-likelihood is absent: another question with the same states would do."""
    lessons = model._lessons(questions(model, [sample(1)]), [{"two": 1.0}])
    (prompt,) = model.tokenizer.encode([f"Question: {QUESTIONS[1]} Answer:"])
    assert (lessons[0].given, lessons[0].texts) == (prompt, model._continuations(["two"]))
    (whole,) = model.tokenizer.encode([f"Question: {QUESTIONS[1]} Answer: two\n"])
    assert [*prompt, *lessons[0].texts[0]] == whole


def test_frozen_parts_get_no_gradients_and_all_others_do(model):
    model.train()
    model.loss(pictures(2), [grouped(0, 1), sample(2)])["loss"].backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("vision_backbone.", "text_backbone."))
        assert (parameter.grad is not None) != (frozen or not parameter.requires_grad), name
        assert parameter.requires_grad != frozen or "layer.3" in name, name


def test_the_question_in_the_qformer_changes_what_its_queries_find(make):
    model = make(question_in_qformer=True)
    one, other = model.read(pictures(1).expand(2, -1, -1, -1), questions(model, [sample(0), sample(1)]))
    assert (one - other).abs().max() > 0.1


def test_autocast_trains_and_predicts(vqa_model):
    model = vqa_model(question_in_qformer=True).train()
    images = pictures(2).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(images, [grouped(0, 1), sample(2)])["loss"]
        model.eval().predict(images, [grouped(0, 1), sample(2)])
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# ----- bad input -----


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, r"cat\.png has no question.*PackInputs"),
        ({"question": ""}, r"cat\.png has an empty question"),
        ({"question": ["what?", "  "]}, r"cat\.png has an empty question"),
        ({"question": []}, r"cat\.png has an empty list as its question"),
        ({"question": 3}, r"cat\.png: question=3 is not a text"),
        ({"question": ["a", "b"], "prompt": ["c"]}, r"cat\.png has 2 questions and 1 prompts"),
    ],
)
def test_bad_questions_are_named(model, fields, named):
    with pytest.raises(ValueError, match=named):
        model.predict(pictures(1), [DataSample(metainfo={"img_path": "cat.png"}, **fields)])


def test_a_template_without_a_place_for_the_question_is_an_error(model):
    with pytest.raises(ValueError, match=r"'a photo of' has no \{\} to put it in"):
        model.predict(pictures(1), [sample(0)], prompt="a photo of")


def test_a_question_beyond_the_positions_is_named(model):
    long = sample(0, question="a very long question " * 20)
    for call in (model.predict, model.loss):
        with pytest.raises(ValueError, match=r"prompt 'Question: a very long question.*…' is too long.*64 positions"):
            call(pictures(2), [sample(0), long])


def test_a_question_beyond_the_qformers_positions_is_named(make):
    model = make(question_in_qformer=True)
    long = DataSample(question="boat " * 600, prompt="what?")
    with pytest.raises(ValueError, match=r"question 'boat boat.*…' has 602 tokens, the Q-Former takes 512"):
        model.predict(pictures(1), [long])


def test_candidates_beyond_the_positions_are_an_error(model):
    with pytest.raises(ValueError, match="64 positions"):
        model.predict(pictures(1), [sample(0)], answers=["red", "boat " * 60])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"gt_answer": None}, r"cat\.png has no gt_answer to learn from.*PackInputs"),
        ({"gt_answer": []}, r"question 'what.*gt_answer=\[\] must be"),
        ({"gt_answer": ["red", ""]}, "none of them empty"),
        ({"gt_answer_weight": [1.0]}, "2 answers came with 1 weights"),
        ({"gt_answer_weight": [0.0, 0.0]}, "not all 0"),
        ({"gt_answer_weight": [1.0, float("nan")]}, "must be finite"),
        ({"question": ["a", "b"], "gt_answer": "red"}, r"2 questions: its gt_answer must be a list of 2, not 'red'"),
        ({"question": ["a", "b"], "gt_answer_weight": [[1.0]]}, "its gt_answer_weight must be a list of 2"),
    ],
)
def test_bad_answers_are_named(model, fields, named):
    bad = sample(0, **fields)
    bad.set_metainfo({"img_path": "cat.png"})
    with pytest.raises(ValueError, match=named):
        model.loss(pictures(1), [bad])


def test_as_many_data_samples_as_pictures_are_needed(model):
    for call in (model.predict, model.loss):
        with pytest.raises(ValueError, match="2 pictures came with 1 data samples"):
            call(pictures(2), [sample(0)])
        with pytest.raises(ValueError, match="2 pictures came with 0 data samples"):
            call(pictures(2), None)


# ----- building -----


def test_the_qformer_has_a_text_branch_only_where_it_reads_questions(vqa_model):
    assert not vqa_model().multimodal_backbone.with_text
    with_text = vqa_model(question_in_qformer=True).multimodal_backbone
    assert with_text.with_text and not with_text.with_lm_head


def test_reading_questions_needs_a_tokenizer_and_a_text_branch(vqa_model, caption_config):
    with pytest.raises(ValueError, match="qformer_tokenizer=dict"):
        vqa_model(question_in_qformer=True, qformer_tokenizer=None)
    qformer = {**caption_config()["multimodal_backbone"], "with_text": False}
    with pytest.raises(ValueError, match="with_text=True"):
        vqa_model(question_in_qformer=True, multimodal_backbone=qformer)
