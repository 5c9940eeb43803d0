"""Question answering and retrieval, beside the same model used as upstream does and beside transformers."""

import json

import pytest
import torch

from blip2.benchmark import answerer, ranker, transformers_peer
from blip2.benchmark.answerer import Answerer, RepeatedAnswerer
from blip2.benchmark.answers import Rankings
from blip2.benchmark.ranker import Ranker, RepeatedRanker
from blip2.benchmark.table import render
from blip2.benchmark.tasks import TASKS
from blip2.benchmark.timing import RANKING_STAGES, STAGES
from blip2.benchmark.transformers_peer import TransformersAnswerer
from blip2.benchmark.work import (
    BASE_CONFIGS,
    PRESETS,
    WORKS,
    RetrievalWork,
    VQAWork,
    build_model,
    draw_texts,
    preset,
    write_pictures,
)
from blip2.cli.benchmark import build_parser
from blip2.models import blip2_vqa
from blip2.models.blip2_retrieval import Blip2Retrieval

CPU = torch.device("cpu")


@pytest.fixture
def vqa(tmp_path):
    """Model, config, work and pictures of the tiny preset."""
    config, work = preset("tiny", "vqa")
    return build_model(config, CPU, "Blip2VQA"), config, work, write_pictures(tmp_path, work.batch_size)


@pytest.fixture
def retrieval(tmp_path):
    config, work = preset("tiny", "retrieval")
    return build_model(config, CPU, "Blip2Retrieval"), config, work, write_pictures(tmp_path, work.batch_size)


# ----- question answering -----


@pytest.mark.parametrize("peer", ["repeated", "transformers"])
def test_answers_are_the_same_and_timed_beside_both_peers(run_tiny, peer):
    report = run_tiny("vqa", peer=peer)
    assert report.agreement.identical == {"fp32": 6} and report.agreement.distinct > 3
    assert set(report.times) == set(STAGES) and report.ratio("pipeline") is not None
    text = render(report)
    assert f"same token ids as {peer}: 6 of 6 at fp32 (different answers: {report.agreement.distinct})" in text
    assert "pictures 2, questions of each 3, beams 3, new tokens 5" in text


def test_every_stage_of_question_answering_agrees_with_transformers(vqa):
    model, config, work, files = vqa
    ours, peer = Answerer(model, config, work), TransformersAnswerer(model, (28, 28), work)
    for (stage, mine), (name, other) in zip(ours.states(files), peer.states(files), strict=True):
        assert stage == name and len(mine) == work.answers
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    queries = ours.qformer(ours.vision(ours.decode(files)))
    theirs = peer.qformer(peer.vision(peer.decode(files)))
    assert ours.generation(queries)[0].tolist() == peer.generation(theirs)[0].tolist()


def test_prompts_differ_in_length_so_that_padding_is_compared_too(vqa):
    model, config, work, _ = vqa
    lengths = {len(ids) for ids in model.tokenizer.encode(Answerer(model, config, work).prompts(work.answers))}
    assert len(lengths) > 2


def test_ours_reads_a_picture_once_and_upstreams_way_once_for_each_question(vqa):
    model, config, work, files = vqa
    seen = []
    model.vision_backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    Answerer(model, config, work).answer(files)
    RepeatedAnswerer(model, config, work).answer(files)
    assert seen == [2, 6]


def test_stages_and_whole_answer_alike(vqa):
    model, config, work, files = vqa
    for contender in (
        Answerer(model, config, work),
        RepeatedAnswerer(model, config, work),
        TransformersAnswerer(model, (28, 28), work),
    ):
        queries = contender.qformer(contender.vision(contender.decode(files)))
        assert contender.generation(queries)[0].tolist() == contender.answer(files).ids.tolist()


def test_questions_put_to_the_wrong_picture_make_the_ratio_void(run_tiny, monkeypatch):
    def in_turn(questions, device):  # right only where each picture has one question
        return torch.arange(sum(map(len, questions)), device=device) % len(questions)

    monkeypatch.setattr(blip2_vqa, "_pictures", in_turn)
    report = run_tiny("vqa")
    assert report.agreement.identical["fp32"] < 6
    assert report.void and report.times == {} and report.agreement.first_difference == "language model"


