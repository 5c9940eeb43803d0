"""Optimizer wrappers for training in half precision, on the CPU too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from blip2.engine.errors import OptionError
from blip2.engine.precision import autocast, cast_for_inference, plain_attention, precision_name
from blip2.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module(name=["AutocastOptimWrapper", "AmpOptimWrapper"])
class AutocastOptimWrapper(OptimWrapper):
    """Runs the forward pass under autocast; weights, gradients and the optimizer stay in fp32.

    It answers to mmengine's name ``AmpOptimWrapper`` too, whose own class refuses the CPU.

    Args:
        optimizer, accumulative_counts, clip_grad: as for mmengine's ``OptimWrapper``.
        dtype: ``'bf16'``, ``'fp16'``, ``'fp32'`` or torch's names for them. None: fp16 on a GPU (as in mmengine),
            bf16 elsewhere.
        loss_scale: for fp16: ``'dynamic'``, a fixed number, or arguments of ``torch.amp.GradScaler``.
        plain_attention: on the CPU, do without the fused attention, whose backward pass is slow in bf16.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
        dtype: str | torch.dtype | None = None,
        loss_scale: str | float | dict = "dynamic",
        plain_attention: bool = True,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self.device_type = optimizer.param_groups[0]["params"][0].device.type
        self.precision = precision_name(dtype or ("fp16" if self.device_type == "cuda" else "bf16"))
        self.plain_attention = plain_attention and self.device_type == "cpu" and self.precision != "fp32"
        if isinstance(loss_scale, dict):
            scaling: dict[str, Any] = dict(loss_scale)
        elif loss_scale == "dynamic":
            scaling = {}
        elif isinstance(loss_scale, int | float):
            scaling = {"init_scale": float(loss_scale)}
        else:
            raise TypeError(f"loss_scale must be 'dynamic', a number or a dict, not {loss_scale!r}")
        self._fixed_scale = scaling["init_scale"] if isinstance(loss_scale, int | float) else None
        # Disabled it hands everything through.
        kind = self.device_type if self.device_type != "meta" else "cpu"
        self.loss_scaler = torch.amp.GradScaler(kind, enabled=self.precision == "fp16", **scaling)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._fixed_scale)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state and, under ``loss_scaler``, that of the loss scale."""
        return {**super().state_dict(), "loss_scaler": self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        scale = state.pop("loss_scaler", None)
        if scale and self.loss_scaler.is_enabled():
            self.loss_scaler.load_state_dict(scale)
        super().load_state_dict(state)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with (
            super().optim_context(model),
            autocast(self.device_type, self.precision),
            plain_attention(self.plain_attention),
        ):
            yield


@OPTIM_WRAPPERS.register_module()
class MasterWeightsOptimWrapper(OptimWrapper):
    """Keeps the model itself in half precision and fp32 copies of its trainable weights in the optimizer.

    It spares what autocast spends on casting weights and gradients back and forth. Normalisation layers stay in fp32.
    A checkpoint holds the fp32 copies, and frozen weights as they were, so that nothing is lost by resuming or by
    saving. One process only: gradients are not exchanged.

    Args:
        optimizer, accumulative_counts, clip_grad: as for mmengine's ``OptimWrapper``.
        dtype: ``'bf16'``; fp16 would need a loss scale and is refused.
        plain_attention: on the CPU, do without the fused attention, whose backward pass is slow in bf16.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: dict | None = None,
        dtype: str | torch.dtype = "bf16",
        plain_attention: bool = True,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self.precision = precision_name(dtype)
        if self.precision != "bf16":
            raise OptionError(
                f"MasterWeightsOptimWrapper takes dtype='bf16', not {dtype!r}; for others: AmpOptimWrapper"
            )
        self.device_type = optimizer.param_groups[0]["params"][0].device.type
        self.plain_attention = plain_attention and self.device_type == "cpu"
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []  # (the model's parameter, its fp32 copy)
        self._full: dict[str, Tensor] = {}  # fp32 weights by the model's key, trained and frozen

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """mmengine calls this once the weights are in place, from a checkpoint or not; here the model is cast."""
        super().initialize_count_status(model, init_counts, max_counts)
        if get_world_size() > 1 or is_model_wrapper(model):
            raise OptionError(
                "MasterWeightsOptimWrapper works in one process; for several: AmpOptimWrapper, dtype='bfloat16'"
            )
        if not self._full:
            self._cast(model)

    def _cast(self, model: nn.Module) -> None:
        before = {key: parameter.data for key, parameter in model.named_parameters(remove_duplicate=False)}
        cast_for_inference(model, self.precision)
        masters: dict[nn.Parameter, Tensor] = {}
        for key, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.dtype == before[key].dtype:
                continue
            if parameter not in masters:
                masters[parameter] = before[key].detach().requires_grad_(parameter.requires_grad)
            self._full[key] = masters[parameter].detach()
        for group in self.optimizer.param_groups:
            for index, parameter in enumerate(group["params"]):
                if parameter in masters:
                    master = group["params"][index] = masters[parameter]
                    self._pairs.append((parameter, master))
                    if parameter in self.optimizer.state:
                        self.optimizer.state[master] = self.optimizer.state.pop(parameter)

    def full_precision_weights(self) -> dict[str, Tensor]:
        """The fp32 weights behind the model's half-precision ones, by the keys of its state dict."""
        return self._full

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        super().backward(loss, **kwargs)
        for parameter, master in self._pairs:
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def step(self, **kwargs: Any) -> None:
        super().step(**kwargs)
        with torch.no_grad():
            torch._foreach_copy_([parameter for parameter, _ in self._pairs], [master for _, master in self._pairs])

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        # Autocast finds most weights in the right type already; it casts the inputs.
        with (
            super().optim_context(model),
            autocast(self.device_type, self.precision),
            plain_attention(self.plain_attention),
        ):
            yield
