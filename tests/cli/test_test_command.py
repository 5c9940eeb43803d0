"""`blip2 test` and tools/test.py."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from blip2.cli import test as command
from blip2.utils.resources import resources_root

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_training_config.py")
ROOT = Path(command.__file__).parents[2]


@pytest.fixture(autouse=True)
def toys(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(DATA))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def weights(tmp_path):
    import toy_training

    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": toy_training.ToyNet().state_dict()}, path)
    return str(path)


def run(*arguments):
    return command.main([*arguments, "--device", "cpu"])


def environment(**more):
    path = os.pathsep.join([str(DATA), str(ROOT)])
    return dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", **more)


def scores(path):
    return json.loads(Path(path).read_text())


def test_scores_and_predictions_are_written_by_suffix(weights, tmp_path):
    assert run(CONFIG, weights, "--out", "out/scores.json") == 0
    assert run(CONFIG, weights, "--out", "pred.pkl", "--out-item", "pred") == 0
    assert run(CONFIG, weights, "--out", "pred.json", "--out-item", "pred") == 0
    metrics = scores("out/scores.json")
    predictions = pickle.loads(Path("pred.pkl").read_bytes())
    assert [sample["image_id"] for sample in predictions] == list(range(22))
    assert metrics["toy/exact"] == sum(sample["pred_score"] for sample in predictions)
    assert scores("pred.json")[3] == {**predictions[3], "ori_shape": [3, 3]}
    assert (tmp_path / "work_dirs/toy_training_config/predictions").is_dir()


def test_killed_test_goes_on_where_it_was_and_scores_the_same(weights, tmp_path):
    slow = ["--cfg-options", "model.pause=0.4", "--work-dir", "killed", "--out", "killed.json", "--device", "cpu"]
    line = [sys.executable, "-m", "blip2.cli.test", CONFIG, weights, *slow]
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (written := _lines("killed")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = _lines("killed")
    assert 0 < written < 22
    assert command.main([CONFIG, weights, *slow]) == 0
    assert run(CONFIG, weights, "--work-dir", "whole", "--out", "whole.json") == 0
    assert scores("killed.json") == scores("whole.json")
    assert _lines("killed") == 22  # none was made twice


def _lines(work_dir):
    files = Path(work_dir).glob("predictions/*/rank*.jsonl")
    return sum(path.read_text().count('"index"') for path in files)


def test_two_processes_score_as_one_and_count_every_picture_once(weights, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    line = [*torchrun, str(resources_root() / "tools/test.py"), CONFIG, weights, "--device", "cpu", "--out", "two.json"]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert run(CONFIG, weights, "--out", "one.json", "--no-resume") == 0
    assert scores("two.json") == scores("one.json") and scores("two.json")["toy/count"] == 22
    assert not (tmp_path / ".dist_test").exists()


def test_bad_pictures_are_named_and_fail_the_run(weights, capsys):
    bad = ["--cfg-options", "test_dataloader.dataset.bad=[5,17]"]
    assert run(CONFIG, weights, *bad) == 1
    assert "2 picture(s) could not be read: 5.png: broken; 17.png: broken" in capsys.readouterr().err


def test_run_without_bad_pictures_says_how_many_are_left_out(weights):
    bad = ["--cfg-options", "test_dataloader.dataset.bad=[5,17]"]
    assert run(CONFIG, weights, *bad, "--skip-bad-images", "--out", "scores.json") == 0
    assert scores("scores.json")["left_out_images"] == 2 and scores("scores.json")["toy/count"] == 20


def test_checkpoint_may_be_a_work_folder(weights):
    Path("run").mkdir()
    Path(weights).rename("run/best_toy_exact_epoch_2.pth")
    assert run(CONFIG, "run", "--out", "scores.json") == 0


@pytest.mark.parametrize("options", [["--precision", "bf16"], ["--amp"]], ids=["precision", "amp"])
def test_lower_precision_is_near_the_exact_scores(weights, options):
    assert run(CONFIG, weights, "--out", "exact.json") == 0
    assert run(CONFIG, weights, "--out", "lower.json", *options) == 0
    exact, lower = (scores(name)["toy/exact"] for name in ("exact.json", "lower.json"))
    assert lower != exact and lower == pytest.approx(exact, abs=0.3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py", "weights.pth"], "config 'nowhere.py' not found"),
        ([CONFIG, "nowhere.pth"], "nowhere.pth"),
        ([CONFIG], "which weights?"),
        ([CONFIG, "weights.pth", "--out", "scores.txt"], "must end in .json, .pkl or .pickle"),
        ([CONFIG, "weights.pth", "--tta"], "--tta: test-time augmentation is not implemented"),
        ([CONFIG, "weights.pth", "--device", "cuda:99"], "device 'cuda:99' is not there"),
        ([CONFIG, "weights.pth", "--device", "tpu"], "device 'tpu' is none of auto, cpu, cuda"),
        ([CONFIG, "weights.pth", "--amp", "--precision", "fp32"], "--amp and --precision fp32 contradict"),
        ([CONFIG, "weights.pth", "--cfg-options", "model.type=ToyNot"], "ToyNot is not in the"),
        ([CONFIG, "weights.pth", "--cfg-options", "model.frezee_first=True"], "frezee_first"),
        ([CONFIG, "weights.pth", "--cfg-options", "test_dataloader=None"], "has no test_dataloader"),
    ],
)
def test_mistake_of_the_user_is_one_message(weights, arguments, message, capsys):
    assert command.main(["--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_compile_reaches_the_models_encoders(weights, monkeypatch, capsys):
    assert run(CONFIG, weights, "--compile") == 2
    assert "ToyNet is none of BLIP-2's models" in capsys.readouterr().err
    seen = []
    monkeypatch.setattr("blip2.models.compiled.compile_encoders", seen.append)
    assert run(CONFIG, weights, "--compile") == 0
    assert [type(model).__name__ for model in seen] == ["ToyNet"]


def test_unknown_option_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main([CONFIG, "weights.pth", "--sho-dir"])
    assert "--sho-dir" in capsys.readouterr().err


def test_bug_keeps_its_traceback(weights, monkeypatch):
    import toy_training

    def broken(self, results):
        return 1 + "one"

    monkeypatch.setattr(toy_training.ToyMetric, "compute_metrics", broken)
    with pytest.raises(TypeError, match="unsupported operand"):
        run(CONFIG, weights)


def test_help_shows_commands_that_can_be_run(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert "blip2 test my_config.py work_dirs/mine/epoch_3.pth" in text and "--skip-bad-images" in text
