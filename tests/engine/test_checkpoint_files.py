"""Which checkpoint of a work folder is meant; files written whole; parts of earlier stages."""

import os

import pytest
import torch
from torch import nn

from blip2.apis.runner import build_runner
from blip2.checkpoints import CheckpointError
from blip2.engine.checkpoint_files import best_checkpoint, find_checkpoint, latest_checkpoint
from blip2.engine.hooks import load_part
from blip2.utils.files import written_whole


def touch(path, age):
    path.write_bytes(b"x")
    os.utime(path, (1000 - age, 1000 - age))


def test_latest_is_the_named_one_even_in_a_moved_folder(tmp_path):
    touch(tmp_path / "epoch_2.pth", 5)
    touch(tmp_path / "epoch_3.pth", 1)
    (tmp_path / "last_checkpoint").write_text("/somewhere/else/epoch_2.pth")
    assert latest_checkpoint(tmp_path).name == "epoch_2.pth"
    (tmp_path / "last_checkpoint").write_text("/somewhere/else/epoch_9.pth")
    assert latest_checkpoint(tmp_path).name == "epoch_3.pth"


def test_best_comes_before_latest_and_the_newest_best_first(tmp_path):
    touch(tmp_path / "iter_300.pth", 0)
    assert find_checkpoint(tmp_path).name == "iter_300.pth"
    touch(tmp_path / "best_toy_exact_iter_100.pth", 9)
    touch(tmp_path / "best_toy_exact_iter_200.pth", 3)
    assert find_checkpoint(tmp_path) == best_checkpoint(tmp_path) == tmp_path / "best_toy_exact_iter_200.pth"


def test_folder_without_checkpoint_and_missing_file_are_named(tmp_path):
    touch(tmp_path / "other.pth", 0)
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "none") is None
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="run the stage"):
        find_checkpoint(tmp_path / "none")


def test_crash_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "iter_1.pth"
    path.write_text("old")
    with pytest.raises(OSError), written_whole(path) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = nn.Linear(2, 3)
        self.vision_neck = nn.Linear(3, 1)
        self.query = nn.Parameter(torch.zeros(4))


def test_part_is_loaded_and_the_rest_left_alone():
    torch.manual_seed(0)
    model, other = Two(), Two()
    neck = model.vision_neck.weight.clone()
    nn.init.ones_(other.query)
    assert load_part(model, "vision", other.state_dict(), "file") == (2, [])
    assert load_part(model, "query", other.state_dict(), "file") == (1, [])
    assert torch.equal(model.vision.weight, other.vision.weight) and torch.equal(model.query, other.query)
    assert torch.equal(model.vision_neck.weight, neck)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vision", lambda s: s.pop("vision.bias"), r"missing in the file: vision\.bias; unknown to the model: none"),
        ("vision", lambda s: s.update({"vision.extra": torch.ones(1)}), r"unknown to the model: vision\.extra"),
        ("vision", lambda s: s.update({"vision.bias": torch.ones(9)}), r"vision\.bias is \(9,\) in file.*\(3,\)"),
        ("vison", lambda s: None, r"no part 'vison'.*Did you mean 'vision'"),
        ("query", lambda s: s.pop("query"), r"no key below 'query'; its keys begin with: vision, vision_neck"),
    ],
)
def test_part_that_does_not_fit_is_an_error_that_names_the_keys(name, change, message):
    model, state = Two(), Two().state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load_part(model, name, state, "file")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_parts_of_an_earlier_stage_start_a_training_and_resuming_keeps_what_was_learned(toy, tmp_path):
    import toy_training

    earlier = toy_training.ToyNet()
    (tmp_path / "stage1").mkdir()
    torch.save({"state_dict": earlier.state_dict()}, tmp_path / "stage1" / "epoch_7.pth")
    parts = {
        "custom_hooks": [
            {"type": "LoadParts", "parts": {"first": str(tmp_path / "stage1"), "norm.bias": str(tmp_path / "stage1")}}
        ]
    }
    cfg = toy(**parts, **{"model.freeze_first": True, "train_cfg.max_epochs": 1})
    runner = build_runner(cfg, device="cpu")
    runner.train()
    assert torch.equal(runner.model.first.weight, earlier.first.weight)
    learned = runner.model.norm.bias.clone()
    assert not torch.equal(learned, earlier.norm.bias)
    resumed = build_runner(cfg, device="cpu", resume=True)
    resumed.train()
    assert torch.equal(resumed.model.norm.bias, learned)
