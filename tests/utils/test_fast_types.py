"""Which precision is taken where nobody has chosen one."""

import pytest
import torch
from torch import nn

import blip2
from blip2.utils import fast_types
from blip2.utils.fast_types import SMALL, default_precision, has_fast_bf16

TINY = "blip2-tiny_shapes-caption"


@pytest.fixture(params=["fast", "slow"])
def cpu(request, monkeypatch):
    flags = {"fast": "avx512f avx512_bf16", "slow": "avx512f avx512_vnni"}[request.param]
    monkeypatch.setattr(fast_types, "_cpu_flags", lambda: frozenset(flags.split()))
    return request.param


def model(parameters):
    with torch.device("meta"):
        return nn.Linear(parameters, 1, bias=False)


def test_large_models_compute_in_bf16_where_that_is_fast_and_small_ones_never(cpu):
    assert default_precision(model(SMALL), "cpu") == {"fast": "bf16", "slow": "fp32"}[cpu]
    assert default_precision(model(SMALL - 1), "cpu") == "fp32"
    assert not has_fast_bf16("meta")


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f amx_bf16\n", True),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", True),
        ("processor : 0\nflags : fpu avx512f\nbugs : bf16\n", False),
        (None, False),
    ],
)
def test_the_processor_is_asked_as_linux_describes_it(text, fast, monkeypatch):
    def read_text(path, **options):
        if text is None:
            raise OSError
        return text

    monkeypatch.setattr(fast_types.Path, "read_text", read_text)
    assert has_fast_bf16("cpu") is fast


def test_an_inferencer_follows_the_default_unless_told(cpu, monkeypatch):
    monkeypatch.setattr(fast_types, "SMALL", 1000)
    chosen = {"fast": "bf16", "slow": "fp32"}[cpu]
    inferencer = blip2.ImageCaptionInferencer(TINY, device="cpu")
    assert inferencer.precision == chosen
    products = inferencer.model.text_backbone.lm_head.weight
    assert products.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[chosen]
    assert blip2.ImageCaptionInferencer(TINY, device="cpu", precision="fp32").precision == "fp32"
    assert blip2.ImageCaptionInferencer(inferencer.model).precision == chosen  # the type of its weights
    assert next(blip2.get_model(TINY).parameters()).dtype == torch.float32


def test_a_small_model_stays_in_fp32():
    assert blip2.ImageCaptionInferencer(TINY, device="cpu").precision == "fp32"
