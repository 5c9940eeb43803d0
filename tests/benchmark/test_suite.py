"""All comparisons in one go, the plot, and whether a model fits."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from blip2.benchmark import memory
from blip2.benchmark import suite as suite_module
from blip2.benchmark.memory import check_memory
from blip2.benchmark.ranker import PaddedRanker, Ranker
from blip2.benchmark.spread import Spread
from blip2.benchmark.suite import RUNS, Outcome, Target, render
from blip2.benchmark.tasks import TASKS
from blip2.benchmark.work import WORKS, build_model, count_parameters, preset, write_pictures
from blip2.benchmark.worker import WORKERS
from blip2.cli.main import main

CPU = torch.device("cpu")


def test_the_suite_writes_one_json_and_one_plot_and_says_which_peers_are_missing(tmp_path, monkeypatch, capsys):
    # One run of each kind; all of them are the same code.
    kept = [run for run in RUNS if run.name in ("caption", "retrieval", "retrieval-wide")]
    monkeypatch.setattr(suite_module, "RUNS", kept)
    files = tmp_path / "suite.json", tmp_path / "suite.png"
    options = ["--suite", "--preset", "tiny", "--repeats", "1", "--warmup", "0"]
    assert main(["benchmark", *options, "--json", str(files[0]), "--plot", str(files[1])]) == 0
    record = json.loads(files[0].read_text())
    assert record["schema"] == 3 and [run["name"] for run in record["runs"]] == ["caption", "retrieval-wide"]
    targets = {target["what"]: target for target in record["targets"]}
    assert targets["caption, whole pipeline"]["reached"] in (True, False)
    assert targets["vision tower, share of matmul, fp32"]["found"]["median"] > 0
    assert targets["retrieval both ways, 224 px"]["reached"] is None
    output = capsys.readouterr()
    assert "retrieval is skipped: give --peer mmpretrain=PYTHON" in output.err
    assert "ranking with features of 677×1408" in output.out
    with Image.open(files[1]) as picture:
        assert picture.width > 500 and len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_generation_alone_is_prefill_and_steps_of_one_round_together(tiny_report):
    run = next(run for run in RUNS if run.name == "caption")
    outcome = list(suite_module._outcomes(run, tiny_report))[1]
    times = tiny_report.times
    expected = [
        (times["prefill"]["transformers"].values[i] + times["decode_steps"]["transformers"].values[i])
        / (times["prefill"]["blip2"].values[i] + times["decode_steps"]["blip2"].values[i])
        for i in range(3)
    ]
    assert outcome.found.values == pytest.approx(expected)


def test_targets_are_reached_missed_or_not_measured():
    target = Target("x", ("pipeline",), 2.0)
    reached, missed = (Outcome("r", "p", target, Spread([value])) for value in (2.1, 1.9))
    assert reached.reached and not missed.reached
    noisy = replace(reached, noise=("something else runs here",))
    report = suite_module.SuiteReport([], [reached, missed, noisy, Outcome("r", "p", target, None, "no peer")])
    lines = render(report).splitlines()[1:]
    assert lines[0].endswith("reached") and lines[1].endswith("MISSED") and lines[3].endswith("no peer")
    assert lines[2].endswith("too noisy to conclude")


def test_every_run_of_the_suite_can_be_made():
    for run in RUNS:
        assert run.peer in TASKS[run.task].peers or run.task in WORKERS[run.peer]
        _, work = preset(run.sizes, run.task)
        replace(work, **(run.work or {}))
        assert all(stage in TASKS[run.task].stages for target in run.targets for stage in target.stages)
    assert {run.name for run in RUNS if run.peer_precision} == {"caption-as-shipped", "retrieval-as-shipped"}


def test_padding_changes_no_score_and_reaches_the_models_longest_text(tmp_path, monkeypatch):
    config, work = preset("tiny", "retrieval")
    model = build_model(config, CPU, "Blip2Retrieval")
    files = write_pictures(tmp_path, work.batch_size)
    lengths = []
    match = PaddedRanker._match

    def seen(self, embeds, ids, mask):
        lengths.append(ids.shape[1])
        return match(self, embeds, ids, mask)

    monkeypatch.setattr(PaddedRanker, "_match", seen)
    ours, padded = (kind(model, config, work).answer(files) for kind in (Ranker, PaddedRanker))
    assert ours.same(padded, "fp32") == 18 and set(lengths) == {35}


def test_texts_of_retrieval_have_eight_to_fourteen_tokens():
    config, work = preset("tiny", "retrieval")
    model = build_model(config, CPU, "Blip2Retrieval")
    captions = Ranker(model, config, replace(work, texts=160)).captions
    lengths = {len(ids) for ids in model.tokenizer.encode(captions)}
    assert lengths == set(range(8, 15))


def test_full_preset_is_the_published_model_and_wide_has_vit_gs_features():
    config, work = preset("full")
    assert count_parameters(config, "Blip2Caption") == 3_745_216_384 and work.batch_size == 64
    config, _ = preset("wide", "retrieval")
    vision = config.model.vision_backbone
    assert (vision.img_size // 14) ** 2 + 1 == 677 and vision.arch["embed_dims"] == 1408
    assert config.model.multimodal_backbone.vision_model_width == 1408


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20e9)
    assert main(["benchmark", "--preset", "full"]) == 2
    said = capsys.readouterr().err
    assert "3.75 G parameters in fp32, once for blip2 and once for transformers need about 36 GB" in said
    assert "20 GB are free" in said and "--no-peer" in said and "building" not in said


def test_peers_that_share_our_weights_need_no_memory_of_their_own(monkeypatch):
    config, _ = preset("tiny", "retrieval")
    needed = count_parameters(config, "Blip2Retrieval") * 4 * 1.2
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1.5 * needed)
    check_memory(config, "Blip2Retrieval", CPU, peer="repeated")
    with pytest.raises(ValueError, match="not enough memory on cpu"):
        check_memory(config, "Blip2Retrieval", CPU, peer="mmpretrain")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--suite", "--task", "vqa"], "goes not with --task"),
        (["--suite", "--batch-size", "3", "--precision", "bf16"], "--batch-size, --precision"),
        (["--suite", "--peer", "transformers"], "NAME=PYTHON only"),
        (["--suite", "--preset", "full"], "targets are for --preset mid"),
        (["--plot", "speed.txt"], "must end in .png"),
        (["--cold-start", "--plot", "speed.png"], "a cold start has none"),
        (["--plot", "no/such/folder/speed.png"], "there is no folder"),
    ],
)
def test_wrong_usage_of_suite_and_plot_is_told(options, said, capsys):
    assert main(["benchmark", *options]) == 2
    assert said in capsys.readouterr().err


def test_tasks_know_their_own_names():
    assert all(task.work == name for name, task in TASKS.items()) and list(TASKS) == list(WORKS)