def test_pictures_that_upstreams_way_reads_in_another_order_are_named(run_tiny, monkeypatch):
    decode = RepeatedAnswerer.decode
    monkeypatch.setattr(RepeatedAnswerer, "decode", lambda self, files: decode(self, files[::-1]))
    report = run_tiny("vqa")
    assert report.void and report.agreement.first_difference.startswith("picture decoding")


def test_other_weights_in_transformers_make_the_ratio_void(run_tiny, monkeypatch):
    convert = transformers_peer.convert_state_dict

    def wrong(state):
        return {key: value.flip(0) if "fc1" in key else value for key, value in convert(state).items()}

    monkeypatch.setattr(transformers_peer, "convert_state_dict", wrong)
    report = run_tiny("vqa", peer="transformers")
    assert report.void and report.agreement.first_difference.startswith("vision")


def test_transformers_has_no_qformer_that_reads_the_question(run_tiny):
    from blip2.apis.config import load_config
    from blip2.benchmark.run import benchmark

    config = load_config("blip2_tiny/blip2-tiny_shapes-vqa.py")
    work = VQAWork(batch_size=1, questions=2, num_beams=2, max_new_tokens=2)
    report = benchmark(config, work, name="shapes", peer="transformers", repeats=1, warmup=0)
    assert "reads the question" in report.skipped["transformers"] and not report.void


# ----- retrieval -----


def test_rankings_are_the_same_and_timed(run_tiny):
    report = run_tiny("retrieval")
    assert report.agreement.identical == {"fp32": 18} and report.agreement.distinct > 9
    assert 0 <= report.agreement.gaps["fp32"] < 1e-4
    assert set(report.times) == set(RANKING_STAGES)
    record = json.loads(json.dumps(report.as_dict()))
    assert record["task"] == "retrieval" and record["peer"] == "repeated"
    assert record["work"] == dict(batch_size=6, texts=12, topk=3, precision="fp32", device="cpu")
    assert record["stages"]["ranking"]["verdict"] in ("faster", "slower", "undecided")
    text = render(report)
    assert "same candidates and scores as repeated: 18 of 18 at fp32, up to" in text
    assert "pictures 6, texts 12, the 3 most similar ranked again both ways" in text
    assert all(f"\n{label} " in text for label in RANKING_STAGES.values())


def test_upstreams_way_projects_each_candidates_picture_and_ours_each_picture_once(retrieval):
    model, config, work, files = retrieval
    seen = []
    key = model.multimodal_backbone.bert.encoder.layer[0].crossattention.self.key
    key.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for kind, projected in ((Ranker, 6), (RepeatedRanker, 6 * 3 + 12 * 3)):
        contender = kind(model, config, work)
        pictures, texts = contender.qformer(contender.vision(contender.decode(files))), contender.texts()
        seen.clear()
        contender.ranking(pictures, texts)
        assert sum(seen) == projected


def test_pairs_scored_one_by_one_give_upstreams_rankings(retrieval):
    model, config, work, files = retrieval
    contender = RepeatedRanker(model, config, work)
    found = contender.answer(files)
    with torch.inference_mode():
        images, texts = model.image_features(contender.decode(files)), contender.texts()
        pairs = torch.zeros(6, 12)
        for picture in range(6):
            for text, (ids, mask) in enumerate(zip(texts["input_ids"], texts["attention_mask"], strict=True)):
                cosines = images["image_feat"][picture] @ texts["text_feat"][text]
                embeds = images["image_embeds"][picture : picture + 1]
                pairs[picture, text] = cosines.max() + model.itm_scores(embeds, ids[None], mask[None])[0]
    for scores, expected in ((found.i2t, pairs), (found.t2i, pairs.T)):
        seen = scores > -50
        assert (seen.sum(1) == 3).all() and pairs.std() > 0.05
        torch.testing.assert_close(scores[seen], expected[seen], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda scores: scores + 1e-3,
        lambda scores: scores.flip(0),
        lambda scores: scores * float("nan"),
    ],
    ids=["a little off", "of other texts", "NaN"],
)
def test_other_scores_make_the_ratio_void(run_tiny, monkeypatch, spoil):
    right = Blip2Retrieval.itm_scores
    monkeypatch.setattr(Blip2Retrieval, "itm_scores", lambda *args: spoil(right(*args)))
    report = run_tiny("retrieval")
    assert report.agreement.identical["fp32"] < 18
    assert report.void and report.times == {} and report.agreement.first_difference == "ranking"
    assert "VOID" in render(report)


