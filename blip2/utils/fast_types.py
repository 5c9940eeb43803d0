"""Which precision is taken where nobody has chosen one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

# Parameters below which a model is done in milliseconds, so that exact answers are worth more than the time. (bf16
# makes the models of this package, which have 5 to 7 million, faster as well: docs/performance.md.)
SMALL = 50_000_000
# What Linux calls the instructions: x86's two, Arm's one.
_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def default_precision(model: nn.Module, device: torch.device | str) -> str:
    """``'bf16'`` for a model of 50 million parameters or more on a device that multiplies in it, else ``'fp32'``."""
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        return "fp32"
    return "bf16" if has_fast_bf16(device) else "fp32"


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether a device has instructions for products in bf16: CUDA from Ampere on, CPUs with AVX-512 BF16, AMX or
    Arm's BF16. False where it can't be found out.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and bool(_FLAGS & _cpu_flags())


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return frozenset(next((words.split() for name, _, words in named if name.strip() in ("flags", "Features")), ()))
