"""Checkpoint files that are kept, the progress bar, drawn predictions."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image
from rich.console import Console

from blip2.apis.runner import build_runner
from blip2.checkpoints import read_state_dict
from blip2.engine.errors import OptionError
from blip2.engine.hooks import ProgressHook, VisualizationHook
from blip2.engine.hooks.plain_checkpoint import plain, unplain
from blip2.registry import HOOKS
from blip2.structures import DataSample


def names(cfg):
    return sorted(path.name for path in Path(cfg.work_dir).glob("*.pth"))


def test_best_and_latest_checkpoints_are_kept(toy):
    hook = {"interval": 1, "by_epoch": True, "max_keep_ckpts": 1, "save_best": "toy/exact"}
    cfg = toy(**{"default_hooks.checkpoint": hook})
    runner = build_runner(cfg, device="cpu")
    runner.train()
    scores = runner.message_hub.get_scalar("val/toy/exact").data[0]
    assert names(cfg) == [f"best_toy_exact_epoch_{np.argmax(scores) + 1}.pth", "epoch_4.pth"]


@HOOKS.register_module(force=True)
class FailToSave(Hook):
    def before_save_checkpoint(self, runner, checkpoint):
        if runner.epoch >= 1:
            raise OSError("no space left on device")


def test_crash_while_saving_leaves_the_checkpoint_before(toy):
    cfg = toy(**{"default_hooks.checkpoint": {"interval": 1, "by_epoch": True, "max_keep_ckpts": 1}})
    cfg.custom_hooks = [{"type": "FailToSave"}]
    with pytest.raises(OSError, match="no space left"):
        build_runner(cfg, device="cpu").train()
    assert names(cfg) == ["epoch_1.pth"] and read_state_dict(f"{cfg.work_dir}/epoch_1.pth")
    assert not list(Path(cfg.work_dir).glob(".*"))


def test_what_cannot_be_saved_is_left_out_and_named():
    class Logger:
        messages: list[str] = []

        def warning(self, message):
            self.messages.append(message)

    logger = Logger()
    value = {"a": np.float64(1.5), "b": (np.int64(2), object()), "c": {"d": np.arange(2)}, "e": len}
    result = plain(value, "meta", logger)
    assert result == {"a": 1.5, "b": (2,), "c": {"d": result["c"]["d"]}} and type(result["a"]) is float
    assert torch.equal(result["c"]["d"], torch.arange(2))
    assert logger.messages == ["checkpoint: meta.b[1] is left out, a object cannot be saved"]
    assert unplain({"x": [1]}) == {"x": [1]}


def test_progress_bar_shows_count_rate_and_time_left(toy, monkeypatch):
    screen = io.StringIO()
    runner = build_runner(toy(), device="cpu")
    hook = next(hook for hook in runner.hooks if isinstance(hook, ProgressHook))
    hook.console = Console(file=screen, force_terminal=True, width=100)
    runner.train()
    text = screen.getvalue()
    assert "train" in text and "/20" in text and "/6" in text and "/s" in text and "left" in text
    assert hook.progress is None and not hook.tasks


def test_progress_bar_is_gone_after_an_error(toy):
    cfg = toy(**{"train_dataloader.dataset.bad": [3]})
    runner = build_runner(cfg, device="cpu")
    hook = next(hook for hook in runner.hooks if isinstance(hook, ProgressHook))
    hook.console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(ValueError, match="broken"):
        runner.train()
    assert hook.progress is None


def test_without_a_terminal_there_is_no_bar(toy, capsys):
    build_runner(toy(), device="cpu").train()
    assert "━" not in capsys.readouterr().out


class FakeVisualizer:
    def __init__(self):
        self.drawn = []

    def add_datasample(self, name, image, data_sample, show, wait_time, step, out_file):
        self.drawn.append((name, image.shape, image[0, 0].tolist(), out_file))


class FakeRunner:
    iter = 0

    def __init__(self, batch_size):
        self.visualizer = FakeVisualizer()
        self.test_dataloader = type("Loader", (), {"batch_sampler": type("Sampler", (), {"batch_size": batch_size})})


def test_every_nth_sample_is_drawn_in_rgb_under_a_safe_name(tmp_path):
    hook = VisualizationHook(enable=True, interval=3, out_dir=str(tmp_path))
    runner = FakeRunner(batch_size=4)
    blue = torch.zeros(3, 2, 5, dtype=torch.uint8)
    blue[0] = 255  # BGR
    for batch_idx in range(2):
        samples = [DataSample(metainfo={"image_id": f"a/{batch_idx * 4 + i}"}) for i in range(4)]
        hook.after_test_iter(runner, batch_idx, {"inputs": [blue] * 4}, samples)
    drawn = runner.visualizer.drawn
    assert [name for name, *_ in drawn] == ["a_0", "a_3", "a_6"]
    assert drawn[0][1:] == ((2, 5, 3), [0, 0, 255], str(tmp_path / "a_0.png"))


def test_nothing_is_drawn_unless_enabled():
    runner = FakeRunner(batch_size=1)
    VisualizationHook().after_test_iter(runner, 0, {"inputs": [torch.zeros(3, 1, 1)]}, [DataSample()])
    assert runner.visualizer.drawn == []


def test_interval_below_one_is_refused():
    with pytest.raises(OptionError, match="interval must be at least 1"):
        VisualizationHook(interval=0)


def test_drawn_captions_are_files_that_open(tmp_path):
    from blip2.visualization import UniversalVisualizer

    runner = FakeRunner(batch_size=1)
    runner.visualizer = UniversalVisualizer()
    sample = DataSample(metainfo={"image_id": 7})
    sample.pred_caption = "a red square"
    hook = VisualizationHook(enable=True, out_dir=str(tmp_path / "drawn"))
    hook.after_test_iter(runner, 0, {"inputs": [torch.full((3, 64, 64), 200, dtype=torch.uint8)]}, [sample])
    assert Image.open(tmp_path / "drawn" / "7.png").height > 64
