"""Makes checkpoints of plain values and tensors, which ``torch.load(weights_only=True)`` reads."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from blip2.checkpoints import drop_frozen_language_model
from blip2.registry import HOOKS

# What stands for a HistoryBuffer in the file.
HISTORY = "__history_buffer__"
_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor, torch.dtype, torch.device)


class Unsavable(TypeError):
    """A value that has no plain form."""


@HOOKS.register_module()
class PlainCheckpoint(Hook):
    """The last hook to touch a checkpoint before it is written, and the first to see it read.

    - mmengine's ``HistoryBuffer`` and numpy's scalars become plain values, and are made again on loading.
    - The weights are the fp32 ones where the model itself trains in half precision.
    - A frozen language model is left out where `blip2.checkpoints.saves_language_model` says so: it is loaded from
      its own checkpoint again.
    - Gradients that are still being accumulated are kept (in a single process), so that a resume loses none.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        weights = checkpoint["state_dict"]
        full: dict[str, torch.Tensor] = getattr(runner.optim_wrapper, "full_precision_weights", dict)()
        weights.update((key, tensor.cpu()) for key, tensor in full.items() if key in weights)
        checkpoint["state_dict"] = drop_frozen_language_model(weights, runner.model)
        gradients = _pending_gradients(runner)
        if gradients:
            checkpoint["gradients"] = gradients
        for key, value in checkpoint.items():
            if key != "state_dict":
                checkpoint[key] = plain(value, key, runner.logger)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        if "message_hub" in checkpoint:
            checkpoint["message_hub"] = unplain(checkpoint["message_hub"])


def plain(value: Any, where: str, logger: Any) -> Any:
    """`value` made of plain types and tensors; parts that cannot be are left out with a warning that says `where`."""
    if isinstance(value, np.generic):  # first: numpy's float64 is a float as well
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, HistoryBuffer):
        log, count = (torch.from_numpy(np.array(part)) for part in value.data)
        return {HISTORY: [log, count, value.max_length]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        items = _each(((key, item, f"{where}.{key}") for key, item in value.items()), logger)
        return OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
    if isinstance(value, list | tuple | set | frozenset):
        parts = [item for _, item in _each(((None, item, f"{where}[{i}]") for i, item in enumerate(value)), logger)]
        return parts if isinstance(value, list) else type(value)(parts) if type(value) in (tuple, set) else parts
    raise Unsavable(type(value).__name__)


def _each(items: Any, logger: Any) -> list[tuple[Any, Any]]:
    kept = []
    for key, item, where in items:
        try:
            kept.append((key, plain(item, where, logger)))
        except Unsavable as error:
            if callable(item):  # a scheduler's formula, which is built again from the config
                continue
            logger.warning(f"checkpoint: {where} is left out, a {error} cannot be saved")
    return kept


def unplain(value: Any) -> Any:
    """`value` with its history buffers made again."""
    if isinstance(value, dict):
        if HISTORY in value:
            log, count, max_length = value[HISTORY]
            return HistoryBuffer(log.numpy(), count.numpy(), max_length)
        return type(value)((key, unplain(item)) for key, item in value.items())
    return value


def _pending_gradients(runner: Any) -> dict[str, torch.Tensor]:
    wrapper = runner.optim_wrapper
    counts = getattr(wrapper, "_accumulative_counts", 1)
    if counts == 1 or (runner.iter + 1) % counts == 0 or get_world_size() > 1:
        return {}
    return {key: grad.cpu() for key, grad in named_gradients(runner).items()}


def named_gradients(runner: Any) -> dict[str, torch.Tensor]:
    """The gradients that the optimizer holds at present, by the place of their parameter (``'<group>.<index>'``)."""
    return {
        f"{group_index}.{index}": parameter.grad
        for group_index, group in enumerate(runner.optim_wrapper.optimizer.param_groups)
        for index, parameter in enumerate(group["params"])
        if parameter.grad is not None
    }
