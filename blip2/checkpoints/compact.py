"""Small safetensors files: weights in eight bits, and parts that several models share kept in one file of their own.

A matrix R×C becomes int8 with one scale a row: the row's largest magnitude is 127, and every weight is off by at most
1/253 of it. Files name what they share in their metadata, under `SHARED`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

SCALE = "::scale"  # ends the key of a matrix's scales; no module can have such a name
SHARED = "shared"  # metadata: JSON, file name → beginnings of the keys that are taken from it
SMALLEST = 1024  # matrices with fewer numbers are not worth it


def to_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 and scales (under their key with `SCALE`), other floating-point tensors as fp16.

    Scales are fp16 as well, unless that would cost digits of one.
    """
    stored = {}
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            stored[key] = tensor
        elif tensor.dim() < 2 or tensor.numel() < SMALLEST:
            stored[key] = tensor.half()
        else:
            rows = tensor.float().flatten(1) if tensor.shape[0] > 1 else tensor.float().flatten(0, -2)
            scale = (rows.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            half = scale.half()
            if half.isfinite().all() and bool((half >= torch.finfo(torch.float16).tiny).all()):
                scale = half
            numbers = (rows / scale.float()[:, None]).round().clamp(-127, 127)
            stored[key] = numbers.to(torch.int8).view(tensor.shape)
            stored[key + SCALE] = scale
    return stored


def from_int8(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `to_int8` was given, as float32 where it was rounded."""
    tensors = {}
    for key, tensor in stored.items():
        if key.endswith(SCALE):
            continue
        scale = stored.get(key + SCALE)
        if scale is not None:
            tensor = (tensor.float().view(len(scale), -1) * scale.float()[:, None]).view(tensor.shape)
        tensors[key] = tensor
    return tensors


def shared_metadata(shared: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The metadata entry that says: keys with these beginnings are in the files of these names."""
    return {SHARED: json.dumps({name: list(beginnings) for name, beginnings in shared.items()})} if shared else {}


def shared_files(path: Path, metadata: Mapping[str, str] | None) -> dict[Path, list[str]]:
    """The files beside `path` that its metadata refer to, each with the beginnings of the keys that are meant.

    Raises ValueError for a reference that is none, or that leads out of the folder.
    """
    text = (metadata or {}).get(SHARED)
    if text is None:
        return {}
    named = json.loads(text)
    if not isinstance(named, dict) or not all(isinstance(beginnings, list) for beginnings in named.values()):
        raise ValueError(f"its reference to shared weights is {text[:80]!r}")
    outside = next((name for name in named if Path(name).name != name), None)
    if outside is not None:
        raise ValueError(f"it refers to shared weights at {outside!r}, which is no file name")
    return {path.parent / name: list(beginnings) for name, beginnings in named.items()}
