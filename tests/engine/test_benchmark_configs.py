"""The configs of the published benchmarks, from their files to their scores, with models two layers deep."""

import json
import math
from pathlib import Path

import pytest
from miniatures import ANSWERS, write_miniatures
from reduced_recipes import PICTURES, reduced, write_data

from blip2.apis.runner import build_runner

VQA_SCORES = {"VQA/acc", "VQA/official_acc"}
RECALLS = {f"{way}/retrieval/Recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    write_miniatures(tmp_path)
    return tmp_path


def scored(name, data):
    cfg = reduced(f"blip2/{name}", data / "work")
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    runner = build_runner(cfg, device="cpu", test_only=True, work_dir=data / "work")
    return runner.test(), runner


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("blip2-opt2.7b_8xb32_flickr30k-caption.py", {"CIDEr"}),
        ("blip2_8xb32_flickr30k-retrieval.py", RECALLS),
        ("blip2-opt2.7b_8xb16_okvqa.py", VQA_SCORES),
        ("blip2-opt2.7b_8xb16_textvqa.py", VQA_SCORES),
        ("blip2-opt2.7b_8xb16_vizwiz.py", {*VQA_SCORES, "VQA/official_acc/answer_type/unanswerable"}),
    ],
)
def test_a_benchmark_is_scored_from_its_published_files(data, name, scores):
    metrics, runner = scored(name, data)
    assert scores <= metrics.keys() and all(math.isfinite(metrics[key]) for key in scores)
    assert len(runner.test_loop.samples) == PICTURES


def test_vqav2s_test_split_gives_the_servers_file(data):
    metrics, _ = scored("blip2-opt2.7b_8xb16_vqa_test.py", data)
    assert metrics == {}
    written = json.loads(Path("work_dirs/vqa/vqa_test.json").read_text())
    assert [row["question_id"] for row in written] == [10 * n for n in range(PICTURES)]


def test_nocaps_is_scored_by_domain_and_written_for_its_server(data):
    metrics, _ = scored("blip2-opt2.7b_8xb32_nocaps.py", data)
    assert set(metrics) == {"CIDEr", "in-domain/CIDEr", "near-domain/CIDEr", "out-domain/CIDEr"}
    written = json.loads(Path("work_dirs/nocaps/nocaps_val.json").read_text())
    assert [row["image_id"] for row in written] == list(range(PICTURES))


@pytest.mark.parametrize(
    ("name", "count", "answers"),
    [
        ("blip2-opt2.7b_8xb16_vg-vqa.py", PICTURES, ["Left."]),
        ("blip2-opt2.7b_8xb16_vizwiz.py", PICTURES - 1, list(dict.fromkeys(ANSWERS))),
        ("blip2-opt2.7b_8xb16_textvqa.py", PICTURES, list(dict.fromkeys(ANSWERS))),
        ("blip2-opt2.7b_8xb16_okvqa.py", PICTURES, list(dict.fromkeys(ANSWERS))),
    ],
)
def test_training_data_come_through_their_pipeline(data, name, count, answers):
    runner = build_runner(reduced(f"blip2/{name}", data / "work"), device="cpu")
    dataset = runner.train_loop.dataloader.dataset
    assert len(dataset) == count
    _, sample = dataset[1, None]
    assert sample["data_samples"].gt_answer == answers
