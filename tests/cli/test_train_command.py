"""`blip2 train` and tools/train.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blip2.checkpoints import read_state_dict
from blip2.cli import train as command
from blip2.utils.resources import resources_root

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_training_config.py")
ROOT = Path(command.__file__).parents[2]


@pytest.fixture(autouse=True)
def toys(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(DATA))
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return command.main([*arguments, "--device", "cpu"])


def in_processes(count, *arguments):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    line = [*torchrun, str(resources_root() / "tools/train.py"), *arguments, "--device", "cpu"]
    path = os.pathsep.join([str(DATA), str(ROOT)])
    environment = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def assert_same(first, second):
    first, second = read_state_dict(first), read_state_dict(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_writes_checkpoints_and_resumes_from_the_latest():
    assert run(CONFIG, "--work-dir", "whole") == 0
    assert run(CONFIG, "--work-dir", "parts", "--cfg-options", "train_cfg.max_epochs=2") == 0
    assert run(CONFIG, "--work-dir", "parts", "--resume") == 0
    assert_same("whole/iter_20.pth", "parts/iter_20.pth")
    assert run(CONFIG, "--work-dir", "again", "--resume", "whole/iter_12.pth", "--no-validate") == 0
    assert_same("whole/iter_20.pth", "again/iter_20.pth")


def test_two_processes_on_the_cpu_train_and_resume_alike():
    smaller = ["--cfg-options", "train_dataloader.batch_size=2"]
    in_processes(2, CONFIG, "--work-dir", "whole", *smaller)
    in_processes(2, CONFIG, "--work-dir", "parts", "--resume", "whole/iter_9.pth", *smaller)
    assert_same("whole/iter_20.pth", "parts/iter_20.pth")


@pytest.mark.parametrize("options", [["--precision", "bf16"], ["--amp"]], ids=["precision", "amp"])
def test_lower_precision_trains_near_the_exact_weights(options):
    short = ["--no-validate", "--cfg-options", "train_cfg.max_epochs=1", "default_hooks.checkpoint.interval=1"]
    assert run(CONFIG, "--work-dir", "exact", *short) == 0
    assert run(CONFIG, "--work-dir", "lower", *options, *short) == 0
    exact, lower = read_state_dict("exact/iter_1.pth"), read_state_dict("lower/iter_1.pth")
    assert any(not torch.equal(exact[key], lower[key]) for key in exact)
    for key in exact:
        assert lower[key].dtype == torch.float32
        torch.testing.assert_close(lower[key], exact[key], atol=0.02, rtol=0)


def test_bad_pictures_of_a_training_are_left_out_and_named(capsys):
    bad = ["--cfg-options", "train_dataloader.dataset.bad=[5,17]", "train_cfg.max_epochs=2"]
    with pytest.raises(ValueError, match="is broken"):
        run(CONFIG, *bad)
    assert run(CONFIG, "--skip-bad-images", *bad) == 0
    assert "2 picture(s) could not be read and were left out: " in capsys.readouterr().out


def test_auto_scale_lr_follows_the_batch_size(capsys):
    assert run(CONFIG, "--auto-scale-lr", "--no-validate") == 2
    assert "auto_scale_lr=dict(base_batch_size" in capsys.readouterr().err
    base = ["--cfg-options", "auto_scale_lr.base_batch_size=8", "train_cfg.max_epochs=1", "param_scheduler=None"]
    assert run(CONFIG, "--auto-scale-lr", "--no-validate", "--work-dir", "scaled", *base) == 0
    content = torch.load("scaled/iter_5.pth", weights_only=True)
    assert content["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blip2-opt2.7b_8xb32_captoin"], "Did you mean"),
        ([CONFIG, "--resume", "nowhere.pth"], "nowhere.pth"),
        ([CONFIG, "--resume", "broken.pth"], "broken.pth"),
        ([CONFIG, "--cfg-options", "train_cfg=None"], "has no train_cfg"),
        ([CONFIG, "--device", "cuda:99"], "device 'cuda:99' is not there"),
        ([CONFIG, "--launcher", "slurm"], "SLURM_PROCID is not set"),
        ([CONFIG, "--cfg-options", "custom_hooks=[{'type': 'LoadParts', 'parts': {'first': 'no.pth'}}]"], "no.pth"),
    ],
)
def test_mistake_of_the_user_is_one_message(arguments, message, capsys):
    Path("broken.pth").write_bytes(b"nothing")
    assert command.main(["--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_help_shows_commands_that_can_be_run(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert "blip2 train my_config.py --resume" in text and "--auto-scale-lr" in text
