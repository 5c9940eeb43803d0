"""Where a model computes, and in which precision."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from blip2.checkpoints import Source, load_checkpoint


def precision_name(precision: str) -> str:
    """'auto', 'fp32', 'bf16' or 'fp16'.

    Raises:
        ValueError: `precision` is none of them.
    """
    if precision in ("auto", "fp32"):
        return precision
    from blip2.engine import precision as choices  # imports the runner, which takes a second: only when it is needed

    return choices.precision_name(precision)


def pick_device(device: str | torch.device | None) -> torch.device:
    """`device`, checked to exist; by default the first CUDA device, or the CPU where there is none.

    Raises:
        ValueError: no such device name, or a CUDA device that this machine does not have.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is no device; try 'cpu', 'cuda' or 'cuda:1'") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={str(device)!r}: torch sees {torch.cuda.device_count()} CUDA devices here; "
            "use device='cpu', or check the driver with `nvidia-smi`"
        )
    return picked


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in `precision` within the context; nothing changes for 'fp32'."""
    if precision == "fp32":
        return nullcontext()
    from blip2.engine import precision as choices

    return choices.autocast(device.type, precision)


def precision_of(model: nn.Module) -> str:
    """``'bf16'`` or ``'fp16'`` if any weight of `model` is in it, else ``'fp32'``."""
    if all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        return "fp32"
    from blip2.engine import precision as choices

    return choices.precision_of(model)


def store_weights_in(model: nn.Module, precision: str) -> None:
    """Casts the weights of linear, convolution and embedding layers in place; tied weights stay tied."""
    if precision == "fp32":
        return
    from blip2.engine import precision as choices

    choices.cast_for_inference(model, precision)


def spread_over_devices(
    model: nn.Module,
    device_map: str | Mapping[str, Any],
    offload_folder: str | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    weights: Source | None = None,
) -> nn.Module:
    """The model spread over devices by ``accelerate``, which is not among our dependencies.

    Args:
        model: a model on the CPU, or on ``meta`` together with `weights`.
        device_map: 'auto' (fills the devices in turn), or {module name: device}.
        offload_folder: where weights go that `device_map` sends to 'disk'.
        max_memory: for 'auto': how much each device may hold, such as ``{0: '10GB', 'cpu': '20GB'}``.
        weights: a checkpoint, whose tensors go to their devices one by one.

    Raises:
        ImportError: ``accelerate`` is not installed.
        ValueError: some of the model goes to the disk, and no `offload_folder` is given.
    """
    if find_spec("accelerate") is None:
        raise ImportError(
            "device_map needs the package accelerate: pip install accelerate (or give device=... instead)"
        )
    from accelerate import dispatch_model, infer_auto_device_map

    if isinstance(device_map, str):
        if device_map != "auto":
            raise ValueError(f"device_map={device_map!r}: wanted 'auto' or a dict of module name to device")
        limits = None if max_memory is None else dict(max_memory)
        places = dict(infer_auto_device_map(model, limits, no_split_module_classes=_unsplittable(model)))
    elif max_memory is not None:
        raise ValueError("max_memory is for device_map='auto'")
    else:
        places = dict(device_map)
    if "disk" in places.values() and offload_folder is None:
        raise ValueError("a part of the model goes to the disk: say where with offload_folder='some/folder'")
    if weights is not None:
        load_checkpoint(model, weights, map_location=places, offload_folder=offload_folder)
    return dispatch_model(model, device_map=places, offload_dir=offload_folder, force_hooks=True)


def _unsplittable(model: nn.Module) -> list[str]:
    # A block adds its input to its output, so both must lie on one device: the items of a ModuleList stay whole.
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return sorted({type(block).__name__ for blocks in lists for block in blocks})
