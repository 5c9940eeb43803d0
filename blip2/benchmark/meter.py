"""What a stage costs: seconds, or, when it is counted, operations and bytes of weights."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

_read: Callable[[], Any] = time.perf_counter


def read() -> Any:
    """What has been used up to now: seconds on some clock, or a `Usage` while `counting`."""
    return _read()


@dataclass(frozen=True)
class Usage:
    """Work done.

    Attributes:
        flops: floating-point operations of products, convolutions and attention; a multiplication and an addition are
            two. What else there is (norms, softmax, activations) is left out, as is usual.
        weight_bytes: bytes of the model's weights that these products read, each time anew.
    """

    flops: int = 0
    weight_bytes: int = 0

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.flops - other.flops, self.weight_bytes - other.weight_bytes)


@contextmanager
def counting(model: nn.Module) -> Iterator[None]:
    """Within the context `read` gives what has been computed so far, `model`'s weights being those that count.

    Each operation is counted as torch runs it, from the shapes of what it is given. A CUDA graph that was captured
    before runs uncounted.
    """
    global _read
    before = _read
    counter = _Counter(model)
    _read = lambda: Usage(counter.flops, counter.weight_bytes)  # noqa: E731
    try:
        with counter:
            yield
    finally:
        _read = before


class _Counter(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.flops = self.weight_bytes = 0
        self.weights = {value.untyped_storage().data_ptr() for value in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = _FLOPS.get(func._overloadpacket)
        if count is None:
            with self:  # an operation made of others (F.linear, attention): those come here in turn
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        self.flops += count(*args, **kwargs, out_val=result)
        self.weight_bytes += sum(
            value.numel() * value.element_size()
            for value in args
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self.weights
        )
        return result


def _linear_pointwise(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor) -> int:
    """Of oneDNN's linear layer: x …×I, weight O×I."""
    return 2 * x.numel() * weight.shape[0]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out_val: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


# torch's table lacks what only CPUs have.
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _FLOPS[torch.ops.mkldnn._linear_pointwise] = _linear_pointwise
