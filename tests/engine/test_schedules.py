"""Learning rates after a resume."""

import pytest

from blip2.apis.runner import build_runner
from blip2.checkpoints import CheckpointError

COSINE = {"type": "CosineAnnealingLR", "by_epoch": False, "convert_to_iter_based": False}


def rates(runner):
    return runner.message_hub.get_scalar("train/lr").data[0].tolist()


def train(cfg, **options):
    runner = build_runner(cfg, device="cpu", **options)
    runner.train()
    return runner


SCHEDULES = {
    "end of the training": [{"type": "CosineAnnealingLR", "by_epoch": True, "convert_to_iter_based": True}],
    "by epoch": [{"type": "PolyLR", "power": 1.0, "by_epoch": True}],
    "warm-up and poly": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 3},
        {"type": "PolyLR", "power": 2.0, "by_epoch": False, "begin": 3, "eta_min": 0.001},
    ],
    "warm-up by iterations, cosine by epochs": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 4},
        {"type": "CosineAnnealingLR", "by_epoch": True, "begin": 1},
    ],
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("first", ["epoch", "half"])
def test_raised_max_epochs_gives_the_rates_of_a_run_that_was_so_long_from_the_start(toy, name, first):
    long = toy("long", **{"param_scheduler": SCHEDULES[name]})
    expected = rates(train(long))
    short = toy("short", **{"param_scheduler": SCHEDULES[name], "train_cfg.max_epochs": 2})
    train(short)
    resume = f"{short.work_dir}/iter_{10 if first == 'epoch' else 9}.pth"
    longer = toy("short", **{"param_scheduler": SCHEDULES[name]})
    resumed = rates(train(longer, resume=resume))
    done = 10 if first == "epoch" else 9
    assert resumed[done:] == pytest.approx(expected[done:], rel=1e-6)
    assert len(resumed) == 20


def test_schedule_that_ended_before_the_training_is_an_error_on_resuming(toy):
    old_end = {"param_scheduler": [{"type": "CosineAnnealingLR", "by_epoch": True, "begin": 0, "end": 2}]}
    train(toy(**old_end, **{"train_cfg.max_epochs": 2}))
    with pytest.raises(CheckpointError, match=r"lasts 4 epochs.*nothing after 2.*raise `end`"):
        train(toy(**old_end), resume=True)


def test_schedule_that_follows_a_score_cannot_be_changed_on_resuming(toy):
    plateau = {"type": "ReduceOnPlateauLR", "monitor": "toy/exact", "rule": "greater", "patience": 1}
    train(toy(**{"param_scheduler": [plateau], "train_cfg.max_epochs": 2}))
    changed = toy(**{"param_scheduler": [{**plateau, "patience": 2}]})
    with pytest.raises(CheckpointError, match=r"param_scheduler\[0\].patience 1 → 2"):
        train(changed, resume=True)
