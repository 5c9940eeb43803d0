"""Starts sub-modules from the checkpoints of earlier training stages."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from blip2.checkpoints import CheckpointError, read_state_dict
from blip2.engine.checkpoint_files import find_checkpoint
from blip2.registry import HOOKS
from blip2.utils.resources import resolve_resource
from blip2.utils.suggest import did_you_mean


@HOOKS.register_module()
class LoadParts(Hook):
    """Loads parts of the model, each from a file of its own, before training starts or resumes.

    From the checkpoint at ``parts['vision_backbone']`` come exactly the keys below ``vision_backbone.``, strictly: a
    key too many, a key too few or another shape is an error. On resuming, the checkpoint that is resumed comes
    afterwards and wins, so that a part which trains on keeps what it learned; a frozen language model that was left
    out of that checkpoint comes from here.

    In a config::

        custom_hooks = [dict(type='LoadParts', parts=dict(text_backbone='work_dirs/language_model'))]

    Args:
        parts: name of a sub-module or parameter (dotted names go deeper) → checkpoint file, or work folder of the stage
            that trained it: its best checkpoint is taken, or its latest where none is marked best.
    """

    priority = "VERY_HIGH"

    def __init__(self, parts: Mapping[str, str]) -> None:
        if not isinstance(parts, Mapping) or not parts:
            raise TypeError(f"LoadParts wants parts=dict(<sub-module>='<checkpoint>', …), got {parts!r}")
        self.parts = dict(parts)

    def before_load_or_resume(self, runner: Any) -> None:
        """Called by this package's runner after the weights' initialisation and before ``load_from`` or ``resume``."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, path in self.parts.items():
            file = find_checkpoint(resolve_resource(path))
            count = load_part(model, name, read_state_dict(file), str(file))
            runner.logger.info(f"LoadParts: {name} from {file} ({count} tensors)")


def load_part(model: nn.Module, name: str, state_dict: Mapping[str, Tensor], source: str) -> int:
    """Copies the tensors below ``name.`` (or called `name`) into `model`; returns how many.

    Raises `CheckpointError` that names the keys when they do not fit one to one.
    """
    wanted = _below(model.state_dict(), name)
    if not wanted:
        choices = [child for child, _ in model.named_modules() if child] + [key for key, _ in model.named_parameters()]
        raise CheckpointError(f"LoadParts: the model has no part {name!r}.{did_you_mean(name, choices)}")
    given = _below(state_dict, name)
    if not given:
        tops = sorted({key.split(".")[0] for key in state_dict})
        raise CheckpointError(f"LoadParts: {source} has no key below {name!r}; its keys begin with: {', '.join(tops)}")
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted]
    if missing or unknown:
        raise CheckpointError(
            f"LoadParts: {source} does not fit {name!r} of the model; missing in the file: {_some(missing)}; "
            f"unknown to the model: {_some(unknown)}"
        )
    for key, tensor in given.items():
        if tensor.shape != wanted[key].shape:
            raise CheckpointError(
                f"LoadParts: {key} is {tuple(tensor.shape)} in {source}, but {tuple(wanted[key].shape)} in the model"
            )
    with torch.no_grad():
        for key, tensor in given.items():
            wanted[key].copy_(tensor)
    return len(given)


def _below(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state_dict.items() if key == name or key.startswith(f"{name}.")}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") if keys else "none"
