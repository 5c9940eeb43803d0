"""The linear layer of all models, which takes the faster of torch's two matrix products on a CPU.

On a CPU, torch multiplies fp32 matrices with MKL. On processors other than Intel's MKL leaves their widest vector
units unused, where oneDNN, which torch brings as well, does not: twice as fast on AMD's with AVX-512
(docs/benchmarks.md). Both compute in fp32; they add up in a different order.
"""

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear`, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

    def activated(self, input: Tensor, activation: nn.Module) -> Tensor:
        """``activation(self(input))``, bit for bit; oneDNN applies GELU and ReLU while it writes the product, which
        saves a way through memory."""
        name = _activation_name(activation)
        if name is None or self._forward_hooks or self._forward_pre_hooks or not _for_onednn(input, self.weight):
            return activation(self(input))
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, name, [], "none")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x …×I, weight O×I and bias O to …×O."""
    if _for_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _activation_name(activation: nn.Module) -> str | None:
    """oneDNN's name for it; for GELU that of the exact formula. None where it is to be applied by itself."""
    if type(activation) is nn.GELU and activation.approximate == "none":
        return "gelu"
    return "relu" if type(activation) is nn.ReLU else None


def _for_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can and should do it: it has no gradients, and `torch.compile` chooses for itself."""
    return (
        x.dtype == torch.float32 == weight.dtype
        and x.device.type == "cpu" == weight.device.type
        and not torch.is_grad_enabled()
        and x.numel() > 0
        and type(weight) in (Tensor, nn.Parameter)  # what else there is (quantised, say) has products of its own
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and _onednn_is_faster()
    )


@cache
def _onednn_is_faster() -> bool:
    mkl, onednn = torch.backends.mkl.is_available(), torch.backends.mkldnn.is_available()
    return mkl and onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise") and _vendor() not in ("", "GenuineIntel")


def _vendor() -> str:
    """Who made the processor, as x86 processors tell it: 'GenuineIntel', 'AuthenticAMD'; '' if it can't be found."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):
        return platform.processor().rpartition(" ")[2]  # Windows: 'AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD'


__all__ = ["Linear", "linear"]
