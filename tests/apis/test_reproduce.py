"""Which config measures which published score, and how the two are set beside each other."""

from pathlib import Path

import pytest

from blip2.apis.metafile import MetafileError, ModelEntry, Result, model_entries
from blip2.apis.reproduce import _SCORES, Run, compare, run_config, runs_of
from blip2.engine.errors import OptionError
from blip2.utils.resources import resources_root

OWN, OTHER = Path("configs/own.py"), Path("configs/other.py")


def result(dataset, metrics, *, task="Visual Question Answering", protocol=None, config=None):
    return Result(task, dataset, metrics, protocol=protocol, config=config)


def entry(*results):
    return ModelEntry("toy", OWN, "toy.pth", results, "Toy", None, None, None, {}, Path("metafile.yml"))


def test_a_result_is_measured_by_its_config_or_by_the_models_own():
    own = result("VQAv2 (val)", {"Accuracy": 53.5}, protocol="paper")
    with_config = result("GQA", {"Accuracy": 34.6}, protocol="paper", config=OTHER)
    without = result("OK-VQA (test)", {"Accuracy": 31.7}, protocol="paper")
    other_protocol = result("VQAv2 (val)", {"Accuracy": 51.9}, protocol="LAVIS")
    unscored = result("VQAv2 (val)", {})
    runs, open_results = runs_of(entry(own, with_config, without, other_protocol, unscored))
    assert runs == [Run(OWN, (own,)), Run(OTHER, (with_config,))]
    assert open_results == [without, other_protocol]


def test_results_of_one_config_are_measured_together():
    both = [
        result("COCO (test)", {"Recall@1": score}, task=f"{way} Retrieval")
        for way, score in (("Image-To-Text", 85.4), ("Text-To-Image", 68.3))
    ]
    runs, _ = runs_of(entry(*both))
    assert runs == [Run(OWN, tuple(both))]
    scores = {"i2t/retrieval/Recall@1": 80.0, "t2i/retrieval/Recall@1": 70.0}
    assert [(row.measured, row.difference) for row in compare(runs[0], scores)] == [
        (80.0, pytest.approx(-5.4)),
        (70.0, pytest.approx(1.7)),
    ]


def test_results_are_chosen_by_their_data_set():
    results = [result("VQAv2 (val)", {"Accuracy": 1.0}), result("GQA (test-dev)", {"Accuracy": 2.0}, config=OTHER)]
    assert [run.config for run in runs_of(entry(*results), "gqa*")[0]] == [OTHER]
    with pytest.raises(OptionError, match=r"no published score on 'coco'; its data sets: 'VQAv2 \(val\)', 'GQA"):
        runs_of(entry(*results), "coco")
    with pytest.raises(OptionError, match="toy has no published score to compare with"):
        runs_of(entry(result("COCO", {})))


@pytest.mark.parametrize(
    ("task", "protocol", "metric", "scores", "measured"),
    [
        ("Image Caption", "paper", "BLEU-4", {"Bleu_4": 0.437, "CIDEr": 1.458}, 43.7),
        ("Image Caption", "paper", "CIDEr", {"Bleu_4": 0.437, "CIDEr": 1.458}, 145.8),
        ("Image Caption", None, "exact", {"scenes/exact": 90.15}, 90.15),
        ("Visual Question Answering", "OpenMMLab", "Accuracy", {"VQA/acc": 53.5, "VQA/official_acc": 53.4}, 53.5),
        ("Visual Question Answering", "paper", "Accuracy", {"VQA/acc": 53.5, "VQA/official_acc": 53.4}, 53.4),
        ("Visual Question Answering", "LAVIS", "Accuracy", {"VQA/acc": 53.5}, None),
        ("Visual Question Answering", "paper", "Accuracy", {"GQA/acc": 0.346}, 34.6),
        ("Visual Question Answering", "paper", "Accuracy", {}, None),  # the server's file alone was written
    ],
)
def test_scores_are_found_and_brought_to_the_scale_of_the_tables(task, protocol, metric, scores, measured):
    (row,) = compare(Run(OWN, (result("D", {metric: 40.0}, task=task, protocol=protocol),)), scores)
    assert row.measured == (None if measured is None else pytest.approx(measured))
    assert row.difference == (None if measured is None else pytest.approx(measured - 40))


def test_every_task_of_the_zoo_can_be_compared():
    assert {r.task for e in model_entries().values() for r in e.results} <= set(_SCORES)


def configured(name, protocol=None, **options):
    path = resources_root() / "configs/blip2" / name
    return run_config(Run(path, (result("D", {"Accuracy": 1.0}, protocol=protocol),)), Path("work"), **options)


def test_data_are_looked_for_elsewhere_by_data_sets_and_metrics_alike():
    cfg = configured("blip2-opt2.7b_8xb32_nocaps.py", data_root="/mnt/nocaps/")
    assert cfg.test_dataloader.dataset.data_root == "/mnt/nocaps"
    captions = "/mnt/nocaps/annotations/nocaps_val_4500_captions.json"
    assert [metric.ann_file for metric in cfg.test_evaluator] == [captions, captions]
    assert (
        cfg.test_evaluator[1].save_dir == "work_dirs/nocaps" and cfg.val_dataloader.dataset.data_root == "data/nocaps"
    )


def test_a_trial_writes_no_file_over_that_of_a_whole_run():
    nocaps = configured("blip2-opt2.7b_8xb32_nocaps.py", limit=7)
    assert nocaps.test_dataloader.dataset.indices == 7
    assert (nocaps.test_evaluator[1].save_dir, nocaps.test_evaluator[1].ann_file) == ("work", None)
    vqa = configured("blip2-opt2.7b_8xb16_vqa_test.py", limit=7)
    assert (vqa.test_evaluator.file_path, vqa.test_evaluator.question_file) == ("work/vqa_test.json", None)
    assert configured("blip2-opt2.7b_8xb16_vqa_test.py").test_evaluator.file_path == "work_dirs/vqa/vqa_test.json"


@pytest.mark.parametrize(
    ("protocol", "official"), [("paper", True), ("LAVIS", True), ("OpenMMLab", None), (None, None)]
)
def test_the_official_accuracy_is_computed_where_it_was_published(protocol, official):
    assert configured("blip2-opt2.7b_8xb16_vqa.py", protocol).test_evaluator.get("official") is official


def test_a_config_that_cannot_be_tested_is_named():
    with pytest.raises(OptionError, match=r"blip2_pretrain-stage1_16xb105\.py has no test_dataloader"):
        configured("blip2_pretrain-stage1_16xb105.py")


def test_a_result_whose_config_does_not_exist_is_an_error(tmp_path):
    folder = tmp_path / "configs/toy"
    folder.mkdir(parents=True)
    (folder / "toy.py").write_text("model = dict()")
    (folder / "metafile.yml").write_text(
        "Models:\n- Name: toy\n  In Collection: Toy\n  Config: configs/toy/toy.py\n  Results:\n"
        "  - {Task: Image Caption, Config: configs/toy/gone.py}\n"
    )
    with pytest.raises(MetafileError, match=r"toy, 'configs/toy/gone\.py', does not exist"):
        model_entries(tmp_path)
