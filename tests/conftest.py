"""For every test: no network, one thread, the same random numbers; tests marked `gpu` only where there is a GPU."""

import os
import random

# Before the libraries that read them at import, and for the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest
import torch

# Threads cost more than they give on tensors this small.
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test's random numbers don't depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