def test_other_candidates_make_the_ratio_void(run_tiny, monkeypatch):
    similarity = ranker.similarity
    monkeypatch.setattr(ranker, "similarity", lambda images, texts: similarity(images, texts).neg())
    report = run_tiny("retrieval")
    assert report.void and report.agreement.first_difference == "ranking"


def test_texts_that_are_read_otherwise_are_named(run_tiny, monkeypatch):
    texts = Ranker.texts

    def wrong(self):
        features = texts(self)
        return {**features, "text_feat": features["text_feat"].flip(0)}

    monkeypatch.setattr(RepeatedRanker, "texts", wrong)
    assert run_tiny("retrieval").agreement.first_difference.startswith("texts")


def test_more_candidates_than_the_gallery_has_are_all_ranked(run_tiny):
    report = run_tiny("retrieval", topk=50, repeats=1)
    assert report.agreement.identical == {"fp32": 18}


@pytest.mark.parametrize("task", ["vqa", "retrieval"])
def test_lower_precisions_are_compared_but_decide_nothing(run_tiny, task):
    report = run_tiny(task, precision="bf16", repeats=1)
    assert set(report.agreement.identical) == {"fp32", "bf16"}
    assert not report.void and report.ratio("pipeline") is not None


def rankings(*rows: list[float]) -> Rankings:
    return Rankings(torch.tensor(rows), torch.tensor(rows).T)


def test_rankings_count_as_the_same_by_candidates_and_scores():
    mine = rankings([1.0, 0.5, -99.0], [0.2, -99.5, 0.9])
    assert mine.same(rankings([1.0, 0.5, -100.0], [0.2, -100.0, 0.9]), "fp32") == 5  # what lies behind is no matter
    assert mine.same(rankings([1.0, 0.501, -99.0], [0.2, -99.5, 0.9]), "fp32") == 3
    assert mine.same(rankings([1.0, 0.501, -99.0], [0.2, -99.5, 0.9]), "fp16") == 5
    assert mine.same(rankings([1.0, 0.5, 0.1], [0.2, -99.5, 0.9]), "bf16") == 3
    assert mine.gap(rankings([1.0, 0.75, 0.1], [0.2, -99.5, 0.9])) == pytest.approx(0.25)
    nothing = rankings([float("nan")] * 3, [float("nan")] * 3)
    assert nothing.same(nothing, "fp32") == 0


# ----- work -----


def test_the_command_the_presets_and_the_tasks_know_the_same_names():
    (option,) = (action for action in build_parser("x")._actions if action.dest == "task")
    assert list(option.choices) == list(TASKS) == list(WORKS) == list(BASE_CONFIGS)
    assert all(set(TASKS) == set(chosen.own) == set(chosen.work) for chosen in PRESETS.values())
    with pytest.raises(ValueError, match="Did you mean 'retrieval'"):
        preset("tiny", "retrieve")


def test_mid_preset_is_the_same_size_for_all_tasks():
    for task in ("vqa", "retrieval"):
        config, work = preset("mid", task)
        vision = config.model.vision_backbone
        assert vision.arch == dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072)
        assert vision.img_size == 224 and config.model.multimodal_backbone.vision_model_width == 768
        assert tuple(config.test_dataloader.dataset.pipeline[1].scale) == (224, 224)
        assert (work.task, work.precision, work.device) == (task, "fp32", "cpu")
    assert preset("mid", "vqa")[0].model.text_backbone.name_or_path == "facebook/opt-125m"


def test_texts_are_the_same_each_time_and_differ_from_one_another():
    assert draw_texts(20) == draw_texts(20) and len(set(draw_texts(20))) == 20
    assert len(answerer.drawn_questions(VQAWork(batch_size=3, questions=2), "Question: {} Answer:")) == 3


@pytest.mark.parametrize(("kind", "field"), [(VQAWork, "questions"), (RetrievalWork, "texts"), (RetrievalWork, "topk")])
def test_impossible_work_is_refused(kind, field):
    with pytest.raises(ValueError, match=f"{field}=0 must be at least 1"):
        kind(**{field: 0})
