"""The benchmark compares answers before it times, and a ratio of times for different answers is void."""

import sys

import pytest
import torch

from blip2.benchmark import transformers_peer
from blip2.benchmark.agreement import compare
from blip2.benchmark.answers import TokenIds
from blip2.benchmark.captioner import OwnCaptioner
from blip2.benchmark.table import render
from blip2.benchmark.transformers_peer import TransformersCaptioner, convert_state_dict
from blip2.benchmark.work import build_model, preset, write_pictures


@pytest.fixture
def pair(tmp_path):
    """Both captioners of the tiny preset, and four pictures."""
    config, work = preset("tiny")
    model = build_model(config, torch.device("cpu"))
    ours = OwnCaptioner(model, config, work)
    return ours, TransformersCaptioner(model, (28, 28), work), write_pictures(tmp_path, 4)


def spoil(monkeypatch, key: str) -> None:
    """Let the copied weight `key` come out wrong."""

    def convert(state):
        converted = convert_state_dict(state)
        converted[key] += torch.randn_like(converted[key])
        return converted

    monkeypatch.setattr(transformers_peer, "convert_state_dict", convert)


def test_every_stage_agrees_with_the_peers(pair):
    ours, peer, files = pair
    images = ours.decode(files)
    torch.testing.assert_close(images, peer.decode(files), atol=1e-5, rtol=0)
    features = ours.vision(images)
    torch.testing.assert_close(features, peer.vision(images), atol=1e-4, rtol=1e-4)
    queries = ours.qformer(features)
    torch.testing.assert_close(queries, peer.qformer(features), atol=1e-4, rtol=1e-4)
    mine, other = ours.generation(queries), peer.generation(queries)
    assert mine[0].tolist() == other[0].tolist()
    assert mine[1] > 0 and other[1] > 0


def test_stages_and_whole_pipeline_write_the_same(pair):
    for captioner in pair[:2]:
        queries = captioner.qformer(captioner.vision(captioner.decode(pair[2])))
        assert captioner.generation(queries)[0].tolist() == captioner.answer(pair[2]).ids.tolist()


def test_captions_differ_from_picture_to_picture_and_have_the_wanted_length(pair):
    ids = pair[0].answer(pair[2]).ids
    assert ids.shape == (4, 5)
    assert len({tuple(row) for row in ids.tolist()}) > 1


def test_weights_are_copies_that_return_from_double_precision_unchanged(pair):
    ours, peer, files = pair
    before = {key: value.clone() for key, value in ours.model.state_dict().items()}
    with torch.no_grad():
        peer.model.query_tokens.neg_()  # so that fp32 disagrees and fp64 is asked
    assert compare(ours, peer, files, parameters=1).void
    after = ours.model.state_dict()
    assert all(torch.equal(value, after[key]) and value.dtype == after[key].dtype for key, value in before.items())


def test_same_answers_are_reported(tiny_report):
    assert tiny_report.agreement.identical == {"fp32": 2}
    assert not tiny_report.void
    assert "same token ids as transformers: 2 of 2 at fp32" in render(tiny_report)


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        ("vision_model.encoder.layers.1.mlp.fc1.weight", "vision"),
        ("qformer.encoder.layer.0.crossattention.attention.key.weight", "Q-Former"),
        ("language_model.model.decoder.layers.1.fc2.weight", "language model"),
    ],
)
def test_other_weights_make_the_ratio_void_and_the_stage_is_named(run_tiny, monkeypatch, key, stage):
    spoil(monkeypatch, key)
    report = run_tiny(batch_size=4)
    assert report.void and report.times == {} and report.ratio("pipeline") is None
    assert report.agreement.identical["fp64"] < 4
    assert report.agreement.first_difference.startswith(stage)
    text = render(report)
    assert "VOID" in text and stage in text and "times as fast" not in text


def test_a_difference_of_rounding_only_is_settled_in_double_precision(pair, monkeypatch):
    ours, peer, files = pair
    answer = ours.answer

    def rounded(files):
        ids = answer(files).ids
        return TokenIds(ids if ours.model.query_tokens.dtype == torch.float64 else ids + 1)

    monkeypatch.setattr(ours, "answer", rounded)
    found = compare(ours, peer, files, parameters=1)
    assert found.identical == {"fp32": 0, "fp64": 4} and found.settled_in == "fp64"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_are_compared_too_but_decide_nothing(run_tiny, precision):
    report = run_tiny(precision=precision)
    assert set(report.agreement.identical) == {"fp32", precision}
    assert not report.void and report.ratio("pipeline") is not None


def test_a_missing_peer_is_skipped_aloud(run_tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = []
    report = run_tiny(say=said.append)
    assert any("transformers is skipped" in text for text in said)
    assert "pip install" in report.skipped["transformers"]
    assert "transformers skipped" in render(report)
    assert report.agreement is None and set(report.times["pipeline"]) == {"blip2"}


def test_a_model_that_the_peer_does_not_have_is_skipped_with_the_reason(run_tiny):
    from blip2.benchmark.run import benchmark

    config, work = preset("tiny")
    config.model.vision_backbone.final_norm = True
    report = benchmark(config, work, name="odd", repeats=1, warmup=0)
    assert "BEiTViT differs" in report.skipped["transformers"]


def test_greedy_search_and_one_token_agree(run_tiny):
    report = run_tiny(num_beams=1, max_new_tokens=1, batch_size=3, repeats=1)
    assert report.agreement.identical["fp32"] == 3
