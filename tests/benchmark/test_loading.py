"""``blip2 benchmark load``: what is written, what a measuring process reports, and the verdict."""

import sys

import pytest
import torch

from blip2.benchmark.loading import _measured, _row, render, write_weights
from blip2.benchmark.work import preset
from blip2.checkpoints import read_state_dict

GB = 10**9


def runs(*seconds, memory=0, weights=0):
    return [{"seconds": s, "memory": memory, "weights": weights} for s in seconds]


@pytest.mark.parametrize(
    ("seconds", "memory", "met"), [(1.5, 1.15 * GB, True), (1.6, 1.0 * GB, False), (1.0, 1.2 * GB, False)]
)
def test_the_verdict_is_by_time_over_reading_and_memory_over_the_weights(seconds, memory, met, tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"1234")
    row = _row("blip2", "warm", [file], runs(1.0, 5.0, 1.0), runs(seconds, memory=memory, weights=GB))
    assert row["time_ratio"] == pytest.approx(seconds) and row["memory_ratio"] == pytest.approx(memory / GB)
    assert row["met"] is met
    record = {"machine": {**dict.fromkeys(("gpu", "amx", "transformers")), "cpu": "x", "cpu_capability": "y"}}
    record["machine"] |= {"threads": 1, "cores": 2, "torch": "z", "python": "3", "load_average": 0.5}
    assert ("met" if met else "MISSED") in render({**record, "precision": "bf16", "loading": [row]})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the high-water mark")
def test_a_fresh_process_loads_what_was_written_and_tells_its_size(tmp_path):
    config, _ = preset("tiny", "caption")
    write_weights(config, tmp_path, "bf16", ["blip2", "pth", "transformers"])
    file = tmp_path / "weights.safetensors"
    stored = read_state_dict(file)
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.bfloat16}
    assert (tmp_path / "weights.pth").is_file() and (tmp_path / "hf/config.json").is_file()
    found = _measured("blip2", tmp_path, [file], file, "fp32")
    tied = stored["text_backbone.lm_head.weight"].numel()
    numbers = sum(tensor.numel() for tensor in stored.values() if tensor.is_floating_point()) - tied
    assert found["weights"] == 4 * numbers
    assert found["seconds"] > 0 and found["memory"] > 0
