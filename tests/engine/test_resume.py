"""An interrupted training that is resumed ends with the very weights of one that was never interrupted."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from blip2.apis.runner import build_runner
from blip2.checkpoints import CheckpointError, read_state_dict
from blip2.registry import HOOKS


class Interrupted(Exception):
    pass


@HOOKS.register_module(force=True)
class InterruptHook(Hook):
    """Ends the run from outside after some iterations, after checkpoints were written."""

    priority = "LOWEST"

    def __init__(self, after: int) -> None:
        self.after = after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.after:
            raise Interrupted


def train(cfg, **options):
    runner = build_runner(cfg, device="cpu", **options)
    runner.train()
    return runner


def interrupt(cfg, after):
    cfg = cfg.copy()
    cfg.custom_hooks = [{"type": "InterruptHook", "after": after}]
    with pytest.raises(Interrupted):
        train(cfg)


def weights(runner):
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def assert_same_weights(runner, expected):
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("iterations", [False, True], ids=["epochs", "iterations"])
@pytest.mark.parametrize("after", [4, 10, 16])
def test_resumed_training_ends_with_the_same_weights_bit_for_bit(toy, iterations, after):
    expected = weights(train(toy("whole", iterations=iterations)))
    cfg = toy("parts", iterations=iterations)
    interrupt(cfg, after)
    random.seed(99)  # what another process would bring along
    np.random.seed(99)
    torch.manual_seed(99)
    runner = train(cfg, resume=True)
    assert runner.iter == 20
    assert_same_weights(runner, expected)


def test_resume_by_epochs_and_the_number_of_workers_leave_the_weights_alone(toy):
    by_epoch = {"default_hooks.checkpoint": {"interval": 1, "by_epoch": True}}
    expected = weights(train(toy("whole", **by_epoch)))
    cfg = toy("parts", workers=2, **by_epoch)
    interrupt(cfg, after=12)
    assert sorted(path.name for path in Path(cfg.work_dir).glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]
    assert_same_weights(train(cfg, resume=True), expected)


def test_every_epoch_augments_anew(toy):
    runner = train(toy())
    loop = runner.train_loop
    seen = []
    for epoch in range(2):
        loop.batches.first, loop.batches.before = 0, epoch * len(loop.dataloader)
        seen += [x.tolist() for batch in loop.dataloader for x in batch.data["inputs"]]
    assert len({tuple(x) for x in seen}) == len(seen)


def test_accumulated_gradients_survive_an_interruption(toy):
    accumulate = {"optim_wrapper.accumulative_counts": 2}
    expected = weights(train(toy("whole", **accumulate)))
    cfg = toy("parts", **accumulate)
    interrupt(cfg, after=4)  # the checkpoint of iteration 3 lies between two steps
    assert_same_weights(train(cfg, resume=True), expected)


@pytest.mark.parametrize("kind", ["AutocastOptimWrapper", "MasterWeightsOptimWrapper"])
def test_training_in_bf16_resumes_bit_for_bit(toy, kind):
    wrapper = {"optim_wrapper.type": kind, "optim_wrapper.dtype": "bf16", "model.freeze_first": True}
    whole = train(toy("whole", **wrapper))
    cfg = toy("parts", **wrapper)
    interrupt(cfg, after=10)
    resumed = train(cfg, resume=True)
    assert_same_weights(resumed, weights(whole))
    ours, theirs = (read_state_dict(f"{r.work_dir}/iter_20.pth") for r in (resumed, whole))
    assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == torch.float32 for key in theirs)


def test_validation_that_was_due_is_made_up_for(toy):
    cfg = toy(**{"default_hooks.checkpoint": {"interval": 1, "by_epoch": True, "save_best": "auto", "rule": "greater"}})

    @HOOKS.register_module(force=True, name="FailInValidation")
    class FailInValidation(Hook):
        def before_val(self, runner):
            raise Interrupted

    broken = cfg.copy()
    broken.custom_hooks = [{"type": "FailInValidation"}]
    with pytest.raises(Interrupted):
        train(broken)
    runner = train(cfg, resume=True)
    assert len(runner.message_hub.get_scalar("val/toy/exact").data[0]) == 4
    whole = train(toy("whole", **{"default_hooks.checkpoint": cfg.default_hooks.checkpoint}))
    assert runner.message_hub.get_info("best_score") == whole.message_hub.get_info("best_score")


def test_logged_history_is_resumed_as_it_was(toy):
    whole = train(toy("whole"))
    cfg = toy("parts")
    interrupt(cfg, after=10)
    resumed = train(cfg, resume=True)
    for key in ("train/loss", "train/lr"):
        ours, theirs = (runner.message_hub.get_scalar(key).data for runner in (resumed, whole))
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_checkpoint_needs_no_code_to_read(toy):
    cfg = toy()
    train(cfg)
    content = torch.load(f"{cfg.work_dir}/iter_20.pth", weights_only=True)
    assert content["meta"]["iter"] == 20 and content["message_hub"]["log_scalars"]


def test_run_without_a_seed_resumes_with_the_seed_that_it_had(toy):
    cfg = toy("whole", randomness={"seed": None})
    whole = train(cfg)
    again = toy("parts", randomness={"seed": None})
    again.work_dir = cfg.work_dir
    runner = build_runner(again, device="cpu", resume=f"{cfg.work_dir}/iter_9.pth")
    runner.train()
    assert runner.seed == whole.seed
    assert_same_weights(runner, weights(whole))


def test_resume_starts_from_the_beginning_where_nothing_is_there_yet(toy):
    assert train(toy(), resume=True).iter == 20


def test_resume_follows_a_moved_work_folder(toy, tmp_path):
    cfg = toy("old")
    expected = weights(train(cfg))
    interrupt(toy("moving"), after=10)
    (tmp_path / "moving").rename(tmp_path / "moved")
    assert_same_weights(train(toy("moved"), resume=True), expected)


def test_best_checkpoint_cannot_be_resumed_and_says_so(toy):
    cfg = toy(**{"default_hooks.checkpoint.save_best": "toy/exact"})
    train(cfg)
    (best,) = Path(cfg.work_dir).glob("best_*.pth")
    with pytest.raises(CheckpointError, match="without the optimizer's state"):
        train(cfg, resume=best)


def test_resume_in_the_middle_of_an_epoch_refuses_another_batch_size(toy):
    cfg = toy()
    interrupt(cfg, after=4)
    cfg.train_dataloader.batch_size = 2
    with pytest.raises(CheckpointError, match=r"5 batches.* 11 now"):
        train(cfg, resume=True)


def test_resume_folder_without_checkpoint_is_named(toy, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no epoch"):
        train(toy(), resume=tmp_path / "empty")


def test_averaged_weights_resume_bit_for_bit(toy):
    average = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
    whole = train(toy("whole", **average))
    train(toy("parts", **average, **{"train_cfg.max_epochs": 2}))
    resumed = train(toy("parts", **average), resume=True)
    assert_same_weights(resumed, weights(whole))
    ours, theirs = (read_state_dict(f"{runner.work_dir}/iter_20.pth") for runner in (resumed, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert any(not torch.equal(ours[key], weights(whole)[key]) for key in ours)  # the averages are what is saved
