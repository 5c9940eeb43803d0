"""Operations and bytes are counted, not guessed; the machine's limit is measured; noise is said."""

import pytest
import torch

from blip2.benchmark import limits
from blip2.benchmark.limits import Limits
from blip2.benchmark.meter import Usage, counting, read
from blip2.benchmark.spread import Spread
from blip2.benchmark.table import render
from blip2.benchmark.timing import count
from blip2.benchmark.work import build_model, preset, write_pictures
from blip2.models import linear as linear_module

CPU = torch.device("cpu")


def vision_flops(pictures: int, patches: int, width: int, layers: int, ffn: int) -> int:
    """By hand: products of a 2-dimensional a×b with b×c are 2abc operations."""
    tokens = patches + 1
    patch_embedding = 2 * patches * (3 * 14 * 14) * width
    projections = 2 * tokens * width * (3 * width + width + 2 * ffn)  # qkv, output, two of the feed-forward part
    attention = 2 * 2 * tokens * tokens * width
    return pictures * (patch_embedding + layers * (projections + attention))


@pytest.mark.parametrize("through_onednn", [True, False])
def test_the_vision_tower_takes_the_operations_that_its_shapes_say(monkeypatch, through_onednn):
    if through_onednn and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch without oneDNN")
    monkeypatch.setattr(linear_module, "_onednn_is_faster", lambda: through_onednn)
    model = build_model(preset("tiny")[0], CPU)
    with torch.inference_mode(), counting(model):
        model.encode_image(torch.randn(3, 3, 28, 28))
        found = read()
    assert found.flops == vision_flops(3, 4, 32, 2, 64)
    weights = [p for name, p in model.vision_backbone.named_parameters() if p.dim() > 1 and "embed" not in name]
    matrices = sum(p.numel() for p in weights if p.shape[0] > 1) + 32 * 3 * 14 * 14
    biases = 2 * (3 * 32 + 32 + 64 + 32) + 32  # torch.addmm reads them with the product
    assert matrices * 4 <= found.weight_bytes <= (matrices + biases) * 4


def test_both_contenders_compute_about_the_same_vision_and_ours_a_prefill_once(run_tiny):
    report = run_tiny(repeats=1, warmup=0)
    ours, theirs = report.usage["blip2"], report.usage["transformers"]
    assert ours["vision"].flops == theirs["vision"].flops == vision_flops(2, 4, 32, 2, 64)
    assert theirs["prefill"].flops > 2 * ours["prefill"].flops  # once for each of three beams
    assert ours["decode"] == Usage(0, 0)
    assert ours["pipeline"].flops == sum(used.flops for stage, used in ours.items() if stage != "pipeline")


def test_decode_steps_read_the_language_models_weights_once_a_step(run_tiny):
    report = run_tiny(repeats=1, warmup=0, with_peer=False)
    config, _ = preset("tiny")
    model = build_model(config, CPU)
    matrices = sum(p.numel() for name, p in model.text_backbone.named_parameters() if name.endswith("proj.weight"))
    matrices += sum(p.numel() for name, p in model.text_backbone.named_parameters() if ".fc" in name and p.dim() == 2)
    step = 4 * (matrices + 300 * 32)  # and the head
    found = report.usage["blip2"]["decode_steps"].weight_bytes
    assert 4 * step <= found <= 1.1 * 4 * step  # five tokens: four steps behind the prefill; biases besides


def test_seconds_are_read_again_after_counting(tmp_path):
    config, work = preset("tiny")
    model = build_model(config, CPU)
    from blip2.benchmark.captioner import OwnCaptioner

    ours = OwnCaptioner(model, config, work)
    count(ours, model, write_pictures(tmp_path, 2))
    assert isinstance(read(), float)


def test_json_and_table_have_rates_and_the_machines_own(tiny_report):
    record = tiny_report.as_dict()
    rates = record["limits"]
    assert rates["matmul_flops_per_second"]["median"] > 0 and rates["copy_bytes_per_second"]["median"] > 0
    assert rates["product"] == dict(rows=2 * 5, narrow=32, wide=64, precision="fp32")
    assert len(rates["torch_matmul_flops_per_second"]["values"]) == 3
    vision = record["stages"]["vision"]["achieved"]["blip2"]
    seconds = record["stages"]["vision"]["seconds"]["blip2"]["median"]
    assert vision["flops_per_second"] == pytest.approx(vision["flops"] / seconds)
    share = vision["flops_per_second"] / rates["matmul_flops_per_second"]["median"]
    assert vision["share_of_matmul"] == pytest.approx(share)
    assert vision["bytes_per_second"] is None
    assert record["stages"]["decode_steps"]["achieved"]["blip2"]["bytes_per_second"] > 0
    text = render(tiny_report)
    assert "GFLOP/s" in text and "this machine in the same run: matmul" in text
    assert "decode steps of blip2 read" in text


@pytest.fixture
def steady(monkeypatch) -> Limits:
    monkeypatch.setattr(limits, "_COPIED_BYTES", 1000)
    found = Limits(4, 8, 16, "fp32", CPU)
    found.matmul, found.copy, found.cpu_share = Spread([100, 101, 99]), Spread([50, 50, 51]), Spread([0.99, 1.0, 0.98])
    return found


def test_a_steady_machine_is_not_called_noisy(steady):
    assert steady.noise() == []


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("matmul", [100, 80, 100], "matmul rate changed by 20%"),
        ("copy", [50, 50, 70], "copy rate changed by 40%"),
        ("cpu_share", [0.5, 0.9, 0.6], "had the processor 60% of the time"),
    ],
)
def test_a_noisy_machine_is_called_so_in_table_and_json(steady, tiny_report, monkeypatch, name, values, said):
    setattr(steady, name, Spread(values))
    monkeypatch.setattr(steady, "torch_matmul", steady.matmul)
    monkeypatch.setattr(tiny_report, "limits", steady)
    text = render(tiny_report)
    assert text.count("TOO NOISY") == 1 and said in text and said in tiny_report.as_dict()["noise"][0]


def test_a_machine_without_load_runs_all_its_threads(steady, monkeypatch):
    # Not a claim about this machine: only that the share is one of its threads' time.
    monkeypatch.setattr(limits, "_SECONDS", 0.01)
    steady.measure()
    assert 0 < steady.cpu_share.values[-1] < 1.5 and steady.matmul.values[-1] > 0
