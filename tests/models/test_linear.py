"""The linear layer's two ways of multiplying agree, and the quicker one is taken only where it can be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blip2.models import linear as module
from blip2.models.linear import Linear, linear

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()), reason="torch has one way only"
)


@pytest.fixture
def onednn_calls(monkeypatch) -> list:
    """oneDNN is taken for the faster one, and its calls are noted."""
    calls = []
    run = torch.ops.mkldnn._linear_pointwise

    class Ops:
        @staticmethod
        def _linear_pointwise(x, weight, bias, activation, *options):
            calls.append((x.shape, activation))
            return run(x, weight, bias, activation, *options)

    monkeypatch.setattr(module, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", Ops, raising=False)
    return calls


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 7), (2, 3, 7), (2, 1, 4, 7)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_onednn_gives_what_float64_gives(onednn_calls, shape, with_bias) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, generator=generator) for size in (shape, (11, 7)))
    bias = torch.randn(11, generator=generator) if with_bias else None
    with torch.no_grad():
        found = linear(x, weight, bias)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert onednn_calls == [(torch.Size(shape), "none")]
    assert torch.allclose(found.double(), exact, rtol=0, atol=2e-6)


def test_a_window_on_a_larger_tensor_is_multiplied_like_a_copy(onednn_calls) -> None:
    layer, x = Linear(6, 4), torch.randn(5, 9, 6)
    with torch.inference_mode():
        for view in (x[:, 2:5], x[:, 0], x.transpose(0, 1), x[::2]):
            assert torch.allclose(layer(view), layer(view.clone()), atol=1e-6)
    assert len(onednn_calls) == 8


@pytest.mark.parametrize(
    ("activation", "fused"),
    [(nn.GELU(), "gelu"), (nn.ReLU(), "relu"), (nn.GELU(approximate="tanh"), "none"), (nn.SiLU(), "none")],
)
def test_an_activation_on_the_way_out_gives_the_same_bits(onednn_calls, activation, fused) -> None:
    layer, x = Linear(64, 32), 10 * torch.randn(3, 50, 64)
    with torch.no_grad():
        assert torch.equal(layer.activated(x, activation), activation(layer(x)))
    assert [name for _, name in onednn_calls] == [fused, "none"]


def test_who_watches_a_layer_sees_its_product(onednn_calls) -> None:
    layer, x, seen = Linear(6, 4), torch.randn(3, 6), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        found = layer.activated(x, nn.ReLU())
    assert torch.equal(found, seen[0].relu()) and seen[0].min() < 0


def test_gradients_other_types_and_autocast_go_the_usual_way(onednn_calls) -> None:
    layer, x = Linear(6, 4), torch.randn(3, 6)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        assert layer(x[:0]).shape == (0, 4)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        layer.to(torch.float64)(x.double())
    assert onednn_calls == []


def test_weights_are_those_of_nn_linear() -> None:
    ours, plain = Linear(6, 4), nn.Linear(6, 4)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6)
    assert torch.allclose(ours(x), plain(x))


@pytest.mark.parametrize(("vendor", "faster"), [("AuthenticAMD", True), ("GenuineIntel", False), ("", False)])
def test_only_processors_of_others_than_intel_are_known_to_gain(monkeypatch, vendor, faster) -> None:
    monkeypatch.setattr(module, "_vendor", lambda: vendor)
    module._onednn_is_faster.cache_clear()
    try:
        assert module._onednn_is_faster() is faster
    finally:
        module._onednn_is_faster.cache_clear()
