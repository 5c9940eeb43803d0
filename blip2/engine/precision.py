"""The user's choice of precision (``fp32``, ``bf16``, ``fp16``) as dtypes and autocast contexts."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from blip2.engine.errors import OptionError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LONG_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# Layers whose work is a matrix product or a look-up; norms, whose sums would lose digits, keep fp32 weights.
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


def precision_name(choice: str | torch.dtype) -> str:
    """``'fp32'``, ``'bf16'`` or ``'fp16'`` for a short name, torch's name or a dtype; raises `OptionError` else."""
    name = str(choice).removeprefix("torch.")
    name = _LONG_NAMES.get(name, name)
    if name not in PRECISIONS:
        raise OptionError(f"precision {choice!r} is none of {', '.join(PRECISIONS)}")
    return name


def amp_precision(device_type: str) -> str:
    """What ``--amp`` means on a device: bf16 wherever it is fast, fp16 on GPUs older than Ampere."""
    if device_type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16"
    return "bf16"


def autocast(device_type: str, precision: str) -> AbstractContextManager:
    """Autocast to `precision` on a device of this type; nothing at all for ``fp32``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device_type=device_type, dtype=PRECISIONS[precision])


def cast_for_inference(model: nn.Module, precision: str) -> None:
    """Casts the fp32 weights of linear, convolution and embedding layers to `precision` in place.

    Together with `autocast` it spares casting each weight anew at every call, which frozen weights would need (autocast
    caches only the casts of trainable ones), and half of the memory. Not for a model that trains on: it loses digits.
    """
    if precision == "fp32":
        return
    for module in model.modules():
        if isinstance(module, _PRODUCTS):
            for parameter in module.parameters(recurse=False):
                if parameter.dtype == torch.float32:
                    parameter.data = parameter.data.to(PRECISIONS[precision])


def precision_of(model: nn.Module) -> str:
    """``'bf16'`` or ``'fp16'`` if any weight of `model` is in it, else ``'fp32'``."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return next((name for name, dtype in PRECISIONS.items() if name != "fp32" and dtype in dtypes), "fp32")


@contextmanager
def plain_attention(enabled: bool = True) -> Iterator[None]:
    """Attention as two products and a softmax in the precision of its inputs, instead of torch's fused kernels.

    For training on a CPU: the fused kernel's backward pass in bf16 takes longer than the rest of a small model's step.
    """
    if not enabled:
        yield
        return
    upcast_before = not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # despite its module, for the CPU as well
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(not upcast_before)
