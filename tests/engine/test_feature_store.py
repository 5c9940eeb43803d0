import shutil

import pytest
import torch

from blip2.engine import feature_store
from blip2.engine.errors import OptionError
from blip2.engine.feature_store import FeatureStore


@pytest.fixture(params=["memory", "file"])
def place(request, monkeypatch):
    """Where the rows go."""
    if request.param == "file":
        monkeypatch.setattr(feature_store, "SHARE", 0.0)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_back_in_order_whatever_order_they_came_in(place, dtype, tmp_path):
    rows = torch.randn(7, 3, 5).to(dtype)
    store = FeatureStore(7, tmp_path)
    for numbers in ([4, 1], [0], [6, 5, 3, 2]):
        store.put(numbers, rows[numbers])
    assert torch.equal(store.gathered(range(7)), rows)
    assert store.in_file == (place == "file")


def test_what_was_left_out_makes_no_gap(place, tmp_path):
    rows = torch.randn(6, 2)
    store = FeatureStore(6, tmp_path)
    store.put([0, 2, 3], rows[[0, 2, 3]])
    store.put([5], rows[[5]])
    assert torch.equal(store.gathered([0, 2, 3, 5]), rows[[0, 2, 3, 5]])


def test_the_file_goes_with_the_store(monkeypatch, tmp_path):
    monkeypatch.setattr(feature_store, "SHARE", 0.0)
    store = FeatureStore(2, tmp_path / "run")
    store.put([0, 1], torch.ones(2, 3))
    assert [path.name for path in (tmp_path / "run").rglob("rows")] == ["rows"]
    store.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_memory_is_taken_up_to_its_share_of_what_is_free(monkeypatch, tmp_path):
    for free, in_file in ((2 * 4 * 10 * 3, False), (2 * 4 * 10 * 3 - 1, True)):  # fp32, 10 rows of 3, half of it
        monkeypatch.setattr(feature_store, "free_bytes", lambda device, free=free: free)
        store = FeatureStore(10, tmp_path)
        store.put([0], torch.ones(1, 3))
        assert store.in_file == in_file


def test_neither_memory_nor_disk_is_an_error_that_says_what_helps(monkeypatch, tmp_path):
    monkeypatch.setattr(feature_store, "SHARE", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    with pytest.raises(OptionError, match=r"--precision bf16, a --work-dir on a larger disk, or fast_match=True"):
        FeatureStore(10, tmp_path).put([0], torch.ones(1, 3))


def test_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no process has anything to gather"):
        FeatureStore(3, tmp_path).gathered([0, 1, 2])
