"""Peers in another interpreter: here this one, with adapters that stand in for the libraries."""

import ast
import json
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from blip2.benchmark import run as run_module
from blip2.benchmark import worker as worker_module
from blip2.benchmark.answers import Rankings, TokenIds
from blip2.benchmark.captioner import OwnCaptioner
from blip2.benchmark.table import render
from blip2.benchmark.transformers_peer import PeerUnavailableError
from blip2.benchmark.work import build_model, preset, write_pictures
from blip2.benchmark.worker import Worker
from blip2.cli.main import main

CPU = torch.device("cpu")
# Gives the answers that were put beside it, and stages of known length; prints as libraries do.
STAND_IN = """
import time
from pathlib import Path
import torch
from safetensors.torch import load_file

def build(job, weights, marks):
    assert "query_tokens" in weights and job["num_beams"] == 3
    print("loading ...")
    answers = load_file(str(Path(__file__).with_name("answers.safetensors")))
    def run(pixels):
        print("running on", pixels.shape)
        time.sleep(0.02)
        marks("vision")
        time.sleep(0.05)
        marks("decode_steps")
        return answers
    return torch.nn.Linear(1, 1), run
"""


@pytest.fixture
def ours(tmp_path) -> tuple[OwnCaptioner, list[Path]]:
    config, work = preset("tiny")
    return OwnCaptioner(build_model(config, CPU), config, work), write_pictures(tmp_path, work.batch_size)


@pytest.fixture
def stand_in(ours, tmp_path, monkeypatch) -> Path:
    """A folder with serve.py and an adapter called mmpretrain, which answers as ours does."""
    from safetensors.torch import save_file

    folder = tmp_path / "peers"
    folder.mkdir()
    shutil.copy(worker_module._SERVE, folder)
    (folder / "mmpretrain.py").write_text(STAND_IN)
    save_file({"ids": ours[0].answer(ours[1]).ids.contiguous()}, folder / "answers.safetensors")
    monkeypatch.setattr(worker_module, "_SERVE", folder / "serve.py")
    return folder


def test_a_peer_elsewhere_is_compared_and_timed_stage_by_stage(run_tiny, stand_in):
    report = run_tiny(peer="mmpretrain", python=sys.executable)
    assert report.agreement.identical == {"fp32": 2} and report.peer == "mmpretrain"
    assert set(report.times["pipeline"]) == {"blip2", "mmpretrain"} and set(report.times["decode"]) == {"blip2"}
    stages = {stage: times["mmpretrain"].min for stage, times in report.times.items() if "mmpretrain" in times}
    assert set(stages) == {"vision", "decode_steps", "pipeline"}
    assert 0.02 <= stages["vision"] < stages["decode_steps"] < stages["pipeline"]
    assert report.machine["torch of mmpretrain"] == torch.__version__
    assert json.loads(json.dumps(report.as_dict()))["stages"]["vision"]["verdict"]
    (line,) = [line for line in render(report).splitlines() if line.startswith("picture decoding")]
    assert "–" in line.split(")")[1]


def test_other_answers_of_a_peer_elsewhere_make_the_ratio_void(run_tiny, stand_in):
    from safetensors.torch import load_file, save_file

    found = load_file(stand_in / "answers.safetensors")
    save_file({"ids": found["ids"].roll(1, 1).contiguous()}, stand_in / "answers.safetensors")
    source = (
        (stand_in / "mmpretrain.py").read_text().replace('marks("vision")', 'marks("vision", torch.zeros(2, 5, 32))')
    )
    (stand_in / "mmpretrain.py").write_text(source)
    report = run_tiny(peer="mmpretrain", python=sys.executable)
    assert report.void and report.times == {} and report.agreement.first_difference.startswith("vision")


def test_a_peer_elsewhere_uses_no_processor_while_it_waits_and_leaves_nothing_behind(ours, stand_in):
    peer = Worker("mmpretrain", sys.executable, ours[0])
    assert isinstance(peer.answer(ours[1]), TokenIds)
    before = peer.cpu_seconds()
    time.sleep(0.5)
    assert peer.cpu_seconds() - before < 0.1
    folder, process = peer.folder, peer._process
    peer.close()
    assert not folder.exists() and process.poll() == 0


def test_a_peer_can_have_another_precision(run_tiny, stand_in):
    report = run_tiny(peer="mmpretrain", python=sys.executable, precision="bf16", peer_precision="fp32", repeats=1)
    assert report.peer_precision == "fp32" and set(report.agreement.identical) == {"fp32", "bf16"}
    assert "bf16 on cpu (mmpretrain: fp32)" in render(report)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("import os; os._exit(7)", "exit code 7"),
        (STAND_IN.replace("return answers", "raise MemoryError('too small')"), "MemoryError: too small"),
    ],
    ids=["not there", "dies", "fails at work"],
)
def test_a_failing_peer_is_skipped_aloud_in_its_own_words(run_tiny, stand_in, source, said):
    (stand_in / "mmpretrain.py").write_text(source)
    heard = []
    report = run_tiny(peer="mmpretrain", python=sys.executable, repeats=1, say=heard.append)
    assert said in report.skipped["mmpretrain"] and any("mmpretrain is skipped" in text for text in heard)
    assert set(report.times["pipeline"]) == {"blip2"} and report.agreement is None
    assert f"mmpretrain skipped: {report.skipped['mmpretrain']}" in render(report)


def test_an_interpreter_that_is_not_there_is_named(run_tiny):
    report = run_tiny(peer="lavis", python="/no/such/python", repeats=1)
    assert "cannot start /no/such/python" in report.skipped["lavis"]


def test_a_model_that_the_peers_do_not_have_is_not_sent(ours):
    ours[0].model.vision_backbone = torch.nn.Identity()
    with pytest.raises(PeerUnavailableError, match="wanted a square BEiTViT"):
        Worker("lavis", sys.executable, ours[0])


def test_rankings_of_a_peer_elsewhere_have_the_marks_of_what_was_not_matched():
    scores = torch.tensor([[1.0, -100.0], [0.5, 0.2]])
    assert Rankings(scores, scores.T).same(Rankings(scores - 1e-6, scores.T), "fp32") == 4


@pytest.mark.parametrize("adapter", ["mmpretrain", "lavis", "serve"])
def test_adapters_import_nothing_of_this_package(adapter):
    source = Path(worker_module.__file__).with_name("peers").joinpath(f"{adapter}.py").read_text()
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [ast.unparse(node).split()[1].split(".")[0] for node in imports]  # '' for one that is relative
    assert names and not {"blip2", ""} & set(names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--peer", "mmpretrian=python"], "Did you mean 'mmpretrain'"),
        (["--peer", "mmpretrain"], "give --peer mmpretrain=PYTHON"),
        (["--task", "vqa", "--peer", "lavis=python"], "no peer 'lavis'"),
        (["--peer", "mmpretrain=python", "--peer", "lavis=python"], "one --peer at a time"),
    ],
)
def test_wrong_peers_are_told_how_it_goes(options, said, capsys):
    assert main(["benchmark", "--preset", "tiny", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_real_peers_are_only_asked_for_what_their_adapters_can_do():
    assert set(worker_module.WORKERS) == {"mmpretrain", "lavis"} and run_module.SCHEMA == 3
