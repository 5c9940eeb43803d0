"""What the benchmark measures, writes and concludes."""

import json

import pytest
import torch

from blip2.benchmark.run import benchmark
from blip2.benchmark.spread import Spread
from blip2.benchmark.table import render
from blip2.benchmark.timing import STAGES, ratio, verdict
from blip2.benchmark.work import StandInTokenizer, Work, preset, write_pictures


def spread_schema(spread: dict, count: int) -> None:
    assert set(spread) == {"median", "min", "max", "values"}
    assert len(spread["values"]) == count
    assert 0 < spread["min"] <= spread["median"] <= spread["max"]


def test_json_has_every_stage_of_both_with_ratio_and_verdict(tiny_report):
    record = json.loads(json.dumps(tiny_report.as_dict()))
    assert (
        record["schema"] == 3
        and record["task"] == "caption"
        and record["name"] == "tiny"
        and record["peer"] == "transformers"
    )
    assert set(record["stages"]) == set(STAGES)
    for stage in record["stages"].values():
        assert set(stage["seconds"]) == {"blip2", "transformers"}
        for spread in (*stage["seconds"].values(), stage["ratio"]):
            spread_schema(spread, 3)
        assert stage["verdict"] in ("faster", "slower", "undecided")
    assert record["agreement"]["void"] is False and record["agreement"]["settled_in"] == "fp32"
    assert record["work"] == dict(batch_size=2, num_beams=3, max_new_tokens=5, precision="fp32", device="cpu")
    assert record["sizes"]["picture"] == [28, 28] and record["sizes"]["prompt_tokens"] == 4


def test_json_names_the_machine_and_versions(tiny_report):
    machine = tiny_report.as_dict()["machine"]
    assert machine["cpu"] and machine["torch"] == torch.__version__ and machine["threads"] >= 1
    assert machine["transformers"] and machine["blip2"] and machine["gpu"] is None


def test_table_has_a_line_for_every_stage(tiny_report):
    lines = render(tiny_report).partition("GFLOP/s")[0].splitlines()
    for label in STAGES.values():
        (line,) = [line for line in lines if line.startswith(f"{label} ") and "(" in line]
        assert line.count("–") == 3


def test_stages_add_up_to_about_the_whole(tiny_report):
    for name in ("blip2", "transformers"):
        parts = sum(tiny_report.times[stage][name].min for stage in STAGES if stage != "pipeline")
        assert parts < 2 * tiny_report.times["pipeline"][name].max


def test_without_a_peer_ours_is_timed_alone(run_tiny):
    report = run_tiny(with_peer=False, repeats=2)
    record = report.as_dict()
    assert record["peer"] is None and record["agreement"] is None and record["skipped"] == {}
    assert all(set(stage) == {"seconds", "achieved"} for stage in record["stages"].values())
    assert "times as fast" not in render(report)


def test_threads_are_set_for_the_run_only(run_tiny):
    before = torch.get_num_threads()
    report = run_tiny(with_peer=False, repeats=1, threads=before + 1)
    assert report.machine["threads"] == before + 1 and torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1, 1, 1], [2, 1.5, 3], "faster"),
        ([2, 3, 4], [1, 2, 3], "slower"),
        ([1, 2, 1], [2, 1, 2], "undecided"),
        ([1, 1], [2, 2], "undecided"),
    ],
    ids=["all faster", "all slower", "rounds disagree", "too few rounds"],
)
def test_a_verdict_needs_all_rounds_of_at_least_three(ours, theirs, expected):
    assert verdict(ratio(Spread(ours), Spread(theirs))) == expected


def test_ratios_compare_the_two_times_of_one_round():
    ratios = ratio(Spread([1.0, 2.0]), Spread([3.0, 4.0]))
    assert ratios.values == [3.0, 2.0] and ratios.width == pytest.approx(0.4)


def test_a_spread_too_large_to_conclude_is_said(tiny_report, monkeypatch):
    ours, theirs = (tiny_report.times["pipeline"][name] for name in ("blip2", "transformers"))
    monkeypatch.setattr(ours, "values", [1.0, 1.0, 1.0])
    monkeypatch.setattr(theirs, "values", [0.8, 2.0, 1.5])
    assert "cannot tell which is faster (ratios from 0.80 to 2.00" in render(tiny_report)
    monkeypatch.setattr(theirs, "values", [1.2, 2.0, 1.5])
    assert "faster than transformers" in render(tiny_report) and "too busy" in render(tiny_report)
    monkeypatch.setattr(theirs, "values", [1.48, 1.5, 1.52])
    assert "too busy" not in render(tiny_report)


def test_mid_preset_has_the_sizes_that_it_names():
    config, work = preset("mid")
    vision, queries = config.model.vision_backbone, config.model.multimodal_backbone
    assert vision.arch == dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072)
    assert vision.img_size == 224 and vision.patch_size == 14 and queries.vision_model_width == 768
    assert config.model.text_backbone.name_or_path == "facebook/opt-125m"
    assert tuple(config.test_dataloader.dataset.pipeline[1].scale) == (224, 224)
    assert work == Work(batch_size=8, num_beams=5, max_new_tokens=20, precision="fp32", device="cpu")


def test_pictures_are_the_same_each_time_and_differ_from_one_another(tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    one, two = ([file.read_bytes() for file in write_pictures(folder, 3)] for folder in (first, second))
    assert one == two and len(set(one)) == 3


def test_stand_in_tokenizer_keeps_the_special_ids_free():
    tokenizer = StandInTokenizer(300)
    (ids,) = tokenizer.encode(["a photo of " + " ".join(map(str, range(500)))])
    assert ids[0] == tokenizer.bos_token_id
    assert min(ids[1:]) >= 4 and max(ids) < 299


@pytest.mark.parametrize(
    ("change", "said"),
    [({"batch_size": 0}, "batch_size=0"), ({"num_beams": -1}, "num_beams=-1"), ({"max_new_tokens": 0}, "at least 1")],
)
def test_impossible_work_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Work(**change)


def test_more_tokens_than_positions_are_refused_with_the_numbers(run_tiny):
    with pytest.raises(ValueError, match="64 positions"):
        run_tiny(max_new_tokens=60)


def test_a_model_of_another_task_is_refused():
    config, work = preset("tiny")
    config.model.type = "Blip2VQA"
    with pytest.raises(ValueError, match="not Blip2VQA"):
        benchmark(config, work, name="other")


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'tiny'"):
        preset("tyni")
