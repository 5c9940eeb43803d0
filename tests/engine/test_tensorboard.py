"""Losses, learning rates and scores go to TensorBoard where a config asks for it."""

import importlib.util
from pathlib import Path

import pytest

from blip2.apis.runner import build_runner
from blip2.cli import train as command
from blip2.utils.errors import MissingPackageError

BACKENDS = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]


def without_tensorboard(monkeypatch):
    found = importlib.util.find_spec
    hidden = "blip2.visualization.tensorboard.find_spec"
    monkeypatch.setattr(hidden, lambda name: None if name == "tensorboard" else found(name))


def test_a_missing_package_is_said_before_anything_runs(toy, monkeypatch):
    without_tensorboard(monkeypatch)
    cfg = toy(visualizer={"type": "UniversalVisualizer", "vis_backends": BACKENDS})
    with pytest.raises(MissingPackageError, match=r'pip install "blip2\[tensorboard\]"'):
        build_runner(cfg, device="cpu")


def test_the_train_command_says_it_without_a_traceback(toy, monkeypatch, capsys, tmp_path):
    without_tensorboard(monkeypatch)
    toy(visualizer={"type": "UniversalVisualizer", "vis_backends": BACKENDS}).dump(tmp_path / "config.py")
    assert command.main([str(tmp_path / "config.py"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "blip2[tensorboard]" in error and "Traceback" not in error


def test_the_curves_are_those_of_the_run(toy):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runner = build_runner(
        toy(
            visualizer={"type": "UniversalVisualizer", "vis_backends": BACKENDS}, **{"default_hooks.logger.interval": 1}
        ),
        device="cpu",
    )
    runner.train()
    (file,) = Path(runner.work_dir).rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert {"loss", "lr", "toy/exact"} <= set(events.Tags()["scalars"])
    rates = [event.value for event in events.Scalars("lr")]
    assert rates == pytest.approx(runner.message_hub.get_scalar("train/lr").data[0].tolist())
    exact = [event.value for event in events.Scalars("toy/exact")]
    assert exact == pytest.approx(runner.message_hub.get_scalar("val/toy/exact").data[0].tolist())
