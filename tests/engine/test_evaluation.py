"""Test and validation: every sample once, in order, whoever predicted it and when."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from blip2.apis.runner import build_runner
from blip2.datasets import set_skip_bad_images
from blip2.engine.data import evaluation_batches
from blip2.engine.errors import OptionError
from blip2.engine.loops import BadImagesError
from blip2.engine.predictions import PredictionLog, decode, encode, fingerprint
from blip2.registry import HOOKS
from blip2.utils import fast_types


class Killed(Exception):
    pass


@HOOKS.register_module(force=True)
class KillHook(Hook):
    """Ends a test after some batches, before the next is written; counts the batches that were predicted."""

    def __init__(self, after: int = 10**9) -> None:
        self.after, self.seen = after, 0

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.after:
            raise Killed
        self.seen += 1


def scorer(cfg, *, log=None, after=10**9, **options):
    cfg = cfg.copy()
    cfg.custom_hooks = [{"type": "KillHook", "after": after}]
    runner = build_runner(cfg, device="cpu", test_only=True, **options)
    if log is not None:
        set_skip_bad_images(runner.test_loop.dataloader.dataset)
        runner.test_loop.log = PredictionLog(log, "f" * 64, {"config": "toy"})
    return runner


def batches_predicted(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, KillHook)).seen


def test_every_sample_is_scored_once_and_in_order(toy):
    metrics = scorer(toy()).test()
    assert metrics["toy/count"] == 22 and metrics["toy/ordered"] == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [0, 2, 5])
def test_interrupted_test_goes_on_without_redoing_and_scores_the_same(toy, tmp_path, after, workers):
    expected = scorer(toy(), log=tmp_path / "whole").test()
    cfg = toy(workers=workers)
    with pytest.raises(Killed):
        scorer(cfg, log=tmp_path / "log", after=after).test()
    runner = scorer(cfg, log=tmp_path / "log")
    assert runner.test() == expected
    assert batches_predicted(runner) == 6 - after
    assert len(runner.test_loop.samples) == 22


def test_line_cut_off_by_a_crash_costs_its_batch_only(toy, tmp_path):
    expected = scorer(toy(), log=tmp_path / "whole").test()
    with pytest.raises(Killed):
        scorer(toy(), log=tmp_path / "log", after=3).test()
    (path,) = (tmp_path / "log").rglob("rank0.jsonl")
    path.write_text(path.read_text()[:-20])
    runner = scorer(toy(), log=tmp_path / "log")
    assert runner.test() == expected
    assert batches_predicted(runner) == 4


def test_all_predictions_there_but_no_scores_yet_needs_no_prediction(toy, tmp_path):
    expected = scorer(toy(), log=tmp_path / "log").test()
    (tmp_path / "log").joinpath("f" * 16, "metrics.json").unlink()
    runner = scorer(toy(), log=tmp_path / "log")
    assert runner.test() == expected and batches_predicted(runner) == 0


def test_finished_test_is_predicted_anew(toy, tmp_path):
    scorer(toy(), log=tmp_path / "log").test()
    runner = scorer(toy(), log=tmp_path / "log")
    runner.test()
    assert batches_predicted(runner) == 6


def test_bad_pictures_are_named_at_the_end_and_the_others_are_kept(toy, tmp_path):
    cfg = toy(**{"test_dataloader.dataset.bad": (5, 17)})
    with pytest.raises(BadImagesError, match=r"2 picture\(s\).*5\.png: broken; 17\.png: broken.*--skip-bad-images"):
        scorer(cfg, log=tmp_path / "log").test()
    runner = scorer(cfg, log=tmp_path / "log", skip_bad_images=False)
    runner.test_loop.skip_bad_images = True
    metrics = runner.test()
    assert metrics["toy/count"] == 20 and metrics["left_out_images"] == 2
    assert batches_predicted(runner) == 2  # those with a bad picture, whose company has not been scored yet


def test_scores_without_bad_pictures_say_nothing_of_them(toy):
    assert "left_out_images" not in scorer(toy()).test()


def test_batch_of_bad_pictures_alone_is_left_out(toy, tmp_path):
    runner = scorer(toy(**{"test_dataloader.dataset.bad": (4, 5, 6, 7)}), log=tmp_path / "log")
    runner.test_loop.skip_bad_images = True
    assert runner.test()["toy/count"] == 18


def test_sampler_that_would_repeat_samples_is_refused(toy):
    cfg = toy(**{"test_dataloader.sampler": {"type": "InfiniteSampler"}})
    with pytest.raises(OptionError, match="counts every sample once"):
        scorer(cfg).test()


def test_drop_last_drops_nothing_in_a_test(toy):
    assert scorer(toy(**{"test_dataloader.drop_last": True})).test()["toy/count"] == 22


@pytest.mark.parametrize(("flags", "expected"), [({"avx512_bf16"}, "bf16"), (set(), "fp32")])
def test_a_large_model_is_tested_in_bf16_where_that_is_fast_unless_told(toy, monkeypatch, flags, expected):
    monkeypatch.setattr(fast_types, "_cpu_flags", lambda: frozenset(flags))
    assert scorer(toy()).test_loop.precision == "fp32"  # a small one
    monkeypatch.setattr(fast_types, "SMALL", 1)
    assert scorer(toy()).test_loop.precision == expected
    assert scorer(toy(), precision="fp32").test_loop.precision == "fp32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_is_that_of_the_weights_and_of_the_computation(toy, precision):
    runner = scorer(toy(), precision=precision)
    exact = scorer(toy()).test()
    close = runner.test()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert runner.model.first.weight.dtype == dtype and runner.model.norm.weight.dtype == torch.float32
    assert close["toy/exact"] != exact["toy/exact"]
    assert close["toy/exact"] == pytest.approx(exact["toy/exact"], abs=0.3)


def test_metric_that_cannot_work_says_so_before_the_data_are_read(toy):
    cfg = toy(**{"test_evaluator.type": "NoSuchMetric", "test_dataloader.dataset.type": "NoSuchData"})
    with pytest.raises(KeyError, match="NoSuchMetric"):
        scorer(cfg).test()


@pytest.mark.parametrize(("length", "size"), [(0, 3), (1, 3), (9, 3), (10, 3), (2, 5)])
def test_batches_hold_every_index_once(length, size):
    batches = evaluation_batches(length, size)
    assert [index for batch in batches for index in batch] == list(range(length))
    assert all(len(batch) == size for batch in batches[:-1])


def test_predictions_come_back_from_json_as_they_were():
    sample = {
        "image_id": 7,
        "ori_shape": (3, 4),
        "pred_caption": ["a\u2028b", "ü\ud800", "\r\n"],
        "pred_score": -0.1234567890123456789,
        "infinite": float("-inf"),
        "flag": True,
        "nothing": None,
        "by_number": {1: "one", (2, 3): "two"},
        "tensor": torch.tensor([[1.5, 2.0]], dtype=torch.bfloat16),
        "array": np.arange(3, dtype=np.uint8),
        "scalar": np.float32(0.1),
    }
    back = decode(json.loads(json.dumps(encode(sample))))
    tensor, array = back.pop("tensor"), back.pop("array")
    assert torch.equal(tensor, sample["tensor"]) and tensor.dtype == torch.bfloat16
    assert array.tolist() == [0, 1, 2] and array.dtype == np.uint8
    assert back == {key: value for key, value in sample.items() if key not in ("tensor", "array")}
    assert type(back["ori_shape"]) is tuple and back["flag"] is True


def test_odd_characters_do_not_break_the_log(tmp_path):
    sample = {"pred_caption": "a\u2028b\x85c\ud800"}
    log = PredictionLog(tmp_path, "a" * 64, {})
    log.write({3: sample})
    assert PredictionLog(tmp_path, "a" * 64, {}).done == {3: sample}


def test_prediction_without_a_json_form_is_refused_by_name():
    with pytest.raises(TypeError, match="holds a object"):
        encode({"what": object()})


def test_fingerprint_follows_weights_settings_and_data(tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"one")
    first = fingerprint({"beams": 5}, weights, range(3))
    assert fingerprint({"beams": 5}, weights, range(3)) == first
    assert fingerprint({"beams": 4}, weights, range(3)) != first
    assert fingerprint({"beams": 5}, weights, range(4)) != first
    weights.write_bytes(b"two")
    assert fingerprint({"beams": 5}, weights, range(3)) != first


def test_nothing_is_written_outside_the_work_folder(toy, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    scorer(toy(), log=Path(toy().work_dir) / "predictions").test()
    assert list(elsewhere.iterdir()) == []
