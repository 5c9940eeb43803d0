"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a layer's activations are computed again, not kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_KERNELS = ("flash", "mem_efficient", "math", "cudnn")  # of scaled dot-product attention


def run_layer(layer: Callable[..., Tensor], x: Tensor, *inputs: Any, with_cp: bool) -> Tensor:
    """``layer(x, *inputs)``; if `with_cp` and a gradient goes back to `x`, its activations are not kept until then.

    Dropout, autocast and the choice of attention kernels are in the second pass what they were in the first.
    """
    if with_cp and torch.is_grad_enabled() and x.requires_grad:
        return checkpoint(layer, x, *inputs, use_reentrant=False, context_fn=_contexts)  # type: ignore[return-value]
    return layer(x, *inputs)


def _contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    # The optimizer wrapper chooses kernels around the forward pass; the second pass runs outside of that choice, and
    # another kernel keeps other tensors.
    return nullcontext(), _attention_kernels(_chosen_kernels())


def _chosen_kernels() -> tuple[bool, ...]:
    flags = [getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in _KERNELS]
    return *flags, torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()


@contextmanager
def _attention_kernels(choice: tuple[bool, ...]) -> Iterator[None]:
    before = _chosen_kernels()
    _choose(choice)
    try:
        yield
    finally:
        _choose(before)


def _choose(choice: tuple[bool, ...]) -> None:
    *flags, reduction = choice
    for kernel, enabled in zip(_KERNELS, flags, strict=True):
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(enabled)
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduction)
