"""The small models on CUDA: tools/test.py gives the CPU's scores. Run with ``pytest -m gpu``; skipped without a GPU."""

import json

import pytest
import torch

from blip2.cli.test import main
from blip2.datasets.scenes.generate import generate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(900),
]
COUNTS = {"train": 1, "val": 1, "test": 120, "held_out": 1, "documents": 1}
NAMES = ("blip2-tiny_shapes-caption", "blip2-tiny_shapes-vqa", "blip2-tiny_shapes-retrieval")
# In points of percent: one picture or question more or less, and what bf16's rounding turns over.
ALLOWED = {"fp32": 1.0, "bf16": 4.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    list(generate(folder / "data/scenes", COUNTS))
    return folder


def scores(folder, name, device, precision):
    out = folder / f"{name}_{device}_{precision}.json"
    if not out.is_file():
        options = ["--device", device, "--precision", precision, "--work-dir", str(out.with_suffix("")), "--no-resume"]
        assert main([name, *options, "--out", str(out)]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("precision", ALLOWED)
@pytest.mark.parametrize("name", NAMES)
def test_scores_on_cuda_are_the_cpus(data, monkeypatch, name, precision):
    monkeypatch.chdir(data)
    on_cpu, on_gpu = scores(data, name, "cpu", "fp32"), scores(data, name, "cuda", precision)
    assert on_gpu.keys() == on_cpu.keys()
    percents = [key for key in on_cpu if key.startswith(("scenes/", "VQA/", "i2t/", "t2i/"))]
    assert percents
    for key in percents:
        assert abs(on_gpu[key] - on_cpu[key]) <= ALLOWED[precision], (key, on_cpu[key], on_gpu[key])
