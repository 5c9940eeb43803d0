"""Configs over the toys of tests/data/toy_training.py."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

TOYS = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(TOYS))  # at import, since test modules import from there too


@pytest.fixture
def toy(tmp_path):
    """Makes toy configs whose work folder lies in the test's own folder; further arguments by dotted key."""

    def make(name: str = "run", *, iterations: bool = False, workers: int = 0, **changes: Any) -> Config:
        cfg = Config.fromfile(TOYS / "toy_training_config.py", import_custom_modules=False)
        cfg.work_dir = str(tmp_path / name)
        for stage in ("train", "val", "test"):
            cfg[f"{stage}_dataloader"].num_workers = workers
        if iterations:
            cfg.train_cfg = {"by_epoch": False, "max_iters": 20, "val_interval": 7}
        cfg.merge_from_dict(changes)
        return cfg

    return make


@pytest.fixture(autouse=True)
def few_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
